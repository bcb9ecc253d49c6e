"""Where `packed` begins to cost less than `direct`, measured, beside what `auto` assumes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
from rich.console import Console
from rich.table import Table

from producer.choose import choose
from producer.cost import direct_cost_ms, packed_cost_ms
from producer.rows import Rows
from producer.schemes import ClientKey, Encoding, client_scheme
from score.schemes import ContainerEvaluator
from score.schemes.direct import DirectEvaluator
from score.schemes.packed import PackedEvaluator
from shared.linear import LinearModel
from tests.bench.meter import one_core
from tests.scoring import respond

SHAPES = ((784, 10), (64, 10), (30, 1))
DIRECT_ROWS, PACKED_ROWS = 320, 64
"""Enough for whole jobs; and as many as there are about where it begins."""
REPEATS = 3


def run() -> dict[str, float]:
    """Print the table; returns the crossing of each shape, in rows."""
    table = Table(title="direct or packed, one core", title_justify="left")
    for heading in (
        "features x classes",
        "direct, ms a row",
        f"packed, ms for {PACKED_ROWS} rows",
        "crossing",
        "auto's",
    ):
        table.add_column(heading, justify="right")
    figures: dict[str, float] = {}
    rng = np.random.default_rng(0)
    for features, classes in SHAPES:
        model = LinearModel(rng.normal(size=(classes, features)), np.zeros(classes))
        rows = np.rint(rng.random((DIRECT_ROWS, features)) * 255) / 255
        direct_ms = measure("direct", DirectEvaluator(model), rows) / DIRECT_ROWS
        packed_ms = measure("packed", PackedEvaluator(model), rows[:PACKED_ROWS])
        assumed_ms = direct_cost_ms(DIRECT_ROWS, features, classes) / DIRECT_ROWS
        crossing = packed_ms / direct_ms
        figures[f"auto.crossing_{features}x{classes}_rows"] = crossing
        table.add_row(
            f"{features} x {classes}",
            f"{direct_ms:.3f} (assumed {assumed_ms:.3f})",
            f"{packed_ms:.0f} (assumed {packed_cost_ms(PACKED_ROWS, features, classes):.0f})",
            f"{crossing:.0f} rows",
            f"{assumed_crossing(features, classes)} rows",
        )
    Console().print(table)
    return figures


def measure(scheme: str, evaluator: ContainerEvaluator, rows: Rows) -> float:
    """Processor milliseconds to encrypt, score and decrypt all rows, in the scheme's own jobs."""
    step = client_scheme(scheme).rows_per_job()
    key = client_scheme(scheme).generate()

    def all_jobs() -> None:
        for first in range(0, len(rows), step):
            once(key, evaluator, rows[first : first + step])

    with one_core():
        return median_ms(all_jobs)


def once(key: ClientKey, evaluator: ContainerEvaluator, rows: Rows) -> None:
    """One job."""
    body = b"".join(key.encrypt(rows, Encoding("bench", rows.shape[1], 1.0)))
    key.decrypt(respond(evaluator, body), rows=len(rows))


def median_ms(call: Callable[[], object]) -> float:
    """Of `REPEATS` calls, after one that is not counted."""
    call()
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        call()
        times.append(1000 * (time.process_time() - start))
    return statistics.median(times)


def assumed_crossing(features: int, classes: int) -> int:
    """The first number of rows that `auto` gives to packed."""
    offered = frozenset({"direct", "packed"})
    rows = 1
    while choose(rows=rows, features=features, classes=classes, offered=offered).scheme == "direct":
        rows += 1
    return rows


if __name__ == "__main__":
    run()
