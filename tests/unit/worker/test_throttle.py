"""An endpoint that is down: left alone, asked now and then, and no job's delivery is burnt."""

from __future__ import annotations

import asyncio
import random

import pytest
from structlog.testing import capture_logs

from shared.errors import EndpointError
from tests.unit.worker.harness import RESULT, Rig, Step
from tests.unit.worker.virtual import now_s, virtual_time
from worker.breaker import PAUSE_CAP_S
from worker.endpoint import ScoreRequest
from worker.retry import RetryPolicy

HOUR_S = 3600.0

REFUSED = EndpointError("nobody there", retryable=True, reason="unreachable")
BUSY = EndpointError("overloaded", retryable=True, status=503)
BROKEN = EndpointError("internal error", retryable=True, status=500)
GATEWAY = EndpointError("bad gateway", retryable=True, status=502)


def _down_until(when_s: float, error: Exception, *, after_s: float = 0.0) -> list[Step]:
    async def step(_: ScoreRequest) -> bytes:
        await asyncio.sleep(after_s)
        if now_s() < when_s:
            raise error
        return RESULT

    return [step]


@virtual_time
async def test_an_endpoint_that_is_down_is_left_alone_and_messages_go_back() -> None:
    rig = Rig([REFUSED], breaker_failures=4, breaker_pause_s=20, max_concurrency=4)
    rig.is_ready = False
    await rig.submit(*range(4))
    worker = asyncio.create_task(rig.worker.run())
    await asyncio.sleep(5)
    assert rig.throttle.state == "open"
    assert (rig.worker.in_hand, rig.throttle.allowed) == (0, 0)  # not kept for their next attempt
    requests, receives = len(rig.endpoint.requests), rig.journal.count("receive")
    await asyncio.sleep(600)
    assert len(rig.endpoint.requests) == requests
    assert rig.journal.count("receive") == receives
    assert 10 <= len(rig.probed_at) <= 20
    assert max(b - a for a, b in zip(rig.probed_at, rig.probed_at[1:], strict=False)) == PAUSE_CAP_S
    rig.worker.stop("test")
    await worker


@virtual_time
async def test_jobs_that_wait_for_their_next_attempt_go_back_too() -> None:
    patient = EndpointError("overloaded", retryable=True, status=503, retry_after_s=100)
    rig = Rig([patient], breaker_failures=4, min_concurrency=4, max_concurrency=4)
    rig.is_ready = False
    await rig.submit(*range(4))
    worker = asyncio.create_task(rig.worker.run())
    with capture_logs() as events:
        await asyncio.sleep(1)
    assert (rig.worker.in_hand, len(rig.endpoint.requests)) == (0, 4)
    told = [event["event"] for event in events]
    assert (told.count("job_retry"), told.count("job_handed_back")) == (3, 4)
    rig.worker.stop("test")
    await worker


@virtual_time
async def test_messages_go_back_for_no_shorter_than_the_endpoint_is_left_alone() -> None:
    rig = Rig([REFUSED], RetryPolicy(cap_s=1), breaker_failures=1, breaker_pause_s=50)
    await rig.submit(0)
    await rig.carry()
    await asyncio.sleep(49)
    assert await rig.queue.peek(1) == []
    await asyncio.sleep(2)
    assert len(await rig.queue.peek(1)) == 1


@virtual_time
async def test_back_again_it_is_tried_with_one_job_and_then_with_all() -> None:
    running = most_in_trial = 0

    async def step(_: ScoreRequest) -> bytes:
        nonlocal running, most_in_trial
        running += 1
        try:
            await asyncio.sleep(2)
            if rig.throttle.state == "half-open":
                most_in_trial = max(most_in_trial, running)
            if now_s() < 100:
                raise BROKEN
        finally:
            running -= 1
        return RESULT

    rig = Rig([step], breaker_failures=3, exit_when_idle_s=60)
    await rig.submit(*range(20))
    await rig.worker.run()
    assert all(rig.result(job) == RESULT for job in range(20))
    assert most_in_trial == 1
    assert rig.queue.dead_letters == []


@virtual_time
async def test_it_says_once_that_the_endpoint_is_down() -> None:
    rig = Rig(_down_until(300, REFUSED), breaker_failures=3, exit_when_idle_s=60)
    rig.is_ready = False
    await rig.submit(*range(8))
    worker = asyncio.create_task(rig.worker.run())
    with capture_logs() as events:
        await asyncio.sleep(301)
        rig.is_ready = True
        await worker
    told = [event["event"] for event in events if event["event"].startswith("circuit")]
    assert told == ["circuit_opened", "circuit_half_open", "circuit_closed"]


