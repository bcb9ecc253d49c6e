"""What the queue adapter asks of the service, word for word: its limits and its habits."""

from __future__ import annotations

from collections.abc import AsyncIterator
from urllib.parse import parse_qs, urlsplit

import pytest

from deploy.local.azurite import Azurite
from shared.azure_queue import AzureJobQueue
from shared.errors import LeaseLost
from shared.settings import StorageSettings
from shared.storage import ensure_storage, open_queue
from tests.faults import Fault, Faults, faulty_storage


@pytest.fixture
async def wire(
    azurite: Azurite, storage_settings: StorageSettings
) -> AsyncIterator[tuple[AzureJobQueue, Faults]]:
    """A queue, and what is asked of it."""
    await ensure_storage(storage_settings)
    async with (
        faulty_storage(azurite) as line,
        open_queue(line.settings(storage_settings)) as queue,
    ):
        yield queue, line.faults


def last(faults: Faults) -> dict[str, str]:
    """The parameters of the last request."""
    query = urlsplit(faults.requests[-1].split(" ", 1)[1]).query
    return {name: values[0] for name, values in parse_qs(query).items()}


async def test_messages_and_dead_letters_never_expire(wire: tuple[AzureJobQueue, Faults]) -> None:
    """By default they are gone after 7 days."""
    queue, faults = wire
    await queue.send(b"job", delay_s=1.5)
    assert last(faults)["messagettl"] == "-1"
    assert last(faults)["visibilitytimeout"] == "2"
    await queue.send(b"job")
    (delivery,) = await queue.receive(1, lease_s=60)
    await queue.poison(delivery, b"why")
    (buried,) = (line for line in faults.requests if "-poison/messages?" in line)
    assert "messagettl=-1" in buried


async def test_a_lease_is_as_long_as_was_asked_each_time(
    wire: tuple[AzureJobQueue, Faults],
) -> None:
    """Lengths are whole seconds there; a renewal without one would show the message at once."""
    queue, faults = wire
    await queue.send(b"job")
    (delivery,) = await queue.receive(32, lease_s=29.2)
    assert last(faults) == {"numofmessages": "32", "visibilitytimeout": "30"}
    receipt = delivery.receipt
    await queue.renew(delivery, lease_s=29.2)
    assert last(faults) == {"popreceipt": receipt, "visibilitytimeout": "30"}
    assert delivery.receipt != receipt
    newest = delivery.receipt
    await queue.release(delivery, delay_s=0)
    assert last(faults) == {"popreceipt": newest, "visibilitytimeout": "0"}


@pytest.mark.parametrize("lease_s", [1, 7 * 24 * 3600])
async def test_the_shortest_and_the_longest_lease_are_accepted(
    wire: tuple[AzureJobQueue, Faults], lease_s: float
) -> None:
    queue, _ = wire
    await queue.send(b"job")
    (delivery,) = await queue.receive(1, lease_s=lease_s)
    await queue.renew(delivery, lease_s=lease_s)
    await queue.delete(delivery)


async def test_azures_words_for_an_old_receipt_are_understood(
    wire: tuple[AzureJobQueue, Faults],
) -> None:
    """404 MessageNotFound, even if the message is there; Azurite says 400 PopReceiptMismatch."""
    queue, faults = wire
    await queue.send(b"job")
    (delivery,) = await queue.receive(1, lease_s=60)
    faults.plan(Fault("gone", "PUT", "/messages/"))
    with pytest.raises(LeaseLost):
        await queue.renew(delivery, lease_s=60)
    faults.plan(Fault("gone", "PUT", "/messages/"))
    with pytest.raises(LeaseLost):
        await queue.release(delivery, delay_s=0)
    faults.plan(Fault("lost answer", "PUT", "/messages/"), Fault("gone", "PUT", "/messages/"))
    await queue.release(delivery, delay_s=0)  # the first try has replaced the receipt
    assert faults.pending == []
    assert [d.deliveries for d in await queue.receive(1, lease_s=60)] == [2]
