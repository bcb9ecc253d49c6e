"""`blindscore serve`: builds the endpoint from its options, runs it until it is told to stop."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import signal
import socket
from contextlib import aclosing
from pathlib import Path
from typing import Annotated

import structlog
import typer
from aiohttp import web

from score.app import Endpoint
from score.keycache import KeyCache
from score.keystore import KeyStore
from score.metrics import Metrics
from score.pool import Pool
from score.scoring import Scoring
from score.settings import (
    EI_EVALUATORS,
    EI_INPUT_BOUND,
    MB,
    SCHEMES,
    EndpointOptions,
    EngineOptions,
    KeyOptions,
    PoolOptions,
)
from score.tokens import TOKENS_VARIABLE, read_tokens
from shared import cli, telemetry
from shared.cli import option
from shared.errors import BlobNotFound, UsageError
from shared.linear import LinearModel
from shared.model import load_model
from shared.ports import BlobStore
from shared.settings import STORAGE_SECRETS, StorageSettings, storage_settings
from shared.storage import open_store

MODEL, HTTP, KEYS, LIMITS = "Model", "HTTP", "Evaluation keys", "Limits"

log = structlog.get_logger()


def serve(
    model: Annotated[
        Path,
        option("--model", "Model file: .skops, .npz, .pkl or .joblib.", rich_help_panel=MODEL),
    ],
    trust_pickle: Annotated[
        str,
        option(
            "--trust-pickle",
            "SHA-256 of a pickled --model that you consent to load: it runs code from the file.",
            rich_help_panel=MODEL,
        ),
    ] = "",
    offer: Annotated[
        list[str] | None,
        option(
            "--offer",
            f"Offer only this scheme ({', '.join(SCHEMES)}); repeatable. "
            "Default: all that the model allows.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    ei_evaluator: Annotated[
        str,
        option(
            "--ei-evaluator",
            f"Who evaluates `ei`: {', '.join(EI_EVALUATORS)}. All give the same answers within "
            "--ei-input-bound; `sdk` is Microsoft's own, as the reference.",
            rich_help_panel=MODEL,
        ),
    ] = EI_EVALUATORS[0],
    ei_input_bound: Annotated[
        float,
        option(
            "--ei-input-bound",
            "Largest feature, by magnitude, that clients of `ei` send. Scores of larger ones may "
            "come out wrong without a word; a larger bound may double the size of results.",
            rich_help_panel=MODEL,
        ),
    ] = EI_INPUT_BOUND,
    announce_zero_features: Annotated[
        bool,
        option(
            "--announce-zero-features/--no-announce-zero-features",
            "Publish which features the model uses, so that the others need not be encrypted "
            "(`packed`).",
            rich_help_panel=MODEL,
        ),
    ] = False,
    host: Annotated[
        str, option("--host", "Address to listen on.", rich_help_panel=HTTP)
    ] = "127.0.0.1",
    port: Annotated[
        int,
        option("--port", "Port; 0 takes a free one.", min=0, max=65535, rich_help_panel=HTTP),
    ] = 8080,
    token_file: Annotated[
        Path | None,
        option(
            "--token-file",
            f"File of accepted bearer tokens, one a line; also {TOKENS_VARIABLE}, comma separated. "
            "None of both: whoever reaches the port may score.",
            rich_help_panel=HTTP,
        ),
    ] = None,
    grace_s: Annotated[
        float,
        option(
            "--grace-s",
            "After SIGTERM or Ctrl-C: time for requests in flight to finish. "
            "A second signal ends the endpoint at once.",
            min=0,
            rich_help_panel=HTTP,
        ),
    ] = 25.0,
    key_cache_mb: Annotated[
        int,
        option(
            "--key-cache-mb",
            "Key blobs kept by the main process, MiB. In all, keys take this plus "
            "--processes times --loaded-keys-mb.",
            min=0,
            rich_help_panel=KEYS,
        ),
    ] = 256,
    loaded_keys_mb: Annotated[
        int,
        option(
            "--loaded-keys-mb",
            "Keys that each evaluator process keeps loaded, MiB.",
            min=0,
            rich_help_panel=KEYS,
        ),
    ] = 256,
    key_ttl_s: Annotated[
        float,
        option(
            "--key-ttl-s",
            "A key is looked up again when its last look is older: a deleted or replaced key "
            "stops working within this time.",
            min=0,
            rich_help_panel=KEYS,
        ),
    ] = 30.0,
    allow_key_host: Annotated[
        list[str] | None,
        option(
            "--allow-key-host",
            "Blob endpoint that the conn_str of a request may name, besides this endpoint's own "
            "account; repeatable. Example: https://theirs.blob.core.windows.net",
            rich_help_panel=KEYS,
        ),
    ] = None,
    processes: Annotated[
        int,
        option(
            "--processes",
            "Evaluator processes; 0: one a core.",
            min=0,
            rich_help_panel=LIMITS,
        ),
    ] = 0,
    max_waiting: Annotated[
        int,
        option(
            "--max-waiting",
            "Requests in line beyond those being evaluated; one more is answered 503.",
            min=0,
            rich_help_panel=LIMITS,
        ),
    ] = 64,
    exec_s: Annotated[
        float,
        option(
            "--exec-s",
            "Longest one request may compute; its evaluator is then replaced.",
            min=0.1,
            rich_help_panel=LIMITS,
        ),
    ] = 300.0,
    upload_s: Annotated[
        float,
        option(
            "--upload-s",
            "Longest a caller may take for each MiB of a body.",
            min=0.1,
            rich_help_panel=LIMITS,
        ),
    ] = 30.0,
    max_rows: Annotated[
        int,
        option("--max-rows", "Rows in one container.", min=1, rich_help_panel=LIMITS),
    ] = 1_000_000,
    max_batch: Annotated[
        int,
        option("--max-batch", "Rows in one JSON request.", min=1, rich_help_panel=LIMITS),
    ] = 64,
    max_body_mb: Annotated[
        int,
        option("--max-body-mb", "Largest body, MiB.", min=1, rich_help_panel=LIMITS),
    ] = 1024,
    max_json_mb: Annotated[
        int,
        option(
            "--max-json-mb",
            "Largest JSON body, MiB; an evaluator holds it in memory.",
            min=1,
            rich_help_panel=LIMITS,
        ),
    ] = 64,
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
    Prometheus. Errors are `application/problem+json` with a stable `code`.

    Exit code 0 after SIGTERM or Ctrl-C; 1 or 2 with one line on what went wrong.

    Example: `blindscore serve --model model.skops --port 8080`
    """
    telemetry.configure(log_level)
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
        tokens=read_tokens(token_file), max_body_bytes=max_body_mb * MB, piece_s=upload_s
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
    storage = storage_settings(account=account, container=container, api_version=api_version)
    linear = load_model(model, trust_pickle=trust_pickle or None)
    _forget_credentials()
    with _bind(host, port) as listener:
        if not endpoint.tokens and not _is_loopback(listener):
            log.warning("no tokens are set: whoever reaches this port may score", host=host)
        cli.run(_serve(linear, listener, engine, pool, keys, endpoint, storage, grace_s))


