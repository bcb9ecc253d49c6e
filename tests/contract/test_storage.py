"""Opening storage, and how its refusals and silences are reported."""

from __future__ import annotations

import asyncio
import base64
import logging
import socket
import time
import traceback

import pytest
from azure.core.exceptions import ClientAuthenticationError, ServiceRequestError
from pydantic import SecretStr

from deploy.local.azurite import ACCOUNT, ACCOUNT_KEY
from deploy.local.ports import HOST
from shared import azure_account, azure_sdk
from shared.errors import (
    AccessDenied,
    BlobNotFound,
    QueueNotFound,
    StorageError,
    StorageUnavailable,
    UsageError,
)
from shared.settings import StorageSettings
from shared.storage import Storage, ensure_storage, open_poison_queue, open_queue, open_storage

BINARY = "application/octet-stream"
WRONG_KEY = base64.b64encode(b"not the key of this account").decode()


async def test_open_storage_gives_a_store_and_a_queue(storage: Storage) -> None:
    await storage.store.create("blob", b"x", content_type=BINARY)
    await storage.queue.send(b"job")
    assert await storage.store.read("blob", limit=1) == b"x"
    assert [d.body for d in await storage.queue.receive(1, lease_s=60)] == [b"job"]


async def test_ensuring_twice_changes_nothing(storage_settings: StorageSettings) -> None:
    await ensure_storage(storage_settings)
    async with open_storage(storage_settings) as opened:
        await opened.store.create("blob", b"x", content_type=BINARY)
        await opened.queue.send(b"job")
        await ensure_storage(storage_settings)
        assert await opened.store.read("blob", limit=1) == b"x"
        assert await opened.queue.depth() == 1


async def test_missing_places_are_named(storage_settings: StorageSettings) -> None:
    async with open_storage(storage_settings) as opened:
        for call in (
            opened.store.create("blob", b"x", content_type=BINARY),
            opened.store.create("blob", b"x" * 2_000_000, content_type=BINARY),
            opened.store.stat("blob"),
            opened.store.open("blob"),
        ):
            with pytest.raises(BlobNotFound, match=storage_settings.container):
                await call
        with pytest.raises(BlobNotFound, match="ContainerNotFound"):
            [info async for info in opened.store.list("")]
        for request in (opened.queue.send(b"job"), opened.queue.depth()):
            with pytest.raises(QueueNotFound, match=storage_settings.queue):
                await request
        with pytest.raises(QueueNotFound, match=storage_settings.queue):
            await opened.queue.receive(32, lease_s=60)


async def test_poison_creates_its_queue_when_needed(storage_settings: StorageSettings) -> None:
    async with (
        open_queue(storage_settings) as queue,
        open_poison_queue(storage_settings) as letters,
    ):
        await queue.ensure()
        with pytest.raises(QueueNotFound):
            await letters.depth()
        await queue.send(b"bad")
        (delivery,) = await queue.receive(1, lease_s=60)
        await queue.poison(delivery, b"why")
        assert [letter.body for letter in await letters.peek(32)] == [b"why"]


async def test_a_wrong_key_is_denied_at_once_and_never_shown(
    storage_settings: StorageSettings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = storage_settings.connection_string.get_secret_value().replace(ACCOUNT_KEY, WRONG_KEY)
    wrong = storage_settings.model_copy(update={"connection_string": SecretStr(secret)})
    told = ""
    async with open_storage(wrong) as opened:
        for call in (
            opened.store.stat("blob"),
            opened.store.create("blob", b"x", content_type=BINARY),
            opened.store.delete("blob"),
            opened.queue.send(b"job"),
            opened.queue.depth(),
        ):
            with pytest.raises(AccessDenied, match=r"access denied.*credential") as caught:
                await call
            told += "".join(traceback.format_exception(caught.value))
        with pytest.raises(AccessDenied):
            await opened.queue.receive(32, lease_s=60)
        with pytest.raises(AccessDenied):
            [info async for info in opened.store.list("")]
        told += f"{opened!r} {wrong!r} {vars(opened.queue)!r} {vars(opened.store)!r}"
    assert WRONG_KEY not in told
    assert WRONG_KEY not in caplog.text


async def test_an_unreachable_account_is_unavailable_within_seconds() -> None:
    with socket.socket() as reserved:  # bound, but nobody listens
        reserved.bind((HOST, 0))
        port = reserved.getsockname()[1]
        settings = _at(port)
        started = time.monotonic()
        async with open_storage(settings) as opened:
            with pytest.raises(StorageUnavailable, match="can't be reached"):
                await opened.queue.send(b"job")
            with pytest.raises(StorageUnavailable, match=r"blob a in container .*network"):
                await opened.store.stat("a")
        assert time.monotonic() - started < 10


async def test_what_is_not_storage_is_an_error_of_ours() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(
            b"HTTP/1.1 404 Not Found\r\nContent-Type: text/html\r\nContent-Length: 4\r\n"
            b"Connection: close\r\n\r\n<p>?"
        )
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, HOST, 0)
    settings = _at(server.sockets[0].getsockname()[1])
    async with server, open_storage(settings) as opened:
        with pytest.raises(StorageError):
            await opened.store.stat("blob")
        with pytest.raises(StorageError):
            await opened.store.read("blob", limit=10)
        with pytest.raises(StorageError):
            await opened.queue.receive(1, lease_s=60)


