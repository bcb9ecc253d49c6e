"""The job queue, kept from overflowing: a producer is often faster than all workers together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from producer.patience import patiently
from shared.errors import AccessDenied
from shared.ports import JobQueue

DEFAULT_LIMIT = 10_000
POLL_S = 1.0
FRESH_S = 10.0
"""A count older than this is not relied on: other producers may share the queue."""
REFILL_SHARE = 0.25
"""How far a full queue must drain before it is filled again, as a share of the limit."""


class Backlog:
    """Sends messages while fewer than `limit` wait in the queue; 0 is no limit.

    A queue that has filled up is left alone until a quarter of it has drained. `on_wait` is told
    the queue's depth when that makes a send wait, and None when it goes on. Who may send, but not
    ask for the depth, has no limit; `on_blind` is told so.
    """

    def __init__(
        self,
        queue: JobQueue,
        *,
        limit: int = DEFAULT_LIMIT,
        on_wait: Callable[[int | None], None] = lambda _: None,
        on_blind: Callable[[], None] = lambda: None,
    ) -> None:
        self._queue = queue
        self._limit = limit
        self._on_wait = on_wait
        self._on_blind = on_blind
        self._room = 0
        self._counted_at_s = 0.0
        self._turn = asyncio.Lock()

    async def send(self, body: bytes) -> None:
        """Send a message once there is room for it. Raises `StorageError`."""
        if self._limit:
            await self._take_room()
        await patiently(lambda: self._queue.send(body))

    async def _take_room(self) -> None:
        async with self._turn:
            clock = asyncio.get_running_loop().time
            stale = self._room == 0 or clock() - self._counted_at_s > FRESH_S
            if self._limit and stale:
                try:
                    self._room = await self._wait_for_room()
                except AccessDenied:
                    self._limit = 0
                    self._on_blind()
                self._counted_at_s = clock()
            self._room -= 1

    async def _wait_for_room(self) -> int:
        """How many messages may be sent now; at least 1."""
        depth = await patiently(self._queue.depth)
        if depth >= self._limit:
            refill_at = self._limit - max(1, int(REFILL_SHARE * self._limit))
            while depth > refill_at:
                self._on_wait(depth)
                await asyncio.sleep(POLL_S)
                depth = await patiently(self._queue.depth)
            self._on_wait(None)
        return self._limit - depth
