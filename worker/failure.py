"""Jobs that can't have a result: why, and what becomes of their messages."""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import dataclass

from shared import blobnames
from shared.errors import BlindscoreError, BlobExists, BlobNotFound, EndpointError
from shared.messages import FailureRecord, utc_now
from shared.ports import BlobStore
from worker.deadletter import DeadLetter
from worker.job import Job


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a job can't have a result; `code` is stable."""

    code: str
    reason: str
    status: int | None = None
    attempts: int = 0
    """In earlier deliveries."""

    @classmethod
    def of(cls, error: BlindscoreError) -> Verdict:
        match error:
            case BlobNotFound():
                return cls("input_missing", str(error))
            case EndpointError():
                return cls(error.reason or error.code, str(error), error.status)
            case _:
                return cls(error.code, str(error))


async def bury(job: Job, verdict: Verdict, *, store: BlobStore, worker: str) -> bool:
    """Record why there can't be a result, put the message aside, then delete it.

    False when it is not: there is a result (another holder was luckier), or the message may be
    another's. Raises `StorageError`; doing it again is harmless.
    """
    if await job.has_result(store):
        await job.lease.delete()
        return False
    if not await job.lease.prove():  # whoever woke up late must not fail another's job
        return False
    if job.run:
        with contextlib.suppress(BlobExists):
            await store.create(
                blobnames.failure_blob(job.run, job.job),
                _record(job, verdict, worker).encode(),
                content_type="application/json",
            )
    if not await job.lease.poison(_letter(job, verdict, worker).encode()):
        return False
    job.log.error(
        "job_failed",
        code=verdict.code,
        reason=verdict.reason,
        status=verdict.status,
        attempts=verdict.attempts + job.attempts,
        deliveries=job.deliveries,
    )
    return True


def claims(body: bytes, container: str) -> tuple[str, str]:
    """Run and job that a bad message names; empty unless they are names in this container."""
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        return "", ""
    match fields:
        case {"container": str(there), "run": str(run), "job": str(job)} if (
            there == container
            and re.fullmatch(blobnames.RUN_PATTERN, run)
            and re.fullmatch(blobnames.JOB_PATTERN, job)
        ):
            return run, job
        case _:
            return "", ""


def _record(job: Job, verdict: Verdict, worker: str) -> FailureRecord:
    return FailureRecord(
        run=job.run,
        job=job.job,
        code=verdict.code,
        reason=verdict.reason,
        status=verdict.status,
        attempts=verdict.attempts + job.attempts,
        deliveries=job.deliveries,
        worker=worker,
        failed_at=utc_now(),
        traceparent=job.traceparent,
    )


def _letter(job: Job, verdict: Verdict, worker: str) -> DeadLetter:
    return DeadLetter.wrap(
        job.lease.delivery.body,
        code=verdict.code,
        reason=verdict.reason,
        status=verdict.status,
        attempts=verdict.attempts + job.attempts,
        deliveries=job.deliveries,
        traceparent=job.traceparent,
        worker=worker,
        failed_at=utc_now(),
    )
