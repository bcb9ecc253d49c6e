"""Where keys are read from, and how long they are kept."""

from __future__ import annotations

import asyncio
import logging
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from score.answers import NeedKeys
from score.keycache import ENTRY_BYTES, Key, KeyCache
from score.keyhost import KeyHost, allowed_hosts, request_storage
from score.keystore import KeySource, KeyStore
from score.settings import KeyOptions
from shared.blobnames import EXPIRES_AT
from shared.errors import (
    AccessDenied,
    EvaluationKeysError,
    KeyExpired,
    KeyHostNotAllowed,
    KeyUnknown,
    MalformedRequest,
    StorageUnavailable,
    UsageError,
)
from shared.ports import BlobInfo, BlobReader, BlobStore
from shared.settings import StorageSettings
from tests.fakes import FakeClock, FakeStore

KEY_ID = "k" * 32
SECRET = "c2VjcmV0c2VjcmV0"
OWN = StorageSettings(
    connection_string=SecretStr(f"AccountName=ours;AccountKey={SECRET}"), container="keys-here"
)
AZURITE_URL = "http://127.0.0.1:10000/devstoreaccount1"
NEED = NeedKeys(scheme="ei", key_id=KEY_ID)


class CountingStore(FakeStore):
    """Counts what is asked of it; `gate` holds reads back, `fault` makes them fail."""

    def __init__(self) -> None:
        super().__init__()
        self.opened: list[str] = []
        self.looked_at: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.fault: Exception | None = None

    async def open(self, name: str) -> BlobReader:
        await self._pass()
        self.opened.append(name)
        return await super().open(name)

    async def stat(self, name: str) -> BlobInfo:
        await self._pass()
        self.looked_at.append(name)
        return await super().stat(name)

    async def _pass(self) -> None:
        await self.gate.wait()
        if self.fault is not None:
            raise self.fault

    async def publish(
        self, data: bytes, *, name: str = f"keys/{KEY_ID}", expires_at: str | None = None
    ) -> None:
        metadata = None if expires_at is None else {EXPIRES_AT: expires_at}
        await super().replace(
            name, data, content_type="application/octet-stream", metadata=metadata
        )


class Accounts:
    """Storage that requests bring: by endpoint, with what was used to reach it."""

    def __init__(self) -> None:
        self.store = CountingStore()
        self.reached: list[str] = []

    @asynccontextmanager
    async def open(self, where: StorageSettings) -> AsyncIterator[BlobStore]:
        self.reached.append(where.connection_string.get_secret_value())
        yield self.store


@pytest.fixture
def own() -> CountingStore:
    return CountingStore()


@pytest.fixture
def accounts() -> Accounts:
    return Accounts()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def key_store(own: BlobStore, accounts: Accounts, options: KeyOptions | None = None) -> KeyStore:
    return KeyStore(own, OWN, options or KeyOptions(max_key_bytes=1000), accounts.open)


@pytest.fixture
def store(own: CountingStore, accounts: Accounts) -> KeyStore:
    return key_store(own, accounts)


@pytest.fixture
async def cache(store: KeyStore, clock: FakeClock) -> AsyncIterator[KeyCache]:
    cache = KeyCache(store, KeyOptions(cache_bytes=2 * ENTRY_BYTES + 100, ttl_s=30.0), clock)
    yield cache
    await cache.aclose()


# --- the cache ----------------------------------------------------------------------------------


async def test_a_key_is_read_once(cache: KeyCache, store: KeyStore, own: CountingStore) -> None:
    await own.publish(b"keys")
    first = await cache.get(store.source(NEED))
    assert first.data == b"keys"
    assert await cache.get(store.source(NEED)) == first
    assert own.opened == [f"keys/{KEY_ID}"]
    assert (cache.hits, cache.misses, cache.nbytes) == (1, 1, ENTRY_BYTES + 4)


