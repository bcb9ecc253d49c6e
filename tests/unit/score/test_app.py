"""The endpoint over HTTP: what is answered, how errors look, and what a caller can't do."""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import json
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from structlog.testing import capture_logs

from score import app
from score.engine import JSON_TYPE
from score.keycache import ENTRY_BYTES
from score.settings import EndpointOptions, EngineOptions
from shared import container
from shared.blobnames import EXPIRES_AT
from tests.fakes import FakeClock
from tests.unit.score import toys
from tests.unit.score.served import (
    MB,
    SECRET,
    TOKENS,
    WITHIN_S,
    Served,
    head,
    json_body,
    raw_connection,
    serving,
    texts,
    until,
)


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving() as served:
        yield served


# --- answers ------------------------------------------------------------------------------------


async def test_a_row_is_scored(served: Served) -> None:
    answer = await served.post(json_body(b"row"))
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/json"
    assert json.loads(answer.body) == texts(b"ROW by load 1")


async def test_a_batch_is_scored(served: Served) -> None:
    body = {
        "batch": [texts(b"a"), texts(b"b")],
        "key_id": toys.KEY_ID,
        "container": "keys-here",
    }
    answer = await served.post(json.dumps(body).encode())
    assert json.loads(answer.body) == [texts(b"A by load 1"), texts(b"B by load 1")]
    assert answer.headers["X-Blindscore-Rows"] == "2"


async def test_a_container_is_scored(served: Served) -> None:
    answer = await served.post(toys.packed_body(b"a", b"b"), container.CONTENT_TYPE)
    assert answer.status == 200
    assert answer.headers["Content-Type"] == container.CONTENT_TYPE
    assert container.read(answer.body, max_frame_bytes=MB)[1] == [b"A+B"]


async def test_an_answer_says_which_model_made_it_and_its_hash(served: Served) -> None:
    answer = await served.post(json_body())
    digest = base64.b64encode(hashlib.sha256(answer.body).digest()).decode()
    assert answer.headers["X-Blindscore-Model"] == toys.MODEL.fingerprint
    assert answer.headers["Repr-Digest"] == f"sha-256=:{digest}:"
    assert answer.headers["X-Blindscore-Rows"] == "1"
    assert answer.headers["Server"] == "blindscore"


async def test_a_content_type_may_have_parameters(served: Served) -> None:
    answer = await served.post(json_body(), "application/json; charset=utf-8")
    assert answer.status == 200


async def test_a_body_of_many_pieces_is_scored(served: Served) -> None:
    """5 MiB without a length, in chunks that frames don't align with."""
    payloads = [bytes([65 + i]) * MB for i in range(5)]
    body = toys.packed_body(*payloads)

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 77_777):
            yield body[start : start + 77_777]

    answer = await served.post(chunks(), container.CONTENT_TYPE)
    assert container.read(answer.body, max_frame_bytes=8 * MB)[1] == [b"+".join(payloads)]


async def test_requests_under_one_key_download_it_once_and_load_it_once(served: Served) -> None:
    answers = await asyncio.gather(*(served.post(json_body()) for _ in range(8)))
    assert {answer.body for answer in answers} == {json.dumps(texts(b"ROW by load 1")).encode()}


async def test_the_model_is_described(served: Served) -> None:
    model = json.loads((await served.get("/model")).body)
    assert model["features"] == 4
    assert model["classes"] == 1
    assert model["labels"] == []
    assert model["link"] == "identity"
    assert model["fingerprint"] == toys.MODEL.fingerprint
    assert model["schemes"]["ei"] == {"evaluator": "toy", "batch": True, "max_batch": 64}
    assert model["schemes"]["packed"]["prime_bits"] == [60]


async def test_probes(served: Served) -> None:
    health, ready = await served.get("/"), await served.get("/ready")
    assert (health.status, health.body) == (200, b"Healthy")
    assert ready.status == 200


async def test_metrics(served: Served) -> None:
    await served.post(json_body())
    await served.post(json_body(), "text/plain")
    await served.post(json_body(key_id="k" * 32))
    text = (await served.get("/metrics")).body.decode()
    assert 'blindscore_requests_total{code="ok",scheme="ei"} 1.0' in text
    assert 'blindscore_requests_total{code="unsupported_media_type",scheme=""} 1.0' in text
    assert 'blindscore_requests_total{code="key_unknown",scheme="ei"} 1.0' in text
    assert 'blindscore_rows_total{scheme="ei"} 1.0' in text
    assert 'blindscore_stage_seconds_count{stage="evaluate"} 1.0' in text
    assert f"blindscore_key_cache_bytes {float(ENTRY_BYTES + len(toys.KEY_BLOB))}" in text
    assert "blindscore_key_cache_misses_total 2.0" in text
    assert "blindscore_lane_restarts_total 0.0" in text
    assert "blindscore_lanes 1.0" in text
    assert toys.KEY_ID not in text


