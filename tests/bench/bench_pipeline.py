"""The whole pipeline on this machine against the way the seeds do it, in one run.

The seeds' way is the SDK's client and EIServer, one image a call. Ours is `produce` and `collect`
over Azurite, with one worker and one endpoint, from just before the first image is read to the last
score decrypted; the second figure counts what the commands do before, too. Processor seconds are
read per process. What the host of a virtual machine gives to others meanwhile ("stolen") is taken
off the wall time before that is compared with processor time.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import numpy as np
from encrypted.inference.eiclient import EILinearRegressionClient
from encrypted.inference.eiserver import EIServer
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

from deploy.local.ports import free_port
from deploy.local.stack import Stack
from producer.cli import produce
from producer.cli_results import collect
from producer.report import Report
from producer.runs import RunFolder
from shared import blobnames
from shared.linear import LinearModel
from shared.settings import StorageSettings
from shared.storage import open_store
from tests.bench import mnist
from tests.bench.kernels import kernels_cpu_s
from tests.bench.meter import CORES, POOLS, Meter, Usage
from tests.commands import MNIST_MODEL

SEEDS_IMAGES = 2
ROWS = (10_000, 60_000)
LOOK_S = 0.01


@dataclass(slots=True)
class Run:
    """One run of the pipeline."""

    rows: int
    wall_s: float
    """From just before the first row is read to the last score decrypted."""
    commands_s: float
    """The same, but from the start of the commands."""
    report: Report
    bytes_up: int
    usage: dict[str, Usage]
    stolen_s: float
    """Of the wall time, what the host gave to other machines: mean over the cores."""
    ideal_s: float = 0.0
    """Encryption and evaluation alone, on all cores at once, without a gap."""

    @property
    def own_s(self) -> float:
        """The wall time in which the cores were ours."""
        return self.wall_s - self.stolen_s

    @property
    def over_ideal(self) -> float:
        return self.own_s / self.ideal_s

    @property
    def over_stages(self) -> float:
        """Over what the processes that encrypt and evaluate took in this very run."""
        pools = [usage.cpu_s for part, usage in self.usage.items() if part.endswith(POOLS)]
        return self.own_s / (sum(pools) / CORES)


def run(rows: tuple[int, ...] = ROWS) -> dict[str, float]:
    """Print the tables; returns the figures for build/bench.json."""
    images = mnist.images(10_000)
    seeds_s = seeds_way(mnist.published_model(), images[:SEEDS_IMAGES])
    with tempfile.TemporaryDirectory(prefix="blindscore-bench-") as scratch:
        runs = [ours(Path(scratch), images, count) for count in rows]
    show(seeds_s, runs)
    first = runs[0]
    agreement = first.report.agreement
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
        figures[f"packed.stolen_s_{done.rows}"] = done.stolen_s
    if agreement is not None:
        figures["packed.mismatches"] = agreement.mismatches
        figures["packed.max_error"] = agreement.max_error
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


def ours(scratch: Path, images: np.ndarray, count: int) -> Run:
    """`count` images (the test set, repeated) through the pipeline."""
    rows = scratch / f"{count}.npy"
    np.save(rows, np.resize(np.rint(images * 255).astype(np.uint8), (count, images.shape[1])))
    before_s = kernels_cpu_s(count)
    done = through(scratch / str(count), rows, MNIST_MODEL, scale=255.0, consent=mnist.consent())
    # Before and after, because machines that are shared are not equally fast all the time.
    done.ideal_s = (before_s + kernels_cpu_s(count)) / 2 / CORES
    return done


def through(folder: Path, rows: Path, model: Path, *, scale: float, consent: str = "") -> Run:
    """A file of rows, of values up to `scale`, through the pipeline in scheme `packed`."""
    options = ("--trust-pickle", consent) if consent else ()
    probes = free_port(0)
    work_options = ("--health-port", str(probes))
    with (
        Stack(folder, model, serve_options=options, work_options=work_options) as stack,
        _environment(stack),
    ):
        stack.wait_until_ready("work", f"http://127.0.0.1:{probes}")
        home, out = folder / "home", folder / "out"
        argv, environment = stack.command("keygen", "--scheme", "packed", "--home", str(home))
        subprocess.run(argv, env=environment, check=True, capture_output=True)
        said = StringIO()
        meter = Meter(stack)
        with meter, redirect_stdout(said):
            start = time.time()
            producing = threading.Thread(
                target=lambda: produce(
                    dataset=str(rows),
                    scale=scale,
                    input_bound=1.0,
                    scheme="packed",
                    home=home,
                    endpoint=stack.endpoint,
                )
            )
            producing.start()
            while "\n" not in said.getvalue() and producing.is_alive():
                time.sleep(LOOK_S)
            name = said.getvalue().split()[0]
            collect(name, out=out, model=model, trust_pickle=consent, home=home)
            producing.join()
        decrypted = max(part.stat().st_mtime for part in out.rglob("*.scores"))
        report = Report.model_validate_json((out / "report.json").read_bytes())
        opened = RunFolder(home, name).read().created_at.timestamp()
        return Run(
            rows=report.rows,
            wall_s=decrypted - opened,
            commands_s=decrypted - start,
            report=report,
            bytes_up=_bytes_up(name, stack),
            usage=meter.usage,
            stolen_s=meter.stolen_s(opened, decrypted),
        )


def _bytes_up(run: str, stack: Stack) -> int:
    settings = StorageSettings(
        connection_string=SecretStr(stack.environment["BLINDSCORE_CONNECTION_STRING"]),
        container=stack.environment["BLINDSCORE_CONTAINER"],
    )

    async def total() -> int:
        async with open_store(settings) as store:
            return sum([blob.size async for blob in store.list(blobnames.inputs(run))])

    return asyncio.run(total())


@contextmanager
def _environment(stack: Stack) -> Iterator[None]:
    before = dict(os.environ)
    os.environ |= stack.environment | {"OPENBLAS_NUM_THREADS": "1"}  # as the command does
    try:
        with threadpool_limits(1):
            yield
    finally:
        os.environ.clear()
        os.environ |= before


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
