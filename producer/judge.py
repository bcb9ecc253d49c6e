"""What a blob that came back is worth: scores, or why there are none.

What is wrong with a single result is that job's failure; results of another key, scheme or model
are refused altogether.
"""

from __future__ import annotations

import asyncio
import hashlib

from producer.canaries import Canaries, CanaryError
from producer.keypool import KeyPool
from producer.parts import Part
from producer.results import Collected, Fault, Result
from producer.schemes import Scores
from shared.errors import (
    BlobNotFound,
    BodyTooLarge,
    CiphertextError,
    MalformedRequest,
    RunError,
)
from shared.messages import FailureRecord, Manifest, ResultInfo
from shared.ports import BlobInfo, BlobStore

MAX_FAILURE_BYTES = 1 << 20


class Judge:
    """Takes results and failures of one run in, or rejects them."""

    def __init__(
        self,
        collected: Collected,
        store: BlobStore,
        pool: KeyPool,
        canary_key: bytes,
        max_result_bytes: int,
    ) -> None:
        self._collected = collected
        self._store = store
        self._pool = pool
        self._max_result_bytes = max_result_bytes
        manifest = collected.manifest
        self._canaries = Canaries(canary_key, manifest.run, manifest.canaries)

    async def take_result(self, job: str, blob: BlobInfo) -> None:
        """Take a result in, or reject it. Raises `RunError` for what isn't of this run."""
        try:
            info = ResultInfo.from_metadata(blob.metadata, blob=blob.name)
        except RunError as error:
            self._reject(job, str(error))
            return
        _require_same_run(info, self._collected.manifest, blob.name)
        try:
            part = await self._part(job, blob, info)
        except BlobNotFound:  # removed since it was listed
            return
        except (CiphertextError, MalformedRequest, BodyTooLarge) as error:
            self._reject(job, str(error))
        except CanaryError as error:
            self._reject(job, str(error), code=error.code)
        else:
            result = Result.of(info, part, bytes_down=blob.size)
            self._collected.add(job, result, model=info.model)

    async def take_failure(self, job: str, blob: BlobInfo) -> None:
        """Take in why a job has no result."""
        try:
            body = await self._store.read(blob.name, limit=MAX_FAILURE_BYTES)
            record = FailureRecord.decode(body, blob=blob.name)
        except BlobNotFound:
            return
        except (RunError, BodyTooLarge) as error:
            self._collected.failed[job] = Fault("bad_record", str(error))
        else:
            self._collected.failed[job] = Fault(record.code, record.reason)

    async def _part(self, job: str, blob: BlobInfo, info: ResultInfo) -> Part:
        """The job's scores on disk, from an earlier collection or from the blob."""
        parts = self._collected.parts
        part = await asyncio.to_thread(parts.find, job, blob)
        if part is None:
            scores = await self._decrypt(job, blob, info)
            part = await asyncio.to_thread(parts.write, job, blob, scores)
        return part

    async def _decrypt(self, job: str, blob: BlobInfo, info: ResultInfo) -> Scores:
        """The scores of the job's own rows, checked as far as that goes."""
        entry = self._collected.entries.get(job)
        rows = entry.rows + self._canaries.hidden if entry else info.rows
        if rows != info.rows or rows <= self._canaries.hidden:
            raise MalformedRequest(f"{info.rows} rows were scored, not {rows}")
        body = await self._store.read(blob.name, limit=self._max_result_bytes)
        if info.sha256 and info.sha256 != await asyncio.to_thread(hex_digest, body):
            raise MalformedRequest("the result does not have the hash that its scorer announced")
        scores = await self._pool.decrypt(body, rows=rows)
        return await asyncio.to_thread(self._canaries.reveal, scores, job=job)

    def _reject(self, job: str, reason: str, *, code: str = "bad_result") -> None:
        self._collected.rejected[job] = Fault(code, reason)


def _require_same_run(info: ResultInfo, manifest: Manifest, blob: str) -> None:
    for what, found, expected in (
        ("key", info.key_id, manifest.key_id),
        ("scheme", info.scheme, manifest.scheme),
    ):
        if found != expected:
            raise RunError(
                f"result {blob} is of {what} {found}, the run's is {expected}",
                remedy="clean the run, and produce it again",
            )


def hex_digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
