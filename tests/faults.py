"""A proxy between our programs and what they talk to, which loses, delays and breaks what passes.

It stands in front of Azurite or of an endpoint, on loopback, and writes down what was asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal

import pytest
from aiohttp import ClientConnectionError, ClientSession, ClientTimeout, web
from aiohttp.typedefs import Handler
from pydantic import SecretStr
from yarl import URL

from deploy.local.azurite import ACCOUNT, ACCOUNT_KEY, Azurite
from deploy.local.ports import HOST
from shared import azure_blob, azure_queue, azure_upload
from shared.settings import StorageSettings
from tests.forwarding import Answer, forward

Kind = Literal[
    "lost request",  # the connection ends before anything is done
    "reset",  # the same, by a TCP reset
    "damaged request",  # a bit of the body flips on its way
    "lost answer",  # it is done, and the connection ends before the answer
    "first byte",  # the same, after one byte of the answer
    "cut answer",  # the same, after the head and half of the body
    "late answer",  # it is done, and the answer comes after `late_s`
    "busy",  # 503, with Retry-After if the fault says so
    "throttled",  # 429, likewise
    "failing",  # 500
    "bad gateway",  # 502 and a page, as a proxy would answer
    "page",  # 200 and a page
    "gone",  # 404 MessageNotFound: what Azure says of an old receipt, where Azurite says 400
]

PATIENCE_S, LATE_S = 4.0, 6.0
"""How long a call waits in tests of late answers, and how late these are.

It is every call's patience then: one that goes well must not take so long on a busy machine.
"""

_PAGE = b"<!doctype html><title>Welcome</title><p>Please sign in to this network."
_ANSWERS: dict[Kind, tuple[int, bytes, str]] = {
    "busy": (503, b"<Error><Code>ServerBusy</Code><Message>later</Message></Error>", "xml"),
    "throttled": (429, b"<Error><Code>ServerBusy</Code><Message>later</Message></Error>", "xml"),
    "failing": (500, b"<Error><Code>InternalError</Code><Message>no</Message></Error>", "xml"),
    "bad gateway": (502, _PAGE, "html"),
    "page": (200, _PAGE, "html"),
    "gone": (404, b"<Error><Code>MessageNotFound</Code><Message>no</Message></Error>", "xml"),
}
_ANSWER_WITHIN = ClientTimeout(total=60)


def give_up_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no call to storage wait for an answer that is late.

    For tests of late answers only: others should bear a slow machine.
    """
    for module in (azure_blob, azure_queue, azure_upload):
        monkeypatch.setattr(module, "CALL_S", PATIENCE_S)


@dataclass(slots=True)
class Fault:
    """What to do to the next `times` requests of a method whose URL contains `where`.

    That is, once the first `after` such requests have gone well.
    """

    kind: Kind
    method: str
    where: str = ""
    times: int = 1
    after: int = 0
    late_s: float = LATE_S
    retry_after_s: int | None = None

    def answer(self) -> web.Response:
        status, body, kind = _ANSWERS[self.kind]
        headers = {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}
        return web.Response(
            status=status, body=body, content_type=f"application/{kind}", headers=headers
        )


@dataclass(slots=True)
class Faults:
    """What goes wrong next, and what was asked."""

    planned: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def plan(self, *faults: Fault) -> None:
        """Forget earlier requests, and have these happen."""
        self.planned.extend(faults)
        self.requests.clear()

    @property
    def pending(self) -> list[Fault]:
        """Those that have not happened."""
        return [fault for fault in self.planned if fault.times]

    def asked(self, method: str, where: str = "") -> int:
        """How many requests of a method there were whose URL contains `where`."""
        return sum(line.startswith(f"{method} ") and where in line for line in self.requests)

    def next(self, request: web.Request) -> Fault | None:
        """The fault of a request, if it has one."""
        self.requests.append(f"{request.method} {request.path_qs}")
        for fault in self.planned:
            if fault.times and fault.method == request.method and fault.where in request.path_qs:
                if fault.after:
                    fault.after -= 1
                    return None
                fault.times -= 1
                return fault
        return None


@asynccontextmanager
async def proxies(faults: Faults, ports: Sequence[int]) -> AsyncIterator[list[int]]:
    """Stand in front of servers on loopback; yields the ports to reach them by."""
    async with AsyncExitStack() as opened:
        backend = await opened.enter_async_context(
            ClientSession(auto_decompress=False, timeout=_ANSWER_WITHIN)
        )
        listening: list[int] = []
        for port in ports:
            app = web.Application(client_max_size=64 * 1024 * 1024)
            app.router.add_route("*", "/{path:.*}", _forward(faults, backend, port))
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
            await runner.setup()
            opened.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, HOST, 0).start()
            listening.append(runner.addresses[0][1])
        yield listening


@dataclass(frozen=True, slots=True)
class FaultyStorage:
    """Storage behind a proxy."""

    faults: Faults
    blob_port: int
    queue_port: int

    @property
    def connection_string(self) -> str:
        return (
            f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={ACCOUNT_KEY};"
            f"BlobEndpoint=http://{HOST}:{self.blob_port}/{ACCOUNT};"
            f"QueueEndpoint=http://{HOST}:{self.queue_port}/{ACCOUNT};"
        )

    def settings(self, of: StorageSettings) -> StorageSettings:
        """The same container and queue, reached through the proxy."""
        return of.model_copy(update={"connection_string": SecretStr(self.connection_string)})


@asynccontextmanager
async def faulty_storage(azurite: Azurite) -> AsyncIterator[FaultyStorage]:
    """Run the proxy, for both services."""
    faults = Faults()
    async with proxies(faults, [azurite.blob_port, azurite.queue_port]) as (blob, queue):
        yield FaultyStorage(faults, blob, queue)


@asynccontextmanager
async def faulty_endpoint(url: str) -> AsyncIterator[tuple[Faults, str]]:
    """Run the proxy in front of an endpoint; yields what goes wrong, and the URL to ask."""
    faults = Faults()
    async with proxies(faults, [URL(url).port or 80]) as (port,):
        yield faults, f"http://{HOST}:{port}"


def _forward(faults: Faults, backend: ClientSession, port: int) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        sent = await request.read()
        fault = faults.next(request)
        if fault is not None and fault.kind in _ANSWERS:
            return fault.answer()
        if fault is not None and fault.kind in {"lost request", "reset"}:
            return _hang_up(request, reset=fault.kind == "reset")
        if fault is not None and fault.kind == "damaged request":
            sent = bytes([sent[0] ^ 1]) + sent[1:]
            fault = None
        try:
            answer = await forward(request, sent, backend, port)
        except ClientConnectionError:
            return _hang_up(request)  # the server is gone: so are we
        if fault is None:
            return answer.response()
        if fault.kind == "late answer":
            await asyncio.sleep(fault.late_s)
            return answer.response()
        if fault.kind == "first byte" and request.transport is not None:
            request.transport.write(b"H")
        if fault.kind == "cut answer":
            with contextlib.suppress(ConnectionError):
                await _half(request, answer)
        return _hang_up(request)

    return handle


async def _half(request: web.Request, answer: Answer) -> None:
    headers = answer.headers | {"Content-Length": str(len(answer.body))}
    cut = web.StreamResponse(status=answer.status, headers=headers)
    await cut.prepare(request)
    await cut.write(answer.body[: len(answer.body) // 2])


def _hang_up(request: web.Request, *, reset: bool = False) -> web.Response:
    """End the connection; what is returned reaches nobody."""
    if request.transport is not None:
        if reset:
            connection: socket.socket = request.transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.transport.abort()
    return web.Response()