# --- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "content_type", "status", "code"),
    [
        (b"{", JSON_TYPE, 400, "malformed"),
        (b"", JSON_TYPE, 400, "malformed"),
        (json_body(key_id="../../etc/passwd"), JSON_TYPE, 400, "malformed"),
        (toys.packed_body(b"a")[:-1], container.CONTENT_TYPE, 400, "malformed"),
        (b"", container.CONTENT_TYPE, 400, "malformed"),
        (json_body(container="others-data"), JSON_TYPE, 403, "key_host_not_allowed"),
        (json_body(conn_str="AccountName=e;AccountKey=x"), JSON_TYPE, 403, "key_host_not_allowed"),
        (json_body(key_id="k" * 32), JSON_TYPE, 404, "key_unknown"),
        (toys.packed_body(b"a", key_id="0" * 64), container.CONTENT_TYPE, 404, "key_unknown"),
        (toys.packed_body(b"a", rows=10**9), container.CONTENT_TYPE, 413, "too_large"),
        (b"x", "text/html", 415, "unsupported_media_type"),
        (b"x", "application/octet-stream", 415, "unsupported_media_type"),
        (
            toys.packed_body(b"a", scheme="other"),
            container.CONTENT_TYPE,
            415,
            "unsupported_media_type",
        ),
        (json_body(toys.BAD), JSON_TYPE, 422, "bad_ciphertext"),
        (toys.packed_body(toys.BAD), container.CONTENT_TYPE, 422, "bad_ciphertext"),
        (json_body(b"a", b"b"), JSON_TYPE, 422, "feature_count"),
        (toys.packed_body(b"a", features=9), container.CONTENT_TYPE, 422, "feature_count"),
        (json_body(key_id=toys.BAD_KEY_ID), JSON_TYPE, 422, "bad_keys"),
        (toys.packed_body(b"a", key_id=toys.BAD_KEY_ID), container.CONTENT_TYPE, 422, "bad_keys"),
    ],
)
async def test_what_is_wrong_with_a_request_has_a_code(
    served: Served, body: bytes, content_type: str, status: int, code: str
) -> None:
    answer = await served.post(body, content_type)
    assert (answer.status, answer.code) == (status, code)
    assert (await served.post(json_body())).status == 200


async def test_bytes_that_kill_the_evaluator_are_answered_422(served: Served) -> None:
    answer = await served.post(json_body(toys.SEGFAULT))
    assert (answer.status, answer.code) == (422, "bad_ciphertext")
    answer = await served.post(toys.packed_body(b"a", toys.SEGFAULT), container.CONTENT_TYPE)
    assert (answer.status, answer.code) == (422, "bad_ciphertext")
    assert (await served.post(json_body())).status == 200


async def test_a_fault_of_ours_is_answered_500_without_details(served: Served) -> None:
    answer = await served.post(json_body(toys.BUG))
    assert (answer.status, answer.code) == (500, "error")
    assert toys.CALLERS_WORDS not in answer.body.decode()
    assert (await served.post(json_body())).status == 200


async def test_storage_that_is_down_is_worth_another_try(served: Served) -> None:
    served.keys.down = True
    answer = await served.post(json_body())
    assert (answer.status, answer.code) == (503, "storage_unavailable")
    assert answer.headers["Retry-After"] == "5"
    served.keys.down = False
    assert (await served.post(json_body())).status == 200


async def test_a_request_that_computes_for_too_long() -> None:
    async with serving(exec_s=0.2) as served:
        answer = await served.post(json_body(toys.HANG))
        assert (answer.status, answer.code) == (503, "evaluation_timeout")
        assert answer.headers["Retry-After"] == "5"
        assert (await served.post(json_body())).status == 200


