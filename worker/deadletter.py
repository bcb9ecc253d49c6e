"""What goes to the dead-letter queue in place of a message that can't succeed."""

from __future__ import annotations

import base64
from typing import Literal, Self

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
)

from shared.errors import MessageError
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
    """In the last delivery; in all that are on record, if these were too many."""
    deliveries: PositiveInt
    traceparent: str
    worker: str
    failed_at: AwareDatetime

    def encode(self) -> bytes:
        return self.model_dump_json().encode()

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """Parse an envelope. Raises `MessageError` for what is none."""
        try:
            return cls.model_validate_json(body)
        except ValidationError:
            raise MessageError("not a dead letter of this version") from None

    @property
    def original(self) -> bytes:
        """The message's body, byte for byte; its beginning, if `truncated`."""
        if self.encoding == "text":
            return self.message.encode()
        return base64.b64decode(self.message)

    @property
    def trace_id(self) -> str:
        return self.traceparent[3:35]

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
