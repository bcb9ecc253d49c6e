"""The whole system on this machine, in processes that may be killed: storage, endpoint, workers,
producer and collector. Whatever happens, everything that was started is stopped."""

from __future__ import annotations

import asyncio
import contextlib
import urllib.error
import urllib.request
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import psutil
from pydantic import SecretStr

from deploy.local.azurite import Azurite
from deploy.local.ports import HOST, free_port
from shared.settings import CONNECTION_STRING_VARIABLE, StorageSettings
from shared.storage import Storage, ensure_storage, open_storage
from tests.chaos.part import STOP_S, Part, wait_until

T = TypeVar("T")

READY_S = 60.0


@dataclass
class System:
    """Storage and an endpoint, and workers that can be started. A context manager."""

    folder: Path
    model: Path
    workers: int = 4
    work_options: tuple[str, ...] = ()
    endpoint: Part = field(init=False)
    crew: list[Part] = field(init=False)
    environment: dict[str, str] = field(init=False)
    azurite: Azurite = field(init=False)
    _exits: ExitStack = field(default_factory=ExitStack, init=False)

    def __enter__(self) -> Self:
        with ExitStack() as exits:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.azurite = exits.enter_context(Azurite(self.folder / "azurite"))
            asyncio.run(ensure_storage(self.settings))
            port = free_port()
            self.environment = {
                CONNECTION_STRING_VARIABLE: self.azurite.connection_string,
                "BLINDSCORE_ENDPOINT": f"http://{HOST}:{port}",
                "BLINDSCORE_HOME": str(self.folder / "home"),
            }
            self._exits = exits
            self.endpoint = self.part(
                "serve", "serve", "--model", str(self.model), "--port", str(port)
            )
            self.endpoint.start()
            self.wait_until_ready()
            self.crew = [
                self.part(f"work-{number}", "work", *self.work_options)
                for number in range(self.workers)
            ]
            self._exits = exits.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._exits.close()

    @property
    def settings(self) -> StorageSettings:
        return StorageSettings(connection_string=SecretStr(self.azurite.connection_string))

    def part(self, name: str, *arguments: str) -> Part:
        """A command that is stopped with the system."""
        part = Part(self.folder, self.environment, name, *arguments)
        self._exits.callback(part.stop)
        return part

    def start_crew(self) -> None:
        """Start all workers."""
        for worker in self.crew:
            worker.start()

    def make_key(self, scheme: str) -> None:
        """A key of the scheme."""
        keygen = self.part("keygen", "keygen", "--scheme", scheme)
        keygen.start()
        wait_until(lambda: keygen.code is not None, "a key", within_s=READY_S)
        keygen.require_code(0)

    def wait_until_ready(self) -> None:
        """Until the endpoint answers."""
        url = f"{self.environment['BLINDSCORE_ENDPOINT']}/ready"

        def is_ready() -> bool:
            self.endpoint.require_code(None)
            with contextlib.suppress(urllib.error.URLError, OSError):
                urllib.request.urlopen(url, timeout=5).close()
                return True
            return False

        wait_until(is_ready, "an endpoint", within_s=READY_S)

    def require_nothing_runs(self) -> None:
        """After the end: whatever was killed, and however, has left no process behind."""
        wait_until(lambda: not self._processes(), "an end of all processes", within_s=STOP_S)

    def _processes(self) -> list[psutil.Process]:
        """All that were started for this system, by them too."""
        ours = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("BLINDSCORE_HOME") == self.environment["BLINDSCORE_HOME"]:
                    ours.append(process)
        return ours

    def ask(self, question: Callable[[Storage], Coroutine[Any, Any, T]]) -> T:
        """Look into the storage account."""

        async def look() -> T:
            async with open_storage(self.settings) as storage:
                return await question(storage)

        return asyncio.run(look())
