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
    StorageUnavailable,
)
from shared.messages import JobMessage, utc_now
from shared.ports import BlobStore
from worker.attempts import AttemptLog, Ending
from worker.body import VerifiedBody
from worker.endpoint import Answer, Endpoint, ScoreRequest
from worker.failure import Verdict, bury, claims
from worker.job import Job
from worker.lease import Lease
from worker.metrics import Metrics
from worker.outcome import outcome_of
from worker.result import result_info
from worker.retry import RetryPolicy
from worker.shield import uninterrupted
from worker.throttle import Throttle

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
        throttle: Throttle,
        container: str,
        max_deliveries: int,
        worker: str,
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._endpoint = endpoint
        self._policy = policy
        self._throttle = throttle
        self._container = container
        self._attempts = AttemptLog(store, max_deliveries=max_deliveries, worker=worker)
        self._worker = worker
        self._metrics = metrics

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
        except asyncio.CancelledError:
            if not job.lease.ended:
                await self._attempts.end(job, Ending(excused=True, attempts=job.attempts))
            raise

    async def _work(self, job: Job, message: JobMessage) -> None:
        job.log.info("job_started", rows=message.rows, deliveries=job.deliveries)
        if await job.has_result(self._store):
            job.log.info("job_done_already")
            await job.lease.delete()
            self._count("done_already")
        elif history := await self._attempts.judge(job):
            verdict = Verdict(
                "too_many_deliveries", history.summary, history.status, history.attempts
            )
            await self._fail(job, verdict)
        else:
            await self._attempts.begin(job)
            await self._score(job, message)

    async def _score(self, job: Job, message: JobMessage) -> None:
        """Try until there is a result, or a reason to have none, or no reason to go on."""
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        while True:
            job.attempts += 1
            try:
                with self._throttle.watching(job.name):
                    await self._attempt(job, message)
            except FATAL:
                raise
            except PERMANENT as error:
                await self._fail(job, Verdict.of(error))
            except (EndpointError, StorageError) as error:
                if isinstance(error, EndpointError) and not error.retryable:
                    await self._fail(job, Verdict.of(error))
                    return
                job.suspect |= _may_be_the_jobs(error)
                if await self._rest(job, error, elapsed_s=loop.time() - started_s):
                    continue
                await self._hand_back(job, error)
            return

    async def _rest(self, job: Job, error: BlindscoreError, *, elapsed_s: float) -> bool:
        """Wait before the next attempt; False when there should be none."""
        wait_s = self._policy.delay_s(
            attempt=job.attempts, elapsed_s=elapsed_s, retry_after_s=_retry_after_s(error)
        )
        if wait_s is None or job.lease.lost or self._throttle.is_open:
            return False
        job.log.warning(
            "job_retry", attempt=job.attempts, wait_s=round(wait_s, 2), error=str(error)
        )
        await self._throttle.rest(wait_s)
        return not self._throttle.is_open

    async def _attempt(self, job: Job, message: JobMessage) -> None:
        reader = await self._store.open(message.input)
        async with VerifiedBody(reader, sha256=message.sha256) as body:
            request = ScoreRequest(body, reader.info.content_type, message.traceparent)
            async with self._endpoint.score(request) as answer:
                await uninterrupted(self._finish(job, message, answer))
        job.log.info("job_scored", attempt=job.attempts, bytes=body.size, ms=answer.score_ms)
        self._count("scored")
        self._metrics.sent.inc(body.size)
        self._metrics.score.observe(answer.score_ms / 1000)

    async def _finish(self, job: Job, message: JobMessage, answer: Answer) -> None:
        """Write the result, then delete the message. A result that is there already is success."""
        info = result_info(job, message, answer, worker=self._worker)
        with contextlib.suppress(BlobExists):
            await self._store.create(
                message.output,
                answer.chunks,
                content_type=answer.content_type,
                metadata=info.to_metadata(),
            )
        await job.lease.delete()

    async def _fail(self, job: Job, verdict: Verdict) -> None:
        if await bury(job, verdict, store=self._store, worker=self._worker):
            self._count("failed")

    async def _hand_back(self, job: Job, error: BlindscoreError) -> None:
        delay_s = self._policy.hand_back_s(
            deliveries=job.noted + 1, retry_after_s=_retry_after_s(error)
        )
        delay_s = max(delay_s, self._throttle.open_for_s)
        excused = await self._is_excused(job, error)
        job.log.warning(
            "job_handed_back",
            attempts=job.attempts,
            deliveries=job.deliveries,
            excused=excused,
            delay_s=round(delay_s, 1),
            error=str(error),
        )
        self._count("handed_back")
        status = error.status if isinstance(error, EndpointError) else None
        await self._attempts.end(
            job,
            Ending(excused=excused, attempts=job.attempts, status=status, reason=str(error)),
        )
        await job.lease.release(delay_s=delay_s)

    async def _is_excused(self, job: Job, error: BlindscoreError) -> bool:
        """Whether this delivery does not speak against the job."""
        if isinstance(error, EndpointError | StorageUnavailable) and not job.suspect:
            return True
        return isinstance(error, EndpointError) and await self._throttle.blames_endpoint()

    def _count(self, outcome: str) -> None:
        self._metrics.jobs.labels(outcome).inc()


def _retry_after_s(error: BlindscoreError) -> float | None:
    return error.retry_after_s if isinstance(error, EndpointError) else None


def _may_be_the_jobs(error: BlindscoreError) -> bool:
    return isinstance(error, EndpointError) and outcome_of(error).may_be_the_jobs
