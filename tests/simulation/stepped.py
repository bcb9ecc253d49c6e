"""Event loops that are stepped by hand: several simulated processes share one clock.

Whoever is not stepped stands still while time goes on, and then finds all its timers due at once,
as a stopped process does (SIGSTOP, SIGCONT). Whoever is never stepped again is dead (SIGKILL).
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any

from tests.fakes import FakeClock

NEVER_S = float("inf")
MAX_CANCELS = 5
ROUNDS = 20


class _Stepping(selectors.DefaultSelector):
    """Where the loop would sleep, ends the step instead."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self.clock = clock
        self.loop: asyncio.AbstractEventLoop | None = None
        self.due_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.due_s = NEVER_S if timeout is None else self.clock.now_s + max(0.0, timeout)
        if self.loop is not None:
            self.loop.stop()
        return []


class SteppedLoop(asyncio.SelectorEventLoop):
    """Goes one round whenever it is told to. Not for sockets or threads."""

    def __init__(self, clock: FakeClock) -> None:
        self._stepping = _Stepping(clock)
        self._now = clock
        super().__init__(self._stepping)
        self._stepping.loop = self

    def time(self) -> float:
        return self._now()

    @property
    def due_s(self) -> float:
        """When there is something to do next; in the past, if now."""
        return self._stepping.due_s

    def step(self) -> None:
        """Run what is ready, once."""
        self.run_forever()

    def soon(self, callback: Callable[..., object], *args: object) -> None:
        """Have something done in the next step, as a signal handler does."""
        self._stepping.due_s = self.time()
        self.call_soon(callback, *args)

    def begin(self, main: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        self._stepping.due_s = self.time()
        return self.create_task(main)

    def bury(self) -> None:
        """End a dead process's tasks, which must not be able to do anything any more."""
        for _ in range(MAX_CANCELS):
            for _ in range(ROUNDS):  # a task cancelled before its first step leaves a warning
                self.step()
            for task in asyncio.all_tasks(self):
                task.cancel()
        for _ in range(ROUNDS):
            self.step()
        if left := asyncio.all_tasks(self):
            raise RuntimeError(f"tasks that can't be cancelled: {left}")
        self._stepping.loop = None
        self.run_until_complete(self.shutdown_asyncgens())
        self.close()
