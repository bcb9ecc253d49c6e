"""One job: blob → endpoint → blob, and then its message is settled. Always in this order."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any

from shared.errors import (
    AccessDenied,
    BlindscoreError,
    BlobExists,
    BlobNotFound,
    BodyTooLarge,
    CorruptInput,
    EndpointError,
    MalformedRequest,
    MessageError,
    QueueNotFound,
    StorageError,
)
from shared.messages import JobMessage, ResultInfo, utc_now
from shared.ports import BlobStore
from worker.body import VerifiedBody
from worker.endpoint import Answer, Endpoint, ScoreRequest
from worker.failure import Verdict, bury, claims
from worker.job import Job
from worker.lease import Lease
from worker.retry import RetryPolicy
from worker.shield import uninterrupted

FATAL = (AccessDenied, QueueNotFound)
"""About the worker, not the job: they stop it, and the message's lease runs out."""

PERMANENT = (BlobNotFound, BodyTooLarge, CorruptInput, MalformedRequest)


class Carrier:
    """Carries jobs. It knows no scheme: a request body is a blob, and so is an answer."""

    def __init__(
        self,
        *,
        store: BlobStore,
        endpoint: Endpoint,
        policy: RetryPolicy,
        container: str,
        max_deliveries: int,
        worker: str,
    ) -> None:
        self._store = store
        self._endpoint = endpoint
        self._policy = policy
        self._container = container
        self._max_deliveries = max_deliveries
        self._worker = worker

    async def carry(self, lease: Lease) -> None:
        """Work on one message and settle it: delete it, bury it, or hand it back.

        Raises only what stops a worker: `AccessDenied`, `QueueNotFound`, `Unauthorized`, bugs.
        """
        body = lease.delivery.body
        try:
            message = self._decode(body)
        except MessageError as error:
            run, job_id = claims(body, self._container)
            job = Job(lease, utc_now(), run, job_id)
            await self._settle(job, self._fail(job, Verdict.of(error)))
        else:
            job = Job(lease, utc_now(), message.run, message.job, message.traceparent)
            await self._settle(job, self._work(job, message))

    def _decode(self, body: bytes) -> JobMessage:
        message = JobMessage.decode(body)
        if message.container != self._container:
            raise MessageError(
                f"the message is for container {message.container}, not {self._container}"
            )
        return message

    async def _settle(self, job: Job, work: Coroutine[Any, Any, None]) -> None:
        """Do `work`; what storage faults leave undone goes back to the queue."""
        try:
            await work
        except FATAL:
            raise
        except StorageError as error:
            await self._hand_back(job, error)

    async def _work(self, job: Job, message: JobMessage) -> None:
        job.log.info("job_started", rows=message.rows, deliveries=job.deliveries)
        if await job.has_result(self._store):
            job.log.info("job_done_already")
            await job.lease.delete()
        elif job.deliveries > self._max_deliveries:
            reason = f"delivered {job.deliveries} times, and {self._max_deliveries} are allowed"
            await self._fail(job, Verdict("too_many_deliveries", reason))
        else:
            await self._score(job, message)

    async def _score(self, job: Job, message: JobMessage) -> None:
        """Try until there is a result, or a reason to have none, or the budget is spent."""
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        while True:
            job.attempts += 1
            try:
                await self._attempt(job, message)
            except FATAL:
                raise
            except PERMANENT as error:
                await self._fail(job, Verdict.of(error))
            except (EndpointError, StorageError) as error:
                if isinstance(error, EndpointError) and not error.retryable:
                    await self._fail(job, Verdict.of(error))
                    return
                wait_s = self._policy.delay_s(
                    attempt=job.attempts,
                    elapsed_s=loop.time() - started_s,
                    retry_after_s=_retry_after_s(error),
                )
                if wait_s is None or job.lease.lost:
                    await self._hand_back(job, error)
                    return
                job.log.warning(
                    "job_retry", attempt=job.attempts, wait_s=round(wait_s, 2), error=str(error)
                )
                await asyncio.sleep(wait_s)
                continue
            return

    async def _attempt(self, job: Job, message: JobMessage) -> None:
        reader = await self._store.open(message.input)
        async with VerifiedBody(reader, sha256=message.sha256) as body:
            request = ScoreRequest(body, reader.info.content_type, message.traceparent)
            async with self._endpoint.score(request) as answer:
                await uninterrupted(self._finish(job, message, answer))
        job.log.info("job_scored", attempt=job.attempts, bytes=body.size, ms=answer.score_ms)

    async def _finish(self, job: Job, message: JobMessage, answer: Answer) -> None:
        """Write the result, then delete the message. A result that is there already is success."""
        info = ResultInfo(
            scheme=message.scheme,
            key_id=message.key_id,
            model=answer.model,
            rows=message.rows,
            sha256=answer.sha256,
            worker=self._worker,
            attempts=job.attempts,
            deliveries=job.deliveries,
            enqueued_at=message.enqueued_at,
            received_at=job.received_at,
            scored_at=utc_now(),
            score_ms=answer.score_ms,
        )
        with contextlib.suppress(BlobExists):
            await self._store.create(
                message.output,
                answer.chunks,
                content_type=answer.content_type,
                metadata=info.to_metadata(),
            )
        await job.lease.delete()

    async def _fail(self, job: Job, verdict: Verdict) -> None:
        await bury(job, verdict, store=self._store, worker=self._worker)

    async def _hand_back(self, job: Job, error: BlindscoreError) -> None:
        delay_s = self._policy.hand_back_s(
            deliveries=job.deliveries, retry_after_s=_retry_after_s(error)
        )
        job.log.warning(
            "job_handed_back",
            attempts=job.attempts,
            deliveries=job.deliveries,
            delay_s=round(delay_s, 1),
            error=str(error),
        )
        await job.lease.release(delay_s=delay_s)


def _retry_after_s(error: BlindscoreError) -> float | None:
    return error.retry_after_s if isinstance(error, EndpointError) else None
