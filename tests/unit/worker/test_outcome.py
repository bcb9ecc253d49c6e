"""What an error says of the endpoint, and of the job."""

from __future__ import annotations

import asyncio

import pytest

from shared.errors import CorruptInput, EndpointError, StorageUnavailable
from worker.outcome import Outcome, outcome_of


def _answer(status: int | None = None, reason: str = "", *, retryable: bool = True) -> Exception:
    return EndpointError("no", retryable=retryable, status=status, reason=reason)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (None, Outcome.ANSWERED),
        (_answer(422, "feature_count", retryable=False), Outcome.ANSWERED),
        (_answer(429), Outcome.BUSY),
        (_answer(503, "overloaded"), Outcome.BUSY),
        (_answer(503, "evaluation_timeout"), Outcome.TIMED_OUT),
        (_answer(408), Outcome.TIMED_OUT),
        (_answer(504), Outcome.TIMED_OUT),
        (_answer(None, "timeout"), Outcome.TIMED_OUT),
        (_answer(None, "unreachable"), Outcome.UNREACHABLE),
        (_answer(None, "disconnected"), Outcome.FAILED),
        (_answer(500), Outcome.FAILED),
        (_answer(502), Outcome.FAILED),
        (_answer(200), Outcome.FAILED),
        (StorageUnavailable("away"), Outcome.UNRELATED),
        (CorruptInput("changed"), Outcome.UNRELATED),
        (asyncio.CancelledError(), Outcome.UNRELATED),
    ],
)
def test_an_error_is_an_outcome(error: BaseException | None, outcome: Outcome) -> None:
    assert outcome_of(error) is outcome


def test_outcomes_are_judged() -> None:
    assert {o for o in Outcome if not o.is_failure} == {Outcome.ANSWERED, Outcome.UNRELATED}
    assert {o for o in Outcome if o.is_overload} == {Outcome.BUSY, Outcome.TIMED_OUT}
    # what was turned away unread, or never sent, can't be the job's fault
    assert {o for o in Outcome if o.may_be_the_jobs} == {Outcome.TIMED_OUT, Outcome.FAILED}