SLOW = EndpointError("slow", retryable=True, reason="timeout")
GONE = pytest.param(REFUSED, False, 0.0, id="gone")
TURNING_AWAY = pytest.param(BUSY, True, 0.0, id="busy")
BEHIND_A_GATEWAY = pytest.param(GATEWAY, False, 0.0, id="gateway")
SAYING_500 = pytest.param(BROKEN, True, 0.0, id="ready, it says, and broken")
HANGING = pytest.param(SLOW, True, 20.0, id="ready, it says, and hanging")


@pytest.mark.parametrize(
    ("error", "is_ready", "after_s"),
    [GONE, TURNING_AWAY, BEHIND_A_GATEWAY, SAYING_500, HANGING],
)
@pytest.mark.parametrize("jobs", [2, 20])
@virtual_time
async def test_an_outage_of_an_hour_poisons_nothing(
    jobs: int, error: Exception, is_ready: bool, after_s: float
) -> None:
    await _survive_an_hour(jobs, error, is_ready=is_ready, after_s=after_s)


@pytest.mark.parametrize(("error", "is_ready", "after_s"), [GONE, TURNING_AWAY, BEHIND_A_GATEWAY])
@virtual_time
async def test_nor_does_it_poison_the_only_job_there_is(
    error: Exception, is_ready: bool, after_s: float
) -> None:
    """Of an endpoint that says it is ready, this would be a different matter: see the next test."""
    await _survive_an_hour(1, error, is_ready=is_ready, after_s=after_s)


async def _survive_an_hour(jobs: int, error: Exception, *, is_ready: bool, after_s: float) -> None:
    """Four workers with the defaults; after the outage everything is scored."""
    step = _down_until(HOUR_S, error, after_s=after_s)
    policy = RetryPolicy(random=random.Random(7).random)
    first = Rig(step, policy)
    rigs = [first, *(Rig(step, policy, beside=first) for _ in range(3))]
    for rig in rigs:
        rig.is_ready = is_ready
    await first.submit(*range(jobs))
    workers = [asyncio.create_task(rig.worker.run()) for rig in rigs]
    await asyncio.sleep(HOUR_S)
    for rig in rigs:
        rig.is_ready = True
    while first.queue.bodies:
        await asyncio.sleep(10)
        assert now_s() < 1.5 * HOUR_S
    for rig, worker in zip(rigs, workers, strict=True):
        rig.worker.stop("test")
        await worker
    assert first.queue.dead_letters == []
    assert all(first.result(job) == RESULT for job in range(jobs))


@virtual_time
async def test_a_job_that_brings_the_endpoint_down_is_poison_all_the_same() -> None:
    """Alone in the queue it opens the breaker each time; the endpoint always comes back."""
    rig = Rig([GATEWAY], max_deliveries=3, breaker_failures=3)
    await rig.submit(0)
    worker = asyncio.create_task(rig.worker.run())
    await asyncio.sleep(HOUR_S)
    rig.worker.stop("test")
    await worker
    assert b"too_many_deliveries" in (rig.failure() or b"")
    assert len(rig.queue.dead_letters) == 1


@virtual_time
async def test_a_job_that_fails_among_others_that_do_not_is_poison() -> None:
    async def step(request: ScoreRequest) -> bytes:
        await asyncio.sleep(1)
        if request.body.size == 13:
            raise BROKEN
        return RESULT

    rig = Rig([step], max_deliveries=3)
    await rig.submit(*range(200))
    await rig.submit(200, data=b"x" * 13)
    worker = asyncio.create_task(rig.worker.run())
    for job in range(201, 800):  # the others go on coming
        await rig.submit(job)
        await asyncio.sleep(1)
    rig.worker.stop("test")
    await worker
    assert b"too_many_deliveries" in (rig.failure(200) or b"")
    assert len(rig.queue.dead_letters) == 1


@virtual_time
async def test_an_open_breaker_does_not_make_the_worker_idle_or_stuck() -> None:
    rig = Rig([REFUSED], breaker_failures=1, exit_when_idle_s=5)
    rig.is_ready = False
    await rig.submit(0)
    worker = asyncio.create_task(rig.worker.run())
    await asyncio.sleep(500)
    assert not worker.done()
    assert now_s() - rig.worker.turned_s <= 1.0
    rig.worker.stop("test")
    await worker


@virtual_time
async def test_a_failing_probe_stops_the_worker_with_its_error() -> None:
    rig = Rig([REFUSED], breaker_failures=1)

    async def fail() -> bool:
        raise ZeroDivisionError("a bug")

    rig.throttle._is_ready = fail
    await rig.submit(0)
    with pytest.raises(ZeroDivisionError):
        await rig.worker.run()
