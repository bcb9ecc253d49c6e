"""Messages are sent no faster than the queue drains."""

from __future__ import annotations

import asyncio

import pytest

from producer.backlog import POLL_S, Backlog
from shared.errors import AccessDenied
from tests.fakes import FakeQueue
from tests.unit.worker.virtual import now_s, virtual_time


class CountedQueue(FakeQueue):
    """Tells how deep it has been, and how often that was asked."""

    def __init__(self) -> None:
        super().__init__(lambda: 0.0)
        self.deepest = 0
        self.asked = 0

    async def send(self, body: bytes, *, delay_s: float = 0.0) -> None:
        await super().send(body, delay_s=delay_s)
        self.deepest = max(self.deepest, len(self.bodies))

    async def depth(self) -> int:
        self.asked += 1
        return await super().depth()

    async def drain(self, messages: int) -> None:
        for delivery in await self.receive(messages, lease_s=60):
            await self.delete(delivery)


async def send_all(backlog: Backlog, messages: int, in_flight: int = 3) -> None:
    slots = asyncio.Semaphore(in_flight)

    async def send(body: bytes) -> None:
        async with slots:
            await backlog.send(body)

    await asyncio.gather(*(send(b"%d" % i) for i in range(messages)))


@virtual_time
async def test_the_queue_never_holds_more_than_the_limit() -> None:
    queue = CountedQueue()
    waits: list[int | None] = []
    sending = asyncio.create_task(
        send_all(Backlog(queue, limit=20, on_wait=waits.append), messages=200)
    )
    while not sending.done():
        await asyncio.sleep(0.3)
        await queue.drain(1)
    await sending
    assert queue.deepest == 20
    assert waits[0] == 20
    assert waits[-1] is None


@virtual_time
async def test_a_full_queue_drains_by_a_quarter_before_it_is_filled_again() -> None:
    queue = CountedQueue()
    sending = asyncio.create_task(send_all(Backlog(queue, limit=20), messages=25))
    await asyncio.sleep(3 * POLL_S)
    await queue.drain(4)
    await asyncio.sleep(3 * POLL_S)
    assert len(queue.bodies) == 16
    await queue.drain(1)
    await asyncio.sleep(3 * POLL_S)
    assert len(queue.bodies) == 20
    await sending


@virtual_time
async def test_an_idle_queue_is_seldom_asked() -> None:
    queue = CountedQueue()
    await send_all(Backlog(queue, limit=1000), messages=500)
    assert queue.asked == 1


@virtual_time
async def test_a_count_grows_old_because_others_send_too() -> None:
    queue = CountedQueue()
    backlog = Backlog(queue, limit=10)
    await backlog.send(b"first")
    for _ in range(9):
        await queue.send(b"another producer's")
    await asyncio.sleep(60)
    sending = asyncio.create_task(backlog.send(b"second"))
    await asyncio.sleep(60)
    assert not sending.done()
    await queue.drain(10)
    await sending


@virtual_time
async def test_no_limit_asks_nothing() -> None:
    queue = CountedQueue()
    await send_all(Backlog(queue, limit=0), messages=50)
    assert (len(queue.bodies), queue.asked) == (50, 0)


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_the_smallest_limits_work(limit: int) -> None:
    @virtual_time
    async def run() -> None:
        queue = CountedQueue()
        sending = asyncio.create_task(send_all(Backlog(queue, limit=limit), messages=10))
        while not sending.done():
            await asyncio.sleep(0.5)
            await queue.drain(1)
        await sending
        assert queue.deepest == limit

    run()


@virtual_time
async def test_who_may_only_send_goes_on_without_a_limit() -> None:
    class SendOnly(FakeQueue):
        async def depth(self) -> int:
            raise AccessDenied("no")

    queue, told = SendOnly(), []
    backlog = Backlog(queue, limit=2, on_blind=lambda: told.append(True))
    await send_all(backlog, messages=10)
    assert now_s() == 0.0
    await asyncio.sleep(60)
    await send_all(backlog, messages=10)
    assert len(queue.bodies) == 20
    assert told == [True]
