"""Processor time and memory: of one core alone, or sampled of everything that runs."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import psutil
from threadpoolctl import threadpool_limits

from deploy.local.stack import Stack

CORES = os.cpu_count() or 1
SAMPLE_S = 0.5
MIB = 1024 * 1024
POOLS = " pools"
"""What is added to the name of a part for its children, which encrypt or evaluate."""


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
    """Samples processor time and memory of everything that runs."""

    def __init__(self, stack: Stack) -> None:
        self.usage: dict[str, Usage] = {}
        self._stack = stack
        self._before: dict[int, float] = {}
        self._seen: dict[tuple[str, int], float] = {}
        self._stolen: list[tuple[float, float]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample_until_stopped)

    def __enter__(self) -> None:
        for _, process in self._processes():
            self._before[process.pid] = _cpu_s(process)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        for (part, _pid), seconds in self._seen.items():
            self.usage[part].cpu_s += seconds

    def stolen_s(self, begin: float, end: float) -> float:
        """Seconds a core between two times that the host of this virtual machine took."""
        times, seconds = zip(*self._stolen, strict=True)
        at_begin, at_end = np.interp((begin, end), times, seconds)
        return float(at_end - at_begin)

    def _sample_until_stopped(self) -> None:
        self._sample()
        while not self._stop.wait(SAMPLE_S):
            self._sample()
        self._sample()

    def _sample(self) -> None:
        self._stolen.append((time.time(), getattr(psutil.cpu_times(), "steal", 0.0) / CORES))
        memory: dict[str, float] = {}
        for part, process in self._processes():
            try:
                used = _cpu_s(process) - self._before.get(process.pid, 0.0)
                resident = process.memory_info().rss / MIB
            except psutil.Error:
                continue
            self._seen[part, process.pid] = used
            memory[part] = max(memory.get(part, 0.0), resident)
        for part, resident in memory.items():
            usage = self.usage.setdefault(part, Usage())
            usage.peak_mb = max(usage.peak_mb, resident)

    def _processes(self) -> Iterator[tuple[str, psutil.Process]]:
        names = {"azurite": "Azurite", "serve": "endpoint", "work": "worker"}
        servers = {pid: names[name] for name, pid in self._stack.pids().items()}
        own = psutil.Process()
        yield "produce and collect", own
        pools = {own.pid: f"produce and collect{POOLS}"}  # what the children of a process are
        for process in own.children(recursive=True):  # parents come before their children
            try:
                part = servers.get(process.pid) or pools[process.ppid()]
            except (psutil.Error, KeyError):
                continue  # it has just ended, or its parent has
            pools[process.pid] = f"{part}{POOLS}" if process.pid in servers else part
            yield part, process


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