async def test_more_requests_than_places_are_told_to_come_back() -> None:
    async with serving(max_waiting=1) as served:
        busy = [asyncio.create_task(served.post(json_body(toys.HANG))) for _ in range(2)]
        await until(lambda: served.pool.busy == 1 and served.pool.waiting == 1)
        answer = await served.post(json_body())
        assert (answer.status, answer.code) == (503, "overloaded")
        assert answer.headers["Retry-After"] == "1"
        for task in busy:
            task.cancel()
        await asyncio.wait(busy)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/score", 405, "method_not_allowed"),
        ("DELETE", "/model", 405, "method_not_allowed"),
    ],
)
async def test_routes_that_are_none(
    served: Served, method: str, path: str, status: int, code: str
) -> None:
    answer = await served.request(method, path)
    assert (answer.status, answer.code) == (status, code)
    assert ("Allow" in answer.headers) == (status == 405)


# --- keys that end -------------------------------------------------------------------------------


async def test_a_deleted_key_is_unknown_although_an_evaluator_has_it_loaded() -> None:
    clock = FakeClock()
    async with serving(clock=clock) as served:
        for body, content_type in (
            (json_body(), JSON_TYPE),
            (toys.packed_body(b"a"), container.CONTENT_TYPE),
        ):
            assert (await served.post(body, content_type)).status == 200
        await served.keys.delete(f"keys/{toys.KEY_ID}")
        clock.advance(29.9)
        assert json.loads((await served.post(json_body())).body) == texts(b"ROW by load 1")
        clock.advance(0.1)
        for body, content_type in (
            (json_body(), JSON_TYPE),
            (toys.packed_body(b"a"), container.CONTENT_TYPE),
        ):
            answer = await served.post(body, content_type)
            assert (answer.status, answer.code) == (404, "key_unknown")


async def test_a_key_that_expires_stops_working_then() -> None:
    clock = FakeClock()
    async with serving(clock=clock) as served:
        expires_at = datetime.fromtimestamp(clock() + 10, UTC).isoformat()
        await served.keys.replace(
            f"keys/{toys.KEY_ID}",
            toys.KEY_BLOB,
            content_type="application/octet-stream",
            metadata={EXPIRES_AT: expires_at},
        )
        clock.advance(9.9)
        assert (await served.post(json_body())).status == 200
        clock.advance(0.1)  # the blob is cached for 29.9 s more, and loaded for as long as it may
        for body, content_type in (
            (json_body(), JSON_TYPE),
            (toys.packed_body(b"a"), container.CONTENT_TYPE),
        ):
            answer = await served.post(body, content_type)
            assert (answer.status, answer.code) == (403, "key_expired")


# --- limits -------------------------------------------------------------------------------------


async def test_a_body_that_says_it_is_too_large_is_not_read() -> None:
    async with serving(options=EndpointOptions(max_body_bytes=1000)) as served:
        reader, writer = await raw_connection(served)
        writer.write(head(f"Content-Length: {10**12}"))  # and nothing follows
        assert b"413 " in await reader.readline()
        writer.close()


async def test_the_rest_of_a_refused_body_is_dropped_for_a_while_and_holds_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(app, "LINGER_S", 0.5)
    async with serving(options=EndpointOptions(max_per_caller=1, piece_s=0.1)) as served:
        reader, writer = await raw_connection(served)
        writer.write(head(f"Content-Length: {10 * MB}") + b" ")
        assert b"408 " in await reader.readline()
        writer.write(b" " * 1000)
        assert (await served.post(json_body())).status == 200
        async with asyncio.timeout(9):  # aiohttp would take 10 s
            assert b"request_timeout" in await reader.read()
        writer.close()


async def test_a_body_that_becomes_too_large_is_cut_off() -> None:
    async with serving(options=EndpointOptions(max_body_bytes=MB)) as served:

        async def chunks() -> AsyncIterator[bytes]:
            for _ in range(40):
                yield b"x" * 100_000

        answer = await served.post(chunks(), container.CONTENT_TYPE)
        assert (answer.status, answer.code) == (413, "too_large")
        assert served.pool.restarts == 0


async def test_a_json_body_has_a_limit_of_its_own() -> None:
    async with serving(engine=EngineOptions(max_json_bytes=1000)) as served:
        answer = await served.post(json_body(b"x" * 1000))
        assert (answer.status, answer.code) == (413, "too_large")


async def test_a_compressed_body_is_refused(served: Served) -> None:
    headers = {"Content-Type": JSON_TYPE, "Content-Encoding": "gzip"}
    body = gzip.compress(json_body())
    answer = await served.request("POST", "/score", data=body, headers=headers)
    assert (answer.status, answer.code) == (415, "unsupported_media_type")


