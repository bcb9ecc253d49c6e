"""Scoring over HTTP: a request body goes out as it comes in, and so does the answer."""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Protocol

import aiohttp

from shared.errors import BodyTooLarge, EndpointError
from shared.messages import utc_now
from worker import answers
from worker.body import Body
from worker.settings import TOKEN_VARIABLE, WorkerSettings

CHUNK_BYTES = 256 * 1024
MAX_PROBLEM_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """A job as the endpoint gets it."""

    body: Body
    content_type: str
    traceparent: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """A result on its way in. Its last bytes come only after all of it has been checked."""

    content_type: str
    model: str
    """Fingerprint of the model; empty when the endpoint announces none."""
    sha256: str
    """Of the whole body, hex; empty when the endpoint announces none."""
    score_ms: int
    """From the request to the answer's first byte."""
    chunks: AsyncIterator[bytes]
    """Raises `EndpointError` and `BodyTooLarge`."""


class Endpoint(Protocol):
    """Something that scores."""

    def score(self, request: ScoreRequest) -> AbstractAsyncContextManager[Answer]:
        """Ask once. Raises `EndpointError`, `Unauthorized`, `BodyTooLarge`, and what the body
        raises."""
        ...


class HttpEndpoint:
    """An endpoint that takes our bodies as they are."""

    def __init__(self, session: aiohttp.ClientSession, url: str, *, max_answer_bytes: int) -> None:
        """`url`: without `/score`. `session` follows `open_session`."""
        self._session = session
        self._url = f"{url}/score"
        self._max_answer_bytes = max_answer_bytes

    @asynccontextmanager
    async def score(self, request: ScoreRequest) -> AsyncIterator[Answer]:
        """See `Endpoint`."""
        headers = {
            "Content-Type": request.content_type,
            "Content-Length": str(request.body.size),
        }
        if request.traceparent:
            headers["traceparent"] = request.traceparent
        started = time.perf_counter()
        with _faults_translated():
            response = await self._session.post(
                self._url, data=request.body, headers=headers, allow_redirects=False
            )
        async with response:
            score_ms = round((time.perf_counter() - started) * 1000)
            await self._refuse(response, expected=answers.media_type(request.content_type))
            sha256 = answers.announced_sha256(response.headers)
            async with aclosing(self._checked(response, request.body, sha256)) as chunks:
                yield Answer(
                    content_type=answers.media_type(response.headers["Content-Type"]),
                    model=answers.announced_model(response.headers),
                    sha256=sha256,
                    score_ms=score_ms,
                    chunks=chunks,
                )

    async def _refuse(self, response: aiohttp.ClientResponse, *, expected: str) -> None:
        """Raise unless this answer is a result, as far as its head tells."""
        if response.status == 401:
            raise answers.unauthorized(TOKEN_VARIABLE)
        found = answers.media_type(response.headers.get("Content-Type", ""))
        if not 200 <= response.status < 300 or found != expected:
            with _faults_translated():
                page = await read_start(response.content, MAX_PROBLEM_BYTES)
            raise answers.refusal(response.status, response.headers, page, now=utc_now())
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise EndpointError("the endpoint answered with a content coding", retryable=True)
        if response.content_length is None and "Transfer-Encoding" not in response.headers:
            raise EndpointError(
                "the endpoint's answer has no length: a broken connection would look like its end",
                retryable=True,
                status=response.status,
            )
        self._check_size(response.content_length or 0)

    async def _checked(
        self, response: aiohttp.ClientResponse, body: Body, sha256: str
    ) -> AsyncGenerator[bytes, None]:
        """The answer's bytes. Raises at its end unless it is whole, right, and to our request."""
        digest = hashlib.sha256()
        size = 0
        chunks = response.content.iter_chunked(CHUNK_BYTES)
        while True:
            with _faults_translated():
                chunk = await anext(chunks, None)
            if chunk is None:
                break
            digest.update(chunk)
            size += len(chunk)
            self._check_size(size)
            yield chunk
        if not size:
            raise EndpointError("the endpoint's answer is empty", retryable=True)
        if sha256 and digest.hexdigest() != sha256:
            raise EndpointError("the endpoint's answer does not have its digest", retryable=True)
        if not body.complete:
            raise EndpointError("the endpoint answered without the whole request", retryable=True)

    def _check_size(self, size: int) -> None:
        if size > self._max_answer_bytes:
            raise BodyTooLarge(
                f"the endpoint's answer is over {self._max_answer_bytes} bytes",
                remedy="raise --max-result-mb",
            )


def open_session(settings: WorkerSettings) -> aiohttp.ClientSession:
    """A session for this worker's endpoint alone: it carries the bearer token.

    One connection more than there can be jobs, for asking the endpoint how it is.
    """
    headers = {"Accept-Encoding": "identity", "User-Agent": "blindscore-worker"}
    if token := settings.token.get_secret_value():
        headers["Authorization"] = f"Bearer {token}"
    return aiohttp.ClientSession(
        headers=headers,
        auto_decompress=False,
        connector=aiohttp.TCPConnector(limit=settings.max_concurrency + 1),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(
            total=settings.request_timeout_s, sock_connect=settings.connect_timeout_s
        ),
    )


async def read_start(stream: aiohttp.StreamReader, limit: int) -> bytes:
    """The first `limit` bytes of a stream, or all of it."""
    start = bytearray()
    while len(start) < limit and (chunk := await stream.read(limit - len(start))):
        start += chunk
    return bytes(start)


@contextmanager
def _faults_translated() -> Iterator[None]:
    """Say what can happen to a connection in our words: all of it may pass."""
    try:
        yield
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
        raise _no_answer("found no endpoint", answers.UNREACHABLE, error) from error
    except TimeoutError as error:
        raise _no_answer("timed out", answers.TIMED_OUT, error) from error
    except aiohttp.ClientError as error:
        raise _no_answer("failed", answers.DISCONNECTED, error) from error


def _no_answer(what: str, reason: str, error: Exception) -> EndpointError:
    return EndpointError(
        f"the request to the endpoint {what} ({type(error).__name__})",
        retryable=True,
        reason=reason,
    )
