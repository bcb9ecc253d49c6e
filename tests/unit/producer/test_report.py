"""The report counts what was collected, row by row and in order."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from rich.console import Console

from producer.output import write
from producer.parts import Parts
from producer.report import Gap, Report, gaps
from producer.results import Collected, Fault, Result
from producer.rows import Rows, StoredRows
from producer.schemes import Scores
from producer.show import show
from shared.errors import RunError
from shared.linear import LinearModel
from shared.messages import JobEntry, Manifest, ResultInfo
from shared.ports import BlobInfo

START = datetime(2026, 1, 1, tzinfo=UTC)
KEY = "k" * 32
Labels = npt.NDArray[np.generic]
MODEL = LinearModel(np.eye(3), np.zeros(3), labels=("0", "1", "2"), link="argmax")


@dataclass(frozen=True)
class Block:
    first_row: int
    rows: Rows
    labels: Labels | None

    @property
    def stored(self) -> StoredRows:
        return StoredRows(self.rows)


def block(first_row: int, answers: list[int], actual: list[int]) -> Block:
    """Rows whose scores are one-hot at `answers`."""
    return Block(first_row, np.eye(3)[answers], np.array(actual))


def collected(
    folder: Path,
    blocks: Sequence[Block],
    *,
    scored: set[int],
    scores: dict[int, Scores] | None = None,
) -> Collected:
    """A run of these blocks, of which the numbered ones have results: the model's, or `scores`."""
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
        canaries=2,
        jobs=tuple(jobs),
    )
    found = Collected(manifest, Parts(folder, manifest))
    for i, (job, b) in enumerate(zip(jobs, blocks, strict=True)):
        if i in scored:
            of_rows = (scores or {}).get(i)
            add(found, i, job, MODEL.scores(b.rows) if of_rows is None else of_rows)
    return found


def add(found: Collected, index: int, job: JobEntry, scores: Scores) -> None:
    info = ResultInfo(
        scheme="ei",
        key_id=KEY,
        model="m",
        rows=job.rows,
        sha256="",
        worker=f"w{index}",
        attempts=1 + index,
        deliveries=1,
        enqueued_at=START,
        received_at=START + timedelta(seconds=1),
        scored_at=START + timedelta(seconds=2),
        score_ms=500,
    )
    blob = BlobInfo(job.job, 10, "etag", "x", START)
    part = found.parts.write(job.job, blob, scores)
    found.add(job.job, Result.of(info, part, bytes_down=10), model=info.model)


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


def table(folder: Path) -> list[list[str]]:
    with (folder / "predictions.csv").open(newline="") as file:
        return list(csv.reader(file))


def test_predictions_are_in_row_order_with_labels(tmp_path: Path) -> None:
    report_on(tmp_path, [block(0, [2], [1]), block(1, [0, 1], [0, 1])], {0, 1})
    lines = table(tmp_path)
    assert lines[0] == ["row", "label", "prediction", "score_0", "score_1", "score_2"]
    assert [line[:3] for line in lines[1:]] == [["0", "1", "2"], ["1", "0", "0"], ["2", "1", "1"]]
    assert [float(score) for score in lines[1][3:]] == [0, 0, 1]


def test_predictions_without_labels_keep_the_numbers_of_their_rows(tmp_path: Path) -> None:
    blocks = [block(0, [2], [1]), block(1, [0, 1], [0, 1])]
    write(collected(tmp_path, blocks, scored={1}), tmp_path, link="argmax", labels=MODEL.labels)
    assert [line[:2] for line in table(tmp_path)] == [["row", "prediction"], ["1", "0"], ["2", "1"]]


def test_labels_of_any_text_are_quoted_as_tables_need_it(tmp_path: Path) -> None:
    labels = ('say "a, b"', "line\nbreak", "plain")
    blocks = [Block(0, np.eye(3), np.array(labels))]
    write(
        collected(tmp_path, blocks, scored={0}),
        tmp_path,
        link="argmax",
        labels=labels,
        blocks=blocks,
    )
    assert [line[1:3] for line in table(tmp_path)[1:]] == [[label, label] for label in labels]


def test_scores_have_nine_digits(tmp_path: Path) -> None:
    blocks = [block(0, [0], [0])]
    scores = np.array([[1 / 3, -12345.678901234, 1e-12]])
    found = collected(tmp_path, blocks, scored={0}, scores={0: scores})
    write(found, tmp_path, link="argmax", labels=MODEL.labels)
    assert table(tmp_path)[1][2:] == ["0.333333333", "-12345.6789", "1e-12"]


def test_missing_and_failed_jobs_are_named_with_their_rows(tmp_path: Path) -> None:
    blocks = [block(0, [0], [0]), block(1, [1, 1], [1, 1]), block(3, [2], [2]), block(4, [2], [2])]
    found = collected(tmp_path, blocks, scored={0})
    found.failed["000001"] = Fault("feature_count", "no")
    report = write(found, tmp_path, link="argmax", labels=MODEL.labels, blocks=blocks)
    assert [(f.first_row, f.rows, f.code) for f in report.failures] == [(1, 2, "feature_count")]
    assert report.missing == [Gap(first_row=3, rows=2, first_job="000002", last_job="000003")]
    assert report.rows_unscored == 4
    assert report.failure_codes == {"feature_count": 1}
    assert report.unscored == "no result yet: rows 3-4; feature_count: 1 jobs"


