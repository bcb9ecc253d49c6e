"""A data set through every part: keygen, produce, queue, worker, endpoint, blobs, collect."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from deploy.local.stack import Stack
from producer.report import Report
from producer.runs import RunFolder
from tests.commands import MNIST, MNIST_EXPECTED, refuse, succeed


def run_through(stack: Stack, out: Path, *data: str, collect: tuple[str, ...] = ()) -> Report:
    """Produce and collect one run under new keys; returns its report."""
    scheme = data[data.index("--scheme") :][:2] if "--scheme" in data else ()
    succeed("keygen", *scheme, environment=stack.environment)
    run = succeed("produce", *data, environment=stack.environment)
    succeed("collect", run, "--out", str(out), *collect, environment=stack.environment)
    return Report.model_validate_json((out / "report.json").read_bytes())


def read_scores(folder: Path) -> tuple[list[str], np.ndarray]:
    """Predictions and scores from predictions.csv, checking that rows are in order."""
    with (folder / "predictions.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [int(line["row"]) for line in lines] == list(range(len(lines)))
    columns = [name for name in lines[0] if name.startswith("score_")]
    scores = np.array([[float(line[name]) for name in columns] for line in lines])
    return [line["prediction"] for line in lines], scores


def test_fifty_mnist_images_get_the_plaintext_predictions(
    mnist_stack: Stack, mnist_consent: tuple[str, str], tmp_path: Path
) -> None:
    report = run_through(
        mnist_stack,
        tmp_path,
        *("--dataset", "mnist", "--data-dir", str(MNIST), "--limit", "50", "--scheme", "ei"),
        collect=("--model", str(MNIST.parent / "sklearn_mnist_model.pkl"), *mnist_consent),
    )
    with np.load(MNIST_EXPECTED) as expected:
        plaintext = expected["scores"][:50]
    predictions, scores = read_scores(tmp_path)
    assert predictions == [str(k) for k in plaintext.argmax(axis=1)]
    assert np.abs(scores - plaintext).max() < 1e-4
    assert report.agreement is not None
    assert (report.agreement.rows, report.agreement.mismatches) == (50, 0)
    assert report.agreement.max_error < 1e-4
    assert report.rows_scored == report.rows == 50
    assert report.confusion is not None
    assert sum(map(sum, report.confusion.counts)) == 50


def test_the_whole_mnist_test_set_in_packed(
    mnist_stack: Stack, mnist_consent: tuple[str, str], tmp_path: Path
) -> None:
    report = run_through(
        mnist_stack,
        tmp_path,
        *("--dataset", "mnist", "--data-dir", str(MNIST)),
        collect=("--model", str(MNIST.parent / "sklearn_mnist_model.pkl"), *mnist_consent),
    )
    with np.load(MNIST_EXPECTED) as expected:
        plaintext, labels = expected["scores"], expected["labels"]
    predictions, scores = read_scores(tmp_path)
    assert report.scheme == "packed"
    assert preset_of(mnist_stack, report.run) == "compact"  # a third fewer bytes, for 10 results
    assert predictions == [str(k) for k in plaintext.argmax(axis=1)]
    assert np.abs(scores - plaintext).max() < 2e-4
    assert report.accuracy == 0.9193
    assert report.confusion is not None
    counts = np.zeros((10, 10), dtype=int)
    np.add.at(counts, (labels, plaintext.argmax(axis=1)), 1)
    assert report.confusion.counts == counts.tolist()


def preset_of(stack: Stack, run: str) -> str:
    """How the values of a run were coded."""
    return RunFolder(Path(stack.environment["BLINDSCORE_HOME"]), run).read().preset


@pytest.mark.parametrize(("preset", "error"), [("", 1e-6), ("n4096", 1e-6), ("compact", 1e-5)])
def test_one_key_serves_values_of_more_and_of_fewer_bytes(
    digits_stack: Stack, digits_model: Path, tmp_path: Path, preset: str, error: float
) -> None:
    """Of 64 features for 10 classes fewer bytes are no gain; who wants them has them, in packed."""
    report = run_through(
        digits_stack,
        tmp_path,
        *("--limit", "40", *(("--preset", preset) if preset else ("--scheme", "packed"))),
        collect=("--model", str(digits_model)),
    )
    assert preset_of(digits_stack, report.run) == (preset or "n4096")
    assert report.agreement is not None
    assert report.agreement.mismatches == 0
    assert error / 100 < report.agreement.max_error < error


def test_presets_that_the_key_does_not_serve_are_refused(digits_stack: Stack) -> None:
    environment = digits_stack.environment
    succeed("keygen", environment=environment)
    told = refuse("produce", "--preset", "n2048", environment=environment)
    assert "a key of preset n4096 doesn't serve preset 'n2048'" in told
    told = refuse("produce", "--scheme", "direct", "--preset", "speed", environment=environment)
    assert "--preset is for runs in packed, the key is for direct" in told


@pytest.mark.parametrize("scheme", ["ei", "direct", "packed"])
def test_digits_agree_with_the_plaintext_model(
    digits_stack: Stack, digits_model: Path, tmp_path: Path, scheme: str
) -> None:
    report = run_through(
        digits_stack,
        tmp_path,
        *("--limit", "40", "--scheme", scheme),
        collect=("--model", str(digits_model)),
    )
    assert report.agreement is not None
    assert (report.agreement.rows, report.agreement.mismatches) == (40, 0)
    assert report.agreement.max_error < 1e-4
    assert report.accuracy is not None
    assert report.accuracy > 0.9
    assert report.model
    assert report.latency_ms is not None


def test_rows_of_ones_own_are_scored_without_labels(digits_stack: Stack, tmp_path: Path) -> None:
    rows = np.random.default_rng(3).uniform(0, 1, (5, 64))
    np.save(tmp_path / "rows.npy", rows)
    report = run_through(digits_stack, tmp_path / "out", "--dataset", str(tmp_path / "rows.npy"))
    assert report.rows_scored == 5
    assert report.accuracy is None
    predictions, scores = read_scores(tmp_path / "out")
    assert predictions == [str(k) for k in scores.argmax(axis=1)]


def test_collecting_twice_gives_the_same_report(digits_stack: Stack, tmp_path: Path) -> None:
    first = run_through(digits_stack, tmp_path, "--limit", "3")
    run = first.run
    succeed("collect", run, "--out", str(tmp_path), environment=digits_stack.environment)
    again = Report.model_validate_json((tmp_path / "report.json").read_bytes())
    assert again == first


def test_a_wrong_feature_count_is_found_before_and_reported_after(
    digits_stack: Stack, tmp_path: Path
) -> None:
    np.save(tmp_path / "rows.npy", np.zeros((2, 30)))
    data = ("--dataset", str(tmp_path / "rows.npy"), "--input-bound", "1")
    environment = digits_stack.environment
    succeed("keygen", environment=environment)
    told = refuse("produce", *data, environment=environment)
    assert "30 features" in told
    assert "64" in told


def test_a_run_is_cleaned_and_then_unknown(digits_stack: Stack, tmp_path: Path) -> None:
    environment = digits_stack.environment
    run = run_through(digits_stack, tmp_path, "--limit", "2").run
    assert run in succeed("status", run, environment=environment)
    succeed("clean", run, "--yes", environment=environment)
    assert f"unknown run {run}" in refuse("collect", run, environment=environment)
    succeed("clean", run, "--yes", environment=environment)


def test_a_report_names_rows_whose_job_failed(digits_stack: Stack, tmp_path: Path) -> None:
    """Rows of another width are produced without asking the endpoint, and fail there."""
    np.save(tmp_path / "rows.npy", np.zeros((3, 5000)))
    environment = {
        name: value
        for name, value in digits_stack.environment.items()
        if name != "BLINDSCORE_ENDPOINT"
    }
    succeed("keygen", environment=environment)
    data = ("--dataset", str(tmp_path / "rows.npy"), "--input-bound", "1")
    run = succeed("produce", *data, environment=environment)
    out = tmp_path / "out"
    told = refuse("collect", run, "--out", str(out), environment=environment)
    assert "3 of 3 rows have no score" in told
    (failure,) = json.loads((out / "report.json").read_bytes())["failures"]
    assert failure["code"] == "feature_count"
    assert (failure["first_row"], failure["rows"]) == (0, 3)


@pytest.mark.parametrize("name", ["predictions.csv", "report.json"])
def test_nothing_half_written_is_left(digits_stack: Stack, tmp_path: Path, name: str) -> None:
    run_through(digits_stack, tmp_path, "--limit", "2")
    assert (tmp_path / name).is_file()
    assert not list(tmp_path.rglob("*.unfinished"))
