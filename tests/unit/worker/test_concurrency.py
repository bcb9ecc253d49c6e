"""The limit feels its way: up by one a round trip, down at once, once a round trip."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import EndpointError
from tests.unit.worker.harness import RESULT, Rig
from tests.unit.worker.virtual import now_s, virtual_time
from worker.concurrency import AdaptiveLimit
from worker.endpoint import ScoreRequest
from worker.outcome import Outcome


def _round_trip(limit: AdaptiveLimit, outcome: Outcome, requests: int | None = None) -> None:
    """As many requests as allowed, all on their way at once, then all back."""
    begun = [limit.begin() for _ in range(limit.limit if requests is None else requests)]
    for one in begun:
        limit.end(one, outcome)


@pytest.mark.parametrize(("minimum", "maximum", "start"), [(1, 1, 1), (1, 8, 3), (4, 4, 4)])
def test_it_starts_in_between(minimum: int, maximum: int, start: int) -> None:
    assert AdaptiveLimit(minimum, maximum).limit == start


def test_it_grows_by_one_a_round_trip_up_to_the_maximum() -> None:
    limit = AdaptiveLimit(1, 6)
    seen = []
    for _ in range(6):
        seen.append(limit.limit)
        _round_trip(limit, Outcome.ANSWERED)
    assert seen == [2, 3, 4, 5, 6, 6]


@pytest.mark.parametrize("sign", [Outcome.BUSY, Outcome.TIMED_OUT])
def test_however_many_fail_together_that_is_one_decrease(sign: Outcome) -> None:
    limit = AdaptiveLimit(1, 100)
    assert limit.limit == 10
    _round_trip(limit, sign)
    assert limit.limit == 7
    _round_trip(limit, sign)
    assert limit.limit == 4


def test_what_was_on_its_way_says_nothing_of_the_new_limit() -> None:
    limit = AdaptiveLimit(1, 100)
    begun = [limit.begin() for _ in range(10)]
    limit.end(begun[0], Outcome.BUSY)
    for one in begun[1:]:
        limit.end(one, Outcome.ANSWERED)
    assert limit.limit == 7


def test_it_stays_within_its_bounds() -> None:
    limit = AdaptiveLimit(3, 12)
    for _ in range(10):
        _round_trip(limit, Outcome.BUSY)
    assert limit.limit == 3


def test_answers_to_an_idle_worker_prove_nothing() -> None:
    limit = AdaptiveLimit(1, 100)
    for _ in range(100):
        _round_trip(limit, Outcome.ANSWERED, requests=4)
    assert limit.limit == 10


@pytest.mark.parametrize("other", [Outcome.FAILED, Outcome.UNREACHABLE, Outcome.UNRELATED])
def test_other_failures_are_no_matter_of_load(other: Outcome) -> None:
    limit = AdaptiveLimit(1, 100)
    _round_trip(limit, other)
    assert limit.limit == 10


@settings(deadline=None)
@given(
    st.integers(1, 20),
    st.integers(0, 40),
    st.lists(st.tuples(st.booleans(), st.sampled_from(Outcome)), max_size=200),
)
def test_no_history_leads_out_of_bounds(
    minimum: int, more: int, steps: list[tuple[bool, Outcome]]
) -> None:
    limit = AdaptiveLimit(minimum, minimum + more)
    on_their_way: list[int] = []
    for begins, outcome in steps:
        before = limit.limit
        if begins or not on_their_way:
            on_their_way.append(limit.begin())
        else:
            limit.end(on_their_way.pop(0), outcome)
        assert minimum <= limit.limit <= minimum + more
        assert limit.limit <= before + 1
        assert limit.limit >= int(before * 0.7)


@virtual_time
async def test_two_workers_settle_at_what_the_endpoint_can_take() -> None:
    """It takes six requests at a time, and refuses more; both together try up to 64."""
    running = refused = 0

    async def small(_: ScoreRequest) -> bytes:
        nonlocal running, refused
        if running >= 6:
            refused += 1
            raise EndpointError("overloaded", retryable=True, status=503)
        running += 1
        try:
            await asyncio.sleep(1)
        finally:
            running -= 1
        return RESULT

    first = Rig([small], max_concurrency=32, exit_when_idle_s=60)
    second = Rig([small], beside=first, max_concurrency=32, exit_when_idle_s=60)
    jobs = range(600)
    await first.submit(*jobs)
    await asyncio.gather(first.worker.run(), second.worker.run())
    assert all(first.result(job) == RESULT for job in jobs)
    assert first.queue.dead_letters == []
    assert now_s() < 100 * 1.5 + 60  # 100 s at best, and then it waits for more
    assert refused < 300  # two pools of 32 that don't adapt are refused over a thousand times


@virtual_time
async def test_a_lowered_limit_is_reached_by_taking_no_more() -> None:
    async def step(_: ScoreRequest) -> bytes:
        await asyncio.sleep(1)
        if now_s() == 1:
            raise EndpointError("busy", retryable=True, status=429, retry_after_s=5)
        return RESULT

    rig = Rig([step], max_concurrency=64, exit_when_idle_s=30)
    await rig.submit(*range(40))
    worker = asyncio.create_task(rig.worker.run())
    await asyncio.sleep(1.5)
    assert (rig.worker.in_hand, rig.throttle.allowed) == (8, 5)  # what is in hand stays there
    await asyncio.sleep(6)
    assert rig.worker.in_hand == rig.throttle.allowed <= 6
    await worker
    assert all(rig.result(job) == RESULT for job in range(40))
