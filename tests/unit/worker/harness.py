"""What the worker's tests share: a job in the fakes, an endpoint that does as it is told, a log."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from shared import blobnames
from shared.errors import StorageUnavailable
from shared.messages import JobMessage
from shared.ports import Delivery
from tests.fakes import FakeQueue, FakeStore
from worker.breaker import Breaker
from worker.carrier import Carrier
from worker.concurrency import AdaptiveLimit
from worker.endpoint import Answer, ScoreRequest
from worker.lease import Lease
from worker.loop import Worker
from worker.metrics import Metrics
from worker.retry import RetryPolicy
from worker.settings import WorkerSettings
from worker.throttle import Throttle

CONTAINER = "blindscore"
RUN = "run-1"
INPUT = b"ciphertext" * 100
RESULT = b"encrypted scores"
TYPE = "application/vnd.blindscore"
TRACEPARENT = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"


def message(job: int = 0, *, data: bytes = INPUT, container: str = CONTAINER) -> JobMessage:
    job_id = blobnames.job_id(job)
    return JobMessage(
        run=RUN,
        job=job_id,
        scheme="packed",
        key_id="0123456789abcdef",
        container=container,
        input=blobnames.input_blob(RUN, job_id),
        output=blobnames.output_blob(RUN, job_id),
        rows=3,
        sha256=hashlib.sha256(data).hexdigest(),
        enqueued_at=datetime(2026, 1, 1, tzinfo=UTC),
        traceparent=TRACEPARENT,
    )


Step = Exception | Callable[[ScoreRequest], Awaitable[bytes]] | bytes
"""What the endpoint does on one request: raise, do something, or answer."""


@dataclass
class ScriptedEndpoint:
    """Follows its script step by step, then repeats the last one."""

    script: Sequence[Step] = (RESULT,)
    requests: list[bytes] = field(default_factory=list)
    traceparents: list[str] = field(default_factory=list)
    called: asyncio.Event = field(default_factory=asyncio.Event)

    @asynccontextmanager
    async def score(self, request: ScoreRequest) -> AsyncIterator[Answer]:
        step = self.script[min(len(self.requests), len(self.script) - 1)]
        body = b"".join([chunk async for chunk in request.body])
        self.requests.append(body)
        self.traceparents.append(request.traceparent)
        self.called.set()
        if isinstance(step, Exception):
            raise step
        result = step if isinstance(step, bytes) else await step(request)
        yield Answer(TYPE, "model-1", "", 7, _chunks(result))


async def _chunks(data: bytes) -> AsyncIterator[bytes]:
    yield data


class JournalQueue(FakeQueue):
    """A queue that writes down what was done, and fails on demand."""

    def __init__(self, clock: Callable[[], float], journal: list[str]) -> None:
        super().__init__(clock)
        self.journal = journal
        self.failing: set[str] = set()
        self.on_renew: Callable[[], Awaitable[None]] | None = None
        self.renewed_at: list[float] = []

    async def receive(self, max_messages: int, *, lease_s: float) -> list[Delivery]:
        self._note("receive")
        return await super().receive(max_messages, lease_s=lease_s)

    async def renew(self, delivery: Delivery, *, lease_s: float) -> None:
        self._note("renew")
        self.renewed_at.append(self._clock())
        if self.on_renew is not None:
            await self.on_renew()
        await super().renew(delivery, lease_s=lease_s)

    async def release(self, delivery: Delivery, *, delay_s: float) -> None:
        self._note("release")
        await FakeQueue.renew(self, delivery, lease_s=delay_s)

    async def delete(self, delivery: Delivery) -> None:
        self._note("delete")
        await super().delete(delivery)

    async def poison(self, delivery: Delivery, envelope: bytes) -> None:
        self._note("poison")
        await super().poison(delivery, envelope)

    def _note(self, operation: str) -> None:
        self.journal.append(operation)
        if operation in self.failing:
            raise StorageUnavailable(f"{operation} is failing")


@dataclass
class JournalStore(FakeStore):
    """A store that writes down what was written."""

    journal: list[str] = field(default_factory=list)
    failing: set[str] = field(default_factory=set)
    before_create: Callable[[str], Awaitable[None]] | None = None

    async def create(self, name: str, data: bytes | AsyncIterator[bytes], **options: Any) -> None:
        if self.before_create is not None:
            await self.before_create(name)
        if "create" in self.failing:
            raise StorageUnavailable("create is failing")
        await super().create(name, data, **options)
        self.journal.append(f"create {name}")


class Rig:
    """A worker over the fakes, in the running loop's time.

    `beside` another one it shares that one's queue and store; otherwise it has its own.
    """

    def __init__(
        self,
        script: Sequence[Step] = (RESULT,),
        policy: RetryPolicy | None = None,
        *,
        beside: Rig | None = None,
        **options: Any,
    ) -> None:
        clock = asyncio.get_running_loop().time
        self.journal: list[str] = beside.journal if beside else []
        self.queue: JournalQueue = beside.queue if beside else JournalQueue(clock, self.journal)
        self.store: JournalStore = (
            beside.store if beside else JournalStore(clock, journal=self.journal)
        )
        self.endpoint = ScriptedEndpoint(script)
        self.settings = WorkerSettings(**{"lease_s": 30.0, "max_concurrency": 4, **options})
        self.policy = policy or RetryPolicy(random=lambda: 1.0)
        self.metrics = Metrics()
        self.is_ready = True
        """What the endpoint says to a probe."""
        self.probed_at: list[float] = []
        self.throttle = Throttle(
            AdaptiveLimit(self.settings.min_concurrency, self.settings.max_concurrency),
            Breaker(
                failures=self.settings.breaker_failures,
                pause_s=self.settings.breaker_pause_s,
                random=lambda: 1.0,
            ),
            is_ready=self._probe,
            metrics=self.metrics,
        )
        self.carrier = Carrier(
            store=self.store,
            endpoint=self.endpoint,
            policy=self.policy,
            throttle=self.throttle,
            container=CONTAINER,
            max_deliveries=self.settings.max_deliveries,
            worker="worker-1",
            metrics=self.metrics,
        )
        self.worker = Worker(self.queue, self.carrier.carry, self.settings, self.throttle)

    async def _probe(self) -> bool:
        self.probed_at.append(asyncio.get_running_loop().time())
        return self.is_ready

    async def submit(self, *jobs: int, data: bytes = INPUT) -> None:
        """Upload and enqueue, as the producer does."""
        for job in jobs:
            submitted = message(job, data=data)
            await self.store.replace(submitted.input, data, content_type=TYPE)
            await self.queue.send(submitted.encode())

    async def take(self) -> Lease:
        """Receive one message, as a lease that nobody renews."""
        now_s = asyncio.get_running_loop().time()
        lease_s = self.settings.lease_s
        (delivery,) = await self.queue.receive(1, lease_s=lease_s)
        return Lease(self.queue, delivery, lease_s=lease_s, held_since_s=now_s)

    async def carry(self) -> Lease:
        """Receive one message and work on it."""
        lease = await self.take()
        await self.carrier.carry(lease)
        return lease

    def result(self, job: int = 0) -> bytes | None:
        return self._data(blobnames.output_blob(RUN, blobnames.job_id(job)))

    def failure(self, job: int = 0) -> bytes | None:
        return self._data(blobnames.failure_blob(RUN, blobnames.job_id(job)))

    def _data(self, name: str) -> bytes | None:
        return self.store.blobs[name][1] if name in self.store.blobs else None
