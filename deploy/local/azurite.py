"""Azurite, the storage emulator, as a child process: its blob and queue services on loopback."""

from __future__ import annotations

import http.client
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from deploy.local import install
from deploy.local.ports import HOST, free_port
from shared.errors import StorageUnavailable

ACCOUNT = "devstoreaccount1"
ACCOUNT_KEY = (  # the same for everyone, and documented: it protects nothing
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)
NODE_OPTIONS = ("--external-memory-accounted-in-global-limit", "--initial-heap-size=256")
"""Else it looks for garbage whenever some bodies have passed: half of its work on long blobs."""
START_S = 30.0
STOP_S = 15.0
POLL_S = 0.05


@dataclass(slots=True)
class Azurite:
    """A server that can be started and stopped again and again on the same ports and data.

    Port 0 stands for a free port, chosen at the first start. Without `data` everything is in
    memory, and lost at `stop`. It has a session of its own, so Ctrl-C in a terminal reaches its
    users only, and it stops by itself when the program that started it is gone.
    """

    data: Path | None = None
    blob_port: int = 0
    queue_port: int = 0
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False, repr=False)
    _output: IO[bytes] | None = field(default=None, init=False, repr=False)

    @property
    def connection_string(self) -> str:
        """With the endpoints of the ports in use."""
        return (
            f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={ACCOUNT_KEY};"
            f"BlobEndpoint=http://{HOST}:{self.blob_port}/{ACCOUNT};"
            f"QueueEndpoint=http://{HOST}:{self.queue_port}/{ACCOUNT};"
        )

    @property
    def pid(self) -> int | None:
        """The server's process id; None when it is not running."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start and wait until both services answer. Installs Azurite the first time.

        Raises `StorageUnavailable` when it ends or stays silent, `UsageError` when it can't be
        installed.
        """
        if self.pid is not None:
            return
        install.install()
        self.blob_port = free_port(self.blob_port)
        self.queue_port = free_port(self.queue_port)
        table_port = free_port()  # this service can't be left out
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop()
        self._process = subprocess.Popen(  # noqa: S603
            self._command(table_port),
            stdin=subprocess.PIPE,  # held open by us, see stop_with_parent.cjs
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            self._wait_until_ready(time.monotonic() + START_S)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End it by SIGTERM, which saves everything; by SIGKILL if it does not follow."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        finally:
            if process.stdin:
                process.stdin.close()
            if self._output:
                self._output.close()

    def _command(self, table_port: int) -> list[str]:
        command = [
            str(install.node()),
            *NODE_OPTIONS,
            "--require",
            str(install.HERE / "stop_with_parent.cjs"),
            str(install.AZURITE),
            "--silent",
            "--disableTelemetry",
        ]
        for service, port in (
            ("blob", self.blob_port),
            ("queue", self.queue_port),
            ("table", table_port),
        ):
            command += [f"--{service}Host", HOST, f"--{service}Port", str(port)]
        if self.data is None:
            return [*command, "--inMemoryPersistence"]
        self.data.mkdir(parents=True, exist_ok=True)
        return [*command, "--location", str(self.data.resolve())]

    def _wait_until_ready(self, deadline: float) -> None:
        for port in (self.blob_port, self.queue_port):
            while not _answers(port):
                if self.pid is None:
                    raise StorageUnavailable(f"Azurite ended at once: {self._said()}")
                if time.monotonic() > deadline:
                    raise StorageUnavailable(f"Azurite did not answer within {START_S:.0f} s")
                time.sleep(POLL_S)

    def _said(self) -> str:
        """The end of its output, in one line."""
        if self._output is None:
            return ""
        self._output.seek(0)
        return " / ".join(self._output.read().decode(errors="replace").split("\n"))[-500:].strip()


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=2)
    try:
        connection.request("GET", f"/{ACCOUNT}?comp=list")
        connection.getresponse().read()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return True
