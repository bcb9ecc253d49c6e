"""How dead letters are shown: all of them, without secrets, and harmless to a terminal."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime

from rich.console import Console

from shared.ports import Delivery
from tests.unit.worker.harness import CONTAINER, RUN, message
from tests.unit.worker.test_dlq import envelope
from worker.dlq import Letter
from worker.dlq_view import as_json, as_table, summary, whole

ID = "0f6a1b2c-0000-0000-0000-000000000000"
SECRETS = ("c2VjcmV0", "s1gnature", "hunter2")


def _of(body: bytes) -> Letter:
    return Letter.of(Delivery(ID, "receipt", body, 3, datetime(2026, 2, 3, tzinfo=UTC)), CONTAINER)


def _drawn(*letters: Letter) -> str:
    out = io.StringIO()
    Console(file=out, width=200, force_terminal=True).print(as_table(letters))
    return out.getvalue()


def test_a_summary_says_which_job_why_and_when() -> None:
    assert summary(_of(envelope(message(7).encode()))) == {
        "id": ID,
        "run": RUN,
        "job": "000007",
        "code": "feature_count",
        "reason": "why",
        "failed_at": "2026-01-01T00:00:00+00:00",
        "deliveries": 2,
        "attempts": 1,
        "status": 422,
        "trace_id": "a" * 32,
    }


def test_the_table_has_a_line_a_letter_that_names_it() -> None:
    drawn = _drawn(_of(envelope(message(7).encode())), _of(b"a stranger's"))
    assert f"{RUN}/000007" in drawn
    assert drawn.count(ID[:8]) == 2
    for word in ("feature_count", "why", "2026-01-01T00:00:00", "foreign", "2026-02-03"):
        assert word in drawn


def test_all_of_a_letter_can_be_seen() -> None:
    shown = whole(_of(envelope(message(7).encode())))
    assert shown["message"] == json.loads(message(7).encode())
    assert (shown["code"], shown["status"], shown["worker"]) == ("feature_count", 422, "worker-1")
    assert (shown["trace_id"], shown["truncated"]) == ("a" * 32, False)


def test_messages_that_are_no_json_are_shown_as_they_are() -> None:
    assert whole(_of(envelope(b"plain text")))["message"] == "plain text"
    assert whole(_of(envelope(b"\xff\x00")))["message"] == {"base64": "/wA="}
    assert whole(_of(b"a stranger's")) == {"id": ID, "code": "foreign", "message": "a stranger's"}


def test_secrets_that_somebody_put_into_a_message_are_left_out() -> None:
    connection = "DefaultEndpointsProtocol=https;AccountName=acc;AccountKey=c2VjcmV0/+==;Blob=x"
    bodies = [
        json.dumps({"conn_str": "hunter2", "key_id": "k", "data": [connection]}).encode(),
        json.dumps({"url": "https://acc/blob?sv=1&sig=s1gnature%3D&se=2"}).encode(),
        f"plain {connection} and Authorization: Bearer hunter2".encode(),
        b'{"broken json": "AccountKey=c2VjcmV0',
    ]
    for body in bodies:
        for letter in (_of(envelope(body)), _of(body)):
            text = as_json(whole(letter)) + as_json(summary(letter)) + _drawn(letter)
            assert not [secret for secret in SECRETS if secret in text]
            assert "<redacted>" in text
    assert "AccountName=acc" in as_json(whole(_of(bodies[2])))


def test_what_a_stranger_wrote_can_not_control_the_terminal() -> None:
    hostile = b"\x1b[2J\x9b31m [bold]x[/bold]"
    letter = _of(envelope(hostile, code="\x1b[31mred"))
    assert "\x1b" not in as_json(whole(letter))
    assert "\x1b[31m" not in _drawn(letter)
