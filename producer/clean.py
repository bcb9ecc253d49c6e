"""Removing what a run or a key left in the account. Local keys and records are not touched."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass

from shared import blobnames
from shared.errors import LeaseLost, MessageError
from shared.messages import JobMessage
from shared.ports import BlobStore, Delivery, JobQueue

LEASE_S = 60.0
BATCH = 32


@dataclass(frozen=True, slots=True)
class Removed:
    """How much was removed."""

    blobs: int
    messages: int


async def clean_run(run: str, store: BlobStore, queue: JobQueue) -> Removed:
    """Remove a run's messages, then its blobs. Safe to run twice."""
    messages = await _remove_messages(run, queue)
    blobs = 0
    async for blob in store.list(blobnames.run_prefix(run)):
        blobs += await store.delete(blob.name)
    return Removed(blobs, messages)


async def clean_key(key_id: str, store: BlobStore) -> Removed:
    """Remove a key's published evaluation keys: no endpoint can score under it any more."""
    return Removed(int(await store.delete(blobnames.key(key_id))), 0)


async def _remove_messages(run: str, queue: JobQueue) -> int:
    """Look at every visible message once; hand back those of other runs.

    In a long queue, leases run out before its end is reached, and messages come around again: the
    first one that is known tells that all have been seen. Messages that a worker holds right now
    are left: it finds their input gone and gives up.
    """
    removed = 0
    others: dict[str, Delivery] = {}
    try:
        while deliveries := await queue.receive(BATCH, lease_s=LEASE_S):
            came_around = any(delivery.id in others for delivery in deliveries)
            for delivery in deliveries:
                if _is_of(run, delivery):
                    removed += await _settle(queue.delete(delivery))
                else:
                    others[delivery.id] = delivery
            if came_around:
                break
    finally:
        for delivery in others.values():
            await _settle(queue.release(delivery, delay_s=0))
    return removed


async def _settle(action: Awaitable[None]) -> bool:
    """Whether it was still ours to do: a lease that ran out is another's, or nobody's."""
    try:
        await action
    except LeaseLost:
        return False
    return True


def _is_of(run: str, delivery: Delivery) -> bool:
    try:
        return JobMessage.decode(delivery.body).run == run
    except MessageError:
        return False
