"""What the Azure adapters do when an answer is lost or the service is busy, on Azurite."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import pytest

from deploy.local.azurite import Azurite
from shared.azure_blob import AzureBlobStore
from shared.azure_queue import AzureJobQueue
from shared.errors import BlobExists, LeaseLost, StorageError, StorageUnavailable
from shared.settings import StorageSettings
from shared.storage import ensure_storage, open_poison_queue, open_queue, open_store
from tests.contract.conftest import DEADLINE_S, LEASE_S, send_raw
from tests.faults import Fault, FaultyStorage, Kind, faulty_storage, give_up_sooner

MIB = 1024 * 1024
BINARY = "application/octet-stream"
SIZES = (10, 9 * MIB)
BODIES = ((10, ""), (9 * MIB, "comp=blocklist"), (9 * MIB, "comp=block&"))
"""Sizes, and which call's answer is lost."""

WHEREVER_IT_IS_LOST = pytest.mark.parametrize("lost", ["lost answer", "first byte"])
"""Those that come too late have a test of their own, as they take their time."""


@dataclass(frozen=True, slots=True)
class Line:
    """The same storage twice: through the faulty proxy, and directly."""

    faulty: FaultyStorage
    queue: AzureJobQueue
    store: AzureBlobStore
    direct_store: AzureBlobStore
    letters: AzureJobQueue
    settings: StorageSettings

    def fault(self, fault: Fault) -> None:
        self.faulty.faults.plan(fault)

    @property
    def requests(self) -> list[str]:
        return self.faulty.faults.requests


@asynccontextmanager
async def line_to(azurite: Azurite, settings: StorageSettings) -> AsyncIterator[Line]:
    await ensure_storage(settings)
    async with faulty_storage(azurite) as faulty:
        proxied = faulty.settings(settings)
        async with (
            open_queue(proxied) as queue,
            open_store(proxied) as store,
            open_store(settings) as direct_store,
            open_poison_queue(settings) as letters,
        ):
            yield Line(faulty, queue, store, direct_store, letters, settings)


@pytest.fixture
async def line(azurite: Azurite, storage_settings: StorageSettings) -> AsyncIterator[Line]:
    async with line_to(azurite, storage_settings) as line:
        yield line


@WHEREVER_IT_IS_LOST
async def test_a_send_may_be_doubled_but_is_not_lost(line: Line, lost: Kind) -> None:
    line.fault(Fault(lost, "POST", "/messages"))
    await line.queue.send(b"job")
    found = [d.body for d in await line.queue.receive(32, lease_s=60)]
    assert (set(found), len(found) > 1) == ({b"job"}, True)


@WHEREVER_IT_IS_LOST
async def test_a_delete_that_worked_is_a_success(line: Line, lost: Kind) -> None:
    await line.queue.send(b"job")
    (delivery,) = await line.queue.receive(1, lease_s=60)
    line.fault(Fault(lost, "DELETE"))
    await line.queue.delete(delivery)
    assert len(line.requests) > 1
    assert await line.queue.depth() == 0


@WHEREVER_IT_IS_LOST
async def test_a_renewal_leaves_the_ownership_unknown(line: Line, lost: Kind) -> None:
    await line.queue.send(b"job")
    (delivery,) = await line.queue.receive(1, lease_s=60)
    line.fault(Fault(lost, "PUT", "/messages/"))
    with pytest.raises(LeaseLost):
        await line.queue.renew(delivery, lease_s=60)


@WHEREVER_IT_IS_LOST
async def test_a_release_that_worked_is_a_success(line: Line, lost: Kind) -> None:
    await line.queue.send(b"job")
    (delivery,) = await line.queue.receive(1, lease_s=60)
    line.fault(Fault(lost, "PUT", "/messages/"))
    await line.queue.release(delivery, delay_s=0)
    assert [d.deliveries for d in await line.queue.receive(1, lease_s=60)] == [2]


@WHEREVER_IT_IS_LOST
async def test_a_poisoning_is_finished(line: Line, lost: Kind) -> None:
    await line.queue.send(b"job")
    (delivery,) = await line.queue.receive(1, lease_s=60)
    line.fault(Fault(lost, "POST", "-poison/messages"))
    await line.queue.poison(delivery, b"why")
    assert await line.queue.depth() == 0
    assert {d.body for d in await line.letters.receive(32, lease_s=60)} == {b"why"}


@WHEREVER_IT_IS_LOST
@pytest.mark.parametrize(("size", "where"), BODIES)
async def test_a_create_that_worked_is_a_success(
    line: Line, lost: Kind, size: int, where: str
) -> None:
    line.fault(Fault(lost, "PUT", where))
    await line.store.create("blob", b"x" * size, content_type=BINARY, metadata={"a": "b"})
    assert not line.faulty.faults.pending
    assert await line.direct_store.read("blob", limit=size) == b"x" * size
    assert (await line.direct_store.stat("blob")).metadata == {"a": "b"}


@WHEREVER_IT_IS_LOST
@pytest.mark.parametrize("size", SIZES)
async def test_a_create_knows_its_own_blob_from_a_twin(line: Line, lost: Kind, size: int) -> None:
    await line.direct_store.create("blob", b"x" * size, content_type=BINARY)
    line.fault(Fault(lost, "PUT"))
    with pytest.raises(BlobExists):
        await line.store.create("blob", b"x" * size, content_type=BINARY)


@WHEREVER_IT_IS_LOST
async def test_a_blob_delete_that_worked_is_a_success(line: Line, lost: Kind) -> None:
    await line.store.create("blob", b"x", content_type=BINARY)
    line.fault(Fault(lost, "DELETE"))
    assert await line.store.delete("blob") is True


