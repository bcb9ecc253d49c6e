"""Does it grow linearly? Synthetic rows of 64 features, ten times as many each time.

One pipeline takes all of them, one after another, several takes of what is short: the middle one
counts.
"""

from __future__ import annotations

import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from tests.bench.meter import Usage
from tests.bench.pipeline import Run, middle, running

TAKES = {10_000: 9, 100_000: 5, 1_000_000: 1}
"""By number of rows."""
FEATURES, CLASSES = 64, 10
CHUNK = 50_000


def run(takes: dict[int, int] = TAKES) -> dict[str, float]:
    """Print the table; returns rows a second by number of rows."""
    with tempfile.TemporaryDirectory(prefix="blindscore-bench-") as scratch:
        model = write_model(Path(scratch) / "model.npz")
        with running(Path(scratch), model) as pipeline:
            all_runs = []
            for count, times in takes.items():
                data = write_rows(Path(scratch) / f"{count}.npy", count)
                all_runs.append([pipeline.take(data, scale=1.0) for _ in range(times)])
                data.unlink()
    runs = [middle(same) for same in all_runs]
    show(runs)
    figures: dict[str, float] = {}
    for done in runs:
        figures[f"growth.rows_per_s_{done.rows}"] = done.rows / done.wall_s
        figures[f"growth.reported_rows_per_s_{done.rows}"] = done.report.rows_per_s
        figures[f"growth.commands_s_{done.rows}"] = done.commands_s
        for part, usage in done.usage.items():
            figures[f"growth.peak_mb_{done.rows}.{part}"] = usage.peak_mb
    for less, more in pairwise(runs):
        figures[f"growth.more_rows_per_s_{more.rows}"] = _rate_of_more(less, more)
    agreements = [done.report.agreement for same in all_runs for done in same]
    figures["growth.mismatches"] = max(found.mismatches for found in agreements if found)
    return figures


def _rate_of_more(less: Run, more: Run) -> float:
    """Rows a second of those that the larger run has more, without what any run takes.

    And without what was stolen meanwhile, see `tests.bench.pipeline`.
    """
    return (more.rows - less.rows) / (more.own_s - less.own_s)


def write_model(path: Path) -> Path:
    """Random weights for 10 classes."""
    rng = np.random.default_rng(0)
    weights, intercept = rng.normal(size=(CLASSES, FEATURES)), rng.normal(size=CLASSES)
    np.savez(path, coef=weights, intercept=intercept, labels=np.arange(CLASSES).astype(str))
    return path


def write_rows(path: Path, count: int) -> Path:
    """Uniform rows, written a piece at a time."""
    rng = np.random.default_rng(1)
    rows = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(count, FEATURES))
    for first in range(0, count, CHUNK):
        rows[first : first + CHUNK] = rng.random((min(CHUNK, count - first), FEATURES))
    rows.flush()
    return path


def show(runs: list[Run]) -> None:
    """Print rows a second and each part's peak memory."""
    table = Table("", title="growth: packed, 64 features, 10 classes", title_justify="left")
    for done in runs:
        table.add_column(f"{done.rows:,} rows", justify="right")
    table.add_row("wall s", *(f"{done.wall_s:.2f}" for done in runs))
    table.add_row("stolen", *(f"{done.stolen_s / done.wall_s:.0%}" for done in runs))
    table.add_row("rows/s", *(f"{done.rows / done.wall_s:,.0f}" for done in runs))
    more = [f"{_rate_of_more(*pair):,.0f}" for pair in pairwise(runs)]
    table.add_row("rows/s of the rows more", "", *more)
    table.add_row("rows/s as reported", *(f"{done.report.rows_per_s:,.0f}" for done in runs))
    agreements = [done.report.agreement for done in runs]
    table.add_row("mismatches", *(str(found.mismatches) if found else "" for found in agreements))
    for part in sorted({part for done in runs for part in done.usage}):
        peaks = [done.usage.get(part, Usage()).peak_mb for done in runs]
        table.add_row(f"{part}, peak MiB", *(f"{peak:,.0f}" for peak in peaks))
    Console().print(table)
