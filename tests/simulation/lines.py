"""From a simulated process to the simulated cloud: requests and answers that take time, get lost,
are repeated, or find their caller dead."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TypeVar

from shared import blobnames
from shared.errors import BlobNotFound, EndpointError, LeaseLost, StorageUnavailable
from shared.ports import BlobInfo, BlobReader, Delivery
from tests.fakes import FakeReader
from tests.simulation.world import EndpointMode, FaultKind, Op, Process, World
from tests.unit.worker.harness import RUN, TYPE
from worker.answers import TIMED_OUT, UNREACHABLE
from worker.endpoint import Answer, ScoreRequest

T = TypeVar("T")

LEASE_S = 30.0
TIMEOUT_S = 60.0
TRAVEL_S = (0, 0, 0.01, 0.1, 0.5)
LATE_S = 40.0
MOODS: tuple[EndpointMode, ...] = ("up", "up", "busy", "failing", "mistaken")

Call = Callable[[], Awaitable[T]]


class Line:
    """One process's way to the cloud."""

    def __init__(self, world: World, process: Process) -> None:
        self._world = world
        self._process = process

    async def call(
        self, op: Op, effect: Call[T], *, job: str = "", again: Call[object] | None = None
    ) -> T:
        """Call once. `again` is what a second try does after the answer to the first was lost."""
        fault = self._fault(op, job)
        self._process.tried[op, asyncio.current_task()] = self._world.happened
        await self._travel()
        if fault == "late":
            await asyncio.sleep(LATE_S)
        elif fault == "crash":
            self._world.crash(self._process)
        elif fault == "stall":
            self._world.stall(self._process)
            await self._travel()
        await self._live()
        if fault == "lost request":
            raise StorageUnavailable(f"the request to {op} was lost")
        value = await effect()
        self._world.note(self._process, op, job)
        if fault == "crash after":
            self._world.crash(self._process)
        elif fault == "twice" and again is not None:
            await self._travel()
            await self._live()
            await again()
        await self._travel()
        await self._live()
        if fault == "lost answer":
            raise StorageUnavailable(f"the answer to {op} was lost")
        return value

    async def _live(self) -> None:
        """Who is dead goes no further."""
        if self._process.dead:
            await asyncio.get_running_loop().create_future()

    async def _travel(self) -> None:
        if not self._world.calm:
            await asyncio.sleep(self._world.random.choice(TRAVEL_S))

    def _fault(self, op: Op, job: str) -> FaultKind | None:
        for fault in self._world.faults:
            if fault.op == op and fault.skip:
                fault.skip -= 1
            elif fault.op == op and fault.times:
                fault.times -= 1
                if job and not fault.is_excused:
                    self._world.blame[job] += 1
                return fault.kind
        return None


class LineQueue(Line):
    """The queue as one process reaches it."""

    async def send(self, body: bytes, *, delay_s: float = 0.0) -> None:
        raise AssertionError("workers send no jobs")

    async def receive(self, max_messages: int, *, lease_s: float) -> list[Delivery]:
        async def effect() -> list[Delivery]:
            return await self._world.queue.receive(max_messages, lease_s=lease_s)

        asked_s = self._world.clock.now_s
        deliveries = await self.call("receive", effect, again=effect)
        for delivery in deliveries:
            job = self._process.holding[delivery.id] = self._job(delivery)
            if self._world.clock.now_s - asked_s > lease_s:
                self._world.blame[job] += 1  # the lease counts as lost from the start
        return deliveries

    async def renew(self, delivery: Delivery, *, lease_s: float) -> None:
        """The receipt changes in the queue at once, and here when the answer has come."""
        renewed, stale = _copy(delivery), _copy(delivery)

        async def again() -> None:
            await self._world.queue.renew(stale, lease_s=lease_s)

        await self._held(
            "renew", delivery, lambda: self._world.queue.renew(renewed, lease_s=lease_s), again
        )
        delivery.receipt = renewed.receipt

    async def release(self, delivery: Delivery, *, delay_s: float) -> None:
        sent = _copy(delivery)
        await self._held(
            "release", delivery, lambda: self._world.queue.release(sent, delay_s=delay_s)
        )
        self._process.holding.pop(delivery.id, None)

    async def delete(self, delivery: Delivery) -> None:
        sent = _copy(delivery)
        await self._held("delete", delivery, lambda: self._world.queue.delete(sent))
        self._process.holding.pop(delivery.id, None)

    async def poison(self, delivery: Delivery, envelope: bytes) -> None:
        async def effect() -> None:
            await self._world.queue.poison_queue.send(envelope)

        await self.renew(delivery, lease_s=LEASE_S)
        await self.call("bury", effect, job=self._job(delivery), again=effect)
        await self.delete(delivery)

    async def depth(self) -> int:
        return await self._world.queue.depth()

    async def _held(
        self, op: Op, delivery: Delivery, effect: Call[None], again: Call[None] | None = None
    ) -> None:
        try:
            await self.call(op, effect, job=self._job(delivery), again=again)
        except LeaseLost:
            self._world.blame[self._job(delivery)] += 1
            raise

    def _job(self, delivery: Delivery) -> str:
        return next(job for job, sent in self._world.jobs.items() if sent.body == delivery.body)


