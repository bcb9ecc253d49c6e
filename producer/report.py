"""What a run came to: accuracy, agreement with the plaintext model, throughput and latency.

Scores are read back job by job and in row order, so a report over a million rows takes the memory
of one block. Latencies come from the result blobs' metadata.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from producer.collect import Collected
from producer.schemes import Rows, Scores
from shared.errors import RunError
from shared.messages import JobEntry
from shared.predictions import predict

PERCENTILES = (50, 95, 99, 100)
Labels = npt.NDArray[np.generic]


class PlaintextModel(Protocol):
    """A model in the clear, to compare encrypted scores with."""

    @property
    def fingerprint(self) -> str: ...
    @property
    def link(self) -> str: ...
    @property
    def labels(self) -> tuple[str, ...]: ...
    def scores(self, rows: Rows) -> Scores: ...


class DataBlock(Protocol):
    """A block of the data set that was scored."""

    @property
    def first_row(self) -> int: ...
    @property
    def rows(self) -> Rows: ...
    @property
    def labels(self) -> Labels | None: ...


class Failure(BaseModel):
    """Rows that have no score, and why."""

    job: str
    first_row: int
    rows: int
    code: str
    reason: str


class Agreement(BaseModel):
    """Encrypted against plaintext scores."""

    rows: int
    mismatches: int
    """Rows whose prediction differs."""
    max_error: float
    """Largest |encrypted − plaintext| score."""


class Confusion(BaseModel):
    """`counts[a][p]` rows of actual label a were predicted p."""

    labels: list[str]
    counts: list[list[int]]


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
    missing: list[Failure]
    accuracy: float | None = None
    confusion: Confusion | None = None
    root_mean_square_error: float | None = None
    """For a regressor with known targets."""
    agreement: Agreement | None = None
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


@dataclass(slots=True)
class Tally:
    """What accumulates over the rows."""

    link: str
    labels: tuple[str, ...]
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    squared_error: float = 0.0
    targets: int = 0
    compared: int = 0
    mismatches: int = 0
    max_error: float = 0.0

    def add_labels(self, predictions: Labels, actual: Labels) -> None:
        if self.link == "identity":
            difference = predictions.astype(np.float64) - _targets(actual, predictions.shape)
            self.squared_error += float(np.square(difference).sum())
            self.targets += difference.size
        else:
            self.outcomes.update(zip(map(label_text, actual), map(str, predictions), strict=True))

    def add_plaintext(self, scores: Scores, expected: Scores) -> None:
        if scores.shape != expected.shape:
            raise RunError(
                f"the plaintext model gives {expected.shape[1]} scores a row, "
                f"the run has {scores.shape[1]}",
                remedy="is this the model that was scored?",
            )
        self.compared += scores.shape[0]
        self.max_error = max(self.max_error, float(np.abs(scores - expected).max()))
        if self.link != "identity":
            ours = predict(scores, self.link, self.labels)
            theirs = predict(expected, self.link, self.labels)
            self.mismatches += int((ours != theirs).sum())

    def accuracy(self) -> float | None:
        total = self.outcomes.total()
        right = sum(count for (actual, guess), count in self.outcomes.items() if actual == guess)
        return right / total if total else None

    def confusion(self) -> Confusion | None:
        if not self.outcomes:
            return None
        seen = {label for pair in self.outcomes for label in pair}
        names = [*self.labels, *sorted(seen - set(self.labels))]
        return Confusion(
            labels=names, counts=[[self.outcomes[actual, p] for p in names] for actual in names]
        )


def label_text(label: object) -> str:
    """A data set's label as models name it: 3, 3.0 and "3" are the same class."""
    if isinstance(label, float | np.floating) and float(label).is_integer():
        return str(int(label))
    return str(label)


