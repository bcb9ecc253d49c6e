"""`blindscore serve`: builds the endpoint from its options, runs it until it is told to stop."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

import structlog

from score import options, server, signals
from score.listener import bind, is_loopback
from score.scratch import find_scratch_folder
from score.server import Sockets
from score.settings import (
    EI_EVALUATORS,
    EI_INPUT_BOUND,
    MB,
    EndpointOptions,
    EngineOptions,
    KeyOptions,
    PoolOptions,
    ServerOptions,
    TlsFiles,
)
from score.tokens import read_tokens
from shared import cli, telemetry
from shared.errors import UsageError
from shared.model import load_model
from shared.settings import storage_settings

log = structlog.get_logger()


def serve(
    model: options.Model,
    trust_pickle: options.TrustPickle = "",
    offer: options.Offer = None,
    ei_evaluator: options.EiEvaluator = EI_EVALUATORS[0],
    ei_input_bound: options.EiInputBound = EI_INPUT_BOUND,
    announce_zero_features: options.AnnounceZeroFeatures = False,
    host: options.Host = "127.0.0.1",
    port: options.Port = 8080,
    token_file: options.TokenFile = None,
    tls_cert: options.TlsCert = None,
    tls_key: options.TlsKey = None,
    health_port: options.HealthPort = 0,
    health_host: options.HealthHost = "127.0.0.1",
    grace_s: options.GraceS = 25.0,
    key_cache_mb: options.KeyCacheMb = 256,
    loaded_keys_mb: options.LoadedKeysMb = 256,
    key_ttl_s: options.KeyTtlS = 30.0,
    allow_key_host: options.AllowKeyHost = None,
    processes: options.Processes = 0,
    max_waiting: options.MaxWaiting = 64,
    exec_s: options.ExecS = 300.0,
    upload_s: options.UploadS = 30.0,
    body_s: options.BodyS = 300.0,
    rate_per_s: options.RatePerS = 0.0,
    burst: options.Burst = 10,
    max_per_caller: options.MaxPerCaller = 0,
    max_rows: options.MaxRows = 1_000_000,
    max_batch: options.MaxBatch = 64,
    max_body_mb: options.MaxBodyMb = 1024,
    max_json_mb: options.MaxJsonMb = 64,
    account: cli.Account = cli.ACCOUNT_DEFAULT,
    container: cli.Container = cli.CONTAINER_DEFAULT,
    api_version: cli.ApiVersion = cli.API_VERSION_DEFAULT,
    log_level: cli.LogLevel = "info",
) -> None:
    """Serve a model to encrypted rows.

    Rows come in, and scores go out, as ciphertexts: this endpoint can read neither. Evaluation
    keys, which are public, are read from the storage account by the key id in a request.

    `POST /score` takes the JSON of `encrypted-inference` 0.9 and our own container format.
    `GET /` and `/ready` are for probes, `/model` tells what is offered, `/metrics` is for
    Prometheus, `/openapi.json` describes it all to programs. Errors are
    `application/problem+json` with a stable `code`.

    Exit code 0 after SIGTERM or Ctrl-C; 1 or 2 with one line on what went wrong.

    Example: `blindscore serve --model model.skops --port 8080`
    """
    telemetry.configure(log_level)
    # Before the files are read: a signal that comes meanwhile has them read once more.
    hangup = signals.note_hangups() if tls_cert or token_file else None
    engine = EngineOptions(
        schemes=tuple(offer or ()),
        ei_evaluator=ei_evaluator,
        ei_input_bound=ei_input_bound,
        announce_zero_features=announce_zero_features,
        max_rows=max_rows,
        max_batch=max_batch,
        max_json_bytes=max_json_mb * MB,
        loaded_keys_bytes=loaded_keys_mb * MB,
    )
    endpoint = EndpointOptions(
        tokens=read_tokens(token_file),
        max_body_bytes=max_body_mb * MB,
        piece_s=upload_s,
        body_s=body_s,
        rate_per_s=rate_per_s,
        burst=burst,
        max_per_caller=max_per_caller,
        metrics_elsewhere=health_port > 0,
    )
    keys = KeyOptions(
        cache_bytes=key_cache_mb * MB,
        ttl_s=key_ttl_s,
        allowed_hosts=tuple(allow_key_host or ()),
    )
    pool = PoolOptions(
        processes=processes or _cores(),
        max_waiting=max_waiting,
        exec_s=exec_s,
    )
    settings = ServerOptions(
        engine=engine,
        pool=pool,
        keys=keys,
        endpoint=endpoint,
        storage=storage_settings(account=account, container=container, api_version=api_version),
        tls=_tls_files(tls_cert, tls_key),
        token_file=token_file,
        fixed_tokens=read_tokens(None),
        grace_s=grace_s,
    )
    linear = load_model(model, trust_pickle=trust_pickle or None)
    find_scratch_folder()
    with ExitStack() as bound:
        sockets = Sockets(bound.enter_context(bind(host, port)))
        if health_port:
            health = bind(health_host, health_port, flag="--health-port")
            sockets = Sockets(sockets.score, bound.enter_context(health))
        if not endpoint.tokens and not is_loopback(sockets.score):
            log.warning("no tokens are set: whoever reaches this port may score", host=host)
        cli.run(server.serve(linear, sockets, settings, hangup))


def _tls_files(cert: Path | None, key: Path | None) -> TlsFiles | None:
    """Raises `UsageError` for half of a pair."""
    if cert is None and key is None:
        return None
    if cert is None or key is None:
        given, missing = (
            ("--tls-key", "--tls-cert") if cert is None else ("--tls-cert", "--tls-key")
        )
        raise UsageError(f"{given} needs {missing} beside it")
    return TlsFiles(cert, key)


def _cores() -> int:
    """Cores this process may use; where the system doesn't tell, those there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
