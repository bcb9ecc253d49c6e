"""What status and headers of an answer mean."""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import EndpointError
from worker import answers

NOW = datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize("status", [200, 204, 301, 302, 307, 408, 429, 500, 502, 503, 504, 599])
def test_these_may_pass(status: int) -> None:
    assert answers.is_passing(status)


@pytest.mark.parametrize("status", [400, 403, 404, 405, 409, 410, 413, 415, 422, 431, 451])
def test_these_are_permanent(status: int) -> None:
    assert not answers.is_passing(status)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        (" 120 ", 120),
        ("Sat, 31 Jan 2026 12:00:30 GMT", 30),
        ("Saturday, 31-Jan-26 12:00:30 GMT", 30),
        ("Sat, 31 Jan 2026 11:00:00 GMT", 0),
        ("Sat, 31 Jan 2026 12:00:30 -0000", 30),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("٣", None),
    ],
)
def test_retry_after_takes_both_forms(value: str, seconds: float | None) -> None:
    assert answers.retry_after_s(value, now=NOW) == seconds


@given(st.text(max_size=40))
def test_no_retry_after_is_too_strange(value: str) -> None:
    seconds = answers.retry_after_s(value, now=NOW)
    assert seconds is None or seconds >= 0


def test_a_problem_document_is_quoted() -> None:
    problem = {"code": "feature_count", "detail": "784 features\nwere due", "status": 422}
    error = answers.refusal(
        422,
        {"Content-Type": "application/problem+json; charset=utf-8"},
        json.dumps(problem).encode(),
        now=NOW,
    )
    assert (error.reason, error.status, error.retryable) == ("feature_count", 422, False)
    assert str(error) == "the endpoint answered 422, feature_count: 784 features were due"


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"code": 7, "detail": null}', b'{"code": "Not a Code!"}', b"\xff"]
)
def test_a_strange_problem_document_names_no_code(body: bytes) -> None:
    headers = {"Content-Type": "application/problem+json"}
    error = answers.refusal(400, headers, body, now=NOW)
    assert error.reason == ""
    assert not error.retryable


def test_no_other_page_is_quoted() -> None:
    """It may repeat the request, and the request may carry a connection string."""
    error = answers.refusal(500, {"Content-Type": "text/html"}, b"AccountKey=secret", now=NOW)
    assert str(error) == "the endpoint answered 500, text/html"
    assert error.retryable


def test_a_long_detail_is_cut() -> None:
    body = json.dumps({"code": "x", "detail": "y" * 10_000}).encode()
    error = answers.refusal(400, {"Content-Type": answers.PROBLEM}, body, now=NOW)
    assert len(str(error)) < 400


def test_the_digest_is_found_among_others() -> None:
    digest = hashlib.sha256(b"body").digest()
    text = base64.b64encode(digest).decode()
    for header in (f"sha-256=:{text}:", f"sha-512=:AAAA:, sha-256=:{text}:"):
        assert answers.announced_sha256({"Repr-Digest": header}) == digest.hex()
    assert answers.announced_sha256({}) == ""
    assert answers.announced_sha256({"Repr-Digest": "sha-512=:AAAA:"}) == ""


@pytest.mark.parametrize("value", ["sha-256=:????:", "sha-256=:AAAA:", "sha-256=::"])
def test_a_digest_that_can_not_be_read_is_no_answer(value: str) -> None:
    with pytest.raises(EndpointError) as caught:
        answers.announced_sha256({"Repr-Digest": value})
    assert caught.value.retryable


def test_a_model_must_fit_a_results_metadata() -> None:
    assert answers.announced_model({}) == ""
    assert answers.announced_model({"X-Blindscore-Model": "ab12"}) == "ab12"
    for model in ("a b", "é", "x" * 200):
        with pytest.raises(EndpointError):
            answers.announced_model({"X-Blindscore-Model": model})