def write(
    collected: Collected,
    folder: Path,
    *,
    link: str,
    labels: tuple[str, ...],
    blocks: Iterable[DataBlock] | None = None,
    model: PlaintextModel | None = None,
) -> Report:
    """Write predictions.csv and report.json into `folder`; returns the report.

    `blocks` is the data set that was scored, block by block as it was submitted: with its labels
    there is an accuracy, with `model` an agreement. Raises `RunError`.
    """
    tally = Tally(link, labels)
    with ExitStack() as stack:
        data = iter(blocks) if blocks is not None else None
        unfinished = folder / "predictions.csv.unfinished"
        table = csv.writer(stack.enter_context(unfinished.open("w", newline="")))
        header_written = False
        for entry, block in _in_order(collected.manifest.jobs, data):
            result = collected.results.get(entry.job)
            if result is None:
                continue
            scores = result.scores()
            predictions = predict(scores, link, labels)
            actual = block.labels if block is not None else None
            if not header_written:
                table.writerow(_header(scores.shape[1], with_labels=actual is not None))
                header_written = True
            table.writerows(_lines(entry.first_row, scores, predictions, actual))
            if actual is not None:
                tally.add_labels(predictions, actual)
            if model is not None and block is not None:
                tally.add_plaintext(scores, model.scores(block.rows))
    unfinished.replace(folder / "predictions.csv")
    report = summarise(collected, tally)
    (folder / "report.json").write_text(report.model_dump_json(indent=1) + "\n")
    return report


def summarise(collected: Collected, tally: Tally) -> Report:
    """The report's figures, from what was collected and counted."""
    infos = [result.info for result in collected.results.values()]
    entries = {entry.job: entry for entry in collected.manifest.jobs}
    wall_s = (
        (max(i.scored_at for i in infos) - min(i.enqueued_at for i in infos)).total_seconds()
        if infos
        else 0.0
    )
    return Report(
        run=collected.manifest.run,
        scheme=collected.manifest.scheme,
        key_id=collected.manifest.key_id,
        model=infos[0].model if infos else "",
        rows=collected.manifest.rows,
        rows_scored=collected.rows_scored,
        jobs=len(entries),
        jobs_scored=len(infos),
        failures=[
            _failure(entries[job], record.code, record.reason)
            for job, record in sorted(collected.failures.items())
            if job in entries and job not in collected.results
        ],
        missing=[_failure(entries[job], "missing", "no result yet") for job in collected.missing],
        accuracy=tally.accuracy(),
        confusion=tally.confusion(),
        root_mean_square_error=(
            float(np.sqrt(tally.squared_error / tally.targets)) if tally.targets else None
        ),
        agreement=(
            Agreement(rows=tally.compared, mismatches=tally.mismatches, max_error=tally.max_error)
            if tally.compared
            else None
        ),
        wall_s=wall_s,
        rows_per_s=collected.rows_scored / wall_s if wall_s > 0 else 0.0,
        waiting_ms=_spread([_ms(i.received_at - i.enqueued_at) for i in infos]),
        scoring_ms=_spread([float(i.score_ms) for i in infos]),
        latency_ms=_spread([_ms(i.scored_at - i.enqueued_at) for i in infos]),
        bytes_down=sum(result.bytes_down for result in collected.results.values()),
        retried_jobs=sum(1 for i in infos if i.attempts > 1 or i.deliveries > 1),
        workers=len({i.worker for i in infos}),
    )


def _in_order(
    jobs: Sequence[JobEntry], blocks: Iterator[DataBlock] | None
) -> Iterator[tuple[JobEntry, DataBlock | None]]:
    for entry in jobs:
        block = next(blocks, None) if blocks is not None else None
        if blocks is not None and (
            block is None or (block.first_row, len(block.rows)) != (entry.first_row, entry.rows)
        ):
            raise RunError(
                f"the data set does not match the run at row {entry.first_row}",
                remedy="has it changed since it was produced? collect without it: --no-dataset",
            )
        yield entry, block


def _header(classes: int, *, with_labels: bool) -> list[str]:
    names = ["row", *(["label"] if with_labels else []), "prediction"]
    return names + [f"score_{k}" for k in range(classes)]


def _lines(
    first_row: int, scores: Scores, predictions: Labels, actual: Labels | None
) -> Iterator[list[object]]:
    for index, (row, prediction) in enumerate(zip(scores, predictions, strict=True)):
        label = [label_text(actual[index])] if actual is not None else []
        yield [first_row + index, *label, prediction, *(f"{score:.9g}" for score in row)]


def _failure(entry: JobEntry, code: str, reason: str) -> Failure:
    return Failure(
        job=entry.job, first_row=entry.first_row, rows=entry.rows, code=code, reason=reason
    )


def _spread(values: list[float]) -> Spread | None:
    if not values:
        return None
    p50, p95, p99, top = (float(v) for v in np.percentile(values, PERCENTILES))
    return Spread(p50=p50, p95=p95, p99=p99, max=top)


def _ms(duration: timedelta) -> float:
    return duration.total_seconds() * 1000


def _targets(actual: Labels, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    return actual.astype(np.float64).reshape(shape)
