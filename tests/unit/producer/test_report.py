"""The report counts what was collected, row by row and in order."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from producer.collect import Collected, Result
from producer.report import Labels, Report, label_text, write
from producer.schemes import Rows
from shared.errors import RunError
from shared.linear import LinearModel
from shared.messages import FailureRecord, JobEntry, Manifest, ResultInfo

START = datetime(2026, 1, 1, tzinfo=UTC)
KEY = "k" * 32
MODEL = LinearModel(np.eye(3), np.zeros(3), labels=("0", "1", "2"), link="argmax")


@dataclass(frozen=True)
class Block:
    first_row: int
    rows: Rows
    labels: Labels | None


def block(first_row: int, answers: list[int], actual: list[int]) -> Block:
    """Rows whose scores are one-hot at `answers`."""
    return Block(first_row, np.eye(3)[answers], np.array(actual))


def collected(folder: Path, blocks: list[Block], *, scored: set[int]) -> Collected:
    """A run of these blocks, of which the numbered ones have results."""
    jobs = [
        JobEntry(job=f"{i:06d}", first_row=b.first_row, rows=len(b.rows), sha256="0" * 64)
        for i, b in enumerate(blocks)
    ]
    manifest = Manifest(
        run="r",
        scheme="ei",
        key_id=KEY,
        features=3,
        rows=sum(job.rows for job in jobs),
        created_at=START,
        complete=True,
        jobs=tuple(jobs),
    )
    found = Collected(manifest)
    for i, (job, b) in enumerate(zip(jobs, blocks, strict=True)):
        if i in scored:
            part = folder / f"{i}.npy"
            np.save(part, MODEL.scores(b.rows))
            info = ResultInfo(
                scheme="ei",
                key_id=KEY,
                model="m",
                rows=job.rows,
                sha256="",
                worker=f"w{i}",
                attempts=1 + i,
                deliveries=1,
                enqueued_at=START,
                received_at=START + timedelta(seconds=1),
                scored_at=START + timedelta(seconds=2),
                score_ms=500,
            )
            found.results[job.job] = Result(info, 10, part)
    return found


def report_on(
    folder: Path, blocks: list[Block], scored: set[int], *, with_model: bool = False
) -> Report:
    return write(
        collected(folder, blocks, scored=scored),
        folder,
        link="argmax",
        labels=MODEL.labels,
        blocks=blocks,
        model=MODEL if with_model else None,
    )


def test_accuracy_and_confusion(tmp_path: Path) -> None:
    blocks = [block(0, [0, 1], [0, 1]), block(2, [2, 1], [2, 0])]
    report = report_on(tmp_path, blocks, {0, 1})
    assert report.accuracy == 0.75
    assert report.confusion is not None
    assert report.confusion.labels == ["0", "1", "2"]
    assert report.confusion.counts == [[1, 1, 0], [0, 1, 0], [0, 0, 1]]


def test_predictions_are_in_row_order_with_labels(tmp_path: Path) -> None:
    report_on(tmp_path, [block(0, [2], [1]), block(1, [0, 1], [0, 1])], {0, 1})
    with (tmp_path / "predictions.csv").open() as file:
        lines = list(csv.reader(file))
    assert lines[0] == ["row", "label", "prediction", "score_0", "score_1", "score_2"]
    assert [line[:3] for line in lines[1:]] == [["0", "1", "2"], ["1", "0", "0"], ["2", "1", "1"]]
    assert [float(score) for score in lines[1][3:]] == [0, 0, 1]


def test_missing_and_failed_jobs_are_named_with_their_rows(tmp_path: Path) -> None:
    blocks = [block(0, [0], [0]), block(1, [1, 1], [1, 1]), block(3, [2], [2])]
    found = collected(tmp_path, blocks, scored={0})
    found.failures["000001"] = FailureRecord(
        run="r",
        job="000001",
        code="feature_count",
        reason="no",
        attempts=1,
        deliveries=1,
        worker="w",
        failed_at=START,
    )
    report = write(found, tmp_path, link="argmax", labels=MODEL.labels, blocks=blocks)
    assert [(f.first_row, f.rows, f.code) for f in report.failures] == [(1, 2, "feature_count")]
    assert [(f.first_row, f.rows, f.code) for f in report.missing] == [(3, 1, "missing")]
    assert report.rows_unscored == 3


def test_agreement_with_the_plaintext_model(tmp_path: Path) -> None:
    blocks = [block(0, [0, 1], [0, 1])]
    found = collected(tmp_path, blocks, scored={0})
    np.save(found.results["000000"].part, MODEL.scores(blocks[0].rows)[::-1] + 1e-3)
    report = write(found, tmp_path, link="argmax", labels=MODEL.labels, blocks=blocks, model=MODEL)
    assert report.agreement is not None
    assert report.agreement.mismatches == 2
    assert report.agreement.max_error == pytest.approx(1.001)


def test_times_and_counts_come_from_the_results(tmp_path: Path) -> None:
    report = report_on(tmp_path, [block(0, [0, 0], [0, 0]), block(2, [1], [1])], {0, 1})
    assert report.wall_s == 2.0
    assert report.rows_per_s == 1.5
    assert report.waiting_ms is not None
    assert report.waiting_ms.p50 == 1000
    assert report.scoring_ms is not None
    assert report.scoring_ms.max == 500
    assert report.retried_jobs == 1
    assert report.workers == 2
    assert report.bytes_down == 20


def test_a_data_set_that_changed_is_refused(tmp_path: Path) -> None:
    blocks = [block(0, [0, 0], [0, 0])]
    found = collected(tmp_path, blocks, scored={0})
    with pytest.raises(RunError, match="does not match the run at row 0"):
        write(found, tmp_path, link="argmax", labels=MODEL.labels, blocks=[block(0, [0], [0])])


def test_another_models_width_is_refused(tmp_path: Path) -> None:
    blocks = [block(0, [0], [0])]
    found = collected(tmp_path, blocks, scored={0})
    other = LinearModel(np.ones((2, 3)), np.zeros(2), labels=("0", "1"), link="argmax")
    with pytest.raises(RunError, match="2 scores a row"):
        write(found, tmp_path, link="argmax", labels=MODEL.labels, blocks=blocks, model=other)


def test_a_regressor_has_an_error_instead_of_an_accuracy(tmp_path: Path) -> None:
    blocks = [Block(0, np.array([[1.0], [2.0]]), np.array([1.0, 4.0]))]
    found = collected(tmp_path, [block(0, [0, 1], [0, 1])], scored={0})
    np.save(found.results["000000"].part, np.array([[1.0], [2.0]]))
    report = write(found, tmp_path, link="identity", labels=(), blocks=blocks)
    assert report.accuracy is None
    assert report.root_mean_square_error == pytest.approx(np.sqrt(2))


@pytest.mark.parametrize(("label", "text"), [(3, "3"), (np.float64(3), "3"), ("cat", "cat")])
def test_labels_of_any_type_name_classes(label: object, text: str) -> None:
    assert label_text(label) == text
