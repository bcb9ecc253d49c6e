"""Each contract runs on the fakes and on Azurite."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import pytest
from azure.storage.queue.aio import QueueClient

from shared.azure_queue import AzureJobQueue
from shared.ports import BlobStore, Delivery
from shared.settings import StorageSettings
from shared.storage import ensure_storage, open_poison_queue, open_queue, open_store
from tests.fakes import FakeClock, FakeQueue, FakeStore

T = TypeVar("T")

LEASE_S = 1.0
DEADLINE_S = 10.0


@dataclass(frozen=True, slots=True)
class QueueCase:
    """A queue, its dead letters, a way to put a stranger's text in, and a way to let time pass."""

    queue: AzureJobQueue | FakeQueue
    letters: AzureJobQueue | FakeQueue
    send_text: Callable[[str], Awaitable[None]]
    tick: Callable[[], Awaitable[None]]

    async def until(self, look: Callable[[], Awaitable[list[T]]]) -> list[T]:
        """Look again and again until there is something."""
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            if found := await look():
                return found
            await self.tick()
        raise AssertionError(f"nothing appeared within {DEADLINE_S} s")

    async def take(self, lease_s: float = 60.0) -> Delivery:
        """Receive one message that is, or soon will be, visible."""
        return (await self.until(lambda: self.queue.receive(1, lease_s=lease_s)))[0]


@pytest.fixture(params=["fake", "azurite"])
async def case(request: pytest.FixtureRequest) -> AsyncIterator[QueueCase]:
    """An empty queue."""
    if request.param == "fake":
        clock = FakeClock()
        fake = FakeQueue(clock)

        async def advance() -> None:
            clock.advance(LEASE_S / 4)

        yield QueueCase(fake, fake.poison_queue, lambda text: fake.send(text.encode()), advance)
        return
    settings: StorageSettings = request.getfixturevalue("storage_settings")
    await ensure_storage(settings)
    async with open_queue(settings) as queue, open_poison_queue(settings) as letters:
        yield QueueCase(
            queue, letters, lambda text: send_raw(settings, text), lambda: asyncio.sleep(0.05)
        )


@pytest.fixture(params=["fake", "azurite"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[BlobStore]:
    """An empty store."""
    if request.param == "fake":
        yield FakeStore()
        return
    settings: StorageSettings = request.getfixturevalue("storage_settings")
    await ensure_storage(settings)
    async with open_store(settings) as opened:
        yield opened


async def send_raw(settings: StorageSettings, text: str) -> None:
    """Send as a foreign program would: without base64."""
    async with QueueClient.from_connection_string(
        settings.connection_string.get_secret_value(),
        settings.queue,
        api_version=settings.api_version,
    ) as client:
        await client.send_message(text)
