"""How often one caller may ask, and how much of that is remembered."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from score.limiter import MAX_CALLERS, Limiter
from shared.errors import RateLimited
from tests.fakes import FakeClock


def limiter(clock: FakeClock, rate_per_s: float = 2.0, burst: int = 3, at_once: int = 0) -> Limiter:
    return Limiter(rate_per_s=rate_per_s, burst=burst, max_at_once=at_once, clock=clock)


def ask(limited: Limiter, caller: str = "a") -> bool:
    """One request that is over at once; whether it was admitted."""
    try:
        with limited.admit(caller):
            return True
    except RateLimited:
        return False


def test_a_burst_is_admitted_and_then_the_rate() -> None:
    clock = FakeClock()
    limited = limiter(clock)
    assert [ask(limited) for _ in range(5)] == [True, True, True, False, False]
    clock.advance(0.5)
    assert [ask(limited), ask(limited)] == [True, False]
    clock.advance(60)
    assert [ask(limited) for _ in range(4)] == [True, True, True, False]


def test_who_is_refused_is_told_when_to_come_back() -> None:
    clock = FakeClock()
    limited = limiter(clock, rate_per_s=0.1, burst=1)
    assert ask(limited)
    clock.advance(4)
    with pytest.raises(RateLimited) as refused, limited.admit("a"):
        pass
    assert refused.value.retry_after_s == pytest.approx(6)
    clock.advance(refused.value.retry_after_s + 1e-6)
    assert ask(limited)


def test_callers_do_not_use_up_each_others_rate() -> None:
    limited = limiter(FakeClock(), burst=1)
    assert [ask(limited, caller) for caller in ("a", "b", "a", "c")] == [True, True, False, True]


@given(
    gaps_s=st.lists(st.floats(0, 3), max_size=60),
    rate_per_s=st.sampled_from([0.3, 1.0, 7.0]),
    burst=st.integers(1, 5),
)
@settings(deadline=None, max_examples=50)
def test_no_stretch_of_time_has_more_than_burst_and_rate(
    gaps_s: list[float], rate_per_s: float, burst: int
) -> None:
    clock = FakeClock(0.0)
    limited = limiter(clock, rate_per_s, burst)
    admitted_s = []
    for gap_s in gaps_s:
        clock.advance(gap_s)
        if ask(limited):
            admitted_s.append(clock())
    for first, start_s in enumerate(admitted_s):
        for last in range(first, len(admitted_s)):
            allowed = burst + (admitted_s[last] - start_s) * rate_per_s
            assert last - first + 1 <= allowed + 1e-6


def test_requests_in_progress_are_limited_and_freed() -> None:
    limited = limiter(FakeClock(), rate_per_s=0, at_once=2)
    with ExitStack() as first:
        first.enter_context(limited.admit("a"))
        with limited.admit("a"):
            assert not ask(limited, "a")
            assert ask(limited, "b")
        assert ask(limited, "a")
    assert limited.callers == 0


def test_a_request_that_fails_is_over_too() -> None:
    limited = limiter(FakeClock(), rate_per_s=0, at_once=1)
    with pytest.raises(ZeroDivisionError), limited.admit("a"):
        raise ZeroDivisionError
    assert ask(limited, "a")


def test_without_limits_everything_is_admitted() -> None:
    limited = limiter(FakeClock(), rate_per_s=0)
    assert all(ask(limited) for _ in range(1000))
    assert limited.callers == 0


def test_the_caller_that_asked_least_recently_is_forgotten_first() -> None:
    limited = limiter(FakeClock(), burst=1)
    ask(limited, "first")
    ask(limited, "second")
    for number in range(MAX_CALLERS - 1):
        ask(limited, str(number))
    assert limited.callers == MAX_CALLERS
    assert not ask(limited, "second")
    assert ask(limited, "first")
    assert limited.callers == MAX_CALLERS