async def _serve(
    model: LinearModel,
    listener: socket.socket,
    engine_options: EngineOptions,
    pool_options: PoolOptions,
    key_options: KeyOptions,
    options: EndpointOptions,
    storage: StorageSettings,
    grace_s: float,
) -> None:
    stop = _stop_on_signals()
    async with open_store(storage) as own:
        store = KeyStore(own, storage, key_options, open_store)
        await _check(own)
        async with (
            Pool(model, engine_options, pool_options) as pool,
            aclosing(KeyCache(store, key_options)) as keys,
        ):
            scoring = Scoring(pool, store, keys)
            endpoint = Endpoint(model, pool, scoring, Metrics(pool, keys), options)
            runner = endpoint.runner()
            await runner.setup()
            try:
                site = web.SockSite(runner, listener)
                await site.start()
                typer.echo(_ready_line(model, pool, listener))
                await stop.wait()
                await site.stop()
                await endpoint.drain(grace_s)
            finally:
                await runner.cleanup()


async def _check(store: BlobStore) -> None:
    """Raises what the first request would run into: no account, or no access to it."""
    try:
        await store.stat("keys/no-such-key")
    except BlobNotFound as error:
        if "ContainerNotFound" in error.message:
            log.warning("the container does not exist yet", reason=error.message)


def _ready_line(model: LinearModel, pool: Pool, listener: socket.socket) -> str:
    address, port = listener.getsockname()[:2]
    host = f"[{address}]" if ":" in address else address
    return (
        f"serving {model.features} features → {model.classes} scores "
        f"(model {model.fingerprint[:12]}; {', '.join(sorted(pool.schemes))}; "
        f"{len(pool.pids)} processes) on http://{host}:{port}"
    )


def _cores() -> int:
    """Cores this process may use; where the system doesn't tell, those there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _forget_credentials() -> None:
    """Evaluators parse hostile bytes: what their environment doesn't hold can't be read there."""
    for variable in (*STORAGE_SECRETS, TOKENS_VARIABLE):
        os.environ.pop(variable, None)


def _bind(host: str, port: int) -> socket.socket:
    """A bound socket that doesn't listen yet. Raises `UsageError`."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family)
    except OSError as error:
        raise UsageError(f"{host} is not an address to listen on") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise UsageError(
                f"port {port} on {host} is in use", remedy="choose another --port, or 0"
            ) from error
        raise UsageError(f"can't listen on {host}, port {port}: {error.strerror}") from error
    return listener


def _is_loopback(listener: socket.socket) -> bool:
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback


def _stop_on_signals() -> asyncio.Event:
    """Set by the first SIGTERM or SIGINT; the second ends the process at once."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def on_signal(number: int) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    return stop
