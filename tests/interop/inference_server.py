"""Azure ML's inference server (azmlinfsrv) as a child process, on loopback."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.interop.environment import clean_environment

HOST = "127.0.0.1"
START_S = 60.0
STOP_S = 15.0
POLL_S = 0.1

# What the `azmlinfsrv` script does, but for the address: the server's own is all interfaces.
_LAUNCH = (
    "from azureml_inference_server_http import amlserver; "
    f"amlserver.DEFAULT_HOST = {HOST!r}; amlserver.run()"
)


class InferenceServer:
    """Serves an entry script (`init`, `run`) at `url`. A context manager.

    One synchronous worker: a request waits while another is scored, `GET /` too.
    """

    def __init__(
        self,
        python: Path,
        entry_script: Path,
        model_dir: Path,
        *,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.port = 0
        self._python = python
        self._entry_script = entry_script
        self._model_dir = model_dir
        self._environment = dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed by _stop

    @property
    def url(self) -> str:
        """Where to POST requests."""
        return f"http://{HOST}:{self.port}/score"

    def __enter__(self) -> Self:
        try:
            self._start()
            self._wait_until_healthy(time.monotonic() + START_S)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop()

    def output(self) -> str:
        """What the server and the entry script have printed so far."""
        self._output.seek(0)
        return self._output.read().decode(errors="replace")

    def _start(self) -> None:
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            self.port = probe.getsockname()[1]
        settings = {
            "AML_APP_ROOT": str(self._entry_script.parent),
            "AZUREML_ENTRY_SCRIPT": str(self._entry_script),
            "AZUREML_MODEL_DIR": str(self._model_dir),
            "WORKER_COUNT": "1",
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        self._process = subprocess.Popen(
            [
                *(str(self._python), "-W", "ignore", "-c", _LAUNCH),
                *("--entry_script", str(self._entry_script), "--port", str(self.port)),
            ],
            env=clean_environment() | settings | self._environment,
            cwd=self._model_dir,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a process group of its own, to stop it with its workers
        )

    def _wait_until_healthy(self, deadline: float) -> None:
        while not self._is_healthy():
            if self._process is None or self._process.poll() is not None:
                raise RuntimeError(f"the inference server ended: {self.output()[-2000:]}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"the inference server is not healthy: {self.output()[-2000:]}")
            time.sleep(POLL_S)

    def _is_healthy(self) -> bool:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=2)
        try:
            connection.request("GET", "/")
            answer = connection.getresponse()
            return answer.status == 200 and answer.read() == b"Healthy"
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with suppress(ProcessLookupError):  # it may have ended by itself
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self._output.close()
