"""Soak: many small jobs in a row. Nothing grows: neither memory, nor threads, nor open files."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil

from shared.model import load_model
from tests.chaos.part import Part, wait_until
from tests.chaos.plan import digits
from tests.chaos.system import System
from tests.chaos.verdict import Verdict, judge, require_settled

WORK_OPTIONS = ("--min-concurrency", "8", "--max-concurrency", "8")
"""So that its pools of connections are what they will be from the beginning."""
BACKLOG = 100
"""So that the producer, too, has most of its work to do when measuring begins."""
SAMPLE_S = 0.25
READY_S = 60.0
PATIENCE_S, PATIENCE_PER_JOB_S = 300.0, 0.5
WARM = 0.3
"""The share of jobs that are done when measuring begins: past all loading and caches' filling."""
COMPARED = 0.2
"""The first and the last part of all samples."""
MIB = 1024 * 1024

ALLOWED_MB = {"collect": 24.0}
"""The collector keeps a kilobyte or two of each job, for its report."""
ALLOWED_ANY_MB = 12.0
ALLOWED_FILES = ALLOWED_THREADS = 10
"""Pools of connections and of threads come and go by two or three.

What is lost once in ten jobs makes 14 (produce) to 22 more over the 400 jobs of the short version:
1 - COMPARED of those after WARM, and of a producer that is BACKLOG ahead of them.
"""


@dataclass(frozen=True, slots=True)
class Sample:
    """What a program and its children hold."""

    resident_mb: float
    files: int
    """Open files, pipes and sockets."""
    threads: int


@dataclass(frozen=True, slots=True)
class Growth:
    """Medians of the first samples, and how much more those of the last are."""

    samples: int
    resident_mb: float
    grown_mb: float
    files: int
    more_files: int
    threads: int
    more_threads: int


@dataclass(slots=True)
class Meter:
    """Samples parts of the system, whenever it is asked to and it is time."""

    parts: list[Part]
    is_warm: Callable[[], bool]
    _began: bool = False
    _next_s: float = 0.0
    _samples: dict[str, list[Sample]] = field(default_factory=dict)

    def look(self) -> None:
        if time.monotonic() < self._next_s:
            return
        self._next_s = time.monotonic() + SAMPLE_S
        self._began = self._began or self.is_warm()
        for part in self.parts if self._began else ():
            if part.is_running and (sample := _sample(part)) is not None:
                self._samples.setdefault(part.name, []).append(sample)

    def growth(self) -> dict[str, Growth]:
        """Of each part that ran then."""
        return {name: _growth(samples) for name, samples in self._samples.items()}


def _sample(part: Part) -> Sample | None:
    try:
        family = [part.process, *part.process.children(recursive=True)]
        return Sample(
            resident_mb=sum(process.memory_info().rss for process in family) / MIB,
            files=sum(process.num_fds() for process in family),
            threads=sum(process.num_threads() for process in family),
        )
    except psutil.Error:
        return None  # it has just ended


def _growth(samples: list[Sample]) -> Growth:
    compared = max(1, int(COMPARED * len(samples)))
    early, late = _typical(samples[:compared]), _typical(samples[-compared:])
    return Growth(
        samples=len(samples),
        resident_mb=round(early.resident_mb, 1),
        grown_mb=round(late.resident_mb - early.resident_mb, 1),
        files=early.files,
        more_files=late.files - early.files,
        threads=early.threads,
        more_threads=late.threads - early.threads,
    )


def _typical(samples: list[Sample]) -> Sample:
    """The medians."""
    return Sample(
        resident_mb=statistics.median(sample.resident_mb for sample in samples),
        files=statistics.median_low([sample.files for sample in samples]),
        threads=statistics.median_low([sample.threads for sample in samples]),
    )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the rows, and what grew."""

    jobs: int
    seconds: float
    jobs_per_s: float
    verdict: Verdict
    growth: dict[str, Growth]

    def require_flat(self) -> None:
        """Raises AssertionError, naming what grew."""
        assert self.growth, "nothing was measured"
        for name, part in self.growth.items():
            assert part.grown_mb <= ALLOWED_MB.get(name, ALLOWED_ANY_MB), f"{name}: {part}"
            assert part.more_files <= ALLOWED_FILES, f"{name}: {part}"
            assert part.more_threads <= ALLOWED_THREADS, f"{name}: {part}"


def soak(folder: Path, model: Path, jobs: int) -> Outcome:
    """One run of `jobs` jobs of one row each."""
    rows = digits(jobs)
    with System(folder, model, workers=1, work_options=WORK_OPTIONS) as system:
        np.save(folder / "rows.npy", rows)
        system.make_key("direct")
        system.start_crew()
        decrypted = folder / "out" / "parts"
        meter = Meter(
            [*system.crew, system.endpoint],
            is_warm=lambda: sum(1 for _ in decrypted.glob("*/*.scores")) >= WARM * jobs,
        )
        seconds = _run(system, meter, jobs)
        outcome = Outcome(
            jobs=jobs,
            seconds=round(seconds, 1),
            jobs_per_s=round(jobs / seconds, 1),
            verdict=judge(folder / "out" / "predictions.csv", load_model(model), rows),
            growth=meter.growth(),
        )
    system.require_nothing_runs()
    return outcome


def _run(system: System, meter: Meter, jobs: int) -> float:
    """Produce and collect beside each other; how many seconds that took."""
    patience_s = PATIENCE_S + jobs * PATIENCE_PER_JOB_S
    producer = system.part(
        "produce",
        *("produce", "--dataset", str(system.folder / "rows.npy"), "--input-bound", "1"),
        *("--scheme", "direct", "--rows-per-job", "1", "--processes", "0"),
        *("--max-backlog", str(BACKLOG)),
    )
    collector = system.part("collect")
    meter.parts += [producer, collector]

    def is_over() -> bool:
        meter.look()
        return producer.code is not None and collector.code is not None

    started_s = time.monotonic()
    producer.start()
    wait_until(lambda: "\n" in producer.output, "a run", within_s=READY_S)
    run = producer.output.split()[0]
    collector.start(
        *("collect", run, "--out", str(system.folder / "out"), "--processes", "0"),
        *("--deadline-s", str(patience_s)),
    )
    wait_until(is_over, "its end", within_s=patience_s)
    seconds = time.monotonic() - started_s
    for part in (*system.crew, system.endpoint):
        part.require_code(None)
    for part in (producer, collector):
        part.require_code(0)
    require_settled(system, run, jobs)
    return seconds
