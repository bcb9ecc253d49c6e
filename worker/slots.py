"""Bounded concurrency: asyncio-pool's `AioPool`, used only in the ways that are safe.

Three habits of asyncio-pool 0.6 shape this module. A pool's task keeps every exception, even
CancelledError, in the future it hands out, so each future is looked at here. `spawn` swallows a
cancellation that arrives while it waits for room, so it is called with room only. A task
cancelled before its first step never gives its slot back, so only work that has begun is
cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

from asyncio_pool import AioPool


class Slots:
    """Room for `size` pieces of work at a time. `on_failure` hears of any that raised."""

    def __init__(self, size: int, *, on_failure: Callable[[BaseException], None]) -> None:
        self._pool = AioPool(size)
        self._on_failure = on_failure
        self._begun: set[asyncio.Task[Any]] = set()
        self._freed = asyncio.Event()

    @property
    def free(self) -> int:
        return int(self._pool.size - len(self._pool))

    @property
    def busy(self) -> int:
        return len(self._pool)

    async def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Begin `work` in a free slot. Raises RuntimeError when there is none."""
        if not self.free:
            work.close()
            raise RuntimeError("no free slot")
        future = await self._pool.spawn(self._run(work))
        future.add_done_callback(self._finished)

    async def wait(self, timeout_s: float) -> None:
        """Until a piece of work ends, or `wake` is called, or the time is up."""
        self._freed.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._freed.wait()

    def wake(self) -> None:
        self._freed.set()

    def cancel(self) -> None:
        """Cancel all work that has begun."""
        for task in tuple(self._begun):
            task.cancel()

    async def join(self) -> None:
        """Until all work has ended."""
        await self._pool.join()

    async def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("work runs in a task of the pool")
        self._begun.add(task)
        try:
            await work
        finally:
            self._begun.discard(task)

    def _finished(self, future: asyncio.Future[None]) -> None:
        self._freed.set()
        error = future.exception()
        if error is not None and not isinstance(error, asyncio.CancelledError):
            self._on_failure(error)
