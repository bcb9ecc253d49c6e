"""A worker's surroundings over Azurite: jobs, an endpoint, and lines on which things go wrong."""

from __future__ import annotations

import asyncio
import hashlib
import signal
from collections.abc import AsyncIterator, Callable, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from structlog.testing import capture_logs

from deploy.local.azurite import Azurite
from shared import blobnames
from shared.messages import JobMessage, ResultInfo, utc_now
from shared.settings import StorageSettings
from shared.storage import Storage, open_poison_queue
from tests.faults import Faults, faulty_endpoint, faulty_storage
from tests.unit.worker.server import serving
from worker import service
from worker.settings import WorkerSettings

TYPE = "application/vnd.blindscore"
RUN = "run-1"
LEASE_S = 60.0
SHORT_LEASE_S = 3.0
"""For tests in which a lease runs out; the shortest that there is."""
DEADLINE_S = 120.0
"""For what takes seconds, on however slow a machine."""


def now_s() -> float:
    return asyncio.get_running_loop().time()


async def until(condition: Callable[[], bool], what: str) -> None:
    """Look until it holds, or fail at the deadline."""
    give_up_s = now_s() + DEADLINE_S
    while not condition():
        assert now_s() < give_up_s, f"never: {what}"
        await asyncio.sleep(0.05)


Events = list[MutableMapping[str, Any]]


class Endpoint:
    """Scores at its own pace, and counts how often it was asked."""

    def __init__(self, *, takes_s: float = 0.0) -> None:
        self.takes_s = takes_s
        self.requests = 0

    async def score(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.requests += 1
        await asyncio.sleep(self.takes_s)
        return web.Response(body=b"scores of " + body, content_type=TYPE)

    async def model(self, _: web.Request) -> web.Response:
        return web.json_response({"fingerprint": "f" * 64, "schemes": {"packed": {}}})


class Turnstile(Endpoint):
    """Answers the first requests, and keeps the others until it is opened."""

    def __init__(self, first: int) -> None:
        super().__init__()
        self.opened = asyncio.Event()
        self._free = first

    async def score(self, request: web.Request) -> web.StreamResponse:
        answer = await super().score(request)
        if self._free:
            self._free -= 1
        else:
            await self.opened.wait()
        return answer


@dataclass(frozen=True)
class Site:
    """A worker's surroundings: what goes wrong on either side of it, and what became of jobs."""

    storage: Storage
    """Past the faults."""
    settings: StorageSettings
    to_storage: Faults
    to_endpoint: Faults
    endpoint: Endpoint
    worker_settings: WorkerSettings
    worker_storage: StorageSettings

    async def submit(self, *jobs: int) -> None:
        """Upload and enqueue, as the producer does."""
        for number in jobs:
            job, data = blobnames.job_id(number), b"ciphertexts of %d" % number
            message = JobMessage(
                run=RUN,
                job=job,
                scheme="packed",
                key_id="0123456789abcdef",
                container=self.settings.container,
                input=blobnames.input_blob(RUN, job),
                output=blobnames.output_blob(RUN, job),
                rows=1,
                sha256=hashlib.sha256(data).hexdigest(),
                enqueued_at=utc_now(),
                traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01",
            )
            await self.storage.store.create(message.input, data, content_type=TYPE)
            await self.storage.queue.send(message.encode())

    async def work(self, **options: Any) -> Events:
        """Have a worker do all there is to do; what it logged."""
        with capture_logs() as events:
            async with self.working(**options) as worker:
                await self.until_empty(worker)
        return events

    @asynccontextmanager
    async def working(self, **options: Any) -> AsyncIterator[asyncio.Task[None]]:
        """A worker in this process; in the end it is told to stop, and does so without an error."""
        settings = self.worker_settings.model_copy(update=options)
        worker = asyncio.create_task(service.run(settings, self.worker_storage))
        try:
            yield worker
        finally:
            if not worker.done():
                signal.raise_signal(signal.SIGTERM)
            await worker

    async def until_empty(self, worker: asyncio.Task[None], *, left: int = 0) -> None:
        """Until no more than so many messages are left, or the worker has ended."""
        give_up_s = now_s() + DEADLINE_S
        while not worker.done() and await self.storage.queue.depth() > left:
            assert now_s() < give_up_s, "there are jobs that nobody does"
            await asyncio.sleep(0.05)

    async def results(self) -> dict[str, ResultInfo]:
        """By job: how each result was made, all of them right."""
        found = {}
        async for blob in self.storage.store.list(blobnames.outputs(RUN)):
            job = blobnames.job_of(blob.name)
            scores = await self.storage.store.read(blob.name, limit=1000)
            assert scores == b"scores of ciphertexts of %d" % int(job)
            found[job] = ResultInfo.from_metadata(blob.metadata, blob=blob.name)
        return found

    async def require_all_scored(self, jobs: int) -> dict[str, ResultInfo]:
        """Each of the first `jobs` has its result, nothing failed, and the faults happened."""
        results = await self.results()
        assert sorted(results) == [blobnames.job_id(number) for number in range(jobs)]
        assert [b async for b in self.storage.store.list(blobnames.failures(RUN))] == []
        async with open_poison_queue(self.settings) as letters:
            assert await letters.depth() == 0
        assert (self.to_storage.pending, self.to_endpoint.pending) == ([], [])
        return results


@asynccontextmanager
async def site_of(
    azurite: Azurite, storage: Storage, settings: StorageSettings, endpoint: Endpoint
) -> AsyncIterator[Site]:
    async with (
        faulty_storage(azurite) as line,
        serving(score=endpoint.score, model=endpoint.model) as direct_url,
        faulty_endpoint(direct_url) as (to_endpoint, url),
    ):
        yield Site(
            storage=storage,
            settings=settings,
            to_storage=line.faults,
            to_endpoint=to_endpoint,
            endpoint=endpoint,
            worker_settings=WorkerSettings(
                endpoint=url, lease_s=LEASE_S, retry_base_s=0.05, retry_cap_s=0.3
            ),
            worker_storage=line.settings(settings),
        )
