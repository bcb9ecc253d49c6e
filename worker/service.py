"""A worker's life: waits for its endpoint, checks its storage, works until it is told to stop."""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial

import aiohttp
import structlog
import typer

from shared import blobnames
from shared.errors import BlobNotFound
from shared.settings import StorageSettings
from shared.storage import Storage, open_storage
from worker.breaker import Breaker
from worker.carrier import Carrier
from worker.concurrency import AdaptiveLimit
from worker.endpoint import Endpoint, HttpEndpoint, open_session
from worker.health import Health, serving_health
from worker.loop import Worker
from worker.metrics import Metrics
from worker.probe import Profile, is_ready, wait_for_endpoint
from worker.retry import RetryPolicy
from worker.rows import RowEndpoint
from worker.settings import WorkerSettings, new_worker_id
from worker.signals import StopSignals
from worker.throttle import Throttle

log = structlog.get_logger()


async def run(settings: WorkerSettings, where: StorageSettings) -> None:
    """Until SIGTERM, SIGINT, or idleness. Raises what a worker can't go on with."""
    stop = StopSignals()
    metrics = Metrics()
    health = Health(metrics)
    async with AsyncExitStack() as opened:
        session = await opened.enter_async_context(open_session(settings))
        storage = await opened.enter_async_context(open_storage(where))
        await opened.enter_async_context(
            serving_health(health, settings.health_host, settings.health_port)
        )
        profile = await stop.before(_start(settings, session, storage, where))
        if profile is None:
            log.info("stopped_before_start", reason=stop.name)
            return
        throttle = _throttle(settings, session, metrics)
        worker_id = new_worker_id()
        row_by_row = _row_by_row(settings, profile)
        carrier = Carrier(
            store=storage.store,
            endpoint=_endpoint(settings, session, row_by_row=row_by_row),
            policy=_policy(settings),
            throttle=throttle,
            container=where.container,
            max_deliveries=settings.max_deliveries,
            worker=worker_id,
            metrics=metrics,
        )
        worker = Worker(storage.queue, carrier.carry, settings, throttle)
        health.watch(worker, throttle)
        stop.then(worker.stop)
        typer.echo(
            f"worker {worker_id}: queue {where.queue} → {settings.endpoint}, "
            f"{settings.min_concurrency} to {settings.max_concurrency} jobs at a time, "
            f"lease {settings.lease_s:g} s, {'row by row' if row_by_row else 'whole bodies'}, "
            f"model {profile.fingerprint[:12] or 'not announced'}"
        )
        await worker.run()


async def _start(
    settings: WorkerSettings,
    session: aiohttp.ClientSession,
    storage: Storage,
    where: StorageSettings,
) -> Profile:
    profile = await wait_for_endpoint(session, settings.endpoint, wait_s=settings.wait_endpoint_s)
    await _check(storage, where)
    return profile


async def _check(storage: Storage, where: StorageSettings) -> None:
    """Raises what the first job would run into: no container, no access, no place for the dead.

    By a blob that a job could name: a narrow credential allows nothing else. Of the queue the
    first receive tells.
    """
    where.require_dead_letters()
    try:
        await storage.store.stat(blobnames.input_blob("no-such-run", blobnames.job_id(0)))
    except BlobNotFound as error:
        if "ContainerNotFound" in error.message:
            raise


def _throttle(
    settings: WorkerSettings, session: aiohttp.ClientSession, metrics: Metrics
) -> Throttle:
    return Throttle(
        AdaptiveLimit(settings.min_concurrency, settings.max_concurrency),
        Breaker(failures=settings.breaker_failures, pause_s=settings.breaker_pause_s),
        is_ready=partial(is_ready, session, settings.endpoint),
        metrics=metrics,
    )


def _policy(settings: WorkerSettings) -> RetryPolicy:
    return RetryPolicy(
        max_attempts=settings.max_attempts,
        base_s=settings.retry_base_s,
        cap_s=settings.retry_cap_s,
        budget_s=settings.job_budget_s,
    )


def _row_by_row(settings: WorkerSettings, profile: Profile) -> bool:
    if settings.endpoint_format == "auto":
        return not profile.batches
    return settings.endpoint_format == "seeds"


def _endpoint(
    settings: WorkerSettings, session: aiohttp.ClientSession, *, row_by_row: bool
) -> Endpoint:
    whole = HttpEndpoint(session, settings.endpoint, max_answer_bytes=settings.max_result_bytes)
    if not row_by_row:
        return whole
    return RowEndpoint(
        whole,
        conn_str=settings.conn_str,
        max_batch_bytes=settings.max_batch_bytes,
        max_answer_bytes=settings.max_result_bytes,
    )
