"""What is passed on is made from rounded scores or from labels, and from nothing finer."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from producer import disclosure
from producer.cli_results import collect
from producer.disclosure import (
    EVERYTHING,
    PACKED_ROOM,
    SLACK,
    Disclosure,
    finest_digits,
    key_dependent_error,
)
from producer.output import write
from producer.report import Report
from producer.results import Fault
from producer.schemes import Encoding, Scores, client_scheme
from producer.show import show
from score.schemes.packed import PackedEvaluator
from shared import packed
from shared.errors import UsageError
from shared.linear import LinearModel
from shared.params import PACKED_PRESETS
from tests.scoring import respond
from tests.unit.producer.test_report import MODEL, block, collected

ROUNDED = Disclosure(digits=2, error=1e-5)
LABELS = Disclosure(labels_only=True)
BLOCKS = [block(0, [0, 1, 2], [0, 1, 1]), block(3, [1], [1])]
SCORES = np.array([[3.14159, -1.0012, 0.333], [-0.004, 2.0, 1.0], [0.1, 0.2, 0.7]])


def written(folder: Path, scores: Scores, told: Disclosure, *, canary: str = "off by 1") -> Report:
    folder.mkdir()
    found = collected(folder, BLOCKS, scored={0}, scores={0: scores})
    found.rejected["000001"] = Fault("canary", canary)
    return write(
        found,
        folder,
        link="argmax",
        labels=MODEL.labels,
        blocks=BLOCKS,
        model=MODEL,
        disclosure=told,
    )


def lines(folder: Path) -> list[list[str]]:
    return list(csv.reader(io.StringIO((folder / "predictions.csv").read_text())))


def test_rounded_scores_have_just_these_decimals_and_no_signed_zero(tmp_path: Path) -> None:
    written(tmp_path / "out", SCORES, ROUNDED)
    assert [line[3:] for line in lines(tmp_path / "out")[1:]] == [
        ["3.14", "-1.00", "0.33"],
        ["0.00", "2.00", "1.00"],
        ["0.10", "0.20", "0.70"],
    ]


def test_labels_only_writes_rows_and_predictions(tmp_path: Path) -> None:
    written(tmp_path / "out", SCORES, LABELS)
    assert lines(tmp_path / "out") == [["row", "prediction"], ["0", "0"], ["1", "1"], ["2", "2"]]


@pytest.mark.parametrize("told", [ROUNDED, LABELS])
def test_nothing_written_depends_on_an_error_that_rounding_hides(
    tmp_path: Path, told: Disclosure
) -> None:
    """Byte for byte, with a report that has an agreement, an accuracy and a failed canary."""
    error = np.random.default_rng(1).uniform(-1e-4, 1e-4, SCORES.shape)
    written(tmp_path / "exact", SCORES, told)
    written(tmp_path / "noisy", SCORES + error, told, canary="off by 1.0000321")
    for name in ("predictions.csv", "report.json"):
        exact, noisy = ((tmp_path / folder / name).read_bytes() for folder in ("exact", "noisy"))
        assert exact == noisy


def test_predictions_are_those_of_the_scores_that_are_told(tmp_path: Path) -> None:
    """A tie after rounding goes to the first class, although the second had more."""
    scores = np.array([[1.001, 1.004, 0.0]] * 3)
    report = written(tmp_path / "out", scores, ROUNDED)
    assert [line[2] for line in lines(tmp_path / "out")[1:]] == ["0", "0", "0"]
    assert report.confusion is not None
    assert [sum(column) for column in zip(*report.confusion.counts, strict=True)] == [3, 0, 0]


def test_errors_of_scores_are_shown_to_the_owner_alone(tmp_path: Path) -> None:
    report = written(tmp_path / "out", SCORES, LABELS)
    assert report.agreement is not None
    saved = json.loads((tmp_path / "out" / "report.json").read_bytes())
    assert saved["agreement"] == {"rows": 3, "mismatches": report.agreement.mismatches}
    assert "undecided" not in saved


def test_the_owner_sees_how_many_scores_the_error_may_have_decided(tmp_path: Path) -> None:
    told = Disclosure(digits=1, error=1e-3)
    scores = np.array([[0.2504, 0.2489, 0.0], [-0.0495, 1.0, 2.0], [3.9502, 4.0, 5.0]])
    report = written(tmp_path / "out", scores, told)
    assert report.undecided == 3
    shown = io.StringIO()
    show(report, Console(file=shown, width=120))
    assert "1 decimals; of 3 scores, the error may have decided the last" in shown.getvalue()
    assert b"undecided" not in (tmp_path / "out" / "report.json").read_bytes()


def test_everything_is_told_without_an_option(tmp_path: Path) -> None:
    report = written(tmp_path / "out", SCORES, EVERYTHING)
    assert lines(tmp_path / "out")[1][3:] == ["3.14159", "-1.0012", "0.333"]
    saved = json.loads((tmp_path / "out" / "report.json").read_bytes())
    assert saved["failures"][0]["reason"] == "off by 1"
    assert report.agreement is not None
    assert saved["agreement"]["max_error"] == report.agreement.max_error


def test_tens_of_a_large_score(tmp_path: Path) -> None:
    written(tmp_path / "out", 1000 * SCORES, Disclosure(digits=-1, error=0.05))
    assert lines(tmp_path / "out")[1][3:] == ["3140", "-1000", "330"]


@given(
    digits=st.integers(-3, 6),
    size=st.floats(1e-3, 1e6),
    seed=st.integers(0, 2**32 - 1),
)
@settings(deadline=None, max_examples=50)
def test_where_no_score_is_undecided_the_error_decides_nothing(
    digits: int, size: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    told = Disclosure(digits=digits, error=10.0**-digits / SLACK)
    scores = random.uniform(-size, size, (40, 3))
    decided = np.array([row for row in scores if told.undecided(row[None]) == 0]).reshape(-1, 3)
    noise = random.uniform(-0.99, 0.99, decided.shape) * told.error
    assert np.array_equal(told.told(decided), told.told(decided + noise))


def blob(preset: str) -> bytes:
    return packed.key_blob(PACKED_PRESETS[preset], b"0" * 16)


def no_blob() -> bytes:
    pytest.fail("not needed")


def test_exact_schemes_may_tell_all_decimals() -> None:
    error = key_dependent_error("direct", no_blob, largest=60.0, input_bound=1.0, preset="")
    assert disclosure.rounded(9, error).digits == 9


@pytest.mark.parametrize(
    ("scheme", "preset", "largest", "measured", "finest"),
    [
        ("ei", "", 59.7, 3e-6, 2),  # the published MNIST model
        ("packed", "n4096", 59.7, 5.2e-6, 2),
        ("packed", "n2048", 59.7, 5e-5, 0),
        ("ei", "", 0.5, 2.1e-6, 2),
        ("packed", "n4096", 1e6, 0.05, -3),
    ],
)
def test_decimals_finer_than_the_error_are_refused(
    scheme: str, preset: str, largest: float, measured: float, finest: int
) -> None:
    error = key_dependent_error(
        scheme, lambda: blob(preset), largest=largest, input_bound=1.0, preset=""
    )
    assert error > measured
    assert disclosure.rounded(finest, error) == Disclosure(digits=finest, error=error)
    with pytest.raises(UsageError, match=f"{finest + 1} decimals would tell of it"):
        disclosure.rounded(finest + 1, error)


def test_the_error_is_that_of_how_the_run_was_coded() -> None:
    """Which a key does not tell that serves several ways: unknown, it is the coarsest of them."""

    def error(key_preset: str, preset: str | None) -> float:
        return key_dependent_error(
            "packed", lambda: blob(key_preset), largest=1.0, input_bound=1.0, preset=preset
        )

    fine, coarse = error("n4096", "n4096"), error("n4096", "compact")
    assert fine < coarse / 8
    assert error("n4096", "") == error("compact", "n4096") == fine
    assert error("n4096", None) == error("compact", None) == error("compact", "") == coarse
    assert error("n2048", None) == error("n2048", "")
    with pytest.raises(UsageError, match="doesn't serve preset 'n8192'"):
        error("n4096", "n8192")


def test_a_grid_is_always_that_much_coarser_than_the_error() -> None:
    for error in 10.0 ** np.linspace(-12, 6, 50):
        step = 10.0 ** -finest_digits(error)
        assert SLACK * error <= step * 1.0000001 <= 11 * SLACK * error


def test_grids_beyond_all_scores_are_refused() -> None:
    """Before anything is waited for."""
    app = typer.Typer()
    app.command()(collect)
    done = CliRunner().invoke(app, ["run-1", "--round", "-400"])
    assert done.exit_code == 2
    assert "-15" in done.output
    scores = np.array([[1e15, 0.0]])
    assert disclosure.rounded(-15, 1e-6).undecided(scores) == 0


def test_scores_that_are_no_numbers_are_not_rounded() -> None:
    with pytest.raises(UsageError, match="no numbers"):
        disclosure.rounded(0, float("nan"))


def test_a_scheme_without_a_bound_is_refused() -> None:
    with pytest.raises(UsageError, match="no error bound for scheme tfhe"):
        key_dependent_error("tfhe", no_blob, largest=1.0, input_bound=1.0, preset="")


def test_a_regressor_has_no_labels() -> None:
    assert disclosure.labels_only("sign") == LABELS
    with pytest.raises(UsageError, match="there are no labels"):
        disclosure.labels_only("identity")


@pytest.mark.parametrize("bound", [1.0, 1.001])
@pytest.mark.parametrize("preset", PACKED_PRESETS)
def test_errors_of_packed_are_within_what_is_reckoned_with(preset: str, bound: float) -> None:
    """Real ciphertexts; the noise has a bound that always holds, so chance can't break this.

    At its worst: one feature, the least share of the integers' bits, the smallest scores.
    """
    model = LinearModel(np.array([[1.0]]), np.array([0.0]))
    rows = np.random.default_rng(3).uniform(-1, 1, (2000, 1)) * bound / PACKED_ROOM
    key = client_scheme("packed").generate(preset)
    encoding = Encoding(container="runs", features=1, input_bound=bound)
    request = b"".join(key.encrypt(rows, encoding))
    evaluator = PackedEvaluator(model)
    scores = key.decrypt(respond(evaluator, request), rows=2000)
    largest = float(np.abs(scores).max())
    reckoned = {
        known: key_dependent_error(
            "packed",
            key.evaluation_keys,
            largest=largest,
            input_bound=bound if known else None,
            preset="" if known else None,
        )
        for known in (True, False)
    }
    assert 0 < np.abs(scores - model.scores(rows)).max() < reckoned[True] <= reckoned[False]
