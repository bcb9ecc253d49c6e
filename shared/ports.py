"""The two things blindscore asks of a cloud: a queue with leases and a store of named blobs.

Everything but the adapters (`shared.azure_queue`, `shared.azure_blob`) depends on these alone.
Every method may raise `StorageUnavailable` (worth retrying) or `AccessDenied` (not).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol


@dataclass(slots=True)
class Delivery:
    """One delivery of a queue message, held under a lease.

    `receipt` is the pop receipt: the proof of the lease. It changes with every renewal, and only
    the newest works, so `JobQueue.renew` updates it in place.
    """

    id: str
    receipt: str
    body: bytes
    deliveries: int
    """How often the queue has handed the message out, this time included."""
    inserted_at: datetime


class JobQueue(Protocol):
    """A queue that delivers at least once, under leases."""

    async def send(self, body: bytes, *, delay_s: float = 0.0) -> None:
        """Enqueue `body` (at most 48 KiB; it travels base64-encoded), visible after `delay_s`."""
        ...

    async def receive(self, max_messages: int, *, lease_s: float) -> list[Delivery]:
        """Take up to `max_messages` (1 to 32) visible messages under a lease of `lease_s`."""
        ...

    async def renew(self, delivery: Delivery, *, lease_s: float) -> None:
        """Extend the lease to `lease_s` seconds from now; `delivery.receipt` becomes the new one.

        Raises `LeaseLost` when the receipt is refused: ownership is then unknown.
        """
        ...

    async def release(self, delivery: Delivery, *, delay_s: float) -> None:
        """Hand the message back: visible to anyone after `delay_s`. Raises `LeaseLost`."""
        ...

    async def delete(self, delivery: Delivery) -> None:
        """Remove the message for good. Raises `LeaseLost`."""
        ...

    async def poison(self, delivery: Delivery, envelope: bytes) -> None:
        """Put `envelope` on the dead-letter queue, then delete the message. Raises `LeaseLost`."""
        ...

    async def depth(self) -> int:
        """Approximate number of messages, leased ones included."""
        ...


@dataclass(frozen=True, slots=True)
class BlobInfo:
    """What a listing or a header tells of a blob, without its bytes."""

    name: str
    size: int
    etag: str
    content_type: str
    modified_at: datetime
    metadata: Mapping[str, str] = field(default_factory=dict)


class BlobReader(Protocol):
    """An open blob: what it is, and its bytes in order, once."""

    info: BlobInfo

    def __aiter__(self) -> AsyncIterator[bytes]: ...


class BlobStore(Protocol):
    """Named blobs in one container."""

    async def create(
        self,
        name: str,
        data: bytes | AsyncIterator[bytes],
        *,
        content_type: str,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Write a blob that must not exist yet, all or nothing. Raises `BlobExists`.

        A stream that raises leaves no blob behind. `metadata` is read when a stream has ended, so
        that it may tell about it.
        """
        ...

    async def replace(
        self,
        name: str,
        data: bytes,
        *,
        content_type: str,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Write a small blob, replacing what was there."""
        ...

    async def open(self, name: str) -> BlobReader:
        """Open a blob for streaming. Raises `BlobNotFound`."""
        ...

    async def read(self, name: str, *, limit: int) -> bytes:
        """Read a whole blob of at most `limit` bytes. Raises `BlobNotFound`, `BodyTooLarge`."""
        ...

    async def stat(self, name: str) -> BlobInfo:
        """Describe a blob. Raises `BlobNotFound`."""
        ...

    def list(self, prefix: str) -> AsyncIterator[BlobInfo]:
        """All blobs whose names start with `prefix`, in name order, with metadata."""
        ...

    async def delete(self, name: str) -> bool:
        """Remove a blob; False when there was none."""
        ...
