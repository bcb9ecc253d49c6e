"""Waits between attempts: bounded, jittered, and never shorter than what was asked for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.retry import MAX_HAND_BACK_S, RetryPolicy

fractions = st.floats(min_value=0, max_value=1, exclude_max=True)


def test_the_ceiling_doubles_up_to_the_cap() -> None:
    policy = RetryPolicy(max_attempts=10, base_s=1, cap_s=6, random=lambda: 1.0)
    waits = [policy.delay_s(attempt=attempt, elapsed_s=0) for attempt in range(1, 6)]
    assert waits == [1, 2, 4, 6, 6]


def test_the_jitter_is_full() -> None:
    low = RetryPolicy(base_s=8, random=lambda: 0.0)
    middle = RetryPolicy(base_s=8, random=lambda: 0.5)
    assert low.delay_s(attempt=1, elapsed_s=0) == 0
    assert middle.delay_s(attempt=1, elapsed_s=0) == 4


@given(
    fraction=fractions,
    attempt=st.integers(min_value=1, max_value=10_000),
    asked_s=st.one_of(st.none(), st.floats(min_value=0, allow_nan=False)),
)
def test_a_wait_honours_what_was_asked_for_and_its_caps(
    fraction: float, attempt: int, asked_s: float | None
) -> None:
    policy = RetryPolicy(
        max_attempts=20_000, cap_s=30, retry_after_cap_s=90, random=lambda: fraction
    )
    wait_s = policy.delay_s(attempt=attempt, elapsed_s=0, retry_after_s=asked_s)
    assert wait_s is not None
    assert min(asked_s or 0.0, 90) <= wait_s <= 90


def test_the_attempts_are_a_budget() -> None:
    policy = RetryPolicy(max_attempts=3)
    assert policy.delay_s(attempt=2, elapsed_s=0) is not None
    assert policy.delay_s(attempt=3, elapsed_s=0) is None


def test_the_time_is_a_budget() -> None:
    policy = RetryPolicy(base_s=10, budget_s=60, random=lambda: 1.0)
    assert policy.delay_s(attempt=1, elapsed_s=50) == 10
    assert policy.delay_s(attempt=1, elapsed_s=50.1) is None
    assert policy.delay_s(attempt=1, elapsed_s=0, retry_after_s=61) is None


@given(fraction=fractions, deliveries=st.integers(min_value=1, max_value=10_000))
def test_a_message_is_never_handed_back_for_at_once(fraction: float, deliveries: int) -> None:
    policy = RetryPolicy(cap_s=30, random=lambda: fraction)
    delay_s = policy.hand_back_s(deliveries=deliveries)
    assert 15 <= delay_s <= MAX_HAND_BACK_S


@pytest.mark.parametrize(("deliveries", "delay_s"), [(1, 30), (2, 60), (5, 480), (9, 900)])
def test_each_delivery_doubles_the_hand_back(deliveries: int, delay_s: float) -> None:
    policy = RetryPolicy(cap_s=30, random=lambda: 1.0)
    assert policy.hand_back_s(deliveries=deliveries) == delay_s


def test_a_hand_back_honours_retry_after() -> None:
    policy = RetryPolicy(cap_s=1, random=lambda: 0.0)
    assert policy.hand_back_s(deliveries=1, retry_after_s=77) == 77
