"""Chaos: everything is killed again and again while a run goes through, and nothing is lost."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from functools import partial
from pathlib import Path

import numpy as np

from producer.disk import UNFINISHED
from shared import blobnames
from shared.model import load_model
from tests.chaos.halfway import half_staged
from tests.chaos.part import TICK_S, Part, wait_until
from tests.chaos.plan import Outcome, Plan
from tests.chaos.system import System
from tests.chaos.verdict import judge, require_settled

WORKERS = 4
KILLS_AT_LEAST = 4
KILLS_AT_WORK = 2
"""So many of them for certain, others by chance."""
READY_S = 60.0
WORK_OPTIONS = (
    *("--lease-s", "4", "--max-concurrency", "4", "--max-deliveries", "20"),
    *("--retry-cap-s", "1", "--breaker-pause-s", "0.5"),
)
ENDPOINT_SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL)


class Chaos:
    """One run under a plan.

    However quick the machine, there is something to kill: the endpoint is halted until workers
    were killed with jobs in hand, and the producer, killed while it submits, comes back only when
    a share of everything else has happened, too.
    """

    def __init__(self, system: System, plan: Plan) -> None:
        self._system = system
        self._plan = plan
        self._random = random.Random(plan.seed)
        self._run = ""
        self._out = system.folder / "results"
        self._producer = system.part("produce")
        self._collector = system.part("collect")
        self._kills = 0
        self._kills_at_work = 0
        self._next_kill_s = 0.0
        self._sent_by_first_producer = 0
        self._half_uploads = 0
        self._producer_starts = 0
        self._collector_kills = 0
        self._endpoint_kills = 0
        self._outages = 0

    def go(self) -> Outcome:
        """Produce, score and collect, killing all the while."""
        started_s = time.monotonic()
        self._system.make_key(self._plan.scheme)
        self._system.start_crew()
        self._wait_for_crew()
        self._begin_to_produce()
        for _ in range(min(KILLS_AT_WORK, self._plan.most_kills)):
            wait_until(lambda: bool(self._at_work()), "a worker with a job", within_s=READY_S)
            self._kill_worker(self._victim())
        self._system.endpoint.tell(signal.SIGCONT)
        self._collect()
        self._next_kill_s = time.monotonic() + self._plan.kill_every_s
        while not (self._producer_starts == 2 and self._producer.code == self._collector.code == 0):
            assert time.monotonic() < started_s + self._plan.deadline_s, "this takes too long"
            self._misbehave()
            time.sleep(TICK_S)
        seconds = time.monotonic() - started_s
        assert self._endpoint_kills == self._plan.endpoint_restarts, "over too soon"
        assert self._outages == bool(self._plan.storage_out_s), "over too soon"
        require_settled(self._system, self._run, self._plan.jobs)
        self._dismiss_crew()
        model = load_model(self._system.model)
        return Outcome(
            jobs=self._plan.jobs,
            rows=self._plan.rows,
            kills=self._kills,
            kills_at_work=self._kills_at_work,
            endpoint_restarts=self._endpoint_kills,
            producer_kills=1,
            half_uploads=self._half_uploads,
            collector_kills=self._collector_kills,
            storage_outages=self._outages,
            seconds=round(seconds, 1),
            verdict=judge(self._out / "predictions.csv", model, self._plan.data()),
        )

    def _begin_to_produce(self) -> None:
        """Halt the endpoint, and kill the producer before its queue is full."""
        rows = self._system.folder / "rows.npy"
        np.save(rows, self._plan.data().astype(np.float32))  # sixteenths: nothing is rounded
        self._produce(
            *("--dataset", str(rows), "--input-bound", "1", "--scheme", self._plan.scheme),
            *("--rows-per-job", str(self._plan.rows_per_job)),
        )
        wait_until(lambda: "\n" in self._producer.output, "a run", within_s=READY_S)
        self._run = self._producer.output.split()[0]
        self._system.endpoint.tell(signal.SIGSTOP)
        half = self._plan.backlog // 2
        wait_until(lambda: self._sent() >= half, "half a queue", within_s=READY_S)
        if self._plan.kill_halfway:
            wait_until(self._is_halted_halfway, "half an upload", within_s=READY_S)
        self._producer.require_code(None)
        self._producer.kill()
        self._sent_by_first_producer = self._sent()

    def _is_halted_halfway(self) -> bool:
        """Halt the producer; if no input is staged in part then, it may go on."""
        self._producer.require_code(None)
        self._producer.tell(signal.SIGSTOP)
        jobs = [blobnames.job_id(number) for number in range(self._plan.jobs)]
        self._half_uploads = asyncio.run(half_staged(self._system.settings, self._run, jobs))
        if not self._half_uploads:
            self._producer.tell(signal.SIGCONT)
        return self._half_uploads > 0

    def _misbehave(self) -> None:
        """Kill whatever is due."""
        self._collector.require_code(None, 0)
        self._require_alive()
        done = self._done()
        if self._kills < self._plan.most_kills and time.monotonic() >= self._next_kill_s:
            self._kill_worker(self._victim())
            self._next_kill_s += self._plan.kill_every_s
        if not self._collector_kills and done >= self._plan.backlog // 4:
            self._collector.require_code(None)
            self._collector.kill()
            self._leftover.touch()
            self._collect()
            self._collector_kills += 1
        if self._endpoint_kills < self._plan.endpoint_restarts and done >= self._next_restart():
            self._system.endpoint.kill(ENDPOINT_SIGNALS[self._endpoint_kills % 3])
            self._system.endpoint.start()
            self._endpoint_kills += 1
        if self._producer_starts == 1 and self._is_enough():
            self._produce("--resume", self._run)
        elif self._producer_starts == 2:
            self._producer.require_code(None, 0)
            if self._outages < bool(self._plan.storage_out_s) and self._has_sent_more():
                self._take_storage_away()

    def _is_enough(self) -> bool:
        """Whether so much has happened that the run may go on to its end."""
        return (
            self._collector_kills == 1
            and not self._leftover.exists()
            and self._kills >= min(KILLS_AT_LEAST, self._plan.most_kills)
            and self._endpoint_kills >= min(1, self._plan.endpoint_restarts)
        )

    @property
    def _leftover(self) -> Path:
        """What a kill in the middle of a write leaves behind. The next collector takes it away once
        it has read the manifest: from then on it waits when storage is away, and has not before."""
        return self._out / "parts" / self._run / f"killed{UNFINISHED}"

    def _next_restart(self) -> int:
        """So many jobs are decrypted when the endpoint is restarted next."""
        first = self._plan.backlog // 4
        return first + self._endpoint_kills * self._plan.jobs // (self._plan.endpoint_restarts + 1)

    def _victim(self) -> Part:
        """One of those that are at work, if any are."""
        return self._random.choice(self._at_work() or self._system.crew)

    def _at_work(self) -> list[Part]:
        return [worker for worker in self._system.crew if _is_at_work(worker)]

    def _kill_worker(self, worker: Part) -> None:
        worker.kill()
        self._kills += 1
        self._kills_at_work += _is_at_work(worker)
        worker.start()

    def _take_storage_away(self) -> None:
        """By SIGTERM, as Azurite keeps what it has acknowledged only then."""
        self._system.azurite.stop()
        time.sleep(self._plan.storage_out_s)
        self._system.azurite.start()
        self._outages += 1

    def _require_alive(self) -> None:
        """Those that were killed are there again; nobody may have ended by itself."""
        for part in (*self._system.crew, self._system.endpoint):
            part.require_code(None)

    def _wait_for_crew(self) -> None:
        for worker in self._system.crew:
            wait_until(partial(_has_begun, worker), "a worker", within_s=READY_S)

    def _dismiss_crew(self) -> None:
        self._wait_for_crew()
        for worker in self._system.crew:
            worker.kill(signal.SIGTERM)
            worker.require_code(0)

    def _produce(self, *options: str) -> None:
        backlog = ("--max-backlog", str(self._plan.backlog))
        self._producer.start("produce", *options, *backlog, *self._processes())
        self._producer_starts += 1

    def _collect(self) -> None:
        out = ("--out", str(self._out))
        self._collector.start("collect", self._run, *out, *self._processes())

    def _processes(self) -> tuple[str, str]:
        return "--processes", str(self._plan.processes)

    def _has_sent_more(self) -> bool:
        return self._sent() > self._sent_by_first_producer

    def _sent(self) -> int:
        log = self._system.folder / "home" / "runs" / self._run / "enqueued"
        return log.read_bytes().count(b"\n") if log.exists() else 0

    def _done(self) -> int:
        """How many jobs are decrypted; all of them once the collector has ended."""
        if self._collector.code == 0:
            return self._plan.jobs
        parts = self._out / "parts" / self._run
        return sum(1 for _ in parts.glob("*.scores")) if parts.is_dir() else 0


def chaos(folder: Path, model: Path, plan: Plan) -> Outcome:
    """Set everything up, let chaos reign, and tell what became of the rows.

    `model` is that of the digits.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = plan.widen(model, folder)
    with System(folder, model, workers=WORKERS, work_options=WORK_OPTIONS) as system:
        outcome = Chaos(system, plan).go()
    system.require_nothing_runs()
    return outcome


def _has_begun(worker: Part) -> bool:
    return bool(worker.output)


def _is_at_work(worker: Part) -> bool:
    """By its log, which is a little behind: whether it has a job in hand."""
    events = worker.events()
    ended = ("job_scored", "job_done_already", "job_handed_back", "job_failed")
    return events["job_started"] > sum(events[name] for name in ended)
