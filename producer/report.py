"""What a run came to: accuracy, agreement with the plaintext model, throughput and latency.

Latencies come from the result blobs' metadata.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from pydantic import BaseModel, Field

from producer.canaries import CanaryError
from producer.disclosure import EVERYTHING, Disclosure
from producer.results import Collected
from producer.tally import Agreement, Confusion, Tally
from shared.messages import JobEntry

PERCENTILES = (50, 95, 99, 100)
MAX_NAMED = 5
WITHHELD = "hidden rows don't have the scores that they should"


class Failure(BaseModel):
    """A job's rows that have no score, and why."""

    job: str
    first_row: int
    rows: int
    code: str
    reason: str


class Gap(BaseModel):
    """Consecutive rows of which nothing is known yet."""

    first_row: int
    rows: int
    first_job: str
    last_job: str

    def __str__(self) -> str:
        return f"{self.first_row}-{self.first_row + self.rows - 1}"


class Spread(BaseModel):
    """Percentiles over the jobs, in milliseconds."""

    p50: float
    p95: float
    p99: float
    max: float


class Report(BaseModel):
    """The content of report.json."""

    run: str
    scheme: str
    key_id: str
    model: str
    rows: int
    rows_scored: int
    jobs: int
    jobs_scored: int
    failures: list[Failure]
    failure_codes: dict[str, int]
    """How many jobs failed for each reason; `canary` and `bad_result` are found here, the others
    by the workers."""
    missing: list[Gap]
    canaries: int
    """Copies of rows hidden in each job; where a job is scored, they had their rows' scores."""
    accuracy: float | None = None
    confusion: Confusion | None = None
    root_mean_square_error: float | None = None
    """For a regressor with known targets."""
    agreement: Agreement | None = None
    rounded_digits: int | None = None
    """Decimals that scores were rounded to before anything here was made from them."""
    undecided: int = Field(default=0, exclude=True)
    """Scores that an error may have rounded the other way; for the key owner alone."""
    wall_s: float
    """From the first message sent to the last result scored."""
    rows_per_s: float
    waiting_ms: Spread | None
    """From a message sent to its job received."""
    scoring_ms: Spread | None
    """The endpoint's answer to one job."""
    latency_ms: Spread | None
    """From a message sent to its job scored."""
    bytes_down: int
    retried_jobs: int
    workers: int

    @property
    def rows_unscored(self) -> int:
        return self.rows - self.rows_scored

    @property
    def unscored(self) -> str:
        """The rows that have no score, in one line."""
        ranges = [str(gap) for gap in self.missing[:MAX_NAMED]]
        if len(self.missing) > MAX_NAMED:
            ranges.append(f"{len(self.missing) - MAX_NAMED} more ranges")
        missing = [f"no result yet: rows {', '.join(ranges)}"] if ranges else []
        failed = [f"{code}: {count} jobs" for code, count in self.failure_codes.items()]
        return "; ".join(missing + failed)


def summarise(collected: Collected, tally: Tally, disclosure: Disclosure = EVERYTHING) -> Report:
    """The report's figures, from what was collected and counted."""
    manifest, results = collected.manifest, list(collected.results.values())
    wall_s = (
        max(r.scored_s for r in results) - min(r.enqueued_s for r in results) if results else 0.0
    )
    failures = list(_failures(collected, disclosure))
    scored = sum(entry.rows for entry in manifest.jobs if entry.job in collected.results)
    return Report(
        run=manifest.run,
        scheme=manifest.scheme,
        key_id=manifest.key_id,
        model=collected.model or "",
        rows=manifest.rows,
        rows_scored=scored,
        jobs=len(manifest.jobs),
        jobs_scored=len(results),
        failures=failures,
        failure_codes=dict(sorted(Counter(failure.code for failure in failures).items())),
        missing=gaps(collected.missing),
        canaries=manifest.canaries,
        accuracy=tally.accuracy(),
        confusion=tally.confusion(),
        root_mean_square_error=tally.root_mean_square_error(),
        agreement=tally.agreement(),
        rounded_digits=disclosure.digits,
        undecided=tally.undecided,
        wall_s=wall_s,
        rows_per_s=scored / wall_s if wall_s > 0 else 0.0,
        waiting_ms=_spread_ms([r.received_s - r.enqueued_s for r in results]),
        scoring_ms=_spread_ms([r.score_ms / 1000 for r in results]),
        latency_ms=_spread_ms([r.scored_s - r.enqueued_s for r in results]),
        bytes_down=sum(r.bytes_down for r in results),
        retried_jobs=sum(1 for r in results if r.tries > 1),
        workers=len({r.worker for r in results}),
    )


def gaps(entries: Sequence[JobEntry]) -> list[Gap]:
    """Jobs in the order of their rows, as few ranges as possible."""
    found: list[Gap] = []
    for entry in entries:
        if found and found[-1].first_row + found[-1].rows == entry.first_row:
            found[-1].rows += entry.rows
            found[-1].last_job = entry.job
        else:
            found.append(
                Gap(
                    first_row=entry.first_row,
                    rows=entry.rows,
                    first_job=entry.job,
                    last_job=entry.job,
                )
            )
    return found


def _failures(collected: Collected, disclosure: Disclosure) -> Iterator[Failure]:
    for entry in collected.manifest.jobs:
        if (fault := collected.fault(entry.job)) is not None:
            # what canaries say of a job gives distances between its scores
            is_telling = disclosure.is_limited and fault.code == CanaryError.code
            yield Failure(
                job=entry.job,
                first_row=entry.first_row,
                rows=entry.rows,
                code=fault.code,
                reason=WITHHELD if is_telling else fault.reason,
            )


def _spread_ms(durations_s: list[float]) -> Spread | None:
    if not durations_s:
        return None
    p50, p95, p99, top = (1000 * float(v) for v in np.percentile(durations_s, PERCENTILES))
    return Spread(p50=p50, p95=p95, p99=p99, max=top)