async def test_a_slow_caller_holds_no_evaluator_and_is_given_up() -> None:
    async with serving(options=EndpointOptions(piece_s=0.5)) as served:
        reader, writer = await raw_connection(served)
        body = json_body()
        writer.write(head(f"Content-Length: {len(body)}") + body[:5])
        assert (await served.post(json_body())).status == 200
        assert served.pool.busy == 0
        assert b"408 " in await reader.readline()
        writer.close()


async def test_a_caller_who_stops_sending_loses_its_evaluator() -> None:
    async with serving(options=EndpointOptions(piece_s=0.3)) as served:
        reader, writer = await raw_connection(served)
        writer.write(head(f"Content-Length: {10 * MB}") + b" " * 2 * MB)
        await until(lambda: served.pool.busy == 1)
        assert (await served.post(json_body())).status == 200
        assert b"408 " in await reader.readline()
        writer.close()


async def test_a_caller_who_goes_away_leaves_nothing_behind(served: Served) -> None:
    with capture_logs() as logs:
        for sent in (5, 2 * MB):
            _, writer = await raw_connection(served)
            writer.write(head(f"Content-Length: {10 * MB}") + b" " * sent)
            await writer.drain()
            writer.close()
            await writer.wait_closed()
        await until(lambda: len(logs) == 2 and served.pool._places == 9)
    assert [line["code"] for line in logs] == ["malformed", "malformed"]
    assert served.pool.busy == 0
    assert (await served.post(json_body())).status == 200


# --- the end ------------------------------------------------------------------------------------


async def test_draining_waits_for_requests_and_closes_their_connections(served: Served) -> None:
    reader, writer = await raw_connection(served)
    body = json_body()
    writer.write(head(f"Content-Length: {len(body)}") + body[:5])
    await until(lambda: served.pool._places == 8)
    draining = asyncio.create_task(served.endpoint.drain(WITHIN_S))
    await asyncio.sleep(0)
    ready = await served.get("/ready")
    assert (ready.status, ready.code) == (503, "not_ready")
    assert not draining.done()
    writer.write(body[5:])
    answer = await reader.read()  # to the end of the connection
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert texts(b"ROW by load 1")[0].encode() in answer
    await draining
    writer.close()


async def test_draining_waits_for_requests_that_are_on_their_way(served: Served) -> None:
    reader, writer = await raw_connection(served)
    writer.write(b"GET / HTTP/1.1\r\nHost: endpoint\r\n\r\n")
    await reader.readuntil(b"Healthy")
    draining = asyncio.create_task(served.endpoint.drain(WITHIN_S))
    await asyncio.sleep(0)
    body = json_body()
    writer.write(head(f"Content-Length: {len(body)}") + body[:5])
    await until(lambda: served.pool._places == 8)
    assert not draining.done()
    writer.write(body[5:])
    assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
    await draining
    writer.close()


async def test_draining_ends_with_the_grace_period(served: Served) -> None:
    _, writer = await raw_connection(served)
    writer.write(head("Content-Length: 1000"))
    await until(lambda: served.pool._places == 8)
    await served.endpoint.drain(0.01)
    writer.close()


# --- tokens -------------------------------------------------------------------------------------


@pytest.fixture
async def guarded() -> AsyncIterator[Served]:
    async with serving(options=EndpointOptions(tokens=TOKENS)) as served:
        yield served


@pytest.mark.parametrize(
    "authorization",
    ["", "Bearer", "Bearer ", "Bearer wrong", f"Basic {TOKENS[0]}", f"Bearer {TOKENS[0]}x", "é"],
)
async def test_without_an_accepted_token_nothing_is_scored(
    guarded: Served, authorization: str
) -> None:
    headers = {"Authorization": authorization} if authorization else {}
    for answer in (
        await guarded.post(json_body(), **headers),
        await guarded.get("/model", **headers),
        await guarded.get("/metrics", **headers),
        await guarded.get("/nothing", **headers),
    ):
        assert (answer.status, answer.code) == (401, "unauthorized")
        assert answer.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("token", TOKENS)
async def test_every_token_is_accepted(guarded: Served, token: str) -> None:
    answer = await guarded.post(json_body(), Authorization=f"Bearer {token}")
    assert answer.status == 200
    assert (await guarded.get("/model", Authorization=f"bearer {token}")).status == 200