async def test_however_many_requests_wait_there_is_one_download(
    cache: KeyCache, store: KeyStore, own: CountingStore
) -> None:
    await own.publish(b"keys")
    own.gate.clear()
    waiting = [asyncio.create_task(cache.get(store.source(NEED))) for _ in range(20)]
    await asyncio.sleep(0)
    waiting[0].cancel()  # even when the first to ask goes away
    await asyncio.sleep(0)
    own.gate.set()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert {key.data for key in results[1:] if isinstance(key, Key)} == {b"keys"}
    assert len(own.opened) == 1


async def test_an_old_key_is_compared_and_kept(
    cache: KeyCache, store: KeyStore, own: CountingStore, clock: FakeClock
) -> None:
    await own.publish(b"keys")
    first = await cache.get(store.source(NEED))
    clock.advance(29.9)
    await cache.get(store.source(NEED))
    assert own.looked_at == []
    clock.advance(0.2)
    assert await cache.get(store.source(NEED)) == first
    assert own.looked_at == [f"keys/{KEY_ID}"]
    assert len(own.opened) == 1
    clock.advance(29.9)  # the comparison counts as a look
    await cache.get(store.source(NEED))
    assert len(own.looked_at) == 1


async def test_a_replaced_key_is_read_again_as_another_version(
    cache: KeyCache, store: KeyStore, own: CountingStore, clock: FakeClock
) -> None:
    await own.publish(b"keys")
    first = await cache.get(store.source(NEED))
    await own.publish(b"new keys")
    clock.advance(31)
    second = await cache.get(store.source(NEED))
    assert second.data == b"new keys"
    assert second.version != first.version
    assert cache.nbytes == ENTRY_BYTES + len(b"new keys")


async def test_a_deleted_key_stops_working(
    cache: KeyCache, store: KeyStore, own: CountingStore, clock: FakeClock
) -> None:
    await own.publish(b"keys")
    await cache.get(store.source(NEED))
    await own.delete(f"keys/{KEY_ID}")
    clock.advance(31)
    with pytest.raises(KeyUnknown):
        await cache.get(store.source(NEED))
    assert cache.nbytes == 0


async def test_that_there_is_no_key_is_not_kept(
    cache: KeyCache, store: KeyStore, own: CountingStore
) -> None:
    with pytest.raises(KeyUnknown, match=KEY_ID):
        await cache.get(store.source(NEED))
    await own.publish(b"keys")
    assert (await cache.get(store.source(NEED))).data == b"keys"


async def test_keys_are_kept_up_to_a_number_of_bytes(
    cache: KeyCache, store: KeyStore, own: CountingStore
) -> None:
    needs = [NeedKeys(scheme="ei", key_id=letter * 32) for letter in "abc"]
    for need in needs:
        await own.publish(b"x" * 40, name=f"keys/{need.key_id}")
        await cache.get(store.source(need))
    assert cache.nbytes == 2 * ENTRY_BYTES + 80
    await cache.get(store.source(needs[0]))  # the least recently used of three
    assert len(own.opened) == 4


async def test_any_number_of_tiny_keys_stays_bounded(
    cache: KeyCache, store: KeyStore, own: CountingStore
) -> None:
    """All could be published by one hostile key owner."""
    needs = [NeedKeys(scheme="ei", key_id=f"{number:032d}") for number in range(50)]
    for need in needs:
        await own.publish(b"", name=f"keys/{need.key_id}")
        await cache.get(store.source(need))
    assert cache.nbytes == 2 * ENTRY_BYTES
    own.opened.clear()
    for need in needs[-2:]:
        await cache.get(store.source(need))
    assert own.opened == []


