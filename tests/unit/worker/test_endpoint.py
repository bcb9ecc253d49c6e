"""Scoring over HTTP, against real servers that behave well or badly."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from shared.errors import (
    BodyTooLarge,
    CorruptInput,
    EndpointError,
    StorageUnavailable,
    Unauthorized,
)
from tests.fakes import FakeReader, FakeStore
from tests.unit.worker.harness import TRACEPARENT, TYPE
from tests.unit.worker.server import (
    Talk,
    endpoint_at,
    read_request,
    serving,
    talking,
)
from worker.body import BytesBody, VerifiedBody
from worker.endpoint import Answer, HttpEndpoint, ScoreRequest
from worker.outcome import Outcome, outcome_of

BODY = b"request " * 1000


async def ask(
    endpoint: HttpEndpoint, body: bytes = BODY, content_type: str = TYPE
) -> tuple[Answer, bytes]:
    request = ScoreRequest(BytesBody(body), content_type, TRACEPARENT)
    async with endpoint.score(request) as answer:
        return answer, b"".join([chunk async for chunk in answer.chunks])


async def refused(url: str, **options: object) -> EndpointError:
    async with endpoint_at(url, **options) as endpoint:  # type: ignore[arg-type]
        with pytest.raises(EndpointError) as caught:
            await ask(endpoint)
    return caught.value


def _digest(data: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(data).digest()).decode()}:"


async def test_the_body_goes_out_and_the_answer_comes_in() -> None:
    seen: dict[str, object] = {}

    async def score(request: web.Request) -> web.Response:
        seen.update(request.headers, body=await request.read())
        headers = {"X-Blindscore-Model": "ab12", "Repr-Digest": _digest(b"answer")}
        return web.Response(body=b"answer", content_type=TYPE, headers=headers)

    async with serving(score=score) as url, endpoint_at(url, token="t0ken") as endpoint:
        answer, data = await ask(endpoint)
    assert data == b"answer"
    assert (answer.content_type, answer.model) == (TYPE, "ab12")
    assert answer.sha256 == hashlib.sha256(b"answer").hexdigest()
    assert 0 <= answer.score_ms < 10_000
    assert seen["body"] == BODY
    assert (seen["Content-Type"], seen["Content-Length"]) == (TYPE, str(len(BODY)))
    assert seen["traceparent"] == TRACEPARENT
    assert seen["Authorization"] == "Bearer t0ken"
    assert seen["Accept-Encoding"] == "identity"


async def test_the_url_of_score_itself_will_do() -> None:
    async def score(_: web.Request) -> web.Response:
        return web.Response(body=b"answer", content_type=TYPE)

    async with serving(score=score) as url, endpoint_at(f"{url}/score") as endpoint:
        answer, data = await ask(endpoint)
    assert (data, answer.model, answer.sha256) == (b"answer", "", "")


@pytest.mark.parametrize(
    ("status", "retryable"), [(429, True), (503, True), (500, True), (408, True), (422, False)]
)
async def test_an_error_status_is_classified(status: int, *, retryable: bool) -> None:
    async def score(request: web.Request) -> web.Response:
        await request.read()
        return web.json_response(
            {"code": "some_code", "detail": "why"},
            status=status,
            content_type="application/problem+json",
            headers={"Retry-After": "9"},
        )

    async with serving(score=score) as url:
        error = await refused(url)
    assert (error.status, error.retryable, error.retry_after_s) == (status, retryable, 9)
    assert error.reason == "some_code"
    assert "why" in str(error)


async def test_an_early_refusal_is_heard_while_the_body_is_still_going_out() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.sleep(3600)

    class Endless(BytesBody):
        def __aiter__(self) -> AsyncIterator[bytes]:
            return chunks()

    async def score(request: web.Request) -> web.Response:
        return web.Response(status=429, headers={"Retry-After": "3"})

    async with serving(score=score) as url, endpoint_at(url) as endpoint:
        with pytest.raises(EndpointError) as caught:
            async with endpoint.score(ScoreRequest(Endless(BODY), TYPE)):
                pass
    assert (caught.value.status, caught.value.retry_after_s) == (429, 3)


async def test_a_401_is_about_the_worker() -> None:
    async def score(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(status=401)

    async with serving(score=score) as url, endpoint_at(url) as endpoint:
        with pytest.raises(Unauthorized):
            await ask(endpoint)


@pytest.mark.parametrize("content_type", ["text/html", "application/json", "text/plain"])
async def test_an_answer_of_another_type_is_a_passing_fault(content_type: str) -> None:
    """A proxy's page with status 200, for example."""

    async def score(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(body=b"<html>", content_type=content_type)

    async with serving(score=score) as url:
        error = await refused(url)
    assert (error.status, error.retryable) == (200, True)


async def test_redirects_are_not_followed() -> None:
    followed = False

    async def score(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(status=307, headers={"Location": "/model"})

    async def model(_: web.Request) -> web.Response:
        nonlocal followed
        followed = True
        return web.Response()

    async with serving(score=score, model=model) as url:
        error = await refused(url)
    assert (error.status, error.retryable, followed) == (307, True, False)


async def test_a_digest_that_does_not_match_is_a_passing_fault() -> None:
    async def score(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(
            body=b"answer", content_type=TYPE, headers={"Repr-Digest": _digest(b"other")}
        )

    async with serving(score=score) as url:
        error = await refused(url)
    assert error.retryable
    assert "digest" in str(error)


async def test_an_empty_answer_is_a_passing_fault() -> None:
    async def score(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(content_type=TYPE)

    async with serving(score=score) as url:
        assert (await refused(url)).retryable


async def test_a_content_coding_is_refused() -> None:
    async def score(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(body=b"zipped", content_type=TYPE, headers={"Content-Encoding": "gzip"})

    async with serving(score=score) as url:
        assert "coding" in str(await refused(url))


@pytest.mark.parametrize("chunked", [False, True])
async def test_an_answer_over_the_limit_is_refused(*, chunked: bool) -> None:
    async def score(request: web.Request) -> web.StreamResponse:
        await request.read()
        response = web.StreamResponse(headers={"Content-Type": TYPE})
        if chunked:
            response.enable_chunked_encoding()
        else:
            response.content_length = 2000
        await response.prepare(request)
        await response.write(b"x" * 2000)
        return response

    async with serving(score=score) as url, endpoint_at(url, max_answer_bytes=1000) as endpoint:
        with pytest.raises(BodyTooLarge):
            await ask(endpoint)


async def test_a_request_has_a_time_limit() -> None:
    async def hang(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await read_request(reader)
        await asyncio.sleep(3600)

    async with talking(hang) as url:
        error = await refused(url, request_timeout_s=0.2)
    assert (error.retryable, error.reason) == (True, "timeout")
    assert "timed out" in str(error)


async def test_an_answer_has_a_time_limit() -> None:
    async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.blindscore\r\n")
        writer.write(b"Content-Length: 100\r\n\r\nsome")
        await asyncio.sleep(3600)

    async with talking(stall) as url:
        error = await refused(url, request_timeout_s=0.3)
    assert (error.retryable, error.reason) == (True, "timeout")
    assert "timed out" in str(error)


async def test_nobody_there_is_a_passing_fault() -> None:
    async with serving() as url:
        pass
    error = await refused(url)
    assert (error.retryable, error.status, error.reason) == (True, None, "unreachable")


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.blindscore\r\n"


def _saying(answer: bytes) -> Talk:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(answer)

    return talk


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        HEAD,
        HEAD + b"Content-Length: 100\r\n\r\nonly a part",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n4\r\npart\r\n",
        HEAD + b"\r\na length would tell whether this is all",
        b"NONSENSE\r\n\r\n",
    ],
    ids=["nothing", "half-head", "short", "no-last-chunk", "no-length", "no-http"],
)
async def test_a_broken_off_answer_is_a_passing_fault(answer: bytes) -> None:
    async with talking(_saying(answer)) as url:
        error = await refused(url)
    assert error.retryable
    assert outcome_of(error) is Outcome.FAILED


async def test_no_part_of_a_broken_off_answer_becomes_a_blob() -> None:
    answer = HEAD + b"Content-Length: 100\r\n\r\nonly a part"
    store = FakeStore()
    async with talking(_saying(answer)) as url, endpoint_at(url) as endpoint:
        with pytest.raises(EndpointError):
            async with endpoint.score(ScoreRequest(BytesBody(BODY), TYPE)) as got:
                await store.create("result", got.chunks, content_type=TYPE)
    assert store.blobs == {}


async def test_an_answer_before_the_whole_request_is_no_answer() -> None:
    async def hasty(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD + b"Content-Length: 6\r\n\r\nanswer")
        await writer.drain()
        await asyncio.sleep(3600)

    released = asyncio.Event()

    async def chunks() -> AsyncIterator[bytes]:
        yield b"x"
        await released.wait()

    class Slow(BytesBody):
        def __aiter__(self) -> AsyncIterator[bytes]:
            return chunks()

    async with talking(hasty) as url, endpoint_at(url) as endpoint:
        with pytest.raises(EndpointError, match="without the whole request"):
            async with endpoint.score(ScoreRequest(Slow(BODY), TYPE)) as answer:
                [chunk async for chunk in answer.chunks]


async def _verified(data: bytes, *, claimed: bytes, chunk_bytes: int = 100) -> VerifiedBody:
    store = FakeStore()
    await store.replace("input", data, content_type=TYPE)
    reader = FakeReader(await store.stat("input"), data, chunk_bytes)
    return VerifiedBody(reader, sha256=hashlib.sha256(claimed).hexdigest())


@pytest.mark.parametrize("chunk_bytes", [100, 100_000], ids=["many-chunks", "one-chunk"])
async def test_a_corrupt_input_never_completes_its_request(chunk_bytes: int) -> None:
    got = asyncio.Queue[bytes]()

    async def listen(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await got.put(await reader.read(-1))  # until the other side closes

    body = await _verified(BODY, claimed=BODY + b"!", chunk_bytes=chunk_bytes)
    async with talking(listen) as url, endpoint_at(url) as endpoint:
        with pytest.raises(CorruptInput):
            async with body, endpoint.score(ScoreRequest(body, TYPE)):
                pass
        async with asyncio.timeout(5):
            head, _, rest = (await got.get()).partition(b"\r\n\r\n")
    assert not head or f"Content-Length: {len(BODY)}".encode() in head
    assert len(rest) < len(BODY)


async def test_a_storage_fault_while_sending_is_told_as_such() -> None:
    class Failing(FakeReader):
        async def __aiter__(self):  # type: ignore[no-untyped-def]
            yield b"x" * 10
            yield b"x" * 10
            raise StorageUnavailable("gone")

    async def listen(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read(-1)

    store = FakeStore()
    await store.replace("input", BODY, content_type=TYPE)
    body = VerifiedBody(Failing(await store.stat("input"), BODY), sha256="0" * 64)
    async with talking(listen) as url, endpoint_at(url) as endpoint:
        with pytest.raises(StorageUnavailable):
            async with body, endpoint.score(ScoreRequest(body, TYPE)):
                pass


async def test_many_requests_leave_no_connection_behind() -> None:
    async def score(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(body=b"answer", content_type=TYPE)

    async with serving(score=score) as url, endpoint_at(url, max_concurrency=2) as endpoint:
        for _ in range(20):
            await ask(endpoint)
        connector = endpoint._session.connector
        assert connector is not None
        assert len(connector._acquired) == 0
