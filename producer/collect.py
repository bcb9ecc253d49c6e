"""From result blobs to decrypted scores on disk.

A run is complete when every job has a result or a failure record. Each is looked at once, by
`producer.judge`; here is when and where to look.
"""

from __future__ import annotations

import asyncio
import itertools
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from producer.judge import Judge
from producer.keypool import KeyPool
from producer.pace import Look, Pace
from producer.parts import Parts
from producer.patience import patiently
from producer.results import Collected
from producer.signing import ManifestSigner
from shared import blobnames
from shared.errors import StorageUnavailable
from shared.ports import BlobInfo, BlobStore

JOBS_A_LISTING = 100
"""A listing costs a kilobyte a blob, and while results come in there are a few for each."""


@dataclass(frozen=True, slots=True, repr=False)
class Collector:
    """Collects one run into a folder."""

    run: str
    store: BlobStore
    pool: KeyPool
    signer: ManifestSigner
    canary_key: bytes
    folder: Path
    max_result_bytes: int
    in_flight: int = 4
    on_progress: Callable[[Collected], None] = lambda _: None

    async def collect(self, *, deadline_s: float) -> Collected:
        """Decrypt results as they appear, until the run is complete or the deadline has passed.

        What is there by then is still decrypted. A storage account that can't be reached is
        waited for, too. Raises `RunError` for an unknown run, a manifest that its key's owner
        didn't sign, and results of another key, scheme or model.
        """
        clock = asyncio.get_running_loop().time
        give_up_at = clock() + deadline_s
        pace = Pace(clock())
        manifest = await patiently(lambda: self.signer.read(self.store, self.run))
        collected = Collected(manifest, Parts(self.folder, manifest))
        while True:
            now = clock()
            last = now >= give_up_at
            look = Look.SWEEP if last else pace.due(now)
            try:
                news = await self._look(collected, look)
            except StorageUnavailable:
                if last:
                    raise
                news = False
            else:
                pace.looked(look, now)
            self.on_progress(collected)
            if collected.complete or last:
                return collected
            pause_s = pace.pause_s(now, clock(), news=news)
            await asyncio.sleep(min(pause_s, max(0.0, give_up_at - clock())))

    async def _look(self, collected: Collected, look: Look) -> bool:
        """Take in what is new; whether anything was.

        Listings are of a hundred jobs each. Jobs are done about in their order, so a look ends
        with the first listing that is empty, unless it is a sweep.
        """
        if look >= Look.REST and not collected.manifest.complete:
            collected.update(await self.signer.read(self.store, self.run))
        judge = Judge(collected, self.store, self.pool, self.canary_key, self.max_result_bytes)
        news = 0
        for prefix in _prefixes(collected, look):
            listed, new = await self._each(
                prefix, blobnames.output_blob, collected, collected.wants_result, judge.take_result
            )
            news += new
            if not listed and not (look >= Look.SWEEP and collected.manifest.complete):
                break
        if look >= Look.REST:
            _, new = await self._each(
                blobnames.failures(self.run),
                blobnames.failure_blob,
                collected,
                collected.wants_failure,
                judge.take_failure,
            )
            news += new
        return news > 0

    async def _each(
        self,
        prefix: str,
        name_of: Callable[[str, str], str],
        collected: Collected,
        is_wanted: Callable[[str], bool],
        take: Callable[[str, BlobInfo], Awaitable[None]],
    ) -> tuple[int, int]:
        """Take each job's blob that is wanted; how many were listed, and how many taken.

        What doesn't have a job's name (`name_of` run and job) is nothing of ours.
        """
        slots = asyncio.Semaphore(self.in_flight)
        listed = new = 0

        async def take_one(job: str, blob: BlobInfo) -> None:
            try:
                await take(job, blob)
            finally:
                slots.release()
            self.on_progress(collected)

        try:
            async with asyncio.TaskGroup() as tasks:
                async for blob in self.store.list(prefix):
                    listed += 1
                    job = blobnames.job_of(blob.name)
                    is_job = re.fullmatch(blobnames.JOB_PATTERN, job) is not None
                    if is_job and blob.name == name_of(self.run, job) and is_wanted(job):
                        new += 1
                        await slots.acquire()
                        tasks.create_task(take_one(job, blob))
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from group
        return listed, new


def _prefixes(collected: Collected, look: Look) -> Iterator[str]:
    """Where results of jobs that aren't settled would be, a hundred jobs each, in order.

    While the run is being produced nobody knows how many there will be, so this has no end. Where
    the next ones are due is in all of them up to the first that isn't half settled.
    """
    settled = {*collected.results, *collected.rejected, *collected.failed}
    done = Counter(map(_listing_of, settled))
    due = Counter(map(_listing_of, collected.entries))
    complete = collected.manifest.complete
    for listing in sorted(due) if complete else itertools.count():
        if done[listing] < (due[listing] if complete else JOBS_A_LISTING):
            yield blobnames.output_blob(collected.manifest.run, f"{listing:04d}")
            if look < Look.REST and done[listing] < JOBS_A_LISTING // 2:
                return


def _listing_of(job: str) -> int:
    return int(job) // JOBS_A_LISTING
