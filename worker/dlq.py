"""The dead letters of a queue: looked through, sent again, removed.

Azure lets nobody look further than 32 messages into a queue without taking them. So all letters
are taken under a lease, and those that stay are handed back at the end. Should this program be
killed meanwhile, they are visible again when the lease runs out.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

import structlog

from shared import blobnames
from shared.errors import (
    AccessDenied,
    LeaseLost,
    MessageError,
    QueueNotFound,
    StorageError,
    UsageError,
)
from shared.ports import BlobStore, Delivery, JobQueue
from worker.deadletter import DeadLetter
from worker.failure import claims

T = TypeVar("T")

log = structlog.get_logger()

LEASE_S = 120.0
BATCH = 32
AT_A_TIME = 8
MIN_NAME = 4


@dataclass(frozen=True, slots=True)
class Letter:
    """A message of the dead-letter queue. `run` and `job` are empty unless it names them."""

    delivery: Delivery
    envelope: DeadLetter | None
    """None for a message that no worker wrote."""
    run: str = ""
    job: str = ""

    @property
    def id(self) -> str:
        return self.delivery.id

    @property
    def code(self) -> str:
        return self.envelope.code if self.envelope else "foreign"

    @classmethod
    def of(cls, delivery: Delivery, container: str) -> Letter:
        try:
            envelope = DeadLetter.decode(delivery.body)
        except MessageError:
            return cls(delivery, None)
        return cls(delivery, envelope, *claims(envelope.original, container))


@dataclass(frozen=True, slots=True)
class Selection:
    """Which letters are meant: those that fit all that is given."""

    names: tuple[str, ...] = ()
    """Ids or their beginnings, or `RUN/JOB`; any of them."""
    run: str = ""
    code: str = ""

    def __post_init__(self) -> None:
        """Raises `UsageError` for a name that is none, such as a shell variable nobody set."""
        for name in self.names:
            if len(name) < MIN_NAME:
                raise UsageError(f"{name!r} names no dead letter", remedy="blindscore dlq list")

    def takes(self, letter: Letter) -> bool:
        named = not self.names or any(
            letter.id.startswith(name) or name == f"{letter.run}/{letter.job}"
            for name in self.names
        )
        return named and self.run in {"", letter.run} and self.code in {"", letter.code}


class DeadLetters:
    """All letters there are, held for as long as `holding` lasts."""

    def __init__(self, queue: JobQueue, container: str) -> None:
        self._queue = queue
        self._container = container
        self._held: dict[str, Delivery] = {}

    async def take(self) -> list[Letter]:
        """All letters, oldest first. A queue that does not exist has none."""
        try:
            while taken := await self._queue.receive(BATCH, lease_s=LEASE_S):
                before = len(self._held)
                self._held |= {delivery.id: delivery for delivery in taken}
                if len(self._held) == before:  # the first leases have run out already
                    break
        except QueueNotFound:
            return []
        found = [Letter.of(delivery, self._container) for delivery in self._held.values()]
        return sorted(found, key=lambda letter: letter.delivery.inserted_at)

    async def out_of_reach(self) -> int:
        """About how many more there are: held by others, or unreadable to the service."""
        try:
            return max(0, await self._queue.depth() - len(self._held))
        except (AccessDenied, QueueNotFound):
            return 0

    async def replay(self, letter: Letter, *, jobs: JobQueue, store: BlobStore) -> bool:
        """Send the original message again; False when someone else has taken the letter.

        Raises `MessageError` for a letter that does not hold all of the message.

        In this order, so that whatever kills us in between, the letter is still there, and doing
        it again doubles a message at worst. The failure record goes first: a worker that fails
        again at once must find room for its own.
        """
        if letter.envelope is None or letter.envelope.truncated:
            raise MessageError(f"dead letter {letter.id} does not hold the whole message")
        if not await self._is_ours(letter):
            return False
        if letter.run:
            await store.delete(blobnames.failure_blob(letter.run, letter.job))
        await jobs.send(letter.envelope.original)
        await self._remove(letter)
        log.info("dead_letter_replayed", id=letter.id, run=letter.run, job=letter.job)
        return True

    async def purge(self, letter: Letter) -> bool:
        """Remove a letter; its failure record stays. False when someone else has taken it."""
        if not await self._is_ours(letter):
            return False
        await self._remove(letter)
        log.info("dead_letter_purged", id=letter.id, run=letter.run, job=letter.job)
        return True

    async def hand_back(self) -> None:
        """Make what is still held visible again."""

        async def release(delivery: Delivery) -> None:
            try:
                await self._queue.release(delivery, delay_s=0)
            except StorageError as error:  # then its lease runs out, or has run out already
                log.warning("dead_letter_not_handed_back", id=delivery.id, error=str(error))

        await each(self._held.values(), release)

    async def _is_ours(self, letter: Letter) -> bool:
        try:
            await self._queue.renew(letter.delivery, lease_s=LEASE_S)
        except LeaseLost:
            log.warning("dead_letter_taken_by_another", id=letter.id)
            self._held.pop(letter.id, None)
            return False
        return True

    async def _remove(self, letter: Letter) -> None:
        try:
            await self._queue.delete(letter.delivery)
        except LeaseLost:
            log.warning("dead_letter_taken_by_another", id=letter.id)
        self._held.pop(letter.id, None)


@asynccontextmanager
async def holding(queue: JobQueue, container: str) -> AsyncIterator[DeadLetters]:
    """Dead letters, handed back at the end."""
    letters = DeadLetters(queue, container)
    try:
        yield letters
    finally:
        await letters.hand_back()


async def each(items: Iterable[T], do: Callable[[T], Awaitable[None]]) -> None:
    """`do` it to all, several at a time. Raises the first error; what has not begun is left."""
    todo = iter(list(items))

    async def work() -> None:
        for item in todo:
            await do(item)

    try:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(AT_A_TIME):
                tasks.create_task(work())
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from group
