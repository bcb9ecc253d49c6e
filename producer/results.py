"""What is known of a run's jobs: their scores, or why they have none."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

import numpy as np

from producer.parts import Part, Parts
from producer.schemes import Scores
from shared.errors import RunError
from shared.messages import JobEntry, Manifest, ResultInfo


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a job has no scores; `code` is stable."""

    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Result:
    """A job whose scores are in a part, and how it was made. Times are seconds since the epoch.

    There may be a hundred thousand of these, so it holds no more than the report needs.
    """

    part: Part
    bytes_down: int
    worker: str
    tries: int
    enqueued_s: float
    received_s: float
    scored_s: float
    score_ms: int

    @classmethod
    def of(cls, info: ResultInfo, part: Part, *, bytes_down: int) -> Result:
        return cls(
            part=part,
            bytes_down=bytes_down,
            worker=sys.intern(info.worker),
            tries=max(info.attempts, info.deliveries),
            enqueued_s=info.enqueued_at.timestamp(),
            received_s=info.received_at.timestamp(),
            scored_s=info.scored_at.timestamp(),
            score_ms=info.score_ms,
        )


@dataclass(slots=True)
class Collected:
    """What is known of a run so far."""

    manifest: Manifest
    parts: Parts
    entries: dict[str, JobEntry] = field(default_factory=dict)
    """The jobs of a complete manifest."""
    results: dict[str, Result] = field(default_factory=dict)
    rejected: dict[str, Fault] = field(default_factory=dict)
    """Jobs whose result is of no use."""
    failed: dict[str, Fault] = field(default_factory=dict)
    """Jobs that the workers gave up. A result all the same, for example of a replay, counts."""
    model: str | None = None
    """Fingerprint of the model that scored the results; empty when its endpoint announces none."""
    classes: int = 0
    rows_scored: int = 0

    def __post_init__(self) -> None:
        self.update(self.manifest)

    @property
    def missing(self) -> list[JobEntry]:
        """Jobs of which nothing is known, in order."""
        return [entry for entry in self.manifest.jobs if not self.is_settled(entry.job)]

    @property
    def complete(self) -> bool:
        return self.manifest.complete and all(map(self.is_settled, self.entries))

    def is_settled(self, job: str) -> bool:
        return job in self.results or job in self.rejected or job in self.failed

    def wants_result(self, job: str) -> bool:
        """Whether a result of this job would be news: also of one that the workers gave up."""
        return self._may_have(job) and job not in self.results and job not in self.rejected

    def wants_failure(self, job: str) -> bool:
        return self._may_have(job) and not self.is_settled(job)

    def fault(self, job: str) -> Fault | None:
        """Why a job has no scores; None when it has, or when nothing is known."""
        return None if job in self.results else self.rejected.get(job, self.failed.get(job))

    def scores(self, job: str) -> Scores | None:
        """A job's scores, shape (rows, classes), read from disk; None without a result."""
        result = self.results.get(job)
        return self.parts.read(result.part) if result else None

    def largest_score(self) -> float:
        """The largest |score| of all; 0 without any."""
        return max(
            (float(np.abs(self.parts.read(r.part)).max()) for r in self.results.values()),
            default=0.0,
        )

    def add(self, job: str, result: Result, *, model: str) -> None:
        """Take a result in. Raises `RunError` when it is another model's than the others."""
        if self.model is None:
            self.model, self.classes = sys.intern(model), result.part.classes
        if model != self.model:
            raise self._mixed(f"by model {model or '(not announced)'}", self.model)
        if result.part.classes != self.classes:
            raise self._mixed(f"with {result.part.classes} scores a row", str(self.classes))
        self.results[job] = result
        self.rows_scored += result.part.rows
        self._check(job)

    def update(self, manifest: Manifest) -> None:
        """Go by a newer manifest. A complete one tells how many rows each job has."""
        self.manifest = manifest
        if manifest.complete:
            self.entries = {entry.job: entry for entry in manifest.jobs}
            for job in list(self.results):
                self._check(job)

    def _may_have(self, job: str) -> bool:
        return job in self.entries or not self.manifest.complete

    def _check(self, job: str) -> None:
        """Drop a result for no job of ours, reject one of another length than its job."""
        if not self.manifest.complete:
            return
        entry, rows = self.entries.get(job), self.results[job].part.rows
        if entry is None or entry.rows != rows:
            del self.results[job]
            self.rows_scored -= rows
        if entry is not None and entry.rows != rows:
            self.rejected[job] = Fault("bad_result", f"{rows} rows have scores, not {entry.rows}")

    def _mixed(self, found: str, others: str) -> RunError:
        return RunError(
            f"run {self.manifest.run} was scored {found} as well as {others or '(not announced)'}: "
            "by more than one model",
            remedy="stop the endpoint that serves the wrong one, clean the run, produce it again",
        )