async def test_a_silent_service_is_given_up_within_its_time() -> None:
    tries: list[bool] = []

    async def silent(maybe_done: bool) -> None:
        tries.append(maybe_done)
        await asyncio.Event().wait()

    with pytest.raises(StorageUnavailable, match="queue q: "):
        await azure_sdk.attempt(silent, subject="queue q", timeout_s=0.01)
    assert tries == [False, True, True, True, True]


async def test_a_cancelled_call_is_cancelled() -> None:
    started = asyncio.Event()

    async def silent(_: bool) -> None:
        started.set()
        await asyncio.Event().wait()

    call = asyncio.create_task(azure_sdk.attempt(silent, subject="queue q", timeout_s=60))
    await started.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_a_passing_fault_is_tried_again() -> None:
    async def second_time_lucky(maybe_done: bool) -> str:
        if not maybe_done:
            raise ServiceRequestError("connection reset")
        return "done"

    assert await azure_sdk.attempt(second_time_lucky, subject="queue q", timeout_s=1) == "done"


async def test_a_missing_identity_is_told_at_once() -> None:
    tries = 0

    async def without_identity(_: bool) -> None:
        nonlocal tries
        tries += 1
        raise ClientAuthenticationError("no credential in this environment could get a token")

    with pytest.raises(AccessDenied, match=r"queue q: access denied .*roles"):
        await azure_sdk.attempt(without_identity, subject="queue q", timeout_s=1)
    assert tries == 1


async def test_an_account_is_opened_without_any_network_access() -> None:
    async with open_storage(StorageSettings(account="mystorage")) as opened:
        assert repr(opened.queue) == "AzureJobQueue('blindscore-jobs')"
        assert repr(opened.store) == "AzureBlobStore('blindscore')"


@pytest.mark.parametrize(
    ("account", "blob", "queue"),
    [
        (
            "mystorage",
            "https://mystorage.blob.core.windows.net",
            "https://mystorage.queue.core.windows.net",
        ),
        (
            "https://mystorage.blob.core.chinacloudapi.cn/",
            "https://mystorage.blob.core.chinacloudapi.cn",
            "https://mystorage.queue.core.chinacloudapi.cn",
        ),
    ],
)
def test_an_account_is_a_name_or_a_blob_endpoint(account: str, blob: str, queue: str) -> None:
    assert azure_account.blob_url(account) == blob
    assert azure_account.queue_url(account) == queue


@pytest.mark.parametrize(
    "account",
    [
        "My_Storage",
        "http://mystorage.blob.core.windows.net",
        "https://mystorage.queue.core.windows.net",
        "https://mystorage.blob.core.windows.net/container",
    ],
)
async def test_other_accounts_are_refused(account: str) -> None:
    with pytest.raises(UsageError, match="neither a name nor a blob endpoint"):
        async with open_storage(StorageSettings(account=account)):
            pass


@pytest.mark.parametrize(
    "account",
    [
        "https://mystorage.blob.core.windows.net?sig=TOPSECRET",
        "https://user:TOPSECRET@mystorage.blob.core.windows.net",
    ],
)
async def test_credentials_in_an_account_are_refused_unquoted(account: str) -> None:
    with pytest.raises(UsageError, match="carries a credential") as caught:
        async with open_storage(StorageSettings(account=account)):
            pass
    assert "TOPSECRET" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("text", ["", "nonsense", "AccountKey=TOPSECRET", "TOPSECRET;;=;"])
async def test_a_malformed_connection_string_is_refused_unquoted(text: str) -> None:
    with pytest.raises(UsageError, match="missing or malformed") as caught:
        async with open_storage(StorageSettings(connection_string=SecretStr(text))):
            pass
    assert "TOPSECRET" not in "".join(traceback.format_exception(caught.value))


async def test_an_unknown_api_version_is_refused(storage_settings: StorageSettings) -> None:
    unknown = storage_settings.model_copy(update={"api_version": "1999-01-01"})
    with pytest.raises(UsageError, match="API version"):
        async with open_storage(unknown):
            pass


async def test_an_api_version_that_the_service_lacks_is_named(
    storage_settings: StorageSettings,
) -> None:
    newest = storage_settings.model_copy(update={"api_version": "2026-10-06"})
    async with open_storage(newest) as opened:
        with pytest.raises(StorageError, match="--api-version"):
            await opened.queue.send(b"job")


def _at(port: int) -> StorageSettings:
    endpoint = f"http://{HOST}:{port}/{ACCOUNT}"
    return StorageSettings(
        connection_string=SecretStr(
            f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={ACCOUNT_KEY};"
            f"BlobEndpoint={endpoint};QueueEndpoint={endpoint};"
        )
    )
