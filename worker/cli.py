"""`blindscore work`: runs a worker until it is told to stop."""

from __future__ import annotations

from typing import cast

from shared import cli, telemetry
from shared.settings import storage_settings
from worker import options, service
from worker.settings import EndpointFormat, WorkerSettings, worker_settings

DEFAULT = WorkerSettings()


def work(
    endpoint: options.EndpointUrl = DEFAULT.endpoint,
    endpoint_format: options.EndpointFormat = DEFAULT.endpoint_format,
    endpoint_token_file: options.EndpointTokenFile = None,
    allow_plain_http: options.AllowPlainHttp = DEFAULT.allow_plain_http,
    wait_endpoint_s: options.WaitEndpointS = DEFAULT.wait_endpoint_s,
    connect_timeout_s: options.ConnectTimeoutS = DEFAULT.connect_timeout_s,
    request_timeout_s: options.RequestTimeoutS = DEFAULT.request_timeout_s,
    lease_s: options.LeaseS = DEFAULT.lease_s,
    max_deliveries: options.MaxDeliveries = DEFAULT.max_deliveries,
    exit_when_idle_s: options.ExitWhenIdleS = DEFAULT.exit_when_idle_s,
    grace_s: options.GraceS = DEFAULT.grace_s,
    min_concurrency: options.MinConcurrency = DEFAULT.min_concurrency,
    max_concurrency: options.MaxConcurrency = DEFAULT.max_concurrency,
    breaker_failures: options.BreakerFailures = DEFAULT.breaker_failures,
    breaker_pause_s: options.BreakerPauseS = DEFAULT.breaker_pause_s,
    max_attempts: options.MaxAttempts = DEFAULT.max_attempts,
    retry_base_s: options.RetryBaseS = DEFAULT.retry_base_s,
    retry_cap_s: options.RetryCapS = DEFAULT.retry_cap_s,
    job_budget_s: options.JobBudgetS = DEFAULT.job_budget_s,
    max_result_mb: options.MaxResultMb = DEFAULT.max_result_mb,
    max_batch_mb: options.MaxBatchMb = DEFAULT.max_batch_mb,
    health_port: options.HealthPort = DEFAULT.health_port,
    health_host: options.HealthHost = DEFAULT.health_host,
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
    original message in the queue NAME-poison; see `blindscore dlq`.

    Exit code 0 after SIGTERM, Ctrl-C or --exit-when-idle-s; 1 with one line on what went wrong.

    Example: `blindscore work --endpoint https://scorer.example --max-concurrency 16`
    """
    telemetry.configure(log_level)
    settings = worker_settings(
        token_file=endpoint_token_file,
        endpoint=endpoint,
        endpoint_format=cast("EndpointFormat", endpoint_format),
        allow_plain_http=allow_plain_http,
        wait_endpoint_s=wait_endpoint_s,
        connect_timeout_s=connect_timeout_s,
        request_timeout_s=request_timeout_s,
        lease_s=lease_s,
        max_deliveries=max_deliveries,
        exit_when_idle_s=exit_when_idle_s,
        grace_s=grace_s,
        min_concurrency=min_concurrency,
        max_concurrency=max_concurrency,
        breaker_failures=breaker_failures,
        breaker_pause_s=breaker_pause_s,
        max_attempts=max_attempts,
        retry_base_s=retry_base_s,
        retry_cap_s=retry_cap_s,
        job_budget_s=job_budget_s,
        max_result_mb=max_result_mb,
        max_batch_mb=max_batch_mb,
        health_port=health_port,
        health_host=health_host,
    )
    storage = storage_settings(
        account=account, container=container, queue=queue, api_version=api_version
    )
    cli.run(service.run(settings, storage))
