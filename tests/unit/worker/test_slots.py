"""Bounded concurrency over asyncio-pool: no slot is lost, and no error either."""

from __future__ import annotations

import asyncio

import pytest

from tests.unit.worker.virtual import now_s, virtual_time
from worker.sidetasks import SideTasks
from worker.slots import Slots


@virtual_time
async def test_no_more_than_its_size_runs_at_a_time() -> None:
    slots = Slots(3, on_failure=_unexpected)
    running = most = 0

    async def work() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(1)
        running -= 1

    for _ in range(10):
        while not slots.free:
            await slots.wait(60)
        await slots.start(work())
    await slots.join()
    assert (most, running, now_s()) == (3, 0, 4)
    assert (slots.free, slots.busy) == (3, 0)


@virtual_time
async def test_starting_without_room_is_refused_and_not_queued() -> None:
    slots = Slots(1, on_failure=_unexpected)
    await slots.start(asyncio.sleep(1))
    with pytest.raises(RuntimeError, match="no free slot"):
        await slots.start(asyncio.sleep(1))
    await slots.join()
    assert now_s() == 1


@virtual_time
async def test_an_error_is_told_and_its_slot_comes_back() -> None:
    """asyncio-pool keeps errors, exits included, in futures that nobody need look at."""
    told: list[BaseException] = []
    slots = Slots(2, on_failure=told.append)

    async def fail() -> None:
        raise ValueError("broken")

    async def leave() -> None:
        raise SystemExit(3)

    await slots.start(fail())
    await slots.start(leave())
    await slots.join()
    await asyncio.sleep(0)
    assert [type(error) for error in told] == [ValueError, SystemExit]
    assert slots.free == 2


@virtual_time
async def test_cancelled_work_is_no_failure_and_its_slot_comes_back() -> None:
    slots = Slots(2, on_failure=_unexpected)
    await slots.start(asyncio.sleep(3600))
    await asyncio.sleep(1)
    slots.cancel()
    await slots.join()
    assert (slots.free, now_s()) == (2, 1)


@virtual_time
async def test_cancelling_just_started_work_loses_no_slot() -> None:
    """A task of asyncio-pool cancelled before its first step would hold its slot for ever."""
    slots = Slots(1, on_failure=_unexpected)
    await slots.start(asyncio.sleep(5))
    slots.cancel()
    await slots.join()
    assert slots.free == 1


@virtual_time
async def test_a_failing_side_task_is_told() -> None:
    told: list[BaseException] = []
    side = SideTasks(on_failure=told.append)

    async def fail() -> None:
        await asyncio.sleep(1)
        raise ValueError("broken")

    side.start(fail(), name="failing")
    side.start(asyncio.sleep(3600), name="waiting")
    await asyncio.sleep(2)
    await side.close()
    assert [str(error) for error in told] == ["broken"]
    assert now_s() == 2


def _unexpected(error: BaseException) -> None:
    raise AssertionError(f"unexpected: {error!r}")