async def test_one_entry_takes_no_more_than_is_counted(store: KeyStore, accounts: Accounts) -> None:
    """With a storage account of its own, which is the most there can be."""
    await accounts.store.publish(b"", name=KEY_ID)
    cache = KeyCache(store, KeyOptions())
    tracemalloc.start()
    try:
        for number in range(100):
            await accounts.store.publish(b"", name=f"{number:032d}")
        before = tracemalloc.get_traced_memory()[0]
        for number in range(100):
            need = NeedKeys(
                scheme="ei", key_id=f"{number:032d}", container="theirs", conn_str=ALLOWED
            )
            await cache.get(store.source(need))
        accounts.reached.clear()
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert taken < 100 * ENTRY_BYTES


async def test_the_blob_at_the_root_and_the_one_in_the_folder_are_not_one_version(
    cache: KeyCache, store: KeyStore, own: CountingStore, clock: FakeClock
) -> None:
    """Else an evaluator would go on with the keys of the one when it is to use the other's."""
    await own.publish(b"theirs", name=KEY_ID)
    _give_etag(own, KEY_ID)
    theirs = await cache.get(store.source(NEED))
    await own.delete(KEY_ID)
    await own.publish(b"ours")
    _give_etag(own, f"keys/{KEY_ID}")
    clock.advance(31)
    ours = await cache.get(store.source(NEED))
    assert (theirs.data, ours.data) == (b"theirs", b"ours")
    assert theirs.version != ours.version


def _give_etag(own: CountingStore, name: str) -> None:
    """Nothing says that ETags of different blobs differ."""
    info, data = own.blobs[name]
    own.blobs[name] = (replace(info, etag='"1"'), data)


@pytest.mark.parametrize("offset", ["+00:00", "Z"])
async def test_a_key_past_its_date_is_refused_whether_cached_or_not(
    store: KeyStore, own: CountingStore, clock: FakeClock, offset: str
) -> None:
    today = [datetime(2026, 5, 1, 11, 59, 59, tzinfo=UTC)]
    cache = KeyCache(store, KeyOptions(), clock, lambda: today[0])
    await own.publish(b"keys", expires_at=f"2026-05-01T12:00:00{offset}")
    assert (await cache.get(store.source(NEED))).data == b"keys"
    today[0] += timedelta(seconds=1)
    for _ in range(2):
        with pytest.raises(KeyExpired, match="2026-05-01 12:00"):
            await cache.get(store.source(NEED))
    await own.publish(b"keys", expires_at=f"2026-05-01T13:00:00{offset}")
    clock.advance(31)
    assert (await cache.get(store.source(NEED))).data == b"keys"


@pytest.mark.parametrize(
    ("expires_at", "told"),
    [
        ("2026-01-01T00:00:00+05:00", "2025-12-31 19:00 UTC"),
        ("0001-01-01T00:00:00+05:00", r"0001-01-01 00:00\+05:00"),  # UTC has no such date
    ],
)
async def test_the_date_of_a_key_is_told_in_utc(
    cache: KeyCache, store: KeyStore, own: CountingStore, expires_at: str, told: str
) -> None:
    await own.publish(b"keys", expires_at=expires_at)
    with pytest.raises(KeyExpired, match=f"expired at {told}"):
        await cache.get(store.source(NEED))


@pytest.mark.parametrize("text", ["", "never", "2026-05-01T12:00:00", "12:00"])
async def test_a_date_that_can_not_be_read_does_not_mean_never(
    store: KeyStore, own: CountingStore, text: str
) -> None:
    await own.publish(b"keys", expires_at=text)
    with pytest.raises(EvaluationKeysError, match="ISO 8601"):
        await store.find(store.source(NEED))


async def test_a_fault_is_raised_to_all_who_wait_and_not_kept(
    cache: KeyCache, store: KeyStore, own: CountingStore
) -> None:
    await own.publish(b"keys")
    own.fault = StorageUnavailable("down")
    results = await asyncio.gather(
        *(cache.get(store.source(NEED)) for _ in range(3)), return_exceptions=True
    )
    assert all(isinstance(result, StorageUnavailable) for result in results)
    own.fault = None
    assert (await cache.get(store.source(NEED))).data == b"keys"