async def test_an_answer_that_comes_too_late_is_a_lost_one(
    azurite: Azurite, storage_settings: StorageSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every case above, each on a line of its own, all at once: they wait."""
    give_up_sooner(monkeypatch)
    created, twin = (
        test_a_create_that_worked_is_a_success,
        test_a_create_knows_its_own_blob_from_a_twin,
    )
    cases: list[Callable[..., Awaitable[None]]] = [
        test_a_send_may_be_doubled_but_is_not_lost,
        test_a_delete_that_worked_is_a_success,
        test_a_renewal_leaves_the_ownership_unknown,
        test_a_release_that_worked_is_a_success,
        test_a_poisoning_is_finished,
        *(partial(created, size=size, where=where) for size, where in BODIES),
        *(partial(twin, size=size) for size in SIZES),
        test_a_blob_delete_that_worked_is_a_success,
    ]

    async def pass_case(number: int, case: Callable[..., Awaitable[None]]) -> None:
        container, queue = storage_settings.container, storage_settings.queue
        own = {"container": f"{container}-{number}", "queue": f"{queue}-{number}"}
        async with line_to(azurite, storage_settings.model_copy(update=own)) as line:
            await case(line, lost="late answer")
            assert not line.faulty.faults.pending

    async with asyncio.TaskGroup() as tasks:
        for number, case in enumerate(cases):
            tasks.create_task(pass_case(number, case))


@pytest.mark.parametrize("kind", ["lost request", "lost answer", "first byte", "cut answer"])
async def test_a_read_goes_on_where_it_was(line: Line, kind: Kind) -> None:
    data = b"".join(hashlib.sha256(b"%d" % n).digest() for n in range(400_000))
    await line.direct_store.create("blob", data, content_type=BINARY)
    reader = await line.store.open("blob")
    line.fault(Fault(kind, "GET"))
    assert b"".join([chunk async for chunk in reader]) == data
    assert not line.faulty.faults.pending
    assert len(line.requests) == 3  # the two other ranges, one of them twice


async def test_a_blob_that_is_replaced_while_read_is_not_mixed(line: Line) -> None:
    await line.store.replace("blob", b"a" * (9 * MIB), content_type=BINARY)
    reader = await line.store.open("blob")
    await line.store.replace("blob", b"b" * (9 * MIB), content_type=BINARY)
    with pytest.raises(StorageError, match="ConditionNotMet"):
        [chunk async for chunk in reader]


@pytest.mark.parametrize("kind", ["busy", "throttled", "failing", "bad gateway", "reset"])
async def test_a_busy_service_is_asked_again(line: Line, kind: Kind) -> None:
    line.fault(Fault(kind, "PUT", "/blob", times=2))
    await line.store.create("blob", b"x", content_type=BINARY)
    line.fault(Fault(kind, "POST", times=2))
    await line.queue.send(b"job")
    line.fault(Fault("busy" if kind == "failing" else kind, "GET", "/messages", times=2))
    assert len(await line.queue.receive(32, lease_s=60)) == 1


async def test_a_service_that_stays_busy_is_unavailable(line: Line) -> None:
    line.fault(Fault("busy", "GET", times=1000))
    with pytest.raises(StorageUnavailable, match=r"queue jobs-.*503 ServerBusy"):
        await line.queue.receive(32, lease_s=60)
    assert len(line.requests) == 5


async def test_neighbours_of_an_unreadable_message_get_through(line: Line) -> None:
    """Azurite takes a control character in, but can't put it into an answer."""
    for number in range(3):
        await line.queue.send(b"before %d" % number)
    await send_raw(line.settings, "bell \x07")
    for number in range(3):
        await line.queue.send(b"after %d" % number)
    seen: set[bytes] = set()
    deadline = time.monotonic() + DEADLINE_S
    while await line.queue.depth() > 1 and time.monotonic() < deadline:
        for delivery in await line.queue.receive(32, lease_s=LEASE_S):
            assert delivery.deliveries <= 2
            seen.add(delivery.body)
            await line.queue.delete(delivery)
    assert seen == {b"%s %d" % (when, n) for when in (b"before", b"after") for n in range(3)}


@pytest.mark.parametrize("method", ["POST", "GET", "HEAD", "PUT", "DELETE"])
async def test_a_strange_page_is_no_success(line: Line, method: str) -> None:
    """Something in between answers 200, and nothing has been done."""
    await line.queue.send(b"job")
    (delivery,) = await line.queue.receive(1, lease_s=60)
    line.fault(Fault("page", method, times=1000))
    calls: dict[str, list[Callable[[], Awaitable[object]]]] = {
        "POST": [lambda: line.queue.send(b"job")],
        "GET": [lambda: line.queue.receive(1, lease_s=1), lambda: line.store.open("blob")],
        "HEAD": [lambda: line.store.stat("blob")],
        "PUT": [
            lambda: line.queue.renew(delivery, lease_s=60),
            lambda: line.queue.release(delivery, delay_s=0),
            lambda: line.store.create("blob", b"x", content_type=BINARY),
            lambda: line.store.create("blob", b"x" * 9 * MIB, content_type=BINARY),
        ],
        "DELETE": [lambda: line.queue.delete(delivery), lambda: line.store.delete("blob")],
    }
    for call in calls[method]:
        with pytest.raises(StorageError):
            await call()


async def test_a_block_that_was_damaged_on_its_way_is_sent_again(line: Line) -> None:
    data = bytes(range(256)) * (5 * MIB // 256)
    line.fault(Fault("damaged request", "PUT", "comp=block&", times=2))
    await line.store.create("x", data, content_type=BINARY)
    assert line.faulty.faults.pending == []
    assert await line.direct_store.read("x", limit=len(data)) == data
