"""`blindscore work`: builds a worker from its options, and runs it until it is told to stop."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Annotated, cast

import aiohttp
import typer

from shared import cli, telemetry
from shared.cli import option
from shared.settings import StorageSettings, storage_settings
from shared.storage import Storage, open_storage
from worker.carrier import Carrier
from worker.endpoint import Endpoint, HttpEndpoint, open_session
from worker.loop import Worker
from worker.probe import Profile, wait_for_endpoint
from worker.retry import RetryPolicy
from worker.rows import RowEndpoint
from worker.settings import (
    CONN_STR_VARIABLE,
    TOKEN_VARIABLE,
    EndpointFormat,
    WorkerSettings,
    new_worker_id,
    worker_settings,
)

ENDPOINT, QUEUE, RETRIES, LIMITS = "Endpoint", "Queue", "Retries", "Limits"
DEFAULT = WorkerSettings()


def work(
    endpoint: Annotated[
        str,
        option("--endpoint", "URL of the scoring endpoint.", rich_help_panel=ENDPOINT),
    ] = DEFAULT.endpoint,
    endpoint_format: Annotated[
        str,
        option(
            "--endpoint-format",
            "`blindscore`: takes bodies as they are. `seeds`: a score.py that takes one row a "
            f"request, and the storage connection string in {CONN_STR_VARIABLE} with it. "
            "`auto`: ask the endpoint.",
            rich_help_panel=ENDPOINT,
        ),
    ] = DEFAULT.endpoint_format,
    endpoint_token_file: Annotated[
        Path | None,
        option(
            "--endpoint-token-file",
            f"File with the endpoint's bearer token (or set {TOKEN_VARIABLE}).",
            rich_help_panel=ENDPOINT,
        ),
    ] = None,
    wait_endpoint_s: Annotated[
        float,
        option(
            "--wait-endpoint-s",
            "How long to wait at the start for the endpoint to answer.",
            rich_help_panel=ENDPOINT,
        ),
    ] = DEFAULT.wait_endpoint_s,
    connect_timeout_s: Annotated[
        float,
        option("--connect-timeout-s", "Limit of one connection.", rich_help_panel=ENDPOINT),
    ] = DEFAULT.connect_timeout_s,
    request_timeout_s: Annotated[
        float,
        option(
            "--request-timeout-s",
            "Limit of one request, from connecting to the last byte of its answer.",
            rich_help_panel=ENDPOINT,
        ),
    ] = DEFAULT.request_timeout_s,
    concurrency: Annotated[
        int,
        option("--concurrency", "Jobs worked on at a time.", rich_help_panel=QUEUE),
    ] = DEFAULT.concurrency,
    lease_s: Annotated[
        float,
        option(
            "--lease-s",
            "How long a message stays invisible to others; renewed every third of it. "
            "After a crash, others wait this long.",
            rich_help_panel=QUEUE,
        ),
    ] = DEFAULT.lease_s,
    max_deliveries: Annotated[
        int,
        option(
            "--max-deliveries",
            "A message delivered more often goes to the dead letters.",
            rich_help_panel=QUEUE,
        ),
    ] = DEFAULT.max_deliveries,
    exit_when_idle_s: Annotated[
        float,
        option(
            "--exit-when-idle-s",
            "Stop once the queue has been empty for so long; 0: never.",
            rich_help_panel=QUEUE,
        ),
    ] = DEFAULT.exit_when_idle_s,
    grace_s: Annotated[
        float,
        option(
            "--grace-s",
            "After SIGTERM or Ctrl-C: time for jobs in flight to finish. "
            "What is left then goes back to the queue. A second signal ends the worker at once.",
            rich_help_panel=QUEUE,
        ),
    ] = DEFAULT.grace_s,
    max_attempts: Annotated[
        int,
        option(
            "--max-attempts",
            "Attempts a delivery; then the message is handed back, for later.",
            rich_help_panel=RETRIES,
        ),
    ] = DEFAULT.max_attempts,
    retry_base_s: Annotated[
        float,
        option(
            "--retry-base-s",
            "Upper bound of the first wait between attempts; it doubles each time.",
            rich_help_panel=RETRIES,
        ),
    ] = DEFAULT.retry_base_s,
    retry_cap_s: Annotated[
        float,
        option("--retry-cap-s", "Upper bound of any such wait.", rich_help_panel=RETRIES),
    ] = DEFAULT.retry_cap_s,
    job_budget_s: Annotated[
        float,
        option(
            "--job-budget-s",
            "No attempt starts later than this after a job's first.",
            rich_help_panel=RETRIES,
        ),
    ] = DEFAULT.job_budget_s,
    max_result_mb: Annotated[
        int,
        option("--max-result-mb", "Largest answer accepted, MiB.", rich_help_panel=LIMITS),
    ] = DEFAULT.max_result_mb,
    max_batch_mb: Annotated[
        int,
        option(
            "--max-batch-mb",
            "Largest JSON batch taken apart for an endpoint of single rows, MiB (in memory).",
            rich_help_panel=LIMITS,
        ),
    ] = DEFAULT.max_batch_mb,
    account: cli.Account = cli.ACCOUNT_DEFAULT,
    container: cli.Container = cli.CONTAINER_DEFAULT,
    queue: cli.Queue = cli.QUEUE_DEFAULT,
    api_version: cli.ApiVersion = cli.API_VERSION_DEFAULT,
    log_level: cli.LogLevel = "info",
) -> None:
    """Carry jobs from the queue to the endpoint, and results back. Run as many as you like.

    A job's message names an input blob. The worker streams it to the endpoint, streams the answer
    into a result blob, and deletes the message, in this order: a worker may die at any point, and
    another one takes over when the lease runs out. A worker holds no key and no model, and can't
    read what it carries.

    Jobs that can't succeed leave a failure record beside the results, and a dead letter with the
    original message in the queue NAME-poison.

    Exit code 0 after SIGTERM, Ctrl-C or --exit-when-idle-s; 1 with one line on what went wrong.

    Example: `blindscore work --endpoint http://127.0.0.1:8080 --concurrency 8`
    """
    telemetry.configure(log_level)
    settings = worker_settings(
        token_file=endpoint_token_file,
        endpoint=endpoint,
        endpoint_format=cast("EndpointFormat", endpoint_format),
        concurrency=concurrency,
        lease_s=lease_s,
        max_deliveries=max_deliveries,
        grace_s=grace_s,
        exit_when_idle_s=exit_when_idle_s,
        max_attempts=max_attempts,
        retry_base_s=retry_base_s,
        retry_cap_s=retry_cap_s,
        job_budget_s=job_budget_s,
        request_timeout_s=request_timeout_s,
        connect_timeout_s=connect_timeout_s,
        wait_endpoint_s=wait_endpoint_s,
        max_result_mb=max_result_mb,
        max_batch_mb=max_batch_mb,
    )
    storage = storage_settings(
        account=account, container=container, queue=queue, api_version=api_version
    )
    cli.run(_run(settings, storage))


async def _run(settings: WorkerSettings, where: StorageSettings) -> None:
    worker_id = new_worker_id()
    async with open_session(settings) as session, open_storage(where) as storage:
        profile = await wait_for_endpoint(
            session, settings.endpoint, wait_s=settings.wait_endpoint_s
        )
        await _check(storage)
        row_by_row = _row_by_row(settings, profile)
        carrier = Carrier(
            store=storage.store,
            endpoint=_endpoint(settings, session, row_by_row=row_by_row),
            policy=RetryPolicy(
                max_attempts=settings.max_attempts,
                base_s=settings.retry_base_s,
                cap_s=settings.retry_cap_s,
                budget_s=settings.job_budget_s,
            ),
            container=where.container,
            max_deliveries=settings.max_deliveries,
            worker=worker_id,
        )
        worker = Worker(storage.queue, carrier.carry, settings)
        _stop_on_signals(worker)
        typer.echo(
            f"worker {worker_id}: queue {where.queue} → {settings.endpoint}, "
            f"{settings.concurrency} jobs at a time, lease {settings.lease_s:g} s, "
            f"{'row by row' if row_by_row else 'whole bodies'}, "
            f"model {profile.fingerprint[:12] or 'not announced'}"
        )
        await worker.run()


async def _check(storage: Storage) -> None:
    """Raises what the first job would run into: no queue, no container, no access."""
    await storage.queue.depth()
    async for _ in storage.store.list("keys/no-such-key"):
        pass


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


def _stop_on_signals(worker: Worker) -> None:
    """The first SIGTERM or SIGINT stops the worker in an orderly way, the second ends it."""
    loop = asyncio.get_running_loop()
    seen: list[int] = []

    def on_signal(number: int) -> None:
        if seen:
            os._exit(128 + number)
        seen.append(number)
        worker.stop(signal.Signals(number).name)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