async def test_storage_that_does_not_answer_is_given_up(
    store: KeyStore, own: CountingStore
) -> None:
    cache = KeyCache(store, KeyOptions(fetch_s=0.01))
    own.gate.clear()
    with pytest.raises(StorageUnavailable, match="within"):
        await cache.get(store.source(NEED))
    await cache.aclose()


async def test_closing_stops_what_is_under_way(
    cache: KeyCache, store: KeyStore, own: CountingStore
) -> None:
    own.gate.clear()
    waiting = asyncio.create_task(cache.get(store.source(NEED)))
    await asyncio.sleep(0)
    await cache.aclose()
    with pytest.raises(asyncio.CancelledError):
        await waiting


# --- where keys are -----------------------------------------------------------------------------


async def test_keys_of_other_clients_are_found_at_the_root(
    store: KeyStore, own: CountingStore
) -> None:
    await own.publish(b"theirs", name=KEY_ID)
    assert (await store.find(store.source(NEED))).data == b"theirs"
    await own.publish(b"ours")
    assert (await store.find(store.source(NEED))).data == b"ours"


class KeysFolder(CountingStore):
    """What a SAS for `keys/` alone lets through."""

    async def open(self, name: str) -> BlobReader:
        if not name.startswith("keys/"):
            raise AccessDenied(name)
        return await super().open(name)


async def test_a_credential_for_the_keys_folder_is_enough(accounts: Accounts) -> None:
    own = KeysFolder()
    store = key_store(own, accounts)
    with pytest.raises(KeyUnknown):
        await store.find(store.source(NEED))
    await own.publish(b"ours")
    assert (await store.find(store.source(NEED))).data == b"ours"


async def test_a_credential_that_reads_no_keys_is_told(store: KeyStore, own: CountingStore) -> None:
    own.fault = AccessDenied("no")
    with pytest.raises(AccessDenied):
        await store.find(store.source(NEED))


async def test_a_key_over_the_limit_is_not_read(store: KeyStore, own: CountingStore) -> None:
    await own.publish(b"x" * 1001)
    with pytest.raises(EvaluationKeysError, match="1001 bytes"):
        await store.find(store.source(NEED))


@pytest.mark.parametrize("key_id", ["", "../x", "a/b" * 8, "K" * 32, "k" * 65])
def test_a_key_id_that_is_none_is_refused(store: KeyStore, key_id: str) -> None:
    with pytest.raises(MalformedRequest):
        store.source(NeedKeys(scheme="ei", key_id=key_id))


def test_the_scorers_own_identity_reads_its_own_container_only(store: KeyStore) -> None:
    assert store.source(NeedKeys(scheme="ei", key_id=KEY_ID, container="keys-here")) == (
        KeySource(KEY_ID, "keys-here")
    )
    with pytest.raises(KeyHostNotAllowed, match="others-data"):
        store.source(NeedKeys(scheme="ei", key_id=KEY_ID, container="others-data"))


def with_conn_str(conn_str: str, container: str = "theirs") -> NeedKeys:
    return NeedKeys(scheme="ei", key_id=KEY_ID, container=container, conn_str=conn_str)


ALLOWED = f"DefaultEndpointsProtocol=https;AccountName=ours;AccountKey={SECRET};"


async def test_an_allowed_conn_str_reads_with_its_own_credential(
    store: KeyStore, accounts: Accounts
) -> None:
    await accounts.store.publish(b"theirs", name=KEY_ID)
    source = store.source(with_conn_str(ALLOWED + "EndpointSuffix=core.windows.net"))
    assert (await store.find(source)).data == b"theirs"
    assert accounts.reached == [
        f"BlobEndpoint=https://ours.blob.core.windows.net;AccountName=ours;AccountKey={SECRET}"
    ]
    assert SECRET not in repr(source)


