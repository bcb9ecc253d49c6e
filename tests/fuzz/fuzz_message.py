"""Queue messages: refused as such, or read back as they are written.

python -m tests.fuzz.fuzz_message -max_total_time=60
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from itertools import zip_longest

import atheris

with atheris.instrument_imports(include=["shared"]):
    from shared import blobnames
    from shared.errors import MessageError
    from shared.messages import JobMessage

FIELDS = tuple(JobMessage.model_fields)


def test_one_input(data: bytes) -> None:
    """`data` as a message, as bits flipped in a sound one, and as one field of it."""
    _refused_or_the_same(data)
    _refused_or_the_same(bytes(a ^ b for a, b in zip_longest(_ENCODED, data, fillvalue=0)))
    if len(data) > 1:
        field = FIELDS[data[0] % len(FIELDS)]
        text = data[1:].decode("utf-8", "replace")
        _refused_or_the_same(json.dumps({**_SOUND, field: text}).encode())


def _refused_or_the_same(body: bytes) -> None:
    try:
        message = JobMessage.decode(body)
    except MessageError:
        return
    assert JobMessage.decode(message.encode()) == message
    assert blobnames.is_run_id(message.run)
    assert blobnames.is_key_id(message.key_id)
    assert message.input == blobnames.input_blob(message.run, message.job)
    assert message.output == blobnames.output_blob(message.run, message.job)


_ENCODED = JobMessage(
    run="20260131-120000-5f3a9c",
    job="000001",
    scheme="packed",
    key_id="k" * 64,
    container="blindscore",
    input="runs/20260131-120000-5f3a9c/in/000001",
    output="runs/20260131-120000-5f3a9c/out/000001",
    rows=7,
    sha256="0" * 64,
    enqueued_at=datetime(2026, 1, 31, 12, tzinfo=UTC),
    traceparent=f"00-{'1' * 32}-{'2' * 16}-01",
).encode()
_SOUND = json.loads(_ENCODED)


if __name__ == "__main__":
    atheris.Setup(sys.argv, test_one_input)
    atheris.Fuzz()
