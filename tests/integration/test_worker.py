"""The worker as a process of its own, between Azurite and an endpoint: signals, crashes, faults."""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import aiohttp
import pytest
from aiohttp import web

from deploy.local.ports import free_port
from shared import blobnames
from shared.errors import BlobNotFound
from shared.messages import FailureRecord, JobMessage, ResultInfo, utc_now
from shared.settings import CONNECTION_STRING_VARIABLE, StorageSettings
from shared.storage import Storage, open_poison_queue
from tests.commands import CLEAN_ENVIRONMENT
from tests.contract.conftest import send_raw
from tests.unit.worker.server import Handler, serving

TYPE = "application/vnd.blindscore"
TOKEN = "t0ken-of-the-worker"
INPUT = secrets.token_bytes(5 * 1024 * 1024)  # more than one range of the blob adapter
RESULT = secrets.token_bytes(9 * 1024 * 1024)  # more than two of its blocks
DEADLINE_S = 30.0


async def _model(_: web.Request) -> web.Response:
    return web.json_response({"fingerprint": "f" * 64, "schemes": {"packed": {}}})


async def _right(request: web.Request) -> web.StreamResponse:
    assert request.headers["Authorization"] == f"Bearer {TOKEN}"
    assert await request.read() == INPUT
    headers = {"X-Blindscore-Model": "f" * 64}
    return web.Response(body=RESULT, content_type=TYPE, headers=headers)


async def _submit(storage: Storage, settings: StorageSettings, job: int = 0) -> JobMessage:
    job_id = blobnames.job_id(job)
    message = JobMessage(
        run="run-1",
        job=job_id,
        scheme="packed",
        key_id="0123456789abcdef",
        container=settings.container,
        input=blobnames.input_blob("run-1", job_id),
        output=blobnames.output_blob("run-1", job_id),
        rows=1,
        sha256=hashlib.sha256(INPUT).hexdigest(),
        enqueued_at=utc_now(),
        traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01",
    )
    await storage.store.create(message.input, INPUT, content_type=TYPE)
    await storage.queue.send(message.encode())
    return message


class Process:
    """A worker process; its output is kept."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.output = bytearray()
        assert process.stdout is not None
        self._reading = asyncio.create_task(self._read(process.stdout))

    async def _read(self, stream: asyncio.StreamReader) -> None:
        while chunk := await stream.read(65536):
            self.output += chunk

    @property
    def text(self) -> str:
        return self.output.decode()

    def events(self, name: str) -> list[dict[str, object]]:
        lines = [line for line in self.text.splitlines() if line.startswith("{")]
        return [event for event in map(json.loads, lines) if event["event"] == name]

    async def until(self, text: str) -> None:
        await until(lambda: _true(text in self.text), f"{text!r} in the output")

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    async def end(self) -> int:
        """Wait for its end; returns the exit code."""
        async with asyncio.timeout(DEADLINE_S):
            code = await self._process.wait()
            await self._reading
        return code

    async def close(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        await self._reading


@asynccontextmanager
async def working(settings: StorageSettings, url: str, *options: str) -> AsyncIterator[Process]:
    process = Process(
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "blindscore", "work", "--endpoint", url, *options),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=CLEAN_ENVIRONMENT
            | {
                CONNECTION_STRING_VARIABLE: settings.connection_string.get_secret_value(),
                "BLINDSCORE_CONTAINER": settings.container,
                "BLINDSCORE_QUEUE": settings.queue,
                "BLINDSCORE_ENDPOINT_TOKEN": TOKEN,
                "BLINDSCORE_RETRY_BASE_S": "0.05",
            },
        )
    )
    try:
        yield process
    finally:
        await process.close()


async def _true(value: bool) -> bool:
    return value


async def until(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    """Look until it holds, or fail at the deadline."""
    deadline_s = asyncio.get_running_loop().time() + DEADLINE_S
    while not await condition():
        assert asyncio.get_running_loop().time() < deadline_s, f"never: {what}"
        await asyncio.sleep(0.05)


async def soon(event: asyncio.Event) -> None:
    async with asyncio.timeout(DEADLINE_S):
        await event.wait()


async def _is_empty(storage: Storage) -> bool:
    return await storage.queue.depth() == 0


async def _exists(storage: Storage, name: str) -> bool:
    try:
        await storage.store.stat(name)
    except BlobNotFound:
        return False
    return True


async def test_a_job_is_carried_and_sigterm_ends_with_0(
    storage: Storage, storage_settings: StorageSettings
) -> None:
    message = await _submit(storage, storage_settings)
    async with (
        serving(score=_right, model=_model) as url,
        working(storage_settings, url) as worker,
    ):
        await until(lambda: _is_empty(storage), "an empty queue")
        worker.signal(signal.SIGTERM)
        assert await worker.end() == 0, worker.text
    assert await storage.store.read(message.output, limit=len(RESULT)) == RESULT
    blob = await storage.store.stat(message.output)
    info = ResultInfo.from_metadata(blob.metadata, blob=blob.name)
    assert blob.content_type == TYPE
    assert (info.model, info.attempts, info.deliveries) == ("f" * 64, 1, 1)
    assert info.enqueued_at <= info.received_at <= info.scored_at
    (scored,) = worker.events("job_scored")
    assert (scored["run"], scored["job"], scored["bytes"]) == ("run-1", "000000", len(INPUT))
    assert len(worker.events("draining")) == 1
    secret = storage_settings.connection_string.get_secret_value().split("AccountKey=")[1][:20]
    assert TOKEN not in worker.text
    assert secret not in worker.text


async def test_it_ends_by_itself_when_the_queue_stays_empty(
    storage: Storage, storage_settings: StorageSettings
) -> None:
    message = await _submit(storage, storage_settings)
    async with (
        serving(score=_right, model=_model) as url,
        working(storage_settings, url, "--exit-when-idle-s", "0.5") as worker,
    ):
        assert await worker.end() == 0, worker.text
    assert await _exists(storage, message.output)


class _Held:
    """An endpoint that keeps its first request waiting."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.requests = 0

    async def score(self, request: web.Request) -> web.StreamResponse:
        response = await _right(request)
        self.requests += 1
        if self.requests == 1:
            self.asked.set()
            await asyncio.sleep(3600)
        return response


