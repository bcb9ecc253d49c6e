"""An endpoint over HTTP whose evaluators are toys, and its callers."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import aiohttp
from aiohttp import web
from pydantic import SecretStr

from score.app import Endpoint
from score.engine import JSON_TYPE
from score.keycache import KeyCache
from score.keystore import KeyStore
from score.metrics import Metrics
from score.pool import Pool
from score.scoring import Scoring
from score.settings import EndpointOptions, EngineOptions, KeyOptions, PoolOptions
from shared.errors import StorageUnavailable
from shared.ports import BlobReader
from shared.settings import StorageSettings
from tests.fakes import FakeClock, FakeStore
from tests.unit.score import toys

WITHIN_S = 20.0
MB = 1024 * 1024
SECRET = "c2VjcmV0c2VjcmV0"
TOKENS = ("first-token-of-two", "other-token-of-two")
STORAGE = StorageSettings(
    connection_string=SecretStr(f"AccountName=ours;AccountKey={SECRET}"), container="keys-here"
)


class Keys(FakeStore):
    """The scorer's storage, which can be down."""

    down = False

    async def open(self, name: str) -> BlobReader:
        if self.down:
            raise StorageUnavailable("storage is down")
        return await super().open(name)


@dataclass
class Served:
    """An endpoint that is up, and its parts."""

    session: aiohttp.ClientSession
    port: int
    keys: Keys
    pool: Pool
    endpoint: Endpoint

    async def post(self, body: Any, content_type: str = JSON_TYPE, **headers: str) -> Answer:
        return await self.request(
            "POST", "/score", data=body, headers={"Content-Type": content_type, **headers}
        )

    async def get(self, path: str, **headers: str) -> Answer:
        return await self.request("GET", path, headers=headers)

    async def request(self, method: str, path: str, **options: Any) -> Answer:
        url = f"http://127.0.0.1:{self.port}{path}"
        async with self.session.request(method, url, **options) as response:
            return Answer(response.status, response.headers, await response.read())


@dataclass
class Answer:
    status: int
    headers: Any
    body: bytes

    @property
    def code(self) -> str:
        """The code of a problem document, whose shape is checked on the way."""
        assert self.headers["Content-Type"] == "application/problem+json"
        document = json.loads(self.body)
        assert document.keys() == {"type", "title", "status", "detail", "code"}
        assert document["status"] == self.status
        assert document["detail"]
        return str(document["code"])


def _cache(store: KeyStore, options: KeyOptions, clock: FakeClock | None) -> KeyCache:
    if clock is None:
        return KeyCache(store, options)
    return KeyCache(store, options, clock, lambda: datetime.fromtimestamp(clock(), UTC))


@asynccontextmanager
async def serving(
    *,
    processes: int = 1,
    max_waiting: int = 8,
    exec_s: float = 60.0,
    options: EndpointOptions | None = None,
    engine: EngineOptions | None = None,
    clock: FakeClock | None = None,
) -> AsyncIterator[Served]:
    pool_options = PoolOptions(processes=processes, max_waiting=max_waiting, exec_s=exec_s)
    keys = Keys()
    for blob, key_id in ((toys.KEY_BLOB, toys.KEY_ID), (toys.BAD_BLOB, toys.BAD_KEY_ID)):
        await keys.replace(f"keys/{key_id}", blob, content_type="application/octet-stream")
    key_options = KeyOptions()

    @asynccontextmanager
    async def open_store(_: StorageSettings) -> AsyncIterator[FakeStore]:
        yield keys

    store = KeyStore(keys, STORAGE, key_options, open_store)
    async with AsyncExitStack() as exits:
        pool = await exits.enter_async_context(
            Pool(toys.MODEL, engine or EngineOptions(), pool_options, toys.build)
        )
        cache = await exits.enter_async_context(aclosing(_cache(store, key_options, clock)))
        endpoint = Endpoint(
            toys.MODEL,
            pool,
            Scoring(pool, store, cache),
            Metrics(pool, cache),
            options or EndpointOptions(),
        )
        runner = endpoint.runner()
        await runner.setup()
        exits.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        session = await exits.enter_async_context(aiohttp.ClientSession())
        yield Served(session, runner.addresses[0][1], keys, pool, endpoint)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that goes on at the same time."""
    async with asyncio.timeout(WITHIN_S):
        while not condition():  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.005)


def texts(*ciphertexts: bytes) -> list[str]:
    return [base64.b64encode(ciphertext).decode() for ciphertext in ciphertexts]


def json_body(*ciphertexts: bytes, **fields: Any) -> bytes:
    request = {
        "data": texts(*(ciphertexts or (b"row",))),
        "key_id": toys.KEY_ID,
        "container": "keys-here",
        **fields,
    }
    return json.dumps(request).encode()


async def raw_connection(served: Served) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", served.port)


def head(*lines: str) -> bytes:
    fields = ["POST /score HTTP/1.1", "Host: h", f"Content-Type: {JSON_TYPE}", *lines]
    return "\r\n".join([*fields, "", ""]).encode()
