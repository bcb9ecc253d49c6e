"""What a result's metadata says of how it was made."""

from __future__ import annotations

from shared.messages import JobMessage, ResultInfo, utc_now
from worker.endpoint import Answer
from worker.job import Job


def result_info(job: Job, message: JobMessage, answer: Answer, *, worker: str) -> ResultInfo:
    """For the result of `job` that is about to be written."""
    return ResultInfo(
        scheme=message.scheme,
        key_id=message.key_id,
        model=answer.model,
        rows=message.rows,
        sha256=answer.sha256,
        worker=worker,
        attempts=job.attempts,
        deliveries=job.deliveries,
        enqueued_at=message.enqueued_at,
        received_at=job.received_at,
        scored_at=utc_now(),
        score_ms=answer.score_ms,
    )
