"""What goes to the dead-letter queue in place of a message that can't succeed."""

from __future__ import annotations

import base64
from typing import Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, NonNegativeInt, PositiveInt

from shared.messages import MAX_MESSAGE_BYTES

MAX_ORIGINAL_BYTES = MAX_MESSAGE_BYTES // 8
"""A job message takes one kilobyte. What is longer can't be one, and its beginning tells."""


class DeadLetter(BaseModel):
    """The original message, and why it is here."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    message: str
    encoding: Literal["text", "base64"]
    """How `message` holds the original bytes: as they are (UTF-8), or in base64."""
    truncated: bool
    code: str
    reason: str
    status: int | None
    """The endpoint's last HTTP status, if it was asked."""
    attempts: NonNegativeInt
    """In the last delivery."""
    deliveries: PositiveInt
    traceparent: str
    worker: str
    failed_at: AwareDatetime

    def encode(self) -> bytes:
        return self.model_dump_json().encode()

    @classmethod
    def wrap(
        cls,
        body: bytes,
        *,
        code: str,
        reason: str,
        status: int | None,
        attempts: int,
        deliveries: int,
        traceparent: str,
        worker: str,
        failed_at: AwareDatetime,
    ) -> Self:
        """An envelope around `body`, always small enough for a queue message."""
        message, encoding = _printable(body[:MAX_ORIGINAL_BYTES])
        return cls(
            message=message,
            encoding=encoding,
            truncated=len(body) > MAX_ORIGINAL_BYTES,
            code=code,
            reason=reason,
            status=status,
            attempts=attempts,
            deliveries=deliveries,
            traceparent=traceparent,
            worker=worker,
            failed_at=failed_at,
        )


def _printable(body: bytes) -> tuple[str, Literal["text", "base64"]]:
    try:
        return body.decode(), "text"
    except UnicodeDecodeError:
        return base64.b64encode(body).decode(), "base64"
