"""Processor time and memory: of one core alone, or sampled of everything that runs."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count

import numpy as np
import psutil
from threadpoolctl import threadpool_limits

from deploy.local.stack import Stack

CORES = os.cpu_count() or 1
SAMPLE_S = 0.1
"""What a process takes after its last sample is not counted."""
SAMPLES_A_WALK = 5
"""Of all known processes, until one looks for others too: it has to read all of the machine's."""
MIB = 1024 * 1024
START = " start"
"""Added to the name of a part for its children: the interpreter that processes are forked from."""
POOLS = " pools"
"""The same for what that has forked, which encrypts, evaluates or decrypts and nothing else."""


@contextmanager
def one_core() -> Iterator[None]:
    """On one core and no other, numpy's threads too."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        with threadpool_limits(1):
            yield
    finally:
        os.sched_setaffinity(0, before)


@dataclass(slots=True)
class Usage:
    """What the processes of one part took."""

    cpu_s: float = 0.0
    peak_mb: float = 0.0


class Meter:
    """Samples processor time and memory of everything that runs: a context manager."""

    def __init__(self, stack: Stack) -> None:
        self.usage: dict[str, Usage] = {}
        names = {"azurite": "Azurite", "serve": "endpoint", "work": "worker"}
        self._parts = {os.getpid(): "collect"} | {
            pid: names[name] for name, pid in stack.pids().items()
        }
        self._known: dict[psutil.Process, str] = {}
        self._before: dict[psutil.Process, float] = {}
        self._seen: dict[psutil.Process, tuple[str, float]] = {}
        self._stolen: list[tuple[float, float]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample_until_stopped)

    def watch(self, part: str, pid: int) -> None:
        """One more process, besides this one, which collects, and those of the stack."""
        self._parts[pid] = part

    def __enter__(self) -> None:
        self._find()
        self._before = {process: _cpu_s(process) for process in self._known}
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        for part, seconds in self._seen.values():
            self.usage[part].cpu_s += seconds

    def stolen_s(self, begin: float, end: float) -> float:
        """Seconds a core between two times that the host of this virtual machine took."""
        times, seconds = zip(*self._stolen, strict=True)
        at_begin, at_end = np.interp((begin, end), times, seconds)
        return float(at_end - at_begin)

    def _sample_until_stopped(self) -> None:
        samples = count()
        while not self._stop.wait(SAMPLE_S):
            self._sample(memory=next(samples) % SAMPLES_A_WALK == 0)
        self._sample(memory=True)

    def _sample(self, *, memory: bool) -> None:
        """Of all known processes; with `memory`, which is dearer, all there are become known."""
        self._stolen.append((time.time(), getattr(psutil.cpu_times(), "steal", 0.0) / CORES))
        if memory:
            self._find()
        for process, part in tuple(self._known.items()):
            try:
                used = _cpu_s(process) - self._before.get(process, 0.0)
                resident = process.memory_info().rss / MIB if memory else 0.0
            except psutil.Error:  # it has ended
                del self._known[process]
                continue
            self._seen[process] = part, used
            usage = self.usage.setdefault(part, Usage())
            usage.peak_mb = max(usage.peak_mb, resident)

    def _find(self) -> None:
        own = psutil.Process()
        self._known[own] = self._parts[own.pid]
        for process in own.children(recursive=True):  # parents come before their children
            try:
                part = self._parts.get(process.pid) or self._part_of_child(process.parent())
            except psutil.Error:  # it has just ended
                continue
            if part:
                self._known[process] = part

    def _part_of_child(self, parent: psutil.Process | None) -> str:
        """Empty for one of a parent that has just ended."""
        part = self._known.get(parent, "") if parent else ""
        if not part or part.endswith(POOLS):
            return part
        return part.removesuffix(START) + (POOLS if part.endswith(START) else START)


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