async def test_what_does_not_finish_in_time_is_handed_back_at_once(
    storage: Storage, storage_settings: StorageSettings
) -> None:
    message = await _submit(storage, storage_settings)
    held = _Held()
    async with serving(score=held.score, model=_model) as url:
        async with working(storage_settings, url, "--grace-s", "0.2") as worker:
            await soon(held.asked)
            worker.signal(signal.SIGTERM)
            assert await worker.end() == 0, worker.text
        assert not await _exists(storage, message.output)
        (delivery,) = await storage.queue.receive(1, lease_s=1)
        assert delivery.deliveries == 2


async def test_a_second_signal_ends_it_at_once(
    storage: Storage, storage_settings: StorageSettings
) -> None:
    await _submit(storage, storage_settings)
    held = _Held()
    async with (
        serving(score=held.score, model=_model) as url,
        working(storage_settings, url, "--grace-s", "3600") as worker,
    ):
        await soon(held.asked)
        worker.signal(signal.SIGTERM)
        await worker.until('"draining"')
        worker.signal(signal.SIGTERM)
        assert await worker.end() == 128 + signal.SIGTERM


async def test_a_killed_workers_job_is_taken_over(
    storage: Storage, storage_settings: StorageSettings
) -> None:
    message = await _submit(storage, storage_settings)
    held = _Held()
    async with serving(score=held.score, model=_model) as url:
        async with working(storage_settings, url, "--lease-s", "3") as first:
            await soon(held.asked)
            first.signal(signal.SIGKILL)
            assert await first.end() == -signal.SIGKILL
        async with working(storage_settings, url, "--lease-s", "3") as second:
            await until(lambda: _is_empty(storage), "an empty queue")
            second.signal(signal.SIGINT)
            assert await second.end() == 0, second.text
    blob = await storage.store.stat(message.output)
    info = ResultInfo.from_metadata(blob.metadata, blob=blob.name)
    assert (info.deliveries, blob.size) == (2, len(RESULT))


