"""What the Azure adapters do when an answer is lost or the service is busy, on Azurite."""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from deploy.local.azurite import Azurite
from shared.azure_blob import AzureBlobStore
from shared.azure_queue import AzureJobQueue
from shared.errors import BlobExists, LeaseLost, StorageError, StorageUnavailable
from shared.settings import StorageSettings
from shared.storage import ensure_storage, open_poison_queue, open_queue, open_store
from tests.contract.conftest import DEADLINE_S, LEASE_S, send_raw
from tests.contract.faults import Fault, FaultyStorage, faulty_storage

MIB = 1024 * 1024
BINARY = "application/octet-stream"


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
        self.faulty.faults.append(fault)
        self.faulty.requests.clear()


@pytest.fixture
async def line(azurite: Azurite, storage_settings: StorageSettings) -> AsyncIterator[Line]:
    await ensure_storage(storage_settings)
    async with faulty_storage(azurite) as faulty:
        proxied = faulty.settings(storage_settings)
        async with (
            open_queue(proxied) as queue,
            open_store(proxied) as store,
            open_store(storage_settings) as direct_store,
            open_poison_queue(storage_settings) as letters,
        ):
            yield Line(faulty, queue, store, direct_store, letters, storage_settings)


async def test_a_send_may_be_doubled_but_is_not_lost(line: Line) -> None:
    line.fault(Fault("lost answer", "POST", "/messages"))
    await line.queue.send(b"job")
    assert [d.body for d in await line.queue.receive(32, lease_s=60)] == [b"job", b"job"]


async def test_a_delete_that_worked_is_a_success(line: Line) -> None:
    await line.queue.send(b"job")
    (delivery,) = await line.queue.receive(1, lease_s=60)
    line.fault(Fault("lost answer", "DELETE"))
    await line.queue.delete(delivery)
    assert len(line.faulty.requests) == 2
    assert await line.queue.depth() == 0


async def test_a_renewal_leaves_the_ownership_unknown(line: Line) -> None:
    await line.queue.send(b"job")
    (delivery,) = await line.queue.receive(1, lease_s=60)
    line.fault(Fault("lost answer", "PUT", "/messages/"))
    with pytest.raises(LeaseLost):
        await line.queue.renew(delivery, lease_s=60)


async def test_a_release_that_worked_is_a_success(line: Line) -> None:
    await line.queue.send(b"job")
    (delivery,) = await line.queue.receive(1, lease_s=60)
    line.fault(Fault("lost answer", "PUT", "/messages/"))
    await line.queue.release(delivery, delay_s=0)
    assert [d.deliveries for d in await line.queue.receive(1, lease_s=60)] == [2]


async def test_a_poisoning_is_finished(line: Line) -> None:
    await line.queue.send(b"job")
    (delivery,) = await line.queue.receive(1, lease_s=60)
    line.fault(Fault("lost answer", "POST", "-poison/messages"))
    await line.queue.poison(delivery, b"why")
    assert await line.queue.depth() == 0
    assert {d.body for d in await line.letters.receive(32, lease_s=60)} == {b"why"}


@pytest.mark.parametrize(
    ("size", "where"), [(10, ""), (9 * MIB, "comp=blocklist"), (9 * MIB, "comp=block&")]
)
async def test_a_create_that_worked_is_a_success(line: Line, size: int, where: str) -> None:
    line.fault(Fault("lost answer", "PUT", where))
    await line.store.create("blob", b"x" * size, content_type=BINARY, metadata={"a": "b"})
    assert line.faulty.faults[0].times == 0
    assert await line.direct_store.read("blob", limit=size) == b"x" * size
    assert (await line.direct_store.stat("blob")).metadata == {"a": "b"}


@pytest.mark.parametrize("size", [10, 9 * MIB])
async def test_a_create_knows_its_own_blob_from_a_twin(line: Line, size: int) -> None:
    await line.direct_store.create("blob", b"x" * size, content_type=BINARY)
    line.fault(Fault("lost answer", "PUT"))
    with pytest.raises(BlobExists):
        await line.store.create("blob", b"x" * size, content_type=BINARY)


async def test_a_blob_delete_that_worked_is_a_success(line: Line) -> None:
    await line.store.create("blob", b"x", content_type=BINARY)
    line.fault(Fault("lost answer", "DELETE"))
    assert await line.store.delete("blob") is True


@pytest.mark.parametrize("kind", ["lost answer", "cut answer"])
async def test_a_read_goes_on_where_it_was(line: Line, kind: str) -> None:
    data = b"".join(hashlib.sha256(b"%d" % n).digest() for n in range(300_000))
    await line.direct_store.create("blob", data, content_type=BINARY)
    reader = await line.store.open("blob")
    line.fault(Fault("lost answer" if kind == "lost answer" else "cut answer", "GET"))
    assert b"".join([chunk async for chunk in reader]) == data
    assert line.faulty.faults[0].times == 0
    assert len(line.faulty.requests) == 3  # the two other ranges, one of them twice


async def test_a_blob_that_is_replaced_while_read_is_not_mixed(line: Line) -> None:
    await line.store.replace("blob", b"a" * (9 * MIB), content_type=BINARY)
    reader = await line.store.open("blob")
    await line.store.replace("blob", b"b" * (9 * MIB), content_type=BINARY)
    with pytest.raises(StorageError, match="ConditionNotMet"):
        [chunk async for chunk in reader]


@pytest.mark.parametrize("kind", ["busy", "failing"])
async def test_a_busy_service_is_asked_again(line: Line, kind: str) -> None:
    line.fault(Fault("busy" if kind == "busy" else "failing", "PUT", "/blob", times=2))
    await line.store.create("blob", b"x", content_type=BINARY)
    line.fault(Fault("busy", "POST", times=2))
    await line.queue.send(b"job")
    line.fault(Fault("busy", "GET", "/messages", times=2))
    assert len(await line.queue.receive(32, lease_s=60)) == 1


async def test_a_service_that_stays_busy_is_unavailable(line: Line) -> None:
    line.fault(Fault("busy", "GET", times=1000))
    with pytest.raises(StorageUnavailable, match=r"queue jobs-.*503 ServerBusy"):
        await line.queue.receive(32, lease_s=60)
    assert len(line.faulty.requests) == 5


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
