"""SIGTERM and SIGINT: the first asks for an orderly end, the second ends the process at once."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class StopSignals:
    """Heard from when it is made, in the running event loop."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self._first: asyncio.Future[str] = loop.create_future()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._heard, number)

    @property
    def name(self) -> str:
        """The first signal's; empty as long as there was none."""
        return self._first.result() if self._first.done() else ""

    async def before(self, work: Coroutine[Any, Any, T]) -> T | None:
        """What `work` returns, or raises; None when a signal comes first, which cancels it."""
        task = asyncio.create_task(work)
        try:
            either: set[asyncio.Future[Any]] = {task, self._first}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else None
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def then(self, stop: Callable[[str], None]) -> None:
        """Have `stop` called with the signal's name."""
        self._first.add_done_callback(lambda first: stop(first.result()))

    def _heard(self, number: int) -> None:
        if self._first.done():
            os._exit(128 + number)
        self._first.set_result(signal.Signals(number).name)
