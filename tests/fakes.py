"""The queue and the store in memory, with time in the test's hands.

They keep Azure's rules that matter here and pass the same contract tests as Azurite. One
difference is deliberate: leases and delays are exact here, while the service counts whole seconds.
"""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from shared.errors import BlobExists, BlobNotFound, BodyTooLarge, LeaseLost, MessageError
from shared.messages import MAX_MESSAGE_BYTES
from shared.ports import BlobInfo, BlobReader, BlobStore, Delivery, JobQueue

Clock = Callable[[], float]
"""Seconds since the epoch."""

CHUNK_BYTES = 1024 * 1024


class FakeClock:
    """A clock that stands still until a test moves it."""

    def __init__(self, now_s: float = 1_800_000_000.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s

    def advance(self, seconds: float) -> None:
        self.now_s += seconds


@dataclass(slots=True)
class _Message:
    id: str
    body: bytes
    visible_at: float
    inserted_at: float
    receipt: str = ""
    deliveries: int = 0


class FakeQueue:
    """A `JobQueue` in memory; its dead letters are another one."""

    def __init__(self, clock: Clock = time.time) -> None:
        self._clock = clock
        self._ids = itertools.count(1)
        self._messages: dict[str, _Message] = {}
        self._poison: FakeQueue | None = None

    @property
    def poison_queue(self) -> FakeQueue:
        if self._poison is None:
            self._poison = FakeQueue(self._clock)
        return self._poison

    @property
    def bodies(self) -> list[bytes]:
        """Bodies of all messages, leased ones included, oldest first."""
        return [message.body for message in self._messages.values()]

    @property
    def dead_letters(self) -> list[bytes]:
        """The envelopes that `poison` has put aside, oldest first."""
        return self.poison_queue.bodies

    async def send(self, body: bytes, *, delay_s: float = 0.0) -> None:
        if len(body) > MAX_MESSAGE_BYTES:
            raise MessageError(f"message of {len(body)} bytes is over {MAX_MESSAGE_BYTES}")
        now = self._clock()
        message_id = f"message-{next(self._ids)}"
        self._messages[message_id] = _Message(message_id, bytes(body), now + delay_s, now)

    async def receive(self, max_messages: int, *, lease_s: float) -> list[Delivery]:
        _check_batch(max_messages)
        taken = self._visible()[:max_messages]
        for message in taken:
            message.deliveries += 1
            self._lease(message, lease_s)
        return [_delivery(message) for message in taken]

    async def peek(self, max_messages: int) -> list[Delivery]:
        """Look at visible messages without taking them; the receipts are empty."""
        _check_batch(max_messages)
        peeked = [_delivery(message) for message in self._visible()[:max_messages]]
        for delivery in peeked:
            delivery.receipt = ""
        return peeked

    async def renew(self, delivery: Delivery, *, lease_s: float) -> None:
        message = self._held(delivery)
        self._lease(message, lease_s)
        delivery.receipt = message.receipt

    async def release(self, delivery: Delivery, *, delay_s: float) -> None:
        self._lease(self._held(delivery), delay_s)  # the holder's receipt is refused from now on

    async def delete(self, delivery: Delivery) -> None:
        del self._messages[self._held(delivery).id]

    async def poison(self, delivery: Delivery, envelope: bytes) -> None:
        self._held(delivery)
        await self.poison_queue.send(envelope)
        await self.delete(delivery)

    async def purge(self) -> None:
        """Remove all messages."""
        self._messages.clear()

    async def depth(self) -> int:
        return len(self._messages)

    def _visible(self) -> list[_Message]:
        now = self._clock()
        ready = [message for message in self._messages.values() if message.visible_at <= now]
        return sorted(ready, key=lambda message: message.visible_at)

    def _lease(self, message: _Message, lease_s: float) -> None:
        message.visible_at = self._clock() + lease_s
        message.receipt = f"receipt-{next(self._ids)}"

    def _held(self, delivery: Delivery) -> _Message:
        """The message, if the receipt is its newest: an expired lease that nobody took still is."""
        message = self._messages.get(delivery.id)
        if message is None or message.receipt != delivery.receipt:
            raise LeaseLost(f"the receipt of message {delivery.id} is no longer valid")
        return message


def _check_batch(max_messages: int) -> None:
    if not 1 <= max_messages <= 32:
        raise ValueError(f"max_messages is {max_messages}, not 1 to 32")


def _delivery(message: _Message) -> Delivery:
    return Delivery(
        id=message.id,
        receipt=message.receipt,
        body=message.body,
        deliveries=message.deliveries,
        inserted_at=datetime.fromtimestamp(message.inserted_at, UTC),
    )


@dataclass(slots=True)
class FakeReader:
    """A `BlobReader` over bytes."""

    info: BlobInfo
    data: bytes
    chunk_bytes: int = CHUNK_BYTES

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self.data), self.chunk_bytes):
            yield self.data[start : start + self.chunk_bytes]


@dataclass(slots=True)
class FakeStore:
    """A `BlobStore` in memory; `blobs` is open to tests that look in or tamper."""

    clock: Clock = time.time
    blobs: dict[str, tuple[BlobInfo, bytes]] = field(default_factory=dict)

    async def create(
        self,
        name: str,
        data: bytes | AsyncIterator[bytes],
        *,
        content_type: str,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        body = data if isinstance(data, bytes) else b"".join([chunk async for chunk in data])
        if name in self.blobs:
            raise BlobExists(f"blob {name} exists already")
        self._put(name, body, content_type, metadata)

    async def replace(
        self,
        name: str,
        data: bytes,
        *,
        content_type: str,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self._put(name, data, content_type, metadata)

    async def open(self, name: str) -> BlobReader:
        info, data = self._get(name)
        return FakeReader(info, data)

    async def read(self, name: str, *, limit: int) -> bytes:
        info, data = self._get(name)
        if info.size > limit:
            raise BodyTooLarge(f"blob {name} of {info.size} bytes is over {limit}")
        return data

    async def stat(self, name: str) -> BlobInfo:
        return self._get(name)[0]

    async def list(self, prefix: str) -> AsyncIterator[BlobInfo]:
        for name in sorted(self.blobs):
            if name.startswith(prefix) and name in self.blobs:
                yield self.blobs[name][0]

    async def delete(self, name: str) -> bool:
        return self.blobs.pop(name, None) is not None

    def _put(
        self, name: str, data: bytes, content_type: str, metadata: Mapping[str, str] | None
    ) -> None:
        now = self.clock()
        info = BlobInfo(
            name=name,
            size=len(data),
            etag=hashlib.sha256(f"{now} {len(self.blobs)} ".encode() + data).hexdigest()[:16],
            content_type=content_type,
            modified_at=datetime.fromtimestamp(now, UTC),
            metadata=dict(metadata or {}),
        )
        self.blobs[name] = (info, bytes(data))

    def _get(self, name: str) -> tuple[BlobInfo, bytes]:
        try:
            return self.blobs[name]
        except KeyError:
            raise BlobNotFound(f"there is no blob {name}") from None


def _conforms(queue: FakeQueue, store: FakeStore) -> tuple[JobQueue, BlobStore]:
    """For the type checker: the fakes are what the programs ask for."""
    return queue, store
