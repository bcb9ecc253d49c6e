"""Lease, delivery, result and delete under every mishap: nothing is lost, nothing is doubled.

The workers are real, in a simulated world with a virtual clock. A failure prints the steps that led
to it, and `@reproduce_failure(…)` to repeat them; BLINDSCORE_DELIVERY_EXAMPLES asks for more.
"""

from __future__ import annotations

import os
from random import Random

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.simulation.workers import MAX_DELIVERIES, nothing_to_chance, work
from tests.simulation.world import (
    ENDPOINT_MODES,
    FAULT_KINDS,
    JOB_KINDS,
    OPS,
    REASONS,
    EndpointMode,
    Fault,
    FaultKind,
    JobKind,
    Op,
    Process,
    World,
)

EXAMPLES = int(os.environ.get("BLINDSCORE_DELIVERY_EXAMPLES", "300"))
MOST_JOBS, MOST_PROCESSES = 8, 4
PATIENCE_S = 50_000.0
WAITS_S = (0.01, 0.5, 2.0, 10.0, 31.0, 100.0, 1000.0)

which_one = st.integers(0, 99)


class Delivery(RuleBasedStateMachine):
    """What a night in production might bring."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    @initialize(jobs=st.lists(st.sampled_from(JOB_KINDS), min_size=1, max_size=4))
    def begin(self, jobs: list[JobKind]) -> None:
        for kind in jobs:
            self.world.submit(kind)
        self.world.start(work)

    @rule(kind=st.sampled_from(JOB_KINDS))
    @precondition(lambda self: len(self.world.jobs) < MOST_JOBS)
    def submit(self, kind: JobKind) -> None:
        self.world.submit(kind)

    @rule(which=which_one)
    def send_again(self, which: int) -> None:
        jobs = sorted(self.world.jobs)
        self.world.send(jobs[which % len(jobs)])

    @rule()
    @precondition(lambda self: len(self.world.alive) < MOST_PROCESSES)
    def start(self) -> None:
        self.world.start(work)

    @rule(which=which_one)
    @precondition(lambda self: bool(self.world.alive))
    def crash(self, which: int) -> None:
        self.world.crash(self.one(which))

    @rule(which=which_one)
    @precondition(lambda self: bool(self.world.alive))
    def stall(self, which: int) -> None:
        self.world.stall(self.one(which))

    @rule()
    @precondition(lambda self: any(process.stalled for process in self.world.alive))
    def go_on(self) -> None:
        for process in self.world.alive:
            process.stalled = False

    @rule(which=which_one)
    @precondition(lambda self: bool(self.world.alive))
    def terminate(self, which: int) -> None:
        self.world.terminate(self.one(which))

    @rule(mode=st.sampled_from(ENDPOINT_MODES))
    def switch_endpoint(self, mode: EndpointMode) -> None:
        self.world.endpoint = mode

    @rule(
        op=st.sampled_from(OPS),
        kind=st.sampled_from(FAULT_KINDS),
        skip=st.integers(0, 3),
        times=st.sampled_from((1, 2, 8)),
    )
    def plan_fault(self, op: Op, kind: FaultKind, skip: int, times: int) -> None:
        self.world.faults.append(Fault(op, kind, skip, times))

    @rule(times=st.integers(1, 8))
    def lose_gets(self, times: int) -> None:
        """Each counts as a delivery, and nobody sees it."""
        self.world.faults.append(Fault("receive", "lost answer", 0, times))

    @rule(seconds=st.sampled_from(WAITS_S), seed=st.integers(0, 2**16))
    def wait(self, seconds: float, seed: int) -> None:
        self.world.random = Random(seed)
        self.world.run(seconds)

    def one(self, which: int) -> Process:
        return self.world.alive[which % len(self.world.alive)]

    def teardown(self) -> None:
        try:
            if self.world.jobs:
                self.end_well()
        finally:
            self.world.close()

    def end_well(self) -> None:
        """The night is over: what is left must come to its end, and be right."""
        world = self.world
        world.faults.clear()
        world.endpoint, world.calm = "up", True
        self.go_on()
        world.start(work)
        world.run(PATIENCE_S, until=lambda: not world.queue.bodies)
        for process in tuple(world.alive):
            world.terminate(process)
        world.run(PATIENCE_S, until=lambda: not world.alive)
        assert world.queue.bodies == [], "messages that nobody settles"
        world.require_nothing_vanished()
        for job in world.jobs:
            self.require_right(job)

    def require_right(self, job: str) -> None:
        sent, result = self.world.jobs[job], self.world.result(job)
        if result is not None:
            assert sent.kind in {"good", "slow"}
            assert result.startswith(sent.input + b": score ")
        elif sent.kind != "garbage":
            record = self.world.failure(job)
            assert record is not None
            self.require_reason(job, record.code)

    def require_reason(self, job: str, code: str) -> None:
        kind = self.world.jobs[job].kind
        if code == "too_many_deliveries":
            assert self.world.blame[job] >= MAX_DELIVERIES - 1, f"{job} is buried without its fault"
        elif code == "feature_count":
            assert job in self.world.refused
        else:
            assert code == REASONS.get(kind), f"a {kind} job failed with {code}"


def test_no_interleaving_loses_or_doubles_a_result() -> None:
    with nothing_to_chance():
        run_state_machine_as_test(
            Delivery,
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=30,
                deadline=None,
                print_blob=True,
                phases=[phase for phase in Phase if phase is not Phase.explain],
                suppress_health_check=list(HealthCheck),
            ),
        )
