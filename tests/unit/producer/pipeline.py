"""A run in the fakes, from rows to scores: real keys of `direct` and its real evaluator."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from producer.backlog import Backlog
from producer.canaries import Canaries, data_rows
from producer.collect import Collector
from producer.keypool import KeyPool
from producer.keys import CANARIES, ROWS, SIGNING, KeyFile, new_record
from producer.results import Collected
from producer.rows import Rows, StoredRows
from producer.runs import RunFolder, RunRecord
from producer.schemes import client_scheme
from producer.schemes.direct import SCHEME
from producer.signing import ManifestSigner
from producer.submit import Submission
from score.schemes.direct import DirectEvaluator
from shared.linear import LinearModel
from shared.messages import JobMessage, Manifest, ResultInfo, utc_now
from tests.fakes import FakeQueue, FakeStore
from tests.scoring import respond

RUN = "run-1"
FEATURES = 6
START = datetime(2026, 1, 1, tzinfo=UTC)
MODEL = LinearModel(
    np.random.default_rng(1).normal(size=(3, FEATURES)),
    np.array([0.5, -2.0, 1.0]),
    labels=("0", "1", "2"),
    link="argmax",
)
ERROR = 1e-4


@dataclass(frozen=True, eq=False)
class Block:
    """Rows of a data set that has no labels."""

    first_row: int
    rows: Rows
    labels: None = None

    @property
    def stored(self) -> StoredRows:
        return StoredRows(self.rows)


def data_set(rows: int, *, seed: int = 5) -> Rows:
    return np.random.default_rng(seed).uniform(-1, 1, size=(rows, FEATURES))


def blocks(rows: Rows, size: int) -> Iterator[Block]:
    for first in range(0, len(rows), size):
        yield Block(first, rows[first : first + size])


def new_key() -> KeyFile:
    key = SCHEME.generate("precision")
    return KeyFile(new_record(key), bytearray(key.export_secret()))


KEY = new_key()

Tamper = Callable[[JobMessage, bytes], bytes]
"""What becomes of a result on its way."""


def result_info(message: JobMessage, **changed: object) -> ResultInfo:
    """What a worker writes beside a result."""
    fields = {
        "scheme": message.scheme,
        "key_id": message.key_id,
        "model": MODEL.fingerprint,
        "rows": message.rows,
        "sha256": "",
        "worker": "worker-1",
        "attempts": 1,
        "deliveries": 1,
        "enqueued_at": message.enqueued_at,
        "received_at": utc_now(),
        "scored_at": utc_now(),
        "score_ms": 7,
    }
    return ResultInfo.model_validate({**fields, **changed})


@dataclass
class World:
    """An account, and a key owner's disk."""

    home: Path
    store: FakeStore = field(default_factory=FakeStore)
    queue: FakeQueue = field(default_factory=FakeQueue)
    key: KeyFile = KEY
    canaries: int = 0
    rows_per_job: int = 4
    in_flight: int = 2

    @property
    def record(self) -> RunRecord:
        return RunRecord(
            run=RUN,
            scheme="direct",
            key_id=self.key.key_id,
            container="blindscore",
            queue="blindscore-jobs",
            dataset={},
            features=FEATURES,
            input_bound=1.0,
            rows_per_job=data_rows(self.rows_per_job, self.canaries),
            canaries=self.canaries,
            created_at=START,
        )

    @property
    def folder(self) -> RunFolder:
        return RunFolder(self.home, RUN)

    @property
    def signer(self) -> ManifestSigner:
        return ManifestSigner(self.key.derive(SIGNING))

    @asynccontextmanager
    async def submission(self, *, limit: int = 0) -> AsyncIterator[Submission]:
        """As `produce` and `produce --resume` make it."""
        if self.folder.find() is None:
            self.folder.create(self.record)
        with self.folder.journal() as journal:
            async with KeyPool("direct", self.key.secret_bytes(), processes=0) as pool:
                yield Submission(
                    record=self.record,
                    journal=journal,
                    content_type=client_scheme("direct").content_type,
                    pool=pool,
                    signer=self.signer,
                    canaries=Canaries(self.key.derive(CANARIES), RUN, self.canaries),
                    tag_key=self.key.derive(ROWS),
                    store=self.store,
                    backlog=Backlog(self.queue, limit=limit),
                    in_flight=self.in_flight,
                )

    async def produce(self, rows: Rows) -> Manifest:
        """Begin the run, or go on with it."""
        async with self.submission() as submission:
            await submission.start()
            return await submission.run(blocks(rows, self.record.rows_per_job))

    async def score(
        self,
        *,
        jobs: Sequence[str] | None = None,
        model: LinearModel = MODEL,
        tamper: Tamper = lambda _, result: result,
        **info: object,
    ) -> None:
        """Be worker and endpoint for every message, or those of `jobs`."""
        evaluator = DirectEvaluator(model)
        while deliveries := await self.queue.receive(32, lease_s=3600):
            for delivery in deliveries:
                message = JobMessage.decode(delivery.body)
                if jobs is None or message.job in jobs:
                    request = await self.store.read(message.input, limit=1 << 30)
                    assert hashlib.sha256(request).hexdigest() == message.sha256
                    result = respond(evaluator, request)
                    await self.put_result(message, tamper(message, result), **info)
                    await self.queue.delete(delivery)

    async def put_result(self, message: JobMessage, result: bytes, **info: object) -> None:
        metadata = result_info(message, **info).to_metadata()
        await self.store.replace(message.output, result, content_type="x", metadata=metadata)

    @asynccontextmanager
    async def collector(
        self, folder: Path | None = None, *, key: KeyFile | None = None
    ) -> AsyncIterator[Collector]:
        """As `collect` makes it."""
        owner = key or self.key
        async with KeyPool("direct", owner.secret_bytes(), processes=0) as pool:
            yield Collector(
                run=RUN,
                store=self.store,
                pool=pool,
                signer=ManifestSigner(owner.derive(SIGNING)),
                canary_key=owner.derive(CANARIES),
                folder=folder or self.home / "results",
                max_result_bytes=1 << 24,
            )

    async def collect(self, folder: Path | None = None, *, deadline_s: float = 0.0) -> Collected:
        async with self.collector(folder) as collector:
            return await collector.collect(deadline_s=deadline_s)

    def messages(self) -> list[JobMessage]:
        """All messages in the queue, in the order they were sent."""
        return [JobMessage.decode(body) for body in self.queue.bodies]


def scores_of(collected: Collected) -> Rows:
    """All scores of a run, in row order."""
    parts = [collected.scores(entry.job) for entry in collected.manifest.jobs]
    return np.concatenate([part for part in parts if part is not None])
