"""The main loop: as much as fits, an orderly end, and no silent failures."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from shared.errors import AccessDenied, QueueNotFound
from shared.ports import Delivery
from tests.unit.worker.harness import RESULT, Rig, Step
from tests.unit.worker.virtual import now_s, virtual_time
from worker.endpoint import ScoreRequest
from worker.loop import HAND_BACK_S, POLL_MAX_S, POLL_MIN_S


def taking(seconds: float) -> list[Step]:
    async def step(_: ScoreRequest) -> bytes:
        await asyncio.sleep(seconds)
        return RESULT

    return [step]


async def _stop_at(rig: Rig, seconds: float) -> None:
    await asyncio.sleep(seconds)
    rig.worker.stop("test")


@virtual_time
async def test_all_jobs_are_done_no_more_at_a_time_than_allowed() -> None:
    running = most = 0

    async def step(_: ScoreRequest) -> bytes:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(1)
        running -= 1
        return RESULT

    rig = Rig([step], min_concurrency=4, max_concurrency=4, exit_when_idle_s=5)
    await rig.submit(*range(50))
    await rig.worker.run()
    assert most == 4
    assert all(rig.result(job) == RESULT for job in range(50))
    assert rig.queue.bodies == []


@virtual_time
async def test_it_receives_no_more_than_there_is_room_for() -> None:
    rig = Rig(taking(10), min_concurrency=3, max_concurrency=3)
    await rig.submit(*range(8))
    worker = asyncio.create_task(rig.worker.run())
    await asyncio.sleep(5)
    assert len(await rig.queue.receive(32, lease_s=1)) == 5
    rig.worker.stop("test")
    await worker


@virtual_time
async def test_a_lease_is_renewed_while_its_job_takes_long() -> None:
    rig = Rig(taking(99), lease_s=30, exit_when_idle_s=5)
    await rig.submit(0)
    await rig.worker.run()
    assert len(rig.endpoint.requests) == 1
    assert rig.queue.renewed_at == [10, 20, 30, 40, 50, 60, 70, 80, 90]
    assert rig.queue.bodies == []


@virtual_time
async def test_an_empty_queue_is_looked_at_less_and_less_often() -> None:
    rig = Rig()
    stop = asyncio.create_task(_stop_at(rig, 600))
    await rig.worker.run()
    await stop
    looks = rig.journal.count("receive")
    assert 600 / POLL_MAX_S <= looks <= 600 / (POLL_MAX_S / 2) + 10


async def _looks(rig: Rig, *, since_s: float, until_s: float) -> int:
    """How often the queue was looked at, in a run of the worker to `until_s`."""
    looks: list[int] = []

    async def count() -> None:
        await asyncio.sleep(since_s)
        looks.append(rig.journal.count("receive"))
        await _stop_at(rig, until_s - since_s)

    counting = asyncio.create_task(count())
    await rig.worker.run()
    await counting
    return rig.journal.count("receive") - looks[0]


@virtual_time
@pytest.mark.parametrize("job_s", [0, 60])
async def test_who_has_just_had_a_job_looks_for_the_next_one_often(job_s: int) -> None:
    """For a few seconds, and no longer."""
    found = []
    for since_s in (job_s + 1, job_s + 7):
        rig = Rig(taking(job_s), lease_s=1000)
        await rig.submit(0)
        found.append(await _looks(rig, since_s=since_s, until_s=since_s + 3))
    assert 3 / POLL_MIN_S <= found[0] <= 3 / (POLL_MIN_S / 2)
    assert found[1] < 0.6 * found[0]


@virtual_time
async def test_who_has_just_been_given_a_job_looks_for_another_often() -> None:
    rig = Rig(taking(60), lease_s=1000)
    await rig.submit(0)
    assert await _looks(rig, since_s=1, until_s=4) >= 3 / POLL_MIN_S


@virtual_time
async def test_a_queue_out_of_reach_is_looked_at_no_more_often_for_a_job_just_done() -> None:
    rig = Rig(taking(0))
    await rig.submit(0)
    receive = rig.queue.receive

    async def once(max_messages: int, *, lease_s: float) -> list[Delivery]:
        rig.queue.failing = {"receive"} if rig.endpoint.requests else set()
        return await receive(max_messages, lease_s=lease_s)

    rig.queue.receive = once  # type: ignore[method-assign]
    assert await _looks(rig, since_s=1, until_s=4) < 25


@virtual_time
async def test_an_empty_queue_is_looked_at_less_often_while_there_is_work() -> None:
    looks = []
    for jobs in (0, 3):
        rig = Rig(taking(60), min_concurrency=4, max_concurrency=4)
        await rig.submit(*range(jobs))
        stop = asyncio.create_task(_stop_at(rig, 2))
        await rig.worker.run()
        await stop
        looks.append(rig.journal.count("receive"))
    assert 3 <= looks[1] < 0.7 * looks[0]


@virtual_time
async def test_however_much_work_there_is_the_queue_is_looked_at() -> None:
    rig = Rig(taking(300), lease_s=1000, min_concurrency=32, max_concurrency=32)
    await rig.submit(*range(31))
    stop = asyncio.create_task(_stop_at(rig, 200))
    await rig.worker.run()
    await stop
    assert rig.journal.count("receive") >= 200 / POLL_MAX_S


@virtual_time
async def test_who_has_finished_looks_for_more_at_once() -> None:
    begun_at: list[float] = []

    async def step(_: ScoreRequest) -> bytes:
        begun_at.append(now_s())
        await asyncio.sleep(1)
        return RESULT

    rig = Rig([step], min_concurrency=32, max_concurrency=32, exit_when_idle_s=5)
    await rig.submit(*range(30))
    running = asyncio.create_task(rig.worker.run())
    await asyncio.sleep(0.5)
    await rig.submit(30)
    await running
    assert len(begun_at) == 31
    assert begun_at[-1] <= 1.1


@virtual_time
async def test_stopping_interrupts_the_wait_for_messages() -> None:
    rig = Rig()
    stop = asyncio.create_task(_stop_at(rig, 100.0))
    await rig.worker.run()
    await stop
    assert now_s() == 100


@virtual_time
async def test_it_stops_by_itself_when_the_queue_stays_empty() -> None:
    rig = Rig(taking(60), exit_when_idle_s=10)
    await rig.submit(0)
    await rig.worker.run()
    assert rig.result() == RESULT
    assert 70 <= now_s() <= 70 + POLL_MAX_S


@virtual_time
async def test_jobs_in_flight_finish_within_the_grace_period() -> None:
    rig = Rig(taking(20), grace_s=25)
    await rig.submit(0, 1)
    stop = asyncio.create_task(_stop_at(rig, 1))
    with capture_logs() as events:
        await rig.worker.run()
    await stop
    assert (rig.result(0), rig.result(1), rig.queue.bodies) == (RESULT, RESULT, [])
    assert now_s() == 20
    assert {"event": "draining", "reason": "test", "in_flight": 2, "log_level": "info"} in events


@virtual_time
async def test_what_does_not_finish_in_time_goes_back_at_once_with_a_fresh_receipt() -> None:
    rig = Rig(taking(3600), lease_s=30, grace_s=25)
    await rig.submit(0, 1)
    stop = asyncio.create_task(_stop_at(rig, 12))
    await rig.worker.run()
    await stop
    assert now_s() == 12 + 25
    assert rig.queue.renewed_at != []
    assert len(await rig.queue.receive(2, lease_s=30)) == 2
    assert (rig.result(0), rig.failure(0)) == (None, None)


@virtual_time
async def test_stopping_does_not_wait_for_a_free_slot() -> None:
    rig = Rig(taking(3600), max_concurrency=1, grace_s=3)
    await rig.submit(0, 1)
    stop = asyncio.create_task(_stop_at(rig, 1))
    await rig.worker.run()
    await stop
    assert now_s() == 4


@virtual_time
async def test_a_write_that_has_begun_is_finished_after_the_grace_period() -> None:
    rig = Rig(grace_s=1)

    async def slow(_: str) -> None:
        await asyncio.sleep(1 + HAND_BACK_S / 2)

    rig.store.before_create = slow
    await rig.submit(0)
    stop = asyncio.create_task(_stop_at(rig, 0.5))
    await rig.worker.run()
    await stop
    assert (rig.result(), rig.queue.bodies) == (RESULT, [])


@virtual_time
async def test_even_a_hanging_write_does_not_keep_it_from_ending() -> None:
    rig = Rig(grace_s=1, lease_s=30)

    async def hang(_: str) -> None:
        await asyncio.sleep(3600)

    rig.store.before_create = hang
    await rig.submit(0)
    stop = asyncio.create_task(_stop_at(rig, 1))
    await rig.worker.run()
    await stop
    assert now_s() <= 1 + 1 + HAND_BACK_S + 1
    assert (rig.result(), len(rig.queue.bodies)) == (None, 1)


@virtual_time
async def test_messages_received_while_stopping_go_back_unopened() -> None:
    rig = Rig()
    await rig.submit(0, 1, 2)
    receive = rig.queue.receive

    async def slow(max_messages: int, *, lease_s: float) -> list[Delivery]:
        deliveries = await receive(max_messages, lease_s=lease_s)
        await asyncio.sleep(2)
        return deliveries

    rig.queue.receive = slow  # type: ignore[method-assign]
    stop = asyncio.create_task(_stop_at(rig, 1))
    await rig.worker.run()
    await stop
    assert rig.endpoint.requests == []
    assert len(await receive(3, lease_s=30)) == 3
    assert now_s() == 2


@virtual_time
async def test_a_hanging_receive_ends_with_the_grace_period() -> None:
    rig = Rig(grace_s=5)

    async def hang(max_messages: int, *, lease_s: float) -> list[Delivery]:
        await asyncio.sleep(3600)
        return []

    rig.queue.receive = hang  # type: ignore[method-assign]
    stop = asyncio.create_task(_stop_at(rig, 1))
    await rig.worker.run()
    await stop
    assert now_s() == 6


@virtual_time
async def test_storage_that_is_away_for_a_while_is_waited_for() -> None:
    rig = Rig(exit_when_idle_s=5)
    await rig.submit(0)
    rig.queue.failing = {"receive"}

    async def return_later() -> None:
        await asyncio.sleep(20)
        rig.queue.failing = set()

    back = asyncio.create_task(return_later())
    await rig.worker.run()
    await back
    assert rig.result() == RESULT


@virtual_time
async def test_a_failing_renewal_stops_the_worker_with_its_error() -> None:
    rig = Rig(taking(15), lease_s=30)
    await rig.submit(0)

    async def deny() -> None:
        raise AccessDenied("no update permission")

    rig.queue.on_renew = deny
    with pytest.raises(AccessDenied):
        await rig.worker.run()
    assert rig.result() == RESULT  # what was in flight was finished


@virtual_time
async def test_work_that_raises_stops_the_worker_with_its_error() -> None:
    rig = Rig([ZeroDivisionError("a bug")], lease_s=30)
    await rig.submit(0)
    with pytest.raises(ZeroDivisionError):
        await rig.worker.run()
    assert rig.failure() is None
    assert await rig.queue.receive(1, lease_s=1) == []  # not handed round: its lease runs out
    await asyncio.sleep(30)
    assert len(await rig.queue.receive(1, lease_s=1)) == 1


@virtual_time
async def test_a_queue_that_vanishes_stops_the_worker_with_its_error() -> None:
    rig = Rig(taking(5))
    await rig.submit(0)
    receive = rig.queue.receive

    async def once(max_messages: int, *, lease_s: float) -> list[Delivery]:
        if rig.queue.journal:
            await asyncio.sleep(1)
            raise QueueNotFound("gone")
        return await receive(max_messages, lease_s=lease_s)

    rig.queue.receive = once  # type: ignore[method-assign]
    with pytest.raises(QueueNotFound):
        await rig.worker.run()
    assert rig.result() == RESULT