async def test_keys_read_with_one_credential_are_not_anothers(
    cache: KeyCache, store: KeyStore, accounts: Accounts
) -> None:
    await accounts.store.publish(b"theirs", name=KEY_ID)
    first = await cache.get(store.source(with_conn_str(ALLOWED)))
    other = store.source(with_conn_str(ALLOWED.replace(SECRET, "b3RoZXI=")))
    accounts.store.fault = AccessDenied("no")
    with pytest.raises(KeyHostNotAllowed, match="refused the request's conn_str"):
        await cache.get(other)
    assert await cache.get(store.source(with_conn_str(ALLOWED))) == first


def test_a_refused_conn_str_is_neither_told_nor_logged(
    store: KeyStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    evil = f"AccountName=evil;AccountKey={SECRET};BlobEndpoint=http://evil.example"
    with pytest.raises(KeyHostNotAllowed) as caught:
        store.source(with_conn_str(evil))
    assert SECRET not in str(caught.value) + caplog.text
    assert "evil" not in str(caught.value)


REFUSED = {
    "another account": f"AccountName=evil;AccountKey={SECRET}",
    "another suffix": f"AccountName=ours;AccountKey={SECRET};EndpointSuffix=evil.example",
    "plain http": f"DefaultEndpointsProtocol=http;AccountName=ours;AccountKey={SECRET}",
    "another scheme": f"DefaultEndpointsProtocol=file;AccountName=ours;AccountKey={SECRET}",
    "suffix with a path": f"AccountName=ours;AccountKey={SECRET};EndpointSuffix=evil.example/",
    "suffix with a user": f"AccountName=ours;AccountKey={SECRET};EndpointSuffix=@evil.example",
    "account with a host": f"AccountName=evil.example/ours;AccountKey={SECRET}",
    "blob endpoint elsewhere": f"{ALLOWED}BlobEndpoint=https://evil.example",
    "the same in a user part": f"{ALLOWED}BlobEndpoint=https://ours.blob.core.windows.net@evil.io",
    "the same as a prefix": f"{ALLOWED}BlobEndpoint=https://ours.blob.core.windows.net.evil.io",
    "another port": f"{ALLOWED}BlobEndpoint=https://ours.blob.core.windows.net:8443",
    "a query": f"{ALLOWED}BlobEndpoint=https://ours.blob.core.windows.net/?x=y",
    "a path": f"{ALLOWED}BlobEndpoint=https://ours.blob.core.windows.net/secrets",
    "a backslash": f"{ALLOWED}BlobEndpoint=https://evil.io\\@ours.blob.core.windows.net",
    "a line break": f"{ALLOWED}BlobEndpoint=https://ours.blob.core.windows.net\n",
    "a doubled field": f"{ALLOWED}accountname=evil",
    "a doubled endpoint": "BlobEndpoint=https://ours.blob.core.windows.net;"
    f"BLOBENDPOINT=https://evil.io;AccountName=ours;AccountKey={SECRET}",
    "a doubled endpoint, ours last": "BlobEndpoint=https://evil.io;"
    f"BLOBENDPOINT=https://ours.blob.core.windows.net;AccountName=ours;AccountKey={SECRET}",
    "a secondary endpoint": f"{ALLOWED}BlobSecondaryEndpoint=https://evil.io",
    "the emulator's shorthand": "UseDevelopmentStorage=true",
    "an unknown field": f"{ALLOWED}Proxy=http://evil.io",
    "no credential": "AccountName=ours",
    "two credentials": f"{ALLOWED}SharedAccessSignature=sv=1",
    "a token without a signature": "AccountName=ours;SharedAccessSignature=sv=1",
    "a key that is not base64": "AccountName=ours;AccountKey=abc",
    "a credential with more": "AccountName=ours;AccountKey=x y",
    "a letter that folds into another": f"{ALLOWED}BlobEndpoint=http\u017f://evil.io",
    "a host that folds into the own": f"{ALLOWED}BlobEndpoint="
    "https://our\u017f.blob.core.windows.net",
    "a protocol that folds": "DefaultEndpointsProtocol=http\u017f;"
    f"AccountName=ours;AccountKey={SECRET}",
    "nothing": ";",
    "text": "hello",
}


@pytest.mark.parametrize("conn_str", REFUSED.values(), ids=REFUSED.keys())
def test_a_conn_str_to_anywhere_else_is_refused(store: KeyStore, conn_str: str) -> None:
    with pytest.raises(KeyHostNotAllowed):
        store.source(with_conn_str(conn_str))


def test_more_hosts_can_be_allowed(own: CountingStore, accounts: Accounts) -> None:
    options = KeyOptions(allowed_hosts=("https://theirs.blob.core.windows.net", AZURITE_URL))
    store = key_store(own, accounts, options)
    store.source(with_conn_str(f"AccountName=theirs;AccountKey={SECRET}"))
    store.source(with_conn_str(f"AccountName=dev;AccountKey={SECRET};BlobEndpoint={AZURITE_URL}/"))
    store.source(
        with_conn_str(
            "BlobEndpoint=https://THEIRS.blob.core.windows.net:443;"
            "SharedAccessSignature=?sv=2026-01-01&sig=a%2Bb%3D"
        )
    )
    with pytest.raises(KeyHostNotAllowed):
        store.source(
            with_conn_str(
                f"AccountName=dev;AccountKey={SECRET};BlobEndpoint=http://127.0.0.1:10000/other"
            )
        )


@pytest.mark.parametrize(
    ("own", "url"),
    [
        ({"account": "ours"}, "https://ours.blob.core.windows.net"),
        ({"account": "https://ours.blob.core.chinacloudapi.cn"}, None),
        ({"connection_string": "UseDevelopmentStorage=true"}, AZURITE_URL),
        ({"connection_string": f"AccountName=ours;AccountKey=a;BlobEndpoint={AZURITE_URL};"}, None),
    ],
)
def test_the_own_account_is_always_allowed(own: dict[str, str], url: str | None) -> None:
    settings = StorageSettings.model_validate(own)
    (host,) = allowed_hosts(settings, ())
    assert host.url == (url or own.get("account") or AZURITE_URL)


def test_an_own_endpoint_of_another_form_allows_nothing() -> None:
    """It works for the scorer itself, but no request can name it."""
    text = f"AccountName=ours;AccountKey={SECRET};BlobEndpoint=https://[::1]:10000/ours"
    own = StorageSettings.model_validate({"connection_string": text})
    assert allowed_hosts(own, ()) == frozenset()


@pytest.mark.parametrize("url", ["theirs", "https://a.b/c/d", "https://user@a.b", ""])
def test_an_allowed_host_must_be_an_endpoint(url: str) -> None:
    with pytest.raises(UsageError, match="not a blob endpoint"):
        allowed_hosts(OWN, (url,))


@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                ["AccountName", "accountKey", "BlobEndpoint", "EndpointSuffix", "QueueEndpoint"]
            ),
            st.one_of(
                st.text(max_size=30),
                st.sampled_from(["ours", "core.windows.net", "https://ours.blob.core.windows.net"]),
            ),
        ),
        max_size=5,
    )
)
@settings(deadline=None)
def test_whatever_a_conn_str_says_only_allowed_hosts_are_reached(
    fields: list[tuple[str, str]],
) -> None:
    conn_str = ";".join(f"{name}={value}" for name, value in fields)
    allowed = allowed_hosts(OWN, ())
    try:
        storage = request_storage(conn_str, "theirs", OWN, allowed)
    except KeyHostNotAllowed:
        return
    endpoint = storage.connection_string.get_secret_value().split(";")[0]
    assert KeyHost.parse(endpoint.removeprefix("BlobEndpoint=")) in allowed
