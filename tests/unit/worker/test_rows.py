"""Batches taken apart for endpoints of single rows, and their answers put together."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from pydantic import SecretStr

from shared.errors import BodyTooLarge, EndpointError, MalformedRequest
from tests.unit.worker.harness import TRACEPARENT, TYPE
from tests.unit.worker.server import Handler, endpoint_at, serving
from worker.body import BytesBody
from worker.endpoint import Answer, ScoreRequest
from worker.rows import RowEndpoint

KEY_ID = "0123456789abcdef"
CONN_STR = "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=c2VjcmV0"
BATCH = {"batch": [["r0"], ["r1", "r1b"], ["r2"]], "key_id": KEY_ID, "container": "blindscore"}


class SeedsServer:
    """Answers as the seeds' score.py does: a list of strings for one row."""

    def __init__(self, answer: Callable[[dict[str, Any]], web.Response] | None = None) -> None:
        self.requests: list[dict[str, Any]] = []
        self.traceparents: list[str] = []
        self._answer = answer or self.results

    @staticmethod
    def results(fields: dict[str, Any]) -> web.Response:
        return web.json_response([f"{text}-class{k}" for text in fields["data"] for k in range(2)])

    async def score(self, request: web.Request) -> web.Response:
        fields = await request.json()
        self.requests.append(fields)
        self.traceparents.append(request.headers["traceparent"])
        return self._answer(fields)


@asynccontextmanager
async def rows_at(handler: Handler, *, conn_str: str = "", **limits: int) -> AsyncIterator[Any]:
    limits = {"max_batch_bytes": 10_000, "max_answer_bytes": 10_000} | limits
    async with serving(score=handler) as url, endpoint_at(url) as whole:
        yield RowEndpoint(whole, conn_str=SecretStr(conn_str), **limits)


async def ask(
    endpoint: RowEndpoint, body: object, content_type: str = "application/json"
) -> tuple[Answer, bytes]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with endpoint.score(ScoreRequest(BytesBody(data), content_type, TRACEPARENT)) as answer:
        return answer, b"".join([chunk async for chunk in answer.chunks])


async def test_each_row_is_a_request_and_the_results_are_in_its_place() -> None:
    server = SeedsServer()
    async with rows_at(server.score, conn_str=CONN_STR) as endpoint:
        answer, data = await ask(endpoint, BATCH)
    assert json.loads(data) == [
        ["r0-class0", "r0-class1"],
        ["r1-class0", "r1-class1", "r1b-class0", "r1b-class1"],
        ["r2-class0", "r2-class1"],
    ]
    assert (answer.content_type, answer.sha256, answer.model) == ("application/json", "", "")
    assert [fields["data"] for fields in server.requests] == BATCH["batch"]
    assert server.traceparents == [TRACEPARENT] * 3


async def test_the_seeds_script_gets_its_connection_string_and_the_key_blobs_name() -> None:
    """It opens the blob that `key_id` names, and our keys are under keys/."""
    server = SeedsServer()
    async with rows_at(server.score, conn_str=CONN_STR) as endpoint:
        await ask(endpoint, BATCH)
    assert server.requests[0] == {
        "data": ["r0"],
        "key_id": f"keys/{KEY_ID}",
        "container": "blindscore",
        "conn_str": CONN_STR,
    }


async def test_without_a_connection_string_there_is_none_in_the_request() -> None:
    server = SeedsServer()
    async with rows_at(server.score) as endpoint:
        await ask(endpoint, BATCH)
    assert server.requests[0] == {"data": ["r0"], "key_id": KEY_ID, "container": "blindscore"}


async def test_json_text_with_a_list_in_it_will_do() -> None:
    """Azure ML's server dumps what run() returns, and run() may have dumped it already."""
    server = SeedsServer(lambda _: web.json_response(json.dumps(["a", "b"])))
    async with rows_at(server.score) as endpoint:
        _, data = await ask(endpoint, BATCH)
    assert json.loads(data) == [["a", "b"]] * 3


async def test_a_single_row_stays_single() -> None:
    server = SeedsServer()
    single = {"data": ["r0"], "key_id": KEY_ID, "container": "blindscore"}
    async with rows_at(server.score) as endpoint:
        _, data = await ask(endpoint, single)
    assert json.loads(data) == ["r0-class0", "r0-class1"]


async def test_other_bodies_pass_through_unchanged() -> None:
    async def score(request: web.Request) -> web.Response:
        return web.Response(body=(await request.read())[::-1], content_type=TYPE)

    async with rows_at(score, conn_str=CONN_STR) as endpoint:
        answer, data = await ask(endpoint, b"abc", TYPE)
    assert (data, answer.content_type) == (b"cba", TYPE)


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        {"batch": [["r"]], "key_id": "../x", "container": "c"},
        {"key_id": KEY_ID, "container": "c"},
        {"batch": [["r"]], "data": ["r"], "key_id": KEY_ID, "container": "c"},
        {"batch": [[7]], "key_id": KEY_ID, "container": "c"},
        {**BATCH, "conn_str": "smuggled"},
    ],
)
async def test_what_is_no_batch_is_permanent(body: object) -> None:
    server = SeedsServer()
    async with rows_at(server.score) as endpoint:
        with pytest.raises(MalformedRequest):
            await ask(endpoint, body)
    assert server.requests == []


@pytest.mark.parametrize("value", [{"error": "no"}, [1, 2], None, "not json", [["nested"]]])
async def test_an_answer_that_is_no_list_of_results_is_a_passing_fault(value: object) -> None:
    server = SeedsServer(lambda _: web.json_response(value))
    async with rows_at(server.score) as endpoint:
        with pytest.raises(EndpointError) as caught:
            await ask(endpoint, BATCH)
    assert caught.value.retryable


async def test_a_failing_row_fails_the_batch() -> None:
    server = SeedsServer(
        lambda fields: (
            web.Response(status=503) if fields["data"] == ["r2"] else SeedsServer.results(fields)
        )
    )
    async with rows_at(server.score) as endpoint:
        with pytest.raises(EndpointError) as caught:
            await ask(endpoint, BATCH)
    assert (caught.value.status, caught.value.retryable) == (503, True)


async def test_a_batch_has_one_model() -> None:
    models = iter(["one", "one", "two"])

    def answer(fields: dict[str, Any]) -> web.Response:
        return web.json_response(["x"], headers={"X-Blindscore-Model": next(models)})

    async with rows_at(SeedsServer(answer).score) as endpoint:
        with pytest.raises(EndpointError, match="model"):
            await ask(endpoint, BATCH)


async def test_memory_is_bounded_both_ways() -> None:
    server = SeedsServer()
    async with rows_at(server.score, max_batch_bytes=20) as endpoint:
        with pytest.raises(BodyTooLarge):
            await ask(endpoint, BATCH)
    assert server.requests == []
    async with rows_at(server.score, max_answer_bytes=60) as endpoint:
        with pytest.raises(BodyTooLarge):
            await ask(endpoint, BATCH)
