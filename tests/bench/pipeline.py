"""Runs through the whole pipeline on this machine, one after another, in scheme `packed`.

Storage, endpoint and worker are up all the time, as they are where they serve. `produce` is
started for each run, as a user does; this process collects, and has imported all it needs after the
first. A run lasts from just before its first row is read to its last score decrypted. Processor
seconds are read per process. What the host of a virtual machine gives to others meanwhile
("stolen") is taken off the wall time before that is compared with processor time.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from threadpoolctl import threadpool_limits

from deploy.local.ports import free_port
from deploy.local.stack import Stack
from producer.cli_results import collect
from producer.report import Report
from producer.runs import RunFolder
from shared import blobnames
from shared.errors import BlindscoreError
from shared.settings import storage_settings
from shared.storage import open_store
from tests.bench.meter import CORES, POOLS, Meter, Usage

DEADLINE_S = 300.0


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
    """Of each part, for as long as its commands ran."""
    stolen_s: float
    """Of the wall time, what the host gave to other machines: mean over the cores."""
    ideal_s: float = 0.0
    """Encryption and evaluation alone, on all cores at once, without a gap; where it is known."""

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
        stages = [self.usage[f"{part}{POOLS}"].cpu_s for part in ("produce", "endpoint")]
        return self.own_s / (sum(stages) / CORES)


class Pipeline:
    """What serves run after run, and a key for them."""

    def __init__(self, stack: Stack, folder: Path, model: Path, consent: str) -> None:
        self._stack = stack
        self._folder = folder
        self._home = folder / "home"
        self._model = model
        self._consent = consent

    def take(self, rows: Path, *, scale: float) -> Run:
        """A file of rows, of values up to `scale`, through the pipeline; nothing stays of it."""
        argv, environment = self._stack.command(
            *("produce", "--dataset", str(rows), "--scale", str(scale), "--input-bound", "1"),
            *("--scheme", "packed", "--endpoint", self._stack.endpoint),
        )
        out, log = self._folder / "out", self._folder / "produce.log"
        meter = Meter(self._stack)
        start = time.time()
        with (
            log.open("wb") as said,
            subprocess.Popen(
                argv, env=environment, stdout=subprocess.PIPE, stderr=said, text=True
            ) as producing,
        ):
            meter.watch("produce", producing.pid)
            with meter, redirect_stdout(StringIO()):
                name = producing.stdout.readline().strip() if producing.stdout else ""
                if name:
                    collect(
                        name,
                        out=out,
                        model=self._model,
                        trust_pickle=self._consent,
                        deadline_s=DEADLINE_S,
                        home=self._home,
                    )
        if producing.returncode:
            raise BlindscoreError(f"`blindscore produce` failed:\n{log.read_text()}")
        decrypted = max(part.stat().st_mtime for part in out.rglob("*.scores"))
        opened = RunFolder(self._home, name).read().created_at.timestamp()
        report = Report.model_validate_json((out / "report.json").read_bytes())
        run = Run(
            rows=report.rows,
            wall_s=decrypted - opened,
            commands_s=decrypted - start,
            report=report,
            bytes_up=asyncio.run(_bytes_up(name)),
            usage=meter.usage,
            stolen_s=meter.stolen_s(opened, decrypted),
        )
        self.command("clean", name, "--yes")
        shutil.rmtree(out)
        return run

    def command(self, *arguments: str) -> None:
        argv, environment = self._stack.command(*arguments)
        subprocess.run(argv, env=environment, check=True, capture_output=True)


@contextmanager
def running(folder: Path, model: Path, *, consent: str = "") -> Iterator[Pipeline]:
    """Storage, one endpoint with the model and one worker, and a key of `packed`."""
    options = ("--trust-pickle", consent) if consent else ()
    probes = free_port(0)
    work_options = ("--health-port", str(probes))
    with (
        Stack(folder, model, serve_options=options, work_options=work_options) as stack,
        _environment(stack),
        threadpool_limits(1),
    ):
        stack.wait_until_ready("work", f"http://127.0.0.1:{probes}")
        pipeline = Pipeline(stack, folder, model, consent)
        pipeline.command("keygen", "--scheme", "packed")
        yield pipeline


def middle(takes: list[Run]) -> Run:
    """The one of median length: machines that are shared are not equally fast all the time."""
    return sorted(takes, key=lambda done: done.own_s)[len(takes) // 2]


async def _bytes_up(run: str) -> int:
    async with open_store(storage_settings()) as store:
        return sum([blob.size async for blob in store.list(blobnames.inputs(run))])


@contextmanager
def _environment(stack: Stack) -> Iterator[None]:
    before = dict(os.environ)
    os.environ |= stack.environment | {"OPENBLAS_NUM_THREADS": "1"}  # as the command does
    try:
        yield
    finally:
        os.environ.clear()
        os.environ |= before
