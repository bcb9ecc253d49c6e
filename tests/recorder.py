"""Writes down everything that our programs say and send, to be searched afterwards.

Proxies stand in front of storage and endpoint, on loopback, and keep every request and answer
whole. A watch over this process's descendants keeps their command lines.
"""

from __future__ import annotations

import asyncio
import base64
import re
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

import psutil
from aiohttp import ClientConnectionError, ClientSession, ClientTimeout, web

from deploy.local.ports import HOST
from tests.forwarding import forward

T = TypeVar("T")

WATCH_EVERY_S = 0.05
_MESSAGE = re.compile(rb"<MessageText>([A-Za-z0-9+/=\s]+)</MessageText>")


@dataclass
class Recorder:
    """A context manager: its proxies and its watch end with it."""

    evidence: dict[bytes, set[str]] = field(default_factory=dict)
    """What was seen, each once, and in which places."""
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    _exits: AsyncExitStack = field(default_factory=AsyncExitStack)
    _ended: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Self:
        for target in (self._loop.run_forever, self._watch):
            thread = threading.Thread(target=target, daemon=True)
            thread.start()
            self._threads.append(thread)
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._wait(self._exits.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        for thread in self._threads:
            thread.join()
        self._loop.close()

    def saw(self, place: str, data: bytes) -> None:
        """Write down that `data` was in a place; and what it has of base64-encoded messages."""
        with self._lock:
            self.evidence.setdefault(data, set()).add(place)
        for message in _MESSAGE.findall(data):
            with self._lock:
                decoded = base64.b64decode(message)
                self.evidence.setdefault(decoded, set()).add(f"message in {place}")

    def places(self) -> set[str]:
        return set().union(*self.evidence.values())

    def stand_before(self, name: str, port: int) -> int:
        """Run a proxy in front of a server on loopback; returns the port to reach it by."""
        return self._wait(self._proxy(name, port))

    def environment(self, place: str, process: psutil.Process) -> None:
        """Keep a process's environment as it was given it."""
        self.saw(place, Path(f"/proc/{process.pid}/environ").read_bytes())

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _watch(self) -> None:
        us = psutil.Process()
        while not self._ended.wait(WATCH_EVERY_S):
            for process in us.children(recursive=True):
                # it may end while one looks at it
                with suppress(psutil.NoSuchProcess, ProcessLookupError, FileNotFoundError):
                    line = Path(f"/proc/{process.pid}/cmdline").read_bytes()
                    self.saw("a command line", line)

    async def _proxy(self, name: str, port: int) -> int:
        backend = await self._exits.enter_async_context(
            ClientSession(auto_decompress=False, timeout=ClientTimeout(total=60))
        )
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", self._forward(name, backend, port))
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1, auto_decompress=False)
        await runner.setup()
        self._exits.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, HOST, 0).start()
        listening: int = runner.addresses[0][1]
        return listening

    def _forward(
        self, name: str, backend: ClientSession, port: int
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            sent = await request.read()
            what = f"request to {name}"
            self.saw(f"{what}: line", f"{request.method} {request.raw_path}".encode())
            for header, value in request.raw_headers:
                self.saw(f"{what}: header {header.decode().title()}", value)
            self.saw(f"{what}: body", sent)
            try:
                answer = await forward(request, sent, backend, port)
            except ClientConnectionError:
                if request.transport is not None:
                    request.transport.abort()
                return web.Response()
            for header, value in answer.raw_headers:
                self.saw(f"answer of {name}: header {header.decode().title()}", value)
            self.saw(f"answer of {name}: body", answer.body)
            return answer.response()

        return handle
