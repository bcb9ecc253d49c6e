"""A proxy in front of Azurite that loses answers, sends busy signals and counts requests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from io import BytesIO
from typing import Literal

from aiohttp import ClientSession, web
from aiohttp.typedefs import Handler
from pydantic import SecretStr
from yarl import URL

from deploy.local.azurite import ACCOUNT, ACCOUNT_KEY, Azurite
from deploy.local.ports import HOST
from shared.settings import StorageSettings

Kind = Literal["lost answer", "cut answer", "busy", "failing"]
_HOP_HEADERS = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length"})
_BUSY = b"""<?xml version="1.0"?><Error><Code>ServerBusy</Code><Message>later</Message></Error>"""
_FAILING = (
    b"""<?xml version="1.0"?><Error><Code>InternalError</Code><Message>no</Message></Error>"""
)


@dataclass(slots=True)
class Fault:
    """What to do to the next `times` requests of a method whose URL contains `where`."""

    kind: Kind
    method: str
    where: str = ""
    times: int = 1


@dataclass(slots=True)
class FaultyStorage:
    """Where the proxy listens, what goes wrong next, and what was asked."""

    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    blob_port: int = 0
    queue_port: int = 0

    def settings(self, of: StorageSettings) -> StorageSettings:
        """The same container and queue, reached through the proxy."""
        return of.model_copy(
            update={
                "connection_string": SecretStr(
                    f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={ACCOUNT_KEY};"
                    f"BlobEndpoint=http://{HOST}:{self.blob_port}/{ACCOUNT};"
                    f"QueueEndpoint=http://{HOST}:{self.queue_port}/{ACCOUNT};"
                )
            }
        )

    def next_fault(self, request: web.Request) -> Kind | None:
        for fault in self.faults:
            if fault.times and fault.method == request.method and fault.where in request.path_qs:
                fault.times -= 1
                return fault.kind
        return None


@asynccontextmanager
async def faulty_storage(azurite: Azurite) -> AsyncIterator[FaultyStorage]:
    """Run the proxy, for both services."""
    faulty = FaultyStorage()
    runners: list[web.AppRunner] = []
    async with ClientSession(auto_decompress=False) as backend:
        try:
            for service, port in (("blob", azurite.blob_port), ("queue", azurite.queue_port)):
                app = web.Application(client_max_size=64 * 1024 * 1024)
                app.router.add_route("*", "/{path:.*}", _forward(faulty, backend, port))
                runner = web.AppRunner(app, access_log=None)
                runners.append(runner)
                await runner.setup()
                site = web.TCPSite(runner, HOST, 0)
                await site.start()
                listening = runner.addresses[0][1]
                if service == "blob":
                    faulty.blob_port = listening
                else:
                    faulty.queue_port = listening
            yield faulty
        finally:
            for runner in runners:
                await runner.cleanup()


def _forward(faulty: FaultyStorage, backend: ClientSession, port: int) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        faulty.requests.append(f"{request.method} {request.path_qs}")
        kind = faulty.next_fault(request)
        if kind == "busy":
            return web.Response(status=503, body=_BUSY, content_type="application/xml")
        if kind == "failing":
            return web.Response(status=500, body=_FAILING, content_type="application/xml")
        async with backend.request(
            request.method,
            URL(f"http://{HOST}:{port}{request.raw_path}", encoded=True),
            headers=request.headers,
            data=BytesIO(sent) if (sent := await request.read()) else None,
            skip_auto_headers=("Content-Type", "User-Agent", "Accept", "Accept-Encoding"),
        ) as answer:
            body = await answer.read()
        headers = {k: v for k, v in answer.headers.items() if k.lower() not in _HOP_HEADERS}
        if kind is None:
            if request.method == "HEAD":
                headers["Content-Length"] = answer.headers.get("Content-Length", "0")
            return web.Response(status=answer.status, headers=headers, body=body)
        if kind == "cut answer":
            cut = web.StreamResponse(
                status=answer.status, headers=headers | {"Content-Length": str(len(body))}
            )
            await cut.prepare(request)
            await cut.write(body[: len(body) // 2])
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    return handle
