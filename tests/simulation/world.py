"""A simulated cloud and what is known of it: one queue, one store, one endpoint, one clock.

Everything that happens by chance is drawn from one random generator, and what goes wrong is
planned, so that whatever happened can be made to happen again.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from shared import blobnames
from shared.messages import FailureRecord
from tests.fakes import FakeClock, FakeQueue, FakeStore
from tests.simulation.stepped import NEVER_S, SteppedLoop
from tests.unit.worker.harness import RUN, TYPE, message
from worker.deadletter import DeadLetter
from worker.loop import Worker

Op = Literal[
    "receive",
    "renew",
    "release",
    "delete",
    "bury",
    "stat",
    "look up",
    "open",
    "score",
    "result",
    "failure",
    "note",
]
OPS: tuple[Op, ...] = get_args(Op)

FaultKind = Literal["lost request", "lost answer", "late", "twice", "crash", "crash after", "stall"]
FAULT_KINDS: tuple[FaultKind, ...] = get_args(FaultKind)

JobKind = Literal["good", "slow", "refused", "broken", "missing", "corrupt", "garbage", "unknown"]
JOB_KINDS: tuple[JobKind, ...] = get_args(JobKind)
REASONS: dict[JobKind, str] = {
    "missing": "input_missing",
    "corrupt": "corrupt_input",
    "unknown": "bad_message",
}

EndpointMode = Literal["up", "unreachable", "busy", "failing", "hanging", "mistaken", "moody"]
ENDPOINT_MODES: tuple[EndpointMode, ...] = get_args(EndpointMode)


@dataclass
class Fault:
    """What goes wrong with `times` calls of `op`, after `skip` of them went well."""

    op: Op
    kind: FaultKind
    skip: int
    times: int

    @property
    def is_excused(self) -> bool:
        """Whether it never speaks against a job, however often it happens."""
        return self.kind in {"lost request", "lost answer"} and self.op != "note"


@dataclass(frozen=True)
class Submitted:
    """A job as the producer knows it."""

    kind: JobKind
    body: bytes
    input: bytes


TaskOp = tuple[Op, asyncio.Task[Any] | None]


@dataclass
class Process:
    """A worker process."""

    loop: SteppedLoop
    main: asyncio.Task[None] = field(init=False)
    worker: Worker | None = None
    stalled: bool = False
    dead: bool = False
    holding: dict[str, str] = field(default_factory=dict)
    """Job by message id."""
    tried: dict[TaskOp, int] = field(default_factory=dict)
    done: dict[TaskOp, int] = field(default_factory=dict)
    """When which task of it last did what, by the count of all that happened."""


class World:
    """All of it, and what may never happen in it."""

    def __init__(self) -> None:
        self.clock = FakeClock(0.0)
        self.random = random.Random(0)
        self.queue = FakeQueue(self.clock)
        self.store = FakeStore(self.clock)
        self.endpoint: EndpointMode = "up"
        self.calm = False
        """Nothing takes time any more."""
        self.faults: list[Fault] = []
        self.alive: list[Process] = []
        self.gone: list[Process] = []
        self.jobs: dict[str, Submitted] = {}
        self.blame: Counter[str] = Counter()
        """By job: how often something happened that may look like the job's own doing."""
        self.refused: set[str] = set()
        """Jobs that the endpoint has called wrong, rightly or not."""
        self.scored = 0
        self.happened = 0
        self._results: dict[str, bytes] = {}
        self._result_since: dict[str, int] = {}

    # --- the producer

    def submit(self, kind: JobKind) -> None:
        """Upload and enqueue."""
        job = blobnames.job_id(len(self.jobs))
        data = f"ciphertexts of {job}".encode()
        good = message(len(self.jobs), data=data)
        body = good.encode()
        if kind == "garbage":
            body = f"garbage {job}".encode()
        elif kind == "unknown":
            body = body.replace(b'"version":1', b'"version":2')
        self.jobs[job] = Submitted(kind, body, data)
        if kind != "missing":
            stored = data[:-1] + b"?" if kind == "corrupt" else data
            _at_once(self.store.create(good.input, stored, content_type=TYPE))
        self.send(job)

    def send(self, job: str) -> None:
        """Enqueue, perhaps once more."""
        _at_once(self.queue.send(self.jobs[job].body))

    # --- processes

    def start(self, main: Callable[[World, Process], Coroutine[Any, Any, None]]) -> None:
        process = Process(SteppedLoop(self.clock))
        process.main = process.loop.begin(main(self, process))
        self.alive.append(process)

    def crash(self, process: Process) -> None:
        """SIGKILL."""
        process.dead = True
        self._part_with(process)
        self.blame.update(process.holding.values())

    def stall(self, process: Process) -> None:
        """SIGSTOP."""
        process.stalled = True
        self.blame.update(process.holding.values())

    def terminate(self, process: Process) -> None:
        """SIGTERM."""
        if process.worker is not None:
            process.loop.soon(process.worker.stop, "SIGTERM")

    def run(self, seconds: float, *, until: Callable[[], bool] = lambda: False) -> None:
        """Let time pass. Who goes first at any one time is left to chance."""
        end_s = self.clock.now_s + seconds
        while not until():
            running = [process for process in self.alive if not process.stalled]
            due_s = min((process.loop.due_s for process in running), default=NEVER_S)
            self.clock.now_s = min(max(due_s, self.clock.now_s), end_s)
            if due_s > end_s:
                return
            ready = [process for process in running if process.loop.due_s <= self.clock.now_s]
            process = ready[0] if len(ready) == 1 else self.random.choice(ready)
            process.loop.step()
            if process.main.done():
                self._part_with(process)
                process.main.result()

    def close(self) -> None:
        for process in self.gone + self.alive:
            process.dead = True
            process.loop.bury()

    def _part_with(self, process: Process) -> None:
        if process in self.alive:
            self.alive.remove(process)
            self.gone.append(process)

    # --- what can be seen from outside

    def result(self, job: str) -> bytes | None:
        return self._data(blobnames.output_blob(RUN, job))

    def failure(self, job: str) -> FailureRecord | None:
        data = self._data(blobnames.failure_blob(RUN, job))
        return None if data is None else FailureRecord.decode(data, blob=job)

    def _data(self, name: str) -> bytes | None:
        return self.store.blobs[name][1] if name in self.store.blobs else None

    # --- what may never happen

    def note(self, process: Process, op: Op, job: str) -> None:
        """A call of `process` was carried out just now."""
        task = asyncio.current_task()
        self.happened += 1
        process.done[op, task] = self.happened
        if op == "result":
            self._result_since[job] = self.happened
        elif op == "failure":
            looked = process.done.get(("stat", task), 0)
            assert looked >= process.tried.get(("score", task), 0), "failed without a look"
            assert self._result_since.get(job, looked + 1) > looked, "failed in spite of a result"
            proven = process.tried.get(("renew", task), -1)
            assert proven >= looked, "failed without proof of the lease"
        if op in {"delete", "bury", "result", "failure"}:
            self.require_nothing_vanished()

    def require_nothing_vanished(self) -> None:
        """Each job has its first result, or a reason to have none, or is still in the queue."""
        waiting = set(self.queue.bodies)
        for job, sent in self.jobs.items():
            result = self.result(job)
            if result is not None:
                assert result == self._results.setdefault(job, result), f"{job} was overwritten"
                continue
            assert job not in self._results, f"the result of {job} is gone"
            if sent.body not in waiting:
                assert self.is_dead_letter(job), f"job {job} has vanished"
                assert sent.kind == "garbage" or self.failure(job), f"{job} failed unrecorded"

    def is_dead_letter(self, job: str) -> bool:
        letters = map(DeadLetter.model_validate_json, self.queue.dead_letters)
        return any(letter.message.encode() == self.jobs[job].body for letter in letters)


def _at_once(work: Coroutine[Any, Any, None]) -> None:
    """Run what never waits."""
    try:
        work.send(None)
    except StopIteration:
        return
    raise AssertionError("the fakes never wait")
