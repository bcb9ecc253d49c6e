"""No client of ours follows a redirect: where it leads, a token or a row's ciphertext would go too.

Each is answered 302 and 307 with the address of another server, which must never be asked. The
worker's scoring requests are in `tests/unit/worker/test_endpoint.py`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from azure.keyvault.secrets._shared import http_challenge_cache
from pydantic import SecretStr

from deploy.local.azurite import ACCOUNT, ACCOUNT_KEY
from producer.offer import fetch_offer
from shared.azure_vault import get_secret
from shared.errors import BlindscoreError, EndpointError, StorageError
from shared.settings import StorageSettings
from shared.storage import open_queue, open_store
from tests import vaults
from tests.unit.worker.server import session_for
from worker.probe import Profile, is_ready, wait_for_endpoint

TOKEN = "a-bearer-token"
SAS = "sv=2026-06-06&sig=c2lnbmF0dXJl"


@dataclass
class Elsewhere:
    """Two servers: `url` sends everybody to the other one."""

    url: str
    asked: list[str] = field(default_factory=list)
    followed: list[str] = field(default_factory=list)

    def storage(self, credential: str) -> StorageSettings:
        places = (
            f"BlobEndpoint={self.url}/{ACCOUNT};QueueEndpoint={self.url}/{ACCOUNT};"
            f"AccountName={ACCOUNT};"
        )
        if credential == "account key":
            return StorageSettings(
                connection_string=SecretStr(f"{places}AccountKey={ACCOUNT_KEY};")
            )
        return StorageSettings(
            connection_string=SecretStr(places),
            blob_sas=SecretStr(SAS),
            queue_sas=SecretStr(SAS),
        )


@pytest.fixture(params=[302, 307])
async def elsewhere(request: pytest.FixtureRequest) -> AsyncIterator[Elsewhere]:
    here = Elsewhere("")

    async def follow(asked: web.Request) -> web.Response:
        here.followed.append(f"{asked.method} {asked.path_qs}")
        return web.json_response({"fingerprint": "theirs", "schemes": {}})

    async def leave(asked: web.Request) -> web.Response:
        await asked.read()
        here.asked.append(f"{asked.method} {asked.path_qs}")
        return web.Response(status=request.param, headers={"Location": f"{there}{asked.path_qs}"})

    async with _serving(follow) as there, _serving(leave) as here.url:
        yield here


@asynccontextmanager
async def _serving(
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


async def test_the_key_owner_who_asks_for_a_model(elsewhere: Elsewhere) -> None:
    with pytest.raises(EndpointError, match=r"answered 30[27]"):
        await fetch_offer(elsewhere.url, token=TOKEN)
    assert elsewhere.asked == ["GET /model"]
    assert not elsewhere.followed


async def test_the_worker_that_asks_how_an_endpoint_is(elsewhere: Elsewhere) -> None:
    async with session_for(elsewhere.url, token=SecretStr(TOKEN)) as session:
        assert await wait_for_endpoint(session, elsewhere.url, wait_s=5.0) == Profile()
        await is_ready(session, elsewhere.url)
    assert elsewhere.asked == ["GET /model", "GET /ready"]
    assert not elsewhere.followed


@pytest.mark.parametrize("credential", ["account key", "sas"])
@pytest.mark.parametrize("operation", ["read", "write", "list", "receive", "send"])
async def test_everybody_who_asks_storage(
    elsewhere: Elsewhere, operation: str, credential: str
) -> None:
    with pytest.raises(StorageError, match=r"30[27]"):
        await _operate(operation, elsewhere.storage(credential))
    assert elsewhere.asked
    assert not elsewhere.followed


@pytest.mark.parametrize("status", [302, 307])
async def test_the_key_owner_who_asks_a_vault(
    status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    followed: list[str] = []
    with ExitStack() as running:
        (tmp_path / "there").mkdir()
        here, there = (
            running.enter_context(vaults.fake_vault(folder))
            for folder in (tmp_path, tmp_path / "there")
        )
        trust = aiohttp.connector._SSL_CONTEXT_VERIFIED
        for vault in (here, there):
            trust.load_verify_locations(vault.certificate)
        for name, value in here.environment.items():
            monkeypatch.setenv(name, value)
        http_challenge_cache.clear()

        def answer(handler: Any) -> None:
            if handler.vault is there:
                followed.append(handler.path)
            if handler._is_welcome():
                handler.answer(status, Location=f"{there.url}{handler.path}")

        monkeypatch.setattr(vaults._VaultHandler, "do_GET", answer)
        with pytest.raises(StorageError, match=str(status)):
            await get_secret(here.url, "blindscore-key", "0" * 32)
    assert here.requests
    assert not followed


async def _operate(operation: str, settings: StorageSettings) -> None:
    async with open_store(settings) as store, open_queue(settings) as queue:
        match operation:
            case "read":
                await store.read("runs/r/manifest.json", limit=1000)
            case "write":
                await store.create("runs/r/in/000000", b"rows", content_type="x")
            case "list":
                async for _ in store.list("runs/"):
                    pass
            case "receive":
                await queue.receive(1, lease_s=30)
            case "send":
                await queue.send(b"a message")
            case _:
                raise BlindscoreError(operation)
