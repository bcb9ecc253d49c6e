"""From rows to jobs: encrypt block by block, upload, enqueue.

Blocks are streamed: at most `in_flight` are in memory, however large the data set. A job's input
is uploaded before its message is sent, so a worker never finds a message without its input. What
is done is written down in the journal, in an order in which a kill at any point costs at most one
repetition of the step that it hit:

    encrypt and upload · note the encryption · make it a blob · send the message · note that
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np

from producer.backlog import Backlog
from producer.canaries import Canaries
from producer.journal import Encryption, Journal
from producer.keypool import KeyPool
from producer.patience import patiently
from producer.rows import StoredRows
from producer.runs import RunRecord
from producer.schemes import Encoding
from producer.signing import ManifestSigner
from shared import blobnames
from shared.errors import BlobExists, BlobNotFound, RunError
from shared.messages import JobEntry, JobMessage, Manifest, utc_now
from shared.ports import BlobInfo, BlobStore


class Block(Protocol):
    """Consecutive rows of a data set."""

    @property
    def first_row(self) -> int: ...
    @property
    def stored(self) -> StoredRows: ...


@dataclass(frozen=True, slots=True, repr=False)
class Submission:
    """Everything one run's jobs go through, in order."""

    record: RunRecord
    journal: Journal
    content_type: str
    pool: KeyPool
    signer: ManifestSigner
    canaries: Canaries
    tag_key: bytes
    """Under which rows are told from others, see `rows_tag`."""
    store: BlobStore
    backlog: Backlog
    in_flight: int
    on_job: Callable[[JobEntry], None] = lambda _: None

    async def start(self) -> None:
        """Make the run known in the account: from here on it can be collected.

        Raises `RunError` for a run that was begun, but that the account doesn't know any more.
        """
        if self.journal.jobs:
            await self._require_still_there()
        await self._write_manifest([], complete=False)

    async def run(self, blocks: Iterable[Block]) -> Manifest:
        """Submit every block that isn't submitted yet; returns the complete manifest.

        Raises `DatasetError`, `StorageError`, and `RunError` when these aren't the blocks that
        the run was begun with. What was done until then stays and can be resumed.
        """
        entries: list[JobEntry] = []
        slots = asyncio.Semaphore(self.in_flight)

        async def submit(job: str, block: Block) -> None:
            try:
                entry = await self._submit(job, block)
            finally:
                slots.release()
            entries.append(entry)
            self.on_job(entry)

        iterator = iter(blocks)
        count = 0
        try:
            async with asyncio.TaskGroup() as tasks:
                while True:
                    await slots.acquire()
                    block = await asyncio.to_thread(next, iterator, None)
                    if block is None:
                        break
                    tasks.create_task(submit(blobnames.job_id(count), block))
                    del block  # or it would be kept until there is a next one
                    count += 1
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from group
        if count < self.journal.jobs:
            raise self._changed(f"ends after {count} blocks, there were {self.journal.jobs}")
        entries.sort(key=lambda entry: entry.first_row)
        return await self._write_manifest(entries, complete=True)

    async def _submit(self, job: str, block: Block) -> JobEntry:
        tag = await asyncio.to_thread(rows_tag, self.tag_key, block.stored)
        earlier = self.journal.encryptions(job)
        if earlier and earlier[-1].tag != tag:
            raise self._changed(f"has other rows from row {block.first_row} on")
        if earlier and self.journal.is_enqueued(job):
            return earlier[-1].entry
        entry = await self._find_upload(job) if earlier else None
        entry = entry or await self._upload(job, block, tag)
        await self._enqueue(entry)
        return entry

    async def _upload(self, job: str, block: Block, tag: str) -> JobEntry:
        """Encrypt the block, and upload it meanwhile.

        What storage fails for long is encrypted anew: no block is kept for that.
        """
        while True:
            try:
                await patiently(partial(self._try_upload, job, block, tag))
            except BlobExists:  # an upload of ours whose answer was lost, or a stranger's
                entry = await self._find_upload(job)
                if entry is None:
                    continue  # gone meanwhile
                return entry
            return self.journal.encryptions(job)[-1].entry

    async def _try_upload(self, job: str, block: Block, tag: str) -> None:
        metadata: dict[str, str] = {}

        async def body() -> AsyncGenerator[bytes]:
            digest = hashlib.sha256()
            async with aclosing(self._encrypt(job, block)) as pieces:
                async for piece in pieces:
                    await asyncio.to_thread(digest.update, piece)
                    yield piece
            metadata["sha256"] = digest.hexdigest()
            entry = JobEntry(
                job=job,
                first_row=block.first_row,
                rows=len(block.stored),
                sha256=metadata["sha256"],
            )
            self.journal.add_encryption(Encryption(entry, tag))

        name = blobnames.input_blob(self.record.run, job)
        async with aclosing(body()) as pieces:
            await self.store.create(name, pieces, content_type=self.content_type, metadata=metadata)

    async def _encrypt(self, job: str, block: Block) -> AsyncGenerator[bytes]:
        bound = self.record.input_bound
        rows = await asyncio.to_thread(self.canaries.hide, block.stored, job=job, input_bound=bound)
        offer = self.record.offer
        active = offer.active_features(self.record.scheme) if offer else None
        encoding = Encoding(
            container=self.record.container,
            features=self.record.features,
            input_bound=bound,
            active=active,
            preset=self.record.preset,
        )
        async with aclosing(self.pool.encrypt(rows, encoding)) as pieces:
            async for piece in pieces:
                yield piece

    async def _find_upload(self, job: str) -> JobEntry | None:
        """The encryption that is the job's input blob, or None without a blob.

        Raises `RunError` for a blob that isn't of our making.
        """
        name = blobnames.input_blob(self.record.run, job)
        try:
            blob: BlobInfo = await patiently(lambda: self.store.stat(name))
        except BlobNotFound:
            return None
        encryptions = self.journal.encryptions(job)
        for encryption in encryptions:
            if encryption.entry.sha256 == blob.metadata.get("sha256"):
                if encryption is not encryptions[-1]:
                    self.journal.add_encryption(encryption)  # the last one is to be what counts
                return encryption.entry
        raise RunError(
            f"there is a blob {name} that this machine did not upload",
            remedy="find out who else writes to the account, clean the run, and produce it again",
        )

    async def _enqueue(self, entry: JobEntry) -> None:
        message = JobMessage(
            run=self.record.run,
            job=entry.job,
            scheme=self.record.scheme,
            key_id=self.record.key_id,
            container=self.record.container,
            input=blobnames.input_blob(self.record.run, entry.job),
            output=blobnames.output_blob(self.record.run, entry.job),
            rows=entry.rows + self.canaries.hidden,
            sha256=entry.sha256,
            enqueued_at=utc_now(),
            traceparent=f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01",
        )
        await self.backlog.send(message.encode())
        self.journal.add_enqueued(entry.job)

    async def _require_still_there(self) -> None:
        name = blobnames.manifest(self.record.run)
        try:
            await patiently(lambda: self.store.stat(name))
        except BlobNotFound as error:
            raise RunError(
                f"run {self.record.run} was begun, but is not in the account: was it cleaned?",
                remedy="check --account and --container; or produce the data set again",
            ) from error

    async def _write_manifest(self, entries: list[JobEntry], *, complete: bool) -> Manifest:
        manifest = Manifest(
            run=self.record.run,
            scheme=self.record.scheme,
            key_id=self.record.key_id,
            features=self.record.features,
            rows=sum(entry.rows for entry in entries),
            created_at=self.record.created_at,
            complete=complete,
            canaries=self.canaries.copies,
            jobs=tuple(entries),
        )
        await patiently(lambda: self.signer.write(self.store, manifest))
        return manifest

    def _changed(self, how: str) -> RunError:
        return RunError(
            f"the data set of run {self.record.run} has changed since it was begun: it {how}",
            remedy="put the old one back to resume, or produce the new one as a run of its own",
        )


def rows_tag(key: bytes, rows: StoredRows) -> str:
    """Tells a block's rows, as they are stored, from others.

    HMAC-SHA256, so that without the key it tells no more.
    """
    tag = hmac.new(key, f"{rows.values.dtype.str} {rows.scale!r} ".encode(), "sha256")
    tag.update(np.ascontiguousarray(rows.values).view(np.uint8).data)
    return tag.hexdigest()[:32]
