"""Errors as callers see them: problem documents (RFC 9457) with a stable `code`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import orjson

from shared.errors import BlindscoreError, Overloaded, RateLimited

CONTENT_TYPE = "application/problem+json"
BUSY_RETRY_S = 1
STORAGE_RETRY_S = 5


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem document."""

    status: int
    code: str
    detail: str
    retry_after_s: int | None = None

    def document(self) -> dict[str, Any]:
        """Its members. The type is "about:blank": title and status say what kind it is."""
        return {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
        }

    def encode(self) -> bytes:
        """The document as bytes."""
        return orjson.dumps(self.document())

    def headers(self) -> dict[str, str]:
        """Headers that belong to it."""
        headers = {"Content-Type": CONTENT_TYPE}
        if self.retry_after_s is not None:
            headers["Retry-After"] = str(self.retry_after_s)
        if self.status == HTTPStatus.UNAUTHORIZED:
            headers["WWW-Authenticate"] = "Bearer"
        return headers


def problem_of(error: BlindscoreError) -> Problem:
    """What to tell a caller of an error of ours."""
    retry_after_s: int | None = None
    if isinstance(error, RateLimited):
        retry_after_s = max(1, math.ceil(error.retry_after_s))
    elif error.http_status == HTTPStatus.SERVICE_UNAVAILABLE:
        retry_after_s = BUSY_RETRY_S if isinstance(error, Overloaded) else STORAGE_RETRY_S
    return Problem(error.http_status, error.code, str(error), retry_after_s)


def internal_problem() -> Problem:
    """What to tell a caller of an error that nobody foresaw: nothing."""
    return Problem(500, BlindscoreError.code, "internal error")