class LineStore(Line):
    """The store as one process reaches it."""

    async def create(
        self,
        name: str,
        data: bytes | AsyncIterator[bytes],
        *,
        content_type: str,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        body = data if isinstance(data, bytes) else b"".join([chunk async for chunk in data])

        async def effect() -> None:
            await self._world.store.create(name, body, content_type=content_type, metadata=metadata)

        op: Op = "note"
        if name.startswith(blobnames.outputs(RUN)):
            op = "result"
        elif name.startswith(blobnames.failures(RUN)):
            op = "failure"
        await self.call(op, effect, job=_job_of(name))

    async def replace(
        self,
        name: str,
        data: bytes,
        *,
        content_type: str,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        raise AssertionError("workers replace nothing")

    async def open(self, name: str) -> BlobReader:
        reader = await self.call("open", lambda: self._world.store.open(name), job=_job_of(name))
        assert isinstance(reader, FakeReader)
        return FakeReader(reader.info, reader.data, chunk_bytes=7)

    async def read(self, name: str, *, limit: int) -> bytes:
        raise AssertionError("workers stream")

    async def stat(self, name: str) -> BlobInfo:
        """See `BlobStore`. What isn't there was looked for all the same."""

        async def look() -> BlobInfo | None:
            try:
                return await self._world.store.stat(name)
            except BlobNotFound:
                return None

        op: Op = "stat" if name.startswith(blobnames.outputs(RUN)) else "look up"
        info = await self.call(op, look, job=_job_of(name))
        if info is None:
            raise BlobNotFound(f"there is no blob {name}")
        return info

    def list(self, prefix: str) -> AsyncIterator[BlobInfo]:
        raise AssertionError("workers list nothing")

    async def delete(self, name: str) -> bool:
        raise AssertionError("workers remove no blobs")


class LineEndpoint(Line):
    """An endpoint that scores, each time with other bytes, as encryption is random."""

    @asynccontextmanager
    async def score(self, request: ScoreRequest) -> AsyncIterator[Answer]:
        world, mode = self._world, self._world.endpoint
        self._process.tried["score", asyncio.current_task()] = world.happened
        if mode == "moody":
            mode = world.random.choice(MOODS)
        if mode == "unreachable":
            raise EndpointError("no endpoint", retryable=True, reason=UNREACHABLE)
        await self._travel()
        body = b"".join([chunk async for chunk in request.body])
        job, sent = next((job, sent) for job, sent in world.jobs.items() if sent.input == body)
        if mode == "hanging":
            world.blame[job] += 1
            await asyncio.sleep(TIMEOUT_S)
            raise EndpointError("timed out", retryable=True, reason=TIMED_OUT)
        await asyncio.sleep(2.5 * LEASE_S if sent.kind == "slow" else 1)
        if mode == "busy":
            raise EndpointError("busy", retryable=True, status=429, retry_after_s=7)
        if mode == "failing" or sent.kind == "broken":
            world.blame[job] += 1
            raise EndpointError("failed", retryable=True, status=500)
        if mode == "mistaken" or sent.kind == "refused":
            world.refused.add(job)
            raise EndpointError("no", retryable=False, status=422, reason="feature_count")
        world.scored += 1
        yield Answer(TYPE, "model-1", "", 7, _chunks(b"%s: score %d" % (body, world.scored)))

    async def is_ready(self) -> bool:
        await self._travel()
        return self._world.endpoint not in {"unreachable", "busy", "hanging"}


async def _chunks(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 8):
        yield data[start : start + 8]


def _copy(delivery: Delivery) -> Delivery:
    return Delivery(
        delivery.id, delivery.receipt, delivery.body, delivery.deliveries, delivery.inserted_at
    )


def _job_of(name: str) -> str:
    """The job of any blob of a run: `runs/{run}/{what}/{job}…`."""
    return name.split("/")[3].removesuffix(".json")
