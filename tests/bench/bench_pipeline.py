"""The whole pipeline on this machine against the way the seeds do it, in one run.

The seeds' way is the SDK's client and EIServer, one image a call. Ours is `produce` and `collect`
over Azurite, with one worker and one endpoint (`tests.bench.pipeline`): several takes of what is
short, of which the middle one is told, but errors of all.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from encrypted.inference.eiclient import EILinearRegressionClient
from encrypted.inference.eiserver import EIServer
from rich.console import Console
from rich.table import Table

from shared.linear import LinearModel
from tests.bench import mnist
from tests.bench.kernels import kernels_cpu_s
from tests.bench.meter import CORES, Usage
from tests.bench.pipeline import Pipeline, Run, middle, running
from tests.commands import MNIST_MODEL

SEEDS_IMAGES = 2
TAKES = {10_000: 5, 60_000: 3}
"""By number of images."""


def run(takes: dict[int, int] = TAKES) -> dict[str, float]:
    """Print the tables; returns the figures for build/bench.json."""
    images = mnist.images(10_000)
    seeds_s = seeds_way(mnist.published_model(), images[:SEEDS_IMAGES])
    with (
        tempfile.TemporaryDirectory(prefix="blindscore-bench-") as scratch,
        running(Path(scratch), MNIST_MODEL, consent=mnist.consent()) as pipeline,
    ):
        all_runs = [
            ours(
                pipeline, write_images(Path(scratch) / f"{count}.npy", images, count), count, times
            )
            for count, times in takes.items()
        ]
    runs = [middle(same) for same in all_runs]
    show(seeds_s, runs)
    first = runs[0]
    figures = {
        "packed.end_to_end_ratio": seeds_s * first.rows / first.wall_s,
        "packed.images_per_s": first.rows / first.wall_s,
        "packed.wall_over_ideal": first.over_ideal,
        "packed.up_bytes": first.bytes_up / first.rows,
        "packed.down_bytes": first.report.bytes_down / first.rows,
    }
    for done in runs:
        figures[f"packed.wall_over_ideal_{done.rows}"] = done.over_ideal
        figures[f"packed.wall_over_stages_{done.rows}"] = done.over_stages
        figures[f"packed.wall_s_{done.rows}"] = done.wall_s
        figures[f"packed.commands_s_{done.rows}"] = done.commands_s
        figures[f"packed.stolen_s_{done.rows}"] = done.stolen_s
    agreements = [done.report.agreement for same in all_runs for done in same]
    figures["packed.mismatches"] = max(found.mismatches for found in agreements if found)
    figures["packed.max_error"] = max(found.max_error for found in agreements if found)
    return figures


def seeds_way(model: LinearModel, images: np.ndarray) -> float:
    """Seconds an image: encrypt, predict, decrypt, keys made and loaded beforehand."""
    client = EILinearRegressionClient()
    _, keys = client.get_public_keys()
    server = EIServer(model.weights, model.intercept)
    seconds = []
    for image in images:
        start = time.perf_counter()
        client.decrypt(server.predict(client.encrypt(image), keys))
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def write_images(path: Path, images: np.ndarray, count: int) -> Path:
    """`count` images: the test set, repeated; in pixels."""
    np.save(path, np.resize(np.rint(images * 255).astype(np.uint8), (count, images.shape[1])))
    return path


def ours(pipeline: Pipeline, rows: Path, count: int, times: int) -> list[Run]:
    """A file of so many images through the pipeline, again and again."""
    # Before and after, because machines that are shared are not equally fast all the time.
    before_s = kernels_cpu_s(count)
    takes = [pipeline.take(rows, scale=255.0) for _ in range(times)]
    ideal_s = (before_s + kernels_cpu_s(count)) / 2 / CORES
    return [replace(done, ideal_s=ideal_s) for done in takes]


def show(seeds_s: float, runs: list[Run]) -> None:
    """Print the tables."""
    console = Console()
    table = _table("MNIST, published model, end to end", "images", "wall s", "images/s", "times")
    per_s = 1 / seeds_s
    table.add_row(
        "the seeds' way", str(SEEDS_IMAGES), f"{SEEDS_IMAGES * seeds_s:.1f}", f"{per_s:.3f}", "1"
    )
    for done in runs:
        speed = done.rows / done.wall_s
        figures = (f"{done.rows:,}", f"{done.wall_s:.2f}", f"{speed:,.0f}", f"{speed / per_s:,.0f}")
        table.add_row("packed", *figures)
    console.print(table)
    table = _table("how well it overlaps", *(f"{done.rows:,} images" for done in runs))
    for what, figure in {
        "wall s": lambda done: f"{done.wall_s:.2f}",
        "with what the commands do before": lambda done: f"{done.commands_s:.2f}",
        "less what was stolen": lambda done: f"{done.own_s:.2f}",
        "ideal s: encryption and evaluation alone": lambda done: f"{done.ideal_s:.2f}",
        "wall, less stolen, over ideal": lambda done: f"{done.over_ideal:.2f}",
        "… over what these took in this run": lambda done: f"{done.over_stages:.2f}",
    }.items():
        table.add_row(what, *map(figure, runs))
    console.print(table)
    columns = [
        f"{done.rows:,}: {what}" for done in runs for what in ("µs CPU an image", "peak MiB")
    ]
    table = _table("where it goes, and the largest process", *columns)
    for part in runs[0].usage:
        cells = []
        for done in runs:
            usage = done.usage.get(part, Usage())
            cells += [f"{1e6 * usage.cpu_s / done.rows:,.1f}", f"{usage.peak_mb:,.0f}"]
        table.add_row(part, *cells)
    console.print(table)


def _table(title: str, *headings: str) -> Table:
    table = Table("", title=title, title_justify="left")
    for heading in headings:
        table.add_column(heading, justify="right")
    return table
