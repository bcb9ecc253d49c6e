"""From rows to jobs: encrypt block by block, upload, enqueue.

Blocks are streamed: at most `in_flight` are in memory, however large the data set. A job's input
is uploaded before its message is sent, so a worker never finds a message without its input.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from pydantic import ValidationError

from producer.keypool import KeyPool
from producer.runs import RunFolder, RunRecord
from producer.schemes import Encoding, Rows
from shared import blobnames
from shared.errors import BlobExists, RunError
from shared.messages import JobEntry, JobMessage, Manifest, utc_now
from shared.ports import BlobStore, JobQueue


class Block(Protocol):
    """Consecutive rows of a data set."""

    @property
    def first_row(self) -> int: ...
    @property
    def rows(self) -> Rows: ...


@dataclass(frozen=True, slots=True)
class Submission:
    """Everything one run's jobs go through, in order."""

    record: RunRecord
    folder: RunFolder
    content_type: str
    pool: KeyPool
    store: BlobStore
    queue: JobQueue
    in_flight: int
    on_job: Callable[[JobEntry], None]

    async def start(self) -> None:
        """Make the run known in the account: from here on it can be collected."""
        await self._write_manifest([], complete=False)

    async def run(self, blocks: Iterable[Block]) -> Manifest:
        """Submit every block that isn't submitted yet; returns the complete manifest.

        Raises `DatasetError`, `StorageError`. What was done until then stays and can be resumed.
        """
        uploaded = {entry.job: entry async for entry in self._uploaded()}
        enqueued = self.folder.enqueued()
        entries: list[JobEntry] = []
        slots = asyncio.Semaphore(self.in_flight)

        async def submit(index: int, block: Block) -> None:
            try:
                job = blobnames.job_id(index)
                entry = uploaded.get(job) or await self._upload(job, block)
                if job not in enqueued:
                    await self._enqueue(entry)
                entries.append(entry)
                self.on_job(entry)
            finally:
                slots.release()

        iterator = enumerate(blocks)
        try:
            async with asyncio.TaskGroup() as tasks:
                while (item := await asyncio.to_thread(next, iterator, None)) is not None:
                    await slots.acquire()
                    tasks.create_task(submit(*item))
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from group
        entries.sort(key=lambda entry: entry.job)
        return await self._write_manifest(entries, complete=True)

    async def _upload(self, job: str, block: Block) -> JobEntry:
        encoding = Encoding(self.record.container, self.record.features, self.record.input_bound)
        body = await self.pool.encrypt(block.rows, encoding)
        digest = await asyncio.to_thread(lambda: hashlib.sha256(body).hexdigest())
        entry = JobEntry(
            job=job, first_row=block.first_row, rows=block.rows.shape[0], sha256=digest
        )
        try:
            await self.store.create(
                blobnames.input_blob(self.record.run, job),
                body,
                content_type=self.content_type,
                metadata={
                    "first_row": str(entry.first_row),
                    "rows": str(entry.rows),
                    "sha256": entry.sha256,
                },
            )
        except BlobExists as error:
            raise RunError(
                f"job {job} of run {self.record.run} is already there",
                remedy="is the same run being submitted twice at once?",
            ) from error
        return entry

    async def _enqueue(self, entry: JobEntry) -> None:
        message = JobMessage(
            run=self.record.run,
            job=entry.job,
            scheme=self.record.scheme,
            key_id=self.record.key_id,
            container=self.record.container,
            input=blobnames.input_blob(self.record.run, entry.job),
            output=blobnames.output_blob(self.record.run, entry.job),
            rows=entry.rows,
            sha256=entry.sha256,
            enqueued_at=utc_now(),
            traceparent=f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01",
        )
        await self.queue.send(message.encode())
        self.folder.mark_enqueued(entry.job)

    async def _uploaded(self) -> AsyncIterator[JobEntry]:
        async for blob in self.store.list(blobnames.inputs(self.record.run)):
            fields = {"job": blobnames.job_of(blob.name), **blob.metadata}
            try:
                yield JobEntry.model_validate_strings(fields)
            except ValidationError as error:
                raise RunError(f"input blob {blob.name} has unusable metadata") from error

    async def _write_manifest(self, entries: list[JobEntry], *, complete: bool) -> Manifest:
        manifest = Manifest(
            run=self.record.run,
            scheme=self.record.scheme,
            key_id=self.record.key_id,
            features=self.record.features,
            rows=sum(entry.rows for entry in entries),
            created_at=self.record.created_at,
            complete=complete,
            jobs=tuple(entries),
        )
        await self.store.replace(
            blobnames.manifest(self.record.run),
            manifest.encode(),
            content_type="application/json",
        )
        return manifest
