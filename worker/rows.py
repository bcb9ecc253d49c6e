"""Endpoints that take one row a request, such as the seeds' own score.py.

A JSON batch `{"batch": [[…], …], "key_id", "container"}` is taken apart, in memory, into requests
`{"data": […], "key_id", "container"}`, and their answers are put together again. The seeds'
score.py also wants a `conn_str`: it loads the key blob with it, under the name that `key_id` says.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, SecretStr, TypeAdapter, ValidationError, model_validator

from shared import blobnames
from shared.errors import BodyTooLarge, EndpointError, MalformedRequest
from worker import answers
from worker.body import BytesBody, read_all
from worker.endpoint import Answer, Endpoint, ScoreRequest

Row = list[str]
"""Base64 of a row's ciphertexts, or of its results."""


class _Batch(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)

    key_id: blobnames.KeyId
    container: str
    batch: list[Row] | None = None
    data: Row | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> _Batch:
        if (self.batch is None) == (self.data is None):
            raise ValueError("either batch or data")
        return self


@dataclass(slots=True)
class _Tally:
    """What the answers of one batch add up to."""

    results: list[Row]
    models: set[str]
    score_ms: int = 0
    size: int = 0


class RowEndpoint:
    """Sends a JSON batch row by row; every other body passes through as it is."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        conn_str: SecretStr,
        max_batch_bytes: int,
        max_answer_bytes: int,
    ) -> None:
        self._endpoint = endpoint
        self._conn_str = conn_str
        self._max_batch_bytes = max_batch_bytes
        self._max_answer_bytes = max_answer_bytes

    @asynccontextmanager
    async def score(self, request: ScoreRequest) -> AsyncIterator[Answer]:
        """See `Endpoint`. Raises `MalformedRequest` for a body that is no batch."""
        if answers.media_type(request.content_type) != answers.JSON:
            async with self._endpoint.score(request) as answer:
                yield answer
            return
        data = await read_all(request.body, limit=self._max_batch_bytes)
        batch = await asyncio.to_thread(_parse_batch, data)
        tally = _Tally([], set())
        for row in batch.batch or [batch.data or []]:
            await self._score_row(row, batch, request.traceparent, tally)
        if len(tally.models) > 1:
            raise EndpointError("the endpoint changed its model within a batch", retryable=True)
        results = tally.results if batch.data is None else tally.results[0]
        yield Answer(
            content_type=answers.JSON,
            model=next(iter(tally.models), ""),
            sha256="",
            score_ms=tally.score_ms,
            chunks=aiter(BytesBody(await asyncio.to_thread(_dump, results))),
        )

    async def _score_row(self, row: Row, batch: _Batch, traceparent: str, tally: _Tally) -> None:
        body = await asyncio.to_thread(_dump, self._fields(row, batch))
        request = ScoreRequest(BytesBody(body), answers.JSON, traceparent)
        async with self._endpoint.score(request) as answer:
            data = b"".join([chunk async for chunk in answer.chunks])
        tally.size += len(data)
        if tally.size > self._max_answer_bytes:
            raise BodyTooLarge(
                f"a batch's answers are over {self._max_answer_bytes} bytes",
                remedy="raise --max-result-mb",
            )
        tally.results.append(await asyncio.to_thread(_parse_result, data))
        tally.models.add(answer.model)
        tally.score_ms += answer.score_ms

    def _fields(self, row: Row, batch: _Batch) -> dict[str, object]:
        fields: dict[str, object] = {"data": row, "container": batch.container}
        if conn_str := self._conn_str.get_secret_value():
            # The seeds' score.py takes the key id for the name of a blob.
            return fields | {"key_id": blobnames.key(batch.key_id), "conn_str": conn_str}
        return fields | {"key_id": batch.key_id}


_RESULT = TypeAdapter(Row)


def _parse_batch(data: bytes) -> _Batch:
    try:
        return _Batch.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise MalformedRequest(f"not a batch of rows: {first['msg']}") from None


def _parse_result(data: bytes) -> Row:
    """A row's results: a JSON list of strings, or (from some servers) JSON text that holds one."""
    try:
        value = json.loads(data)
        if isinstance(value, str):
            value = json.loads(value)
        return _RESULT.validate_python(value, strict=True)
    except ValueError:
        raise EndpointError("the endpoint's answer is no list of results", retryable=True) from None


def _dump(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
