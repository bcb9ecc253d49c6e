"""Who is first in order comes next, and no turn is lost."""

from __future__ import annotations

import asyncio

import pytest

from producer.turns import Order, Turns


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


class Crowd:
    """Tasks that take turns, and keep them until they are let go."""

    def __init__(self, at_once: int) -> None:
        self.turns = Turns(at_once)
        self.came: list[Order] = []
        self.tasks: dict[Order, asyncio.Task[None]] = {}
        self._let_go: dict[Order, asyncio.Event] = {}

    async def ask(self, *orders: Order) -> None:
        for order in orders:
            self._let_go[order] = asyncio.Event()
            self.tasks[order] = asyncio.create_task(self._one(order))
            await settle()

    async def let_go(self, order: Order) -> None:
        self._let_go[order].set()
        async with asyncio.timeout(5):
            await self.tasks[order]
        await settle()

    async def cancel(self, order: Order) -> None:
        self.tasks[order].cancel()
        await asyncio.wait([self.tasks[order]])
        await settle()

    async def _one(self, order: Order) -> None:
        async with self.turns.take(order):
            self.came.append(order)
            await self._let_go[order].wait()


async def test_the_first_in_order_comes_next() -> None:
    crowd = Crowd(at_once=2)
    await crowd.ask((5, 0), (4, 0), (3, 1), (2, 0), (3, 0))
    assert crowd.came == [(5, 0), (4, 0)]
    await crowd.let_go((5, 0))
    await crowd.let_go((2, 0))
    await crowd.ask((1, 0))
    await crowd.let_go((3, 0))
    assert crowd.came[2:] == [(2, 0), (3, 0), (1, 0)]


async def test_no_turn_is_lost_to_those_who_leave() -> None:
    crowd = Crowd(at_once=1)
    await crowd.ask((0,), (1,), (2,), (3,))
    await crowd.cancel((1,))
    crowd._let_go[0,].set()
    await asyncio.sleep(0)  # the turn is on its way to the second
    await crowd.cancel((2,))
    assert crowd.came[-1] == (3,)
    await crowd.let_go((3,))
    await crowd.ask((4,), (5,))
    assert crowd.came[-1] == (4,)


async def test_an_error_ends_a_turn() -> None:
    turns = Turns(1)

    async def fail() -> None:
        async with turns.take((0,)):
            raise ValueError

    async with asyncio.timeout(5):
        for _ in range(3):
            with pytest.raises(ValueError):  # noqa: PT011 - any will do
                await fail()
