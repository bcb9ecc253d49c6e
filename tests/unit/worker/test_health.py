"""What probes and Prometheus are told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from deploy.local.ports import free_port
from shared.errors import EndpointError, UsageError
from tests.unit.worker.harness import RESULT, Rig
from tests.unit.worker.virtual import virtual_time
from worker.endpoint import ScoreRequest
from worker.health import LIVE_WITHIN_S, Health, serving_health
from worker.loop import TURN_S
from worker.metrics import Metrics

REFUSED = EndpointError("nobody there", retryable=True, reason="unreachable")


def _watched(rig: Rig) -> Health:
    health = Health(rig.metrics)
    health.watch(rig.worker, rig.throttle)
    return health


@virtual_time
async def test_it_is_ready_until_it_drains_and_alive_throughout() -> None:
    async def long(_: ScoreRequest) -> bytes:
        await asyncio.sleep(10 * LIVE_WITHIN_S)
        return RESULT

    rig = Rig([long], max_concurrency=1, grace_s=5 * LIVE_WITHIN_S, lease_s=60)
    health = _watched(rig)
    await rig.submit(0)
    worker = asyncio.create_task(rig.worker.run())
    await asyncio.sleep(3 * LIVE_WITHIN_S)
    assert (health.condition, health.is_live) == ("ready", True)  # busy is not stuck
    rig.worker.stop("test")
    await asyncio.sleep(3 * LIVE_WITHIN_S)
    assert (health.condition, health.is_live) == ("draining", True)
    await worker


@virtual_time
async def test_a_main_loop_that_hangs_is_not_alive() -> None:
    rig = Rig()
    health = _watched(rig)

    async def hang(max_messages: int, *, lease_s: float) -> list[object]:
        await asyncio.sleep(10 * LIVE_WITHIN_S)
        return []

    rig.queue.receive = hang  # type: ignore[assignment, method-assign]
    worker = asyncio.create_task(rig.worker.run())
    await asyncio.sleep(LIVE_WITHIN_S - TURN_S)
    assert health.is_live
    await asyncio.sleep(2 * TURN_S)
    assert not health.is_live
    rig.worker.stop("test")
    await worker


@virtual_time
async def test_an_endpoint_that_is_down_makes_it_unready_not_dead() -> None:
    rig = Rig([REFUSED], breaker_failures=1)
    rig.is_ready = False
    health = _watched(rig)
    await rig.submit(0)
    worker = asyncio.create_task(rig.worker.run())
    await asyncio.sleep(3 * LIVE_WITHIN_S)
    assert (health.condition, health.is_live) == ("circuit_open", True)
    rig.is_ready, rig.endpoint.script = True, [RESULT]
    await asyncio.sleep(60)
    assert health.condition == "ready"  # although there is no job left to try it with
    rig.worker.stop("test")
    await worker


@asynccontextmanager
async def _asking(health: Health) -> AsyncIterator[aiohttp.ClientSession]:
    port = free_port()
    async with (
        serving_health(health, "127.0.0.1", port),
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
    ):
        yield session


async def _get(session: aiohttp.ClientSession, path: str) -> tuple[int, str]:
    async with session.get(path) as answer:
        return answer.status, await answer.text()


async def test_probes_are_answered_from_the_start() -> None:
    async with _asking(Health(Metrics())) as session:
        assert await _get(session, "/live") == (200, "live")
        assert await _get(session, "/ready") == (503, "starting")
        assert (await _get(session, "/metrics"))[0] == 200


async def test_probes_and_metrics_tell_what_became_of_jobs() -> None:
    permanent = EndpointError("no", retryable=False, status=422)
    rig = Rig([RESULT, permanent, REFUSED], breaker_failures=1)
    rig.is_ready = False
    async with _asking(_watched(rig)) as session:
        assert await _get(session, "/ready") == (200, "ready")
        await rig.submit(0, 1, 2)
        for _ in range(3):
            await rig.carry()
        assert await _get(session, "/ready") == (503, "circuit_open")
        assert await _get(session, "/live") == (200, "live")
        _, text = await _get(session, "/metrics")
    for line in (
        'blindscore_worker_jobs_total{outcome="scored"} 1.0',
        'blindscore_worker_jobs_total{outcome="failed"} 1.0',
        'blindscore_worker_jobs_total{outcome="handed_back"} 1.0',
        'blindscore_worker_requests_total{outcome="answered"} 2.0',
        'blindscore_worker_requests_total{outcome="unreachable"} 1.0',
        "blindscore_worker_sent_bytes_total 1000.0",
        "blindscore_worker_score_seconds_count 1.0",
        "blindscore_worker_circuit 2.0",
        "blindscore_worker_jobs_allowed 0.0",
    ):
        assert line in text.splitlines()
    assert "run-1" not in text


async def test_a_port_in_use_is_told_with_a_remedy() -> None:
    port = free_port()
    async with serving_health(Health(Metrics()), "127.0.0.1", port):
        with pytest.raises(UsageError, match=f"port {port}") as caught:
            async with serving_health(Health(Metrics()), "127.0.0.1", port):
                pass
    assert "--health-port" in caught.value.remedy


async def test_without_a_port_nobody_is_answered() -> None:
    async with serving_health(Health(Metrics()), "no such host", 0):
        pass