async def test_a_stalled_workers_job_ends_with_one_result_and_no_error(
    storage: Storage, storage_settings: StorageSettings
) -> None:
    """Stopped while it holds the message, it wakes up without the lease and with an answer."""
    message = await _submit(storage, storage_settings)
    asked, go_on = asyncio.Event(), asyncio.Event()
    requests = 0

    async def score(request: web.Request) -> web.StreamResponse:
        nonlocal requests
        requests += 1
        response = await _right(request)
        if requests == 1:
            asked.set()
            await go_on.wait()
        return response

    async with (
        serving(score=score, model=_model) as url,
        working(storage_settings, url, "--lease-s", "3") as first,
    ):
        await soon(asked)
        first.signal(signal.SIGSTOP)
        async with working(storage_settings, url, "--lease-s", "3") as second:
            await until(lambda: _is_empty(storage), "an empty queue")
            go_on.set()
            first.signal(signal.SIGCONT)
            await first.until("lease_lost")
            for worker in (first, second):
                worker.signal(signal.SIGTERM)
                assert await worker.end() == 0, worker.text
    assert await storage.store.read(message.output, limit=len(RESULT)) == RESULT
    assert not await _exists(storage, blobnames.failure_blob("run-1", "000000"))
    assert requests == 2


async def test_a_broken_off_answer_leaves_no_blob_and_is_tried_again(
    storage: Storage, storage_settings: StorageSettings
) -> None:
    message = await _submit(storage, storage_settings)
    requests = 0
    seen_before_second = True

    async def score(request: web.Request) -> web.StreamResponse:
        nonlocal requests, seen_before_second
        requests += 1
        if requests > 1:
            seen_before_second = await _exists(storage, message.output)
            return await _right(request)
        await request.read()
        response = web.StreamResponse(headers={"Content-Type": TYPE})
        response.content_length = len(RESULT)
        await response.prepare(request)
        await response.write(RESULT[: len(RESULT) - 1])
        assert request.transport is not None
        request.transport.abort()
        return response

    async with (
        serving(score=score, model=_model) as url,
        working(storage_settings, url) as worker,
    ):
        await until(lambda: _is_empty(storage), "an empty queue")
        worker.signal(signal.SIGTERM)
        assert await worker.end() == 0, worker.text
    assert (requests, seen_before_second) == (2, False)
    assert await storage.store.read(message.output, limit=len(RESULT)) == RESULT
    assert len(worker.events("job_retry")) == 1


async def test_a_permanent_fault_is_recorded_and_its_message_put_aside(
    storage: Storage, storage_settings: StorageSettings
) -> None:
    message = await _submit(storage, storage_settings)

    async def score(request: web.Request) -> web.StreamResponse:
        await request.read()
        return web.json_response(
            {"code": "feature_count", "detail": "64 features were due"},
            status=422,
            content_type="application/problem+json",
        )

    async with (
        serving(score=score, model=_model) as url,
        working(storage_settings, url) as worker,
    ):
        await until(lambda: _is_empty(storage), "an empty queue")
        worker.signal(signal.SIGTERM)
        assert await worker.end() == 0, worker.text
    name = blobnames.failure_blob("run-1", "000000")
    record = FailureRecord.decode(await storage.store.read(name, limit=10_000), blob=name)
    assert (record.code, record.status) == ("feature_count", 422)
    assert "64 features were due" in record.reason
    async with open_poison_queue(storage_settings) as letters:
        (letter,) = await letters.receive(1, lease_s=30)
    assert json.loads(letter.body)["message"] == message.encode().decode()


async def test_sigterm_while_it_waits_for_its_endpoint_ends_with_0(
    storage_settings: StorageSettings,
) -> None:
    """It is alive, not ready, and gone at once."""
    async with serving() as url:
        pass
    port = free_port()
    probes = ("--health-port", str(port))
    async with (
        working(storage_settings, url, "--wait-endpoint-s", "3600", *probes) as worker,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
    ):
        await worker.until("waiting_for_endpoint")
        async with session.get("/live") as live, session.get("/ready") as ready:
            assert (live.status, ready.status, await ready.text()) == (200, 503, "starting")
        worker.signal(signal.SIGTERM)
        assert await worker.end() == 0, worker.text
    (stopped,) = worker.events("stopped_before_start")
    assert stopped["reason"] == "SIGTERM"


