"""A few at a time, in an order that is not that of asking."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from heapq import heappop, heappush
from itertools import count

Order = tuple[int, ...]


class Turns:
    """Like a semaphore, but of those who wait the first in order comes next, not in time."""

    def __init__(self, at_once: int) -> None:
        self._free = at_once
        self._waiting: list[tuple[Order, int, asyncio.Future[None]]] = []
        self._asked = count()

    @asynccontextmanager
    async def take(self, order: Order) -> AsyncIterator[None]:
        """A turn, for as long as the context lasts; the smallest `order` comes first."""
        if self._free:
            self._free -= 1
        else:
            await self._wait(order)
        try:
            yield
        finally:
            self._pass_on()

    async def _wait(self, order: Order) -> None:
        mine = asyncio.get_running_loop().create_future()
        heappush(self._waiting, (order, next(self._asked), mine))
        try:
            await mine
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled():  # the turn came, and nobody is there for it
                self._pass_on()
            raise

    def _pass_on(self) -> None:
        while self._waiting:
            *_, next_one = heappop(self._waiting)
            if not next_one.done():
                next_one.set_result(None)
                return
        self._free += 1