async def test_a_body_that_waits_for_its_cue_is_asked_for_unless_it_is_a_strangers(
    guarded: Served,
) -> None:
    body = json_body()
    for authorization, first in ((f"Bearer {TOKENS[0]}", b"100 "), ("Bearer x", b"401 ")):
        reader, writer = await raw_connection(guarded)
        expect = ("Expect: 100-continue", f"Authorization: {authorization}")
        writer.write(head(*expect, f"Content-Length: {len(body)}"))
        assert first in await reader.readline()
        if first == b"100 ":
            await reader.readline()
            writer.write(body)
            assert b"200 " in await reader.readline()
        writer.close()


async def test_an_expectation_that_nobody_knows_is_ignored(served: Served) -> None:
    assert (await served.post(json_body(), Expect="magic")).status == 200


@pytest.mark.parametrize("expected", ["magic", "100-continue"])
@pytest.mark.parametrize(
    ("asked", "statuses"),
    [
        ("GET /", (200, 200)),
        ("GET /model", (200, 401)),
        ("POST /model", (405, 401)),
        ("POST /nothing", (404, 401)),
        ("OPTIONS *", (404, 401)),
    ],
)
async def test_expectations_change_no_other_answer(
    guarded: Served, asked: str, statuses: tuple[int, int], expected: str
) -> None:
    """Of a caller, and of a stranger."""
    for token, wanted in zip((TOKENS[0], "x"), statuses, strict=True):
        reader, writer = await raw_connection(guarded)
        lines = (f"Authorization: Bearer {token}", f"Expect: {expected}", "Connection: close")
        writer.write("\r\n".join([f"{asked} HTTP/1.1", "Host: h", *lines, "", ""]).encode())
        answer = await reader.read()
        assert answer.startswith(f"HTTP/1.1 {wanted} ".encode())
        assert (b"Content-Type: application/problem+json\r\n" in answer) == (wanted != 200)
        writer.close()


async def test_probes_need_no_token(guarded: Served) -> None:
    assert (await guarded.get("/")).status == 200
    assert (await guarded.get("/ready")).status == 200


# --- what is not told ---------------------------------------------------------------------------


async def test_no_log_line_holds_a_credential_or_a_ciphertext(
    guarded: Served, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    marker = b"ciphertext-to-look-for"
    with capture_logs() as logs:
        for ciphertext in (marker, toys.BUG, toys.BAD):
            for conn_str in (
                f"AccountName=ours;AccountKey={SECRET}",
                f"AccountName=evil;AccountKey={SECRET}",
                SECRET,
            ):
                body = json_body(ciphertext + b"", conn_str=conn_str)
                await guarded.post(body, Authorization=f"Bearer {TOKENS[0]}")
    told = str(logs) + caplog.text
    assert "bad_ciphertext" in told
    for secret in (SECRET, TOKENS[0], marker.decode(), texts(marker)[0]):
        assert secret not in told


async def test_what_is_no_http_is_refused_and_its_bytes_are_not_logged(
    guarded: Served, caplog: pytest.LogCaptureFixture
) -> None:
    """A header with a stray byte may be the one with the token."""
    reader, writer = await raw_connection(guarded)
    writer.write(head(f"Authorization: Bearer {TOKENS[0]}\x00", "Content-Length: 0"))
    answer = await reader.read()
    assert b" 400 " in answer
    assert b"Server: blindscore\r\n" in answer
    writer.close()
    assert "Error handling request" in caplog.text
    assert TOKENS[0] not in caplog.text


async def test_a_trace_context_is_logged_when_it_is_one(served: Served) -> None:
    good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with capture_logs() as logs:
        await served.post(json_body(), traceparent=good)
        await served.post(json_body(), traceparent="x\tinjected")
    requests = [line for line in logs if line["event"] == "request"]
    assert [line["traceparent"] for line in requests] == [good, ""]


async def test_a_connection_is_kept_for_the_next_request(served: Served) -> None:
    reader, writer = await raw_connection(served)
    for body, status in ((json_body(), 200), (b"{", 400), (json_body(), 200)):
        writer.write(head(f"Content-Length: {len(body)}") + body)
        assert f" {status} " in (await reader.readline()).decode()
        head_lines = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head_lines.partition("content-length: ")[2].partition("\r")[0])
        await reader.readexactly(length)
    writer.close()