async def test_a_job_that_kills_its_workers_ends_as_poison(
    storage: Storage, storage_settings: StorageSettings
) -> None:
    """As if it made them run out of memory: SIGKILL, whenever one works on it."""
    message = await _submit(storage, storage_settings)
    workers: list[Process] = []

    async def kill(request: web.Request) -> web.StreamResponse:
        workers[-1].signal(signal.SIGKILL)
        return await _right(request)

    options = ("--lease-s", "3", "--max-deliveries", "2")
    async with serving(score=kill, model=_model) as url:
        for code in (-signal.SIGKILL, -signal.SIGKILL, 0):
            async with working(storage_settings, url, *options) as worker:
                workers.append(worker)
                if code == 0:
                    await until(lambda: _is_empty(storage), "an empty queue")
                    worker.signal(signal.SIGTERM)
                assert await worker.end() == code, worker.text
    name = blobnames.failure_blob("run-1", message.job)
    record = FailureRecord.decode(await storage.store.read(name, limit=10_000), blob=name)
    assert (record.code, record.deliveries, record.attempts) == ("too_many_deliveries", 3, 1)
    assert "ended the worker" in record.reason
    async with open_poison_queue(storage_settings) as letters:
        assert len(await letters.receive(32, lease_s=30)) == 1


async def test_an_endpoint_that_comes_back_finds_every_job(
    storage: Storage, storage_settings: StorageSettings
) -> None:
    messages = [await _submit(storage, storage_settings, job) for job in range(3)]
    down = True

    async def score(request: web.Request) -> web.StreamResponse:
        if not down:
            return await _right(request)
        return web.Response(status=502, headers={"Retry-After": "1"})  # no second try meanwhile

    async def ready(_: web.Request) -> web.StreamResponse:
        return web.Response(status=503 if down else 200)

    options = ("--breaker-failures", "3", "--breaker-pause-s", "0.2", "--retry-cap-s", "1")
    async with (
        serving(score=score, model=_model, ready=ready) as url,
        working(storage_settings, url, *options, "--max-deliveries", "1") as worker,
    ):
        await worker.until("circuit_opened")
        down = False
        await until(lambda: _is_empty(storage), "an empty queue")
        worker.signal(signal.SIGTERM)
        assert await worker.end() == 0, worker.text
    for message in messages:
        assert await _exists(storage, message.output)
    told = [len(worker.events(f"circuit_{state}")) for state in ("opened", "half_open", "closed")]
    assert told == [1, 1, 1]
    assert worker.events("job_failed") == []


async def test_neighbours_of_an_unreadable_message_are_scored_and_it_is_told(
    storage: Storage, storage_settings: StorageSettings
) -> None:
    messages = [await _submit(storage, storage_settings, 0)]
    await send_raw(storage_settings, "bell \x07")
    messages.append(await _submit(storage, storage_settings, 1))
    async with (
        serving(score=_right, model=_model) as url,
        working(storage_settings, url, "--lease-s", "3", "--max-deliveries", "1") as worker,
    ):
        for message in messages:
            await until(partial(_exists, storage, message.output), "a result")
        worker.signal(signal.SIGTERM)
        assert await worker.end() == 0, worker.text
    assert await storage.queue.depth() == 1
    assert worker.events("queue_get_failed")
    assert worker.events("job_failed") == []


async def _fails(settings: StorageSettings, score: Handler, model: Handler) -> str:
    async with (
        serving(score=score, model=model) as url,
        working(settings, url, "--wait-endpoint-s", "0") as worker,
    ):
        assert await worker.end() == 1, worker.text
    assert "Traceback" not in worker.text
    (error,) = (line for line in worker.text.splitlines() if line.startswith("error: "))
    return error


async def test_without_its_queue_it_says_so(
    storage: Storage, storage_settings: StorageSettings
) -> None:
    missing = storage_settings.model_copy(update={"queue": "no-such-queue"})
    assert "no-such-queue" in await _fails(missing, _right, _model)


async def test_without_its_container_it_says_so(
    storage: Storage, storage_settings: StorageSettings
) -> None:
    missing = storage_settings.model_copy(update={"container": "no-such-container"})
    assert "no-such-container" in await _fails(missing, _right, _model)


@pytest.mark.parametrize("when", ["at the start", "later"])
async def test_a_refused_token_stops_it_and_costs_no_job(
    when: str, storage: Storage, storage_settings: StorageSettings
) -> None:
    message = await _submit(storage, storage_settings)

    async def refuse(request: web.Request) -> web.StreamResponse:
        await request.read()
        return web.Response(status=401)

    model = refuse if when == "at the start" else _model
    assert "bearer token" in await _fails(storage_settings, refuse, model)
    assert await storage.queue.depth() == 1
    assert not await _exists(storage, blobnames.failure_blob("run-1", message.job))
