"""Envelopes around messages that can't succeed."""

from __future__ import annotations

import base64
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from shared.messages import MAX_MESSAGE_BYTES
from worker.deadletter import MAX_ORIGINAL_BYTES, DeadLetter


def _wrap(body: bytes) -> DeadLetter:
    return DeadLetter.wrap(
        body,
        code="bad_message",
        reason="x" * 1000,
        status=None,
        attempts=0,
        deliveries=1,
        traceparent="",
        worker="worker-1",
        failed_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
def test_the_original_comes_back_byte_for_byte(body: bytes) -> None:
    letter = DeadLetter.model_validate_json(_wrap(body).encode())
    decoded = (
        letter.message.encode() if letter.encoding == "text" else base64.b64decode(letter.message)
    )
    assert decoded == body
    assert not letter.truncated


def test_a_long_original_is_cut_so_that_the_letter_can_be_sent() -> None:
    for body in (b"\x01" * MAX_MESSAGE_BYTES, b"\xff" * MAX_MESSAGE_BYTES):
        letter = _wrap(body)
        assert letter.truncated
        assert len(letter.encode()) <= MAX_MESSAGE_BYTES
    assert len(_wrap(b"\x01" * 100_000).message) == MAX_ORIGINAL_BYTES
