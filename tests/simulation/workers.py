"""Real workers in the simulated world."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from unittest import mock

from structlog.testing import capture_logs

from tests.simulation.lines import LEASE_S, LineEndpoint, LineQueue, LineStore
from tests.simulation.world import Process, World
from tests.unit.worker.harness import CONTAINER
from worker.breaker import Breaker
from worker.carrier import Carrier
from worker.concurrency import AdaptiveLimit
from worker.loop import Worker
from worker.metrics import Metrics
from worker.retry import RetryPolicy
from worker.settings import WorkerSettings
from worker.throttle import Throttle

MAX_DELIVERIES = 3
MAX_HAND_BACK_S = 60.0
SETTINGS = WorkerSettings(lease_s=LEASE_S, max_deliveries=MAX_DELIVERIES, max_concurrency=3)
METRICS = Metrics()


async def work(world: World, process: Process) -> None:
    """What `blindscore work` does."""
    chance = world.random.random
    endpoint = LineEndpoint(world, process)
    throttle = Throttle(
        AdaptiveLimit(SETTINGS.min_concurrency, SETTINGS.max_concurrency),
        Breaker(failures=3, pause_s=5, random=chance),
        is_ready=endpoint.is_ready,
        metrics=METRICS,
    )
    carrier = Carrier(
        store=LineStore(world, process),
        endpoint=endpoint,
        policy=RetryPolicy(max_attempts=2, cap_s=5, random=chance),
        throttle=throttle,
        container=CONTAINER,
        max_deliveries=MAX_DELIVERIES,
        worker="worker",
        metrics=METRICS,
    )
    process.worker = Worker(LineQueue(world, process), carrier.carry, SETTINGS, throttle)
    await process.worker.run()


class _SeldomLooks:
    def uniform(self, _: float, pause_s: float) -> float:
        return 10 * pause_s


@contextmanager
def nothing_to_chance() -> Iterator[None]:
    """Make workers the same each time, and quiet. They look at an empty queue every 20 s, not every
    2, and wait a minute at most before they try again: it saves looking at hours of nothing."""
    looks = mock.patch("worker.loop.secrets", SimpleNamespace(SystemRandom=_SeldomLooks))
    turns = mock.patch("worker.loop.TURN_S", 20.0)
    delays = mock.patch("worker.retry.MAX_HAND_BACK_S", MAX_HAND_BACK_S)
    with capture_logs(), looks, turns, delays:
        yield
