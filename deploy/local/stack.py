"""Storage, endpoint and worker on this machine, started together and stopped together."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from pydantic import SecretStr

from deploy.local.azurite import Azurite
from deploy.local.ports import free_port
from deploy.local.process import stop_process
from producer.keyphrase import NEW_PASSPHRASE_VARIABLE, PASSPHRASE_VARIABLE
from shared.errors import BlindscoreError
from shared.settings import CONNECTION_STRING_VARIABLE, STORAGE_SECRETS, StorageSettings
from shared.storage import ensure_storage

READY_WITHIN_S = 120.0
STOP_WITHIN_S = 30.0
POLL_S = 0.1
LOG_TAIL_LINES = 15


@dataclass
class Stack:
    """All of it. A context manager: whatever happens inside, everything started is stopped."""

    folder: Path
    model: Path
    serve_options: tuple[str, ...] = ()
    work_options: tuple[str, ...] = ()
    port: int = 0
    blob_port: int = 0
    queue_port: int = 0
    settings: StorageSettings | None = None
    """Storage that is there already; without it Azurite is started."""
    keep: bool = False
    """Azurite keeps its data in `folder`, for the next time; otherwise in memory."""
    environment: dict[str, str] = field(default_factory=dict)
    _azurite: Azurite | None = None
    _processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _exits: ExitStack = field(default_factory=ExitStack)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        with ExitStack() as exits:
            self.folder.mkdir(parents=True, exist_ok=True)
            settings = self.settings or self._start_storage(exits)
            asyncio.run(ensure_storage(settings))
            self.port = free_port(self.port)
            self.environment = {
                CONNECTION_STRING_VARIABLE: settings.connection_string.get_secret_value(),
                "BLINDSCORE_CONTAINER": settings.container,
                "BLINDSCORE_QUEUE": settings.queue,
                "BLINDSCORE_ENDPOINT": self.endpoint,
                "BLINDSCORE_HOME": str(self.folder / "home"),
            }
            self._start(
                exits,
                "serve",
                "--model",
                str(self.model),
                "--port",
                str(self.port),
                *self.serve_options,
            )
            self.wait_until_ready("serve", self.endpoint)
            self._start(exits, "work", *self.work_options)
            self._exits = exits.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._exits.close()

    def command(self, *arguments: str) -> tuple[list[str], dict[str, str]]:
        """How to run a blindscore command against this stack: argv and environment.

        What the user's own environment (or `.env`) says of another account is blanked.
        """
        elsewhere = dict.fromkeys(("BLINDSCORE_ACCOUNT", *STORAGE_SECRETS), "")
        environment = os.environ | elsewhere | self.environment
        return [sys.executable, "-m", "blindscore", *arguments], environment

    def wait_until_ready(self, name: str, url: str) -> None:
        """Until `serve` or `work`, which answers probes at `url`, can do its work."""
        give_up_at = time.monotonic() + READY_WITHIN_S
        while time.monotonic() < give_up_at:
            if self._processes[name].poll() is not None:
                raise BlindscoreError(f"`blindscore {name}` did not start:\n{self.log_tail(name)}")
            try:
                with urllib.request.urlopen(f"{url}/ready", timeout=5):  # noqa: S310
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(POLL_S)
        raise BlindscoreError(f"`blindscore {name}` was not ready within {READY_WITHIN_S:.0f} s")

    def _start_storage(self, exits: ExitStack) -> StorageSettings:
        self._azurite = exits.enter_context(
            Azurite(
                self.folder / "azurite" if self.keep else None,
                blob_port=self.blob_port,
                queue_port=self.queue_port,
            )
        )
        return StorageSettings(connection_string=SecretStr(self._azurite.connection_string))

    def _start(self, exits: ExitStack, *arguments: str) -> None:
        argv, environment = self.command(*arguments)
        for secret in (PASSPHRASE_VARIABLE, NEW_PASSPHRASE_VARIABLE):
            # The key owner's, which neither party is. Blank: one that is missing is read from .env.
            environment[secret] = ""
        log = exits.enter_context((self.folder / f"{arguments[0]}.log").open("ab"))
        process = subprocess.Popen(  # noqa: S603 - our own command
            argv,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is ours to handle: workers drain, then storage stops
        )
        exits.callback(stop_process, process, within_s=STOP_WITHIN_S)
        self._processes[arguments[0]] = process

    def pids(self) -> dict[str, int]:
        """The process ids of what was started: `azurite`, `serve` and `work`."""
        pids = {name: process.pid for name, process in self._processes.items()}
        if self._azurite is not None and self._azurite.pid is not None:
            pids["azurite"] = self._azurite.pid
        return pids

    def require_alive(self) -> None:
        """Raises when storage, the endpoint or the worker has ended by itself."""
        if self._azurite is not None and self._azurite.pid is None:
            raise BlindscoreError("Azurite ended")
        for name, process in self._processes.items():
            if process.poll() is not None:
                raise BlindscoreError(
                    f"`blindscore {name}` ended ({process.returncode}):\n{self.log_tail(name)}"
                )

    def log_tail(self, name: str) -> str:
        """The last lines that `serve` or `work` wrote."""
        log = self.folder / f"{name}.log"
        return "\n".join(log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:])
