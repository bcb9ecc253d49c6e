"""What one request tells of the endpoint, and whether its job may be to blame. Pure."""

from __future__ import annotations

from enum import StrEnum
from http import HTTPStatus

from shared.errors import EndpointError, EvaluationTimeout
from worker.answers import TIMED_OUT, UNREACHABLE

_TIMEOUTS = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.GATEWAY_TIMEOUT}
_BUSY = {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}


class Outcome(StrEnum):
    """The end of one request."""

    ANSWERED = "answered"
    """With a result, or with an orderly refusal: the endpoint works."""
    BUSY = "busy"
    """Turned away unread: 429 or 503."""
    TIMED_OUT = "timed_out"
    UNREACHABLE = "unreachable"
    """There was no connection, so nothing was sent."""
    FAILED = "failed"
    """500, 502, a connection that broke, an answer that is none."""
    UNRELATED = "unrelated"
    """Storage failed, or the job was cancelled: this tells nothing of the endpoint."""

    @property
    def is_failure(self) -> bool:
        """Whether the endpoint could not do what was asked of it, for now."""
        return self not in {Outcome.ANSWERED, Outcome.UNRELATED}

    @property
    def is_overload(self) -> bool:
        """Whether fewer requests at a time might have gone better."""
        return self in {Outcome.BUSY, Outcome.TIMED_OUT}

    @property
    def may_be_the_jobs(self) -> bool:
        """Whether the job itself may be the cause: it was, or may have been, worked on."""
        return self in {Outcome.TIMED_OUT, Outcome.FAILED}


def outcome_of(error: BaseException | None) -> Outcome:
    """The outcome of a request that raised `error`, or nothing."""
    match error:
        case None:
            return Outcome.ANSWERED
        case EndpointError():
            return _answered(error) if error.retryable else Outcome.ANSWERED
        case _:
            return Outcome.UNRELATED


def _answered(error: EndpointError) -> Outcome:
    if error.reason == UNREACHABLE:
        return Outcome.UNREACHABLE
    if error.reason in {TIMED_OUT, EvaluationTimeout.code} or error.status in _TIMEOUTS:
        return Outcome.TIMED_OUT
    return Outcome.BUSY if error.status in _BUSY else Outcome.FAILED
