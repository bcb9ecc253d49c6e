"""From result blobs to decrypted scores on disk.

A run is complete when every job has a result or a failure record. Scores go to one file a job in
`parts/`, written whole or not at all: collecting can be killed and run again, and memory stays
flat however large the run is.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from producer.keypool import KeyPool
from producer.schemes import Scores
from shared import blobnames
from shared.errors import BlobNotFound, CiphertextError, MalformedRequest, RunError
from shared.messages import FailureRecord, Manifest, ResultInfo
from shared.ports import BlobInfo, BlobStore

MAX_MANIFEST_BYTES = 1 << 30
MAX_FAILURE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Result:
    """A job whose scores are in `part`."""

    info: ResultInfo
    bytes_down: int
    part: Path

    def scores(self) -> Scores:
        """Read them back, shape (rows, classes)."""
        return np.asarray(np.load(self.part, allow_pickle=False))


@dataclass(slots=True)
class Collected:
    """What is known of a run so far."""

    manifest: Manifest
    results: dict[str, Result] = field(default_factory=dict)
    failures: dict[str, FailureRecord] = field(default_factory=dict)

    @property
    def missing(self) -> list[str]:
        """Jobs with neither result nor failure record, in order."""
        return [entry.job for entry in self.manifest.jobs if not self._settled(entry.job)]

    @property
    def complete(self) -> bool:
        return self.manifest.complete and not self.missing

    @property
    def rows_scored(self) -> int:
        return sum(result.info.rows for result in self.results.values())

    def _settled(self, job: str) -> bool:
        return job in self.results or job in self.failures


@dataclass(frozen=True, slots=True)
class Collector:
    """Collects one run into a folder."""

    run: str
    store: BlobStore
    pool: KeyPool
    folder: Path
    max_result_bytes: int
    poll_s: float = 1.0
    in_flight: int = 4
    on_progress: Callable[[Collected], None] = lambda _: None

    async def collect(self, *, deadline_s: float) -> Collected:
        """Decrypt results as they appear, until the run is complete or the deadline has passed.

        Raises `RunError` for an unknown run, and for results of another key, scheme or model.
        """
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (self.folder / "parts").mkdir(exist_ok=True, mode=0o700)
        collected = Collected(await read_manifest(self.store, self.run))
        give_up_at = time.monotonic() + deadline_s
        while True:
            await self._take_new(collected)
            self.on_progress(collected)
            if collected.complete or time.monotonic() >= give_up_at:
                _require_one_model(collected)
                return collected
            await asyncio.sleep(min(self.poll_s, max(0.0, give_up_at - time.monotonic())))
            if not collected.manifest.complete:
                collected.manifest = await read_manifest(self.store, self.run)

    async def _take_new(self, collected: Collected) -> None:
        slots = asyncio.Semaphore(self.in_flight)

        async def take(blob: BlobInfo) -> None:
            try:
                collected.results[blobnames.job_of(blob.name)] = await self._take(blob, collected)
                self.on_progress(collected)
            finally:
                slots.release()

        try:
            async with asyncio.TaskGroup() as tasks:
                async for blob in self.store.list(blobnames.outputs(self.run)):
                    if blobnames.job_of(blob.name) not in collected.results:
                        await slots.acquire()
                        tasks.create_task(take(blob))
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from group
        async for blob in self.store.list(blobnames.failures(self.run)):
            job = blobnames.job_of(blob.name)
            if job not in collected.failures and job not in collected.results:
                body = await self.store.read(blob.name, limit=MAX_FAILURE_BYTES)
                collected.failures[job] = FailureRecord.decode(body, blob=blob.name)

    async def _take(self, blob: BlobInfo, collected: Collected) -> Result:
        info = ResultInfo.from_metadata(blob.metadata, blob=blob.name)
        _require_same_run(info, collected.manifest, blob.name)
        part = self.folder / "parts" / f"{blobnames.job_of(blob.name)}.npy"
        result = Result(info, blob.size, part)
        if not part.exists():  # kept from an earlier, interrupted collection
            body = await self.store.read(blob.name, limit=self.max_result_bytes)
            if info.sha256 and not await asyncio.to_thread(_has_digest, body, info.sha256):
                raise RunError(f"result {blob.name} does not have the hash its scorer announced")
            try:
                scores = await self.pool.decrypt(body, rows=info.rows)
            except (CiphertextError, MalformedRequest) as error:
                raise RunError(f"result {blob.name} can't be decrypted: {error}") from error
            await asyncio.to_thread(_write_whole, part, scores)
        return result


async def read_manifest(store: BlobStore, run: str) -> Manifest:
    """Raises `RunError` for an unknown run."""
    try:
        body = await store.read(blobnames.manifest(run), limit=MAX_MANIFEST_BYTES)
    except BlobNotFound as error:
        raise RunError(
            f"unknown run {run}: the account has no manifest of it",
            remedy="blindscore status lists the runs",
        ) from error
    return Manifest.decode(body, run=run)


def _require_same_run(info: ResultInfo, manifest: Manifest, blob: str) -> None:
    for what, found, expected in (
        ("key", info.key_id, manifest.key_id),
        ("scheme", info.scheme, manifest.scheme),
    ):
        if found != expected:
            raise RunError(f"result {blob} is of {what} {found}, the run's is {expected}")


def _require_one_model(collected: Collected) -> None:
    models = {result.info.model for result in collected.results.values()}
    if len(models) > 1:
        raise RunError(
            f"run {collected.manifest.run} was scored by {len(models)} different models",
            remedy="stop the endpoint that serves the wrong one, clean the run, produce it again",
        )


def _has_digest(body: bytes, sha256: str) -> bool:
    digest = hashlib.sha256(body)
    return sha256 in (digest.hexdigest(), b64encode(digest.digest()).decode())


def _write_whole(path: Path, scores: Scores) -> None:
    unfinished = path.with_suffix(".unfinished")
    with unfinished.open("wb") as file:
        np.save(file, scores)
    unfinished.replace(path)
