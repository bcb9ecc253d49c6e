"""An endpoint from its first process to its last answer."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass

import structlog
import typer
from aiohttp import web

from score import listener
from score.app import Endpoint
from score.environment import forget_credentials
from score.keycache import KeyCache
from score.keystore import KeyStore
from score.metrics import Metrics
from score.pool import Pool
from score.renewal import renewing
from score.scoring import Scoring
from score.settings import ServerOptions
from score.signals import stop_on_signals, wake_on_hangup
from score.tls import ServerTls
from shared.errors import BlobNotFound
from shared.linear import LinearModel
from shared.ports import BlobStore
from shared.storage import open_store

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Sockets:
    """Bound sockets: for callers and, where they have one of their own, for probes."""

    score: socket.socket
    health: socket.socket | None = None


async def serve(
    model: LinearModel,
    sockets: Sockets,
    options: ServerOptions,
    hangup: asyncio.Event | None = None,
) -> None:
    """Answer requests until SIGTERM or SIGINT, then for `grace_s` more those in flight.

    Certificate, key and tokens are read again each time `hangup` is set, which is SIGHUP's doing
    (`signals.note_hangups`). Credentials leave the environment. Raises `UsageError` for files that
    can't be used, and whatever storage and model have to say against it.
    """
    tls = None if options.tls is None else ServerTls(options.tls)
    stop = stop_on_signals()
    if hangup is not None:
        wake_on_hangup(hangup)
    async with AsyncExitStack() as exits:
        own = await exits.enter_async_context(open_store(options.storage))
        forget_credentials()  # evaluators parse hostile bytes, and inherit what is left
        store = KeyStore(own, options.storage, options.keys, open_store)
        await _check(own)
        pool = await exits.enter_async_context(Pool(model, options.engine, options.pool))
        keys = await exits.enter_async_context(aclosing(KeyCache(store, options.keys)))
        scoring = Scoring(pool, store, keys)
        endpoint = Endpoint(model, pool, scoring, Metrics(pool, keys), options.endpoint)
        if sockets.health is not None:
            await exits.enter_async_context(_site(endpoint.health_runner(), sockets.health))
        context = None if tls is None else tls.context
        site = await exits.enter_async_context(_site(endpoint.runner(), sockets.score, context))
        if hangup is not None:
            await exits.enter_async_context(renewing(hangup, endpoint.callers, tls, options))
        typer.echo(_ready_line(model, pool, sockets, is_tls=tls is not None))
        if sockets.health is not None:
            typer.echo(f"probes and metrics at {listener.url(sockets.health)}")
        await stop.wait()
        await site.stop()
        await endpoint.drain(options.grace_s)


@asynccontextmanager
async def _site(
    runner: web.AppRunner, bound: socket.socket, context: ssl.SSLContext | None = None
) -> AsyncIterator[web.SockSite]:
    """An application on its socket."""
    await runner.setup()
    try:
        site = web.SockSite(runner, bound, ssl_context=context)
        await site.start()
        yield site
    finally:
        await runner.cleanup()


async def _check(store: BlobStore) -> None:
    """Raises what the first request would run into: no account, or no access to it."""
    try:
        await store.stat("keys/no-such-key")
    except BlobNotFound as error:
        if "ContainerNotFound" in error.message:
            log.warning("the container does not exist yet", reason=error.message)


def _ready_line(model: LinearModel, pool: Pool, sockets: Sockets, *, is_tls: bool) -> str:
    return (
        f"serving {model.features} features → {model.classes} scores "
        f"(model {model.fingerprint[:12]}; {', '.join(sorted(pool.schemes))}; "
        f"{len(pool.pids)} processes) "
        f"on {listener.url(sockets.score, scheme='https' if is_tls else 'http')}"
    )
