"""Scoring endpoints for tests: a real HTTP server with a scripted handler, or a raw socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from aiohttp import web

from worker.endpoint import HttpEndpoint, open_session
from worker.settings import WorkerSettings

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(**routes: Handler) -> AsyncIterator[str]:
    """Serve POST /score and GET of all else by the handlers of those names; yields the base URL."""
    app = web.Application(client_max_size=64 * 1024 * 1024)
    for name, handler in routes.items():
        app.router.add_route("POST" if name == "score" else "GET", f"/{name}", handler)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def talking(talk: Talk) -> AsyncIterator[str]:
    """Answer each connection by `talk`, byte for byte, then close it; yields the base URL."""
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await talk(reader, writer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            tasks.discard(task)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()[:2]
        yield f"http://{host}:{port}"
        for task in tuple(tasks):
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


async def read_request(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Head and body of one request with a Content-Length."""
    head = await reader.readuntil(b"\r\n\r\n")
    (length,) = (
        int(line.partition(b":")[2])
        for line in head.split(b"\r\n")
        if line.lower().startswith(b"content-length:")
    )
    return head, await reader.readexactly(length)


@asynccontextmanager
async def endpoint_at(
    url: str, *, max_answer_bytes: int = 1024 * 1024, **options: Any
) -> AsyncIterator[HttpEndpoint]:
    """Our client for the endpoint at `url`."""
    settings = WorkerSettings(endpoint=url, **options)
    async with open_session(settings) as session:
        yield HttpEndpoint(session, settings.endpoint, max_answer_bytes=max_answer_bytes)


@asynccontextmanager
async def session_for(url: str, **options: Any) -> AsyncIterator[aiohttp.ClientSession]:
    async with open_session(WorkerSettings(endpoint=url, **options)) as session:
        yield session
