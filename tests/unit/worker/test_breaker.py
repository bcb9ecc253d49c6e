"""When an endpoint counts as down, and when as back. All times are told."""

from __future__ import annotations

import pytest

from worker.breaker import PAUSE_CAP_S, Breaker
from worker.outcome import Outcome

FAILURES = [Outcome.BUSY, Outcome.TIMED_OUT, Outcome.UNREACHABLE, Outcome.FAILED]


def _breaker(failures: int = 3, random: float = 1.0) -> Breaker:
    return Breaker(failures=failures, pause_s=10, random=lambda: random)


def _ask(breaker: Breaker, outcome: Outcome, *, job: str = "r/0", now_s: float = 0.0) -> None:
    breaker.end(breaker.begin(), job, outcome, now_s=now_s)


def _state(breaker: Breaker) -> str:
    return breaker.state


def _open(breaker: Breaker, now_s: float = 0.0) -> Breaker:
    while breaker.state != "open":
        _ask(breaker, Outcome.FAILED, now_s=now_s)
    return breaker


@pytest.mark.parametrize("failure", FAILURES)
def test_failures_in_a_row_open_it(failure: Outcome) -> None:
    breaker = _breaker()
    _ask(breaker, failure)
    _ask(breaker, failure)
    assert _state(breaker) == "closed"
    _ask(breaker, failure, now_s=100)
    assert (breaker.state, breaker.probe_at_s) == ("open", 110)


def test_an_answer_in_between_starts_the_count_anew() -> None:
    breaker = _breaker()
    for outcome in (Outcome.FAILED, Outcome.FAILED, Outcome.ANSWERED) * 5:
        _ask(breaker, outcome)
    assert _state(breaker) == "closed"


def test_what_says_nothing_of_the_endpoint_does_not_count() -> None:
    breaker = _breaker()
    for outcome in (Outcome.FAILED, Outcome.UNRELATED, Outcome.FAILED, Outcome.UNRELATED):
        _ask(breaker, outcome)
    assert _state(breaker) == "closed"
    _ask(breaker, Outcome.FAILED)
    assert _state(breaker) == "open"


def test_an_endpoint_that_is_not_ready_is_asked_less_and_less_often() -> None:
    breaker = _open(_breaker())
    pauses, now_s = [], 0.0
    for _ in range(6):
        pauses.append(breaker.probe_at_s - now_s)
        now_s = breaker.probe_at_s
        breaker.probed(ready=False, now_s=now_s)
    assert pauses == [10, 20, 40, PAUSE_CAP_S, PAUSE_CAP_S, PAUSE_CAP_S]
    assert _state(breaker) == "open"


def test_pauses_are_jittered_by_half() -> None:
    assert _open(_breaker(random=0.0)).probe_at_s == 5


def test_ready_it_is_tried_and_an_answer_closes_it() -> None:
    breaker = _open(_breaker())
    breaker.probed(ready=True, now_s=10)
    assert _state(breaker) == "half-open"
    _ask(breaker, Outcome.ANSWERED, now_s=11)
    assert _state(breaker) == "closed"
    _ask(breaker, Outcome.FAILED, now_s=12)
    assert _state(breaker) == "closed"
    assert _open(breaker, now_s=20).probe_at_s == 30  # the first pause again


def test_one_failure_of_the_trial_opens_it_again_for_longer() -> None:
    breaker = _open(_breaker())
    breaker.probed(ready=True, now_s=10)
    _ask(breaker, Outcome.FAILED, now_s=11)
    assert (breaker.state, breaker.probe_at_s) == ("open", 31)


def test_requests_from_before_do_not_fail_the_trial() -> None:
    breaker = _breaker()
    late = breaker.begin()
    _open(breaker)
    breaker.end(late, "r/1", Outcome.TIMED_OUT, now_s=5)
    assert breaker.probe_at_s == 10
    breaker.probed(ready=True, now_s=10)
    breaker.end(late, "r/1", Outcome.TIMED_OUT, now_s=11)
    assert _state(breaker) == "half-open"


def test_a_late_answer_closes_it() -> None:
    breaker = _breaker()
    late = breaker.begin()
    _open(breaker)
    breaker.end(late, "r/1", Outcome.ANSWERED, now_s=5)
    assert _state(breaker) == "closed"
    breaker.probed(ready=True, now_s=10)  # asked meanwhile, and told too late
    assert _state(breaker) == "closed"


def test_the_endpoint_is_to_blame_when_several_jobs_fail_in_a_row() -> None:
    alone, several = _open(_breaker()), _breaker()
    assert not alone.blames_endpoint  # it may be this one job that brings it down
    for job in ("r/0", "r/1", "r/0"):
        _ask(several, Outcome.FAILED, job=job)
    assert several.blames_endpoint
    several.probed(ready=True, now_s=10)
    assert several.blames_endpoint
    _ask(several, Outcome.ANSWERED)
    assert not several.blames_endpoint
    _open(several)
    assert not several.blames_endpoint


def test_a_pause_longer_than_the_cap_is_capped() -> None:
    breaker = Breaker(failures=1, pause_s=1000, random=lambda: 1.0)
    assert _open(breaker).probe_at_s == PAUSE_CAP_S