def test_a_rejected_result_is_a_failure_whatever_the_workers_say(tmp_path: Path) -> None:
    blocks = [block(0, [0], [0])]
    found = collected(tmp_path, blocks, scored=set())
    found.failed["000000"] = Fault("feature_count", "no")
    found.rejected["000000"] = Fault("canary", "caught")
    report = write(found, tmp_path, link="argmax", labels=MODEL.labels, blocks=blocks)
    assert report.failure_codes == {"canary": 1}
    assert report.canaries == 2


def test_gaps_are_as_few_as_possible() -> None:
    def entry(index: int) -> JobEntry:
        return JobEntry(job=f"{index:06d}", first_row=4 * index, rows=4, sha256="0" * 64)

    found = gaps([entry(i) for i in (0, 1, 2, 5, 7, 8)])
    assert [str(gap) for gap in found] == ["0-11", "20-23", "28-35"]
    assert [(gap.first_job, gap.last_job) for gap in found] == [
        ("000000", "000002"),
        ("000005", "000005"),
        ("000007", "000008"),
    ]
    assert gaps([]) == []


def test_a_terminal_shows_what_others_wrote_as_it_is(tmp_path: Path) -> None:
    blocks = [block(0, [0], [0]), block(1, [0], [0])]
    found = collected(tmp_path, blocks, scored={0})
    found.failed["000001"] = Fault("evil", "[/] [link=http://x]markup")
    report = write(found, tmp_path, link="argmax", labels=MODEL.labels, blocks=blocks)
    assert report.confusion is not None
    odd = report.confusion.model_copy(update={"labels": ["[/zero]", "1", "2"]})
    shown = io.StringIO()
    show(report.model_copy(update={"confusion": odd}), Console(file=shown, width=120))
    assert "evil: [/] [link=http://x]markup" in shown.getvalue()
    assert shown.getvalue().count("[/zero]") == 2
    assert "1 of 2 in 2 jobs" in shown.getvalue()


def test_agreement_with_the_plaintext_model(tmp_path: Path) -> None:
    blocks = [block(0, [0, 1], [0, 1])]
    scores = MODEL.scores(blocks[0].rows)[::-1] + 1e-3
    found = collected(tmp_path, blocks, scored={0}, scores={0: scores})
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


@pytest.mark.parametrize(
    ("other", "row"),
    [([block(0, [0], [0])], 0), ([], 0), ([block(0, [0, 0], [0, 0]), block(2, [0], [0])], 2)],
)
def test_a_data_set_that_changed_is_refused(tmp_path: Path, other: list[Block], row: int) -> None:
    found = collected(tmp_path, [block(0, [0, 0], [0, 0])], scored={0})
    with pytest.raises(RunError, match=f"does not match the run at row {row}"):
        write(found, tmp_path, link="argmax", labels=MODEL.labels, blocks=other)
    assert not (tmp_path / "predictions.csv").exists()


def test_another_models_width_is_refused(tmp_path: Path) -> None:
    blocks = [block(0, [0], [0])]
    found = collected(tmp_path, blocks, scored={0})
    other = LinearModel(np.ones((2, 3)), np.zeros(2), labels=("0", "1"), link="argmax")
    with pytest.raises(RunError, match="2 scores a row"):
        write(found, tmp_path, link="argmax", labels=MODEL.labels, blocks=blocks, model=other)


def regressor(folder: Path, targets: Labels, scores: Scores) -> Report:
    blocks = [Block(0, np.zeros((2, 3)), targets)]
    found = collected(folder, blocks, scored={0}, scores={0: scores})
    return write(found, folder, link="identity", labels=(), blocks=blocks)


@pytest.mark.parametrize("targets", [np.array([1.0, 4.0]), np.array(["1", "4"])])
def test_a_regressor_has_an_error_instead_of_an_accuracy(tmp_path: Path, targets: Labels) -> None:
    report = regressor(tmp_path, targets, np.array([[1.0], [2.0]]))
    assert report.accuracy is None
    assert report.root_mean_square_error == pytest.approx(np.sqrt(2))
    assert table(tmp_path)[0] == ["row", "label", "prediction", "score_0"]
    assert [float(line[2]) for line in table(tmp_path)[1:]] == [1, 2]


def test_labels_that_are_no_numbers_are_no_targets(tmp_path: Path) -> None:
    report = regressor(tmp_path, np.array(["cat", "dog"]), np.array([[1.0], [2.0]]))
    assert report.root_mean_square_error is None


def test_the_scores_of_several_outputs_are_the_prediction(tmp_path: Path) -> None:
    regressor(tmp_path, np.array([1.0, 4.0]), np.array([[1.0, 3.0], [2.0, 4.0]]))
    assert table(tmp_path)[0] == ["row", "label", "score_0", "score_1"]


@pytest.mark.parametrize(
    "actual", [[0, 1, 2], [0.0, 1.0, 2.0], ["0", "1", "2"], [b"0", b"1.0", b"2"]]
)
def test_labels_of_any_type_name_classes(tmp_path: Path, actual: list[object]) -> None:
    blocks = [replace(block(0, [0, 1, 2], [0, 1, 2]), labels=np.array(actual))]
    found = collected(tmp_path, blocks, scored={0})
    report = write(found, tmp_path, link="argmax", labels=MODEL.labels, blocks=blocks)
    assert report.accuracy == 1.0
