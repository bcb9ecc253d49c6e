"""Opens the store and the queue that a program's settings name.

Opening is cheap and touches no network; closing ends the connections and the identity's session.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from shared.azure_account import open_identity
from shared.azure_blob import AzureBlobStore, open_azure_store
from shared.azure_queue import AzureJobQueue, open_azure_queue
from shared.ports import BlobStore, JobQueue
from shared.settings import StorageSettings

__all__ = [
    "AzureBlobStore",
    "AzureJobQueue",
    "Storage",
    "ensure_storage",
    "open_poison_queue",
    "open_queue",
    "open_storage",
    "open_store",
]

open_store = open_azure_store
open_queue = open_azure_queue


@dataclass(frozen=True, slots=True)
class Storage:
    """Both halves, open."""

    store: BlobStore
    queue: JobQueue


@asynccontextmanager
async def open_storage(settings: StorageSettings) -> AsyncIterator[Storage]:
    """The store and the job queue. Raises `UsageError` for settings that can't name them."""
    async with (
        open_identity(settings) as identity,
        open_store(settings, identity=identity) as store,
        open_queue(settings, identity=identity) as queue,
    ):
        yield Storage(store, queue)


@asynccontextmanager
async def open_poison_queue(settings: StorageSettings) -> AsyncIterator[AzureJobQueue]:
    """The dead letters of the job queue, as a queue of their own. It may not exist yet."""
    settings.require_dead_letters()
    letters = settings.model_copy(
        update={"queue": settings.poison_queue, "queue_sas": settings.poison_sas}
    )
    async with open_queue(letters) as queue:
        yield queue


async def ensure_storage(settings: StorageSettings) -> None:
    """Create the container and both queues where they are missing."""
    async with (
        open_store(settings) as store,
        open_queue(settings) as queue,
        open_poison_queue(settings) as letters,
    ):
        await store.ensure()
        await queue.ensure()
        await letters.ensure()
