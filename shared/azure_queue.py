"""`JobQueue` over Azure Queue Storage (or Azurite).

Message bodies are base64 on the wire, coded here. Lengths of time are whole seconds there, so they
are rounded up.
"""

from __future__ import annotations

import base64
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

import structlog
from azure.core.exceptions import HttpResponseError, ResourceExistsError
from azure.storage.queue import QueueMessage
from azure.storage.queue.aio import QueueClient, QueueServiceClient

from shared import azure_sdk
from shared.errors import AccessDenied, MessageError, QueueNotFound, StorageUnavailable
from shared.messages import MAX_MESSAGE_BYTES
from shared.ports import Delivery
from shared.settings import StorageSettings

if TYPE_CHECKING:
    from azure.identity.aio import DefaultAzureCredential as Identity

T = TypeVar("T")

log = structlog.get_logger()

CALL_S = 10.0
MAX_BATCH = 32
NEVER_EXPIRES = -1
POISON_LEASE_S = 60.0
SINGLY_S = 300.0
"""How long messages are taken one by one after a batch that could not be read."""
UNREADABLE_BUDGET = 3

_NOT_OURS = ("MessageNotFound", "PopReceiptMismatch")


class AzureJobQueue:
    """One queue, and beside it the queue that its dead letters go to."""

    def __init__(self, client: QueueClient, poison: QueueClient) -> None:
        self._name = client.queue_name
        self._where = _where(client)
        self._client = client
        self._poison = poison
        self._singly_until = 0.0

    def __repr__(self) -> str:
        return f"AzureJobQueue({self._name!r})"

    async def ensure(self) -> None:
        """Create the queue if there is none."""
        await self._call(lambda _: _create_queue(self._client))

    async def send(self, body: bytes, *, delay_s: float = 0.0) -> None:
        """See `JobQueue`. Raises `MessageError` when the body is too long.

        A lost answer may double a message: harmless, as results are written once.
        """
        text = _encode(body)
        await self._call(lambda _: _send(self._client, text, delay_s))

    async def receive(self, max_messages: int, *, lease_s: float) -> list[Delivery]:
        """See `JobQueue`.

        A message with a control character (which we never send) makes every get that includes it
        fail, and hides its healthy neighbours for the lease each time. After such a failure
        messages are taken one by one for a while, so that the neighbours get through.
        """
        _check_batch(max_messages)
        if max_messages > 1 and time.monotonic() >= self._singly_until:
            try:
                return await self._call(lambda _: self._get(max_messages, lease_s))
            except _UnreadableError:
                self._take_singly(lease_s)
        return await self._receive_singly(max_messages, lease_s)

    async def peek(self, max_messages: int) -> list[Delivery]:
        """Look at visible messages without taking them; the receipts are empty."""
        _check_batch(max_messages)
        found = await self._call(lambda _: self._client.peek_messages(max_messages))
        return [_delivery(message) for message in found]

    async def renew(self, delivery: Delivery, *, lease_s: float) -> None:
        """See `JobQueue`. After a lost answer the receipt is refused, as for a stranger's."""
        # Without visibility_timeout the service would make the message visible at once.
        updated = await self._call(
            lambda _: self._client.update_message(
                delivery.id, delivery.receipt, visibility_timeout=_whole_seconds(lease_s)
            )
        )
        delivery.receipt = updated.pop_receipt or ""

    async def release(self, delivery: Delivery, *, delay_s: float) -> None:
        """See `JobQueue`. The receipt is refused from now on; so it is after a lost answer."""

        async def release_once(maybe_done: bool) -> None:
            try:
                await self._client.update_message(
                    delivery.id, delivery.receipt, visibility_timeout=_whole_seconds(delay_s)
                )
            except HttpResponseError as error:
                if not (maybe_done and azure_sdk.error_code(error) in _NOT_OURS):
                    raise

        await self._call(release_once)

    async def delete(self, delivery: Delivery) -> None:
        """See `JobQueue`. A message that is gone after a lost answer counts as deleted by us."""

        async def delete_once(maybe_done: bool) -> None:
            try:
                await self._client.delete_message(delivery.id, delivery.receipt)
            except HttpResponseError as error:
                if not (maybe_done and azure_sdk.error_code(error) == "MessageNotFound"):
                    raise

        await self._call(delete_once)

    async def poison(self, delivery: Delivery, envelope: bytes) -> None:
        """See `JobQueue`. The lease is proven first, so that no stranger's job is buried."""
        text = _encode(envelope)
        await self.renew(delivery, lease_s=POISON_LEASE_S)
        try:
            await self._bury(lambda _: _send(self._poison, text, 0.0))
        except QueueNotFound as missing:
            try:
                await self._bury(lambda _: _create_queue(self._poison))
            except AccessDenied:
                raise missing from None  # who may only add can't do anything about it
            await self._bury(lambda _: _send(self._poison, text, 0.0))
        await self.delete(delivery)

    async def purge(self) -> None:
        """Remove all messages, leased ones included."""
        await self._call(lambda _: self._client.clear_messages())

    async def depth(self) -> int:
        """See `JobQueue`."""
        properties = await self._call(lambda _: self._client.get_queue_properties())
        return properties.approximate_message_count or 0

    async def _call(self, operation: Callable[[bool], Awaitable[T]]) -> T:
        return await azure_sdk.attempt(operation, subject=self._where, timeout_s=CALL_S)

    async def _bury(self, operation: Callable[[bool], Awaitable[T]]) -> T:
        where = _where(self._poison)
        return await azure_sdk.attempt(operation, subject=where, timeout_s=CALL_S)

    async def _get(self, max_messages: int, lease_s: float) -> list[Delivery]:
        """One get. Raises `_UnreadableError` when the service can't encode what it took."""
        pages = self._client.receive_messages(
            messages_per_page=max_messages,
            max_messages=max_messages,
            visibility_timeout=max(1, _whole_seconds(lease_s)),
        ).by_page()
        try:
            page = await anext(pages, None)
        except HttpResponseError as error:
            if azure_sdk.status(error) in (200, 500):
                raise _UnreadableError from error
            raise
        return [_delivery(message) async for message in page] if page else []

    async def _receive_singly(self, max_messages: int, lease_s: float) -> list[Delivery]:
        taken: list[Delivery] = []
        unreadable = 0
        while len(taken) < max_messages and unreadable < UNREADABLE_BUDGET:
            try:
                got = await self._call(lambda _: self._get(1, lease_s))
            except _UnreadableError:
                unreadable += 1
                self._take_singly(lease_s)
                continue
            except StorageUnavailable:
                if taken:  # they are leased to us; the next call will meet the fault again
                    break
                raise
            if not got:
                return taken
            taken += got
        if unreadable and not taken:
            raise StorageUnavailable(
                f"queue {self._name}: the service fails to hand out messages",
                remedy="if this goes on, the queue holds foreign messages that it can't encode: "
                "clear it",
            )
        return taken

    def _take_singly(self, lease_s: float) -> None:
        log.warning("queue_get_failed", queue=self._name, now="taking messages one by one")
        self._singly_until = time.monotonic() + max(SINGLY_S, 2 * lease_s)


class _UnreadableError(Exception):
    """The service took messages off the queue, but could not put them into its answer."""


@asynccontextmanager
async def open_azure_queue(
    settings: StorageSettings, *, identity: Identity | None = None
) -> AsyncIterator[AzureJobQueue]:
    """The job queue of `settings`, without any network access yet. Raises `UsageError`.

    A SAS is for one queue, so the dead letters may need a client of their own.
    """
    async with AsyncExitStack() as opened:
        service = await opened.enter_async_context(
            azure_sdk.connect(
                QueueServiceClient, "queue", settings, identity=identity, read_s=CALL_S
            )
        )
        poison = service
        if settings.poison_sas.get_secret_value():
            poison = await opened.enter_async_context(
                azure_sdk.connect(
                    QueueServiceClient, "queue", settings, sas=settings.poison_sas, read_s=CALL_S
                )
            )
        yield AzureJobQueue(
            service.get_queue_client(settings.queue),
            poison.get_queue_client(settings.poison_queue),
        )


def _where(client: QueueClient) -> str:
    return f"queue {client.queue_name} of {client.primary_hostname}"


async def _create_queue(client: QueueClient) -> None:
    try:
        await client.create_queue()
    except ResourceExistsError as error:
        if azure_sdk.error_code(error) != "QueueAlreadyExists":
            raise


async def _send(client: QueueClient, text: str, delay_s: float) -> None:
    await client.send_message(
        text, visibility_timeout=_whole_seconds(delay_s), time_to_live=NEVER_EXPIRES
    )


def _whole_seconds(seconds: float) -> int:
    return math.ceil(seconds)


def _check_batch(max_messages: int) -> None:
    if not 1 <= max_messages <= MAX_BATCH:
        raise ValueError(f"max_messages is {max_messages}, not 1 to {MAX_BATCH}")


def _encode(body: bytes) -> str:
    if len(body) > MAX_MESSAGE_BYTES:
        raise MessageError(f"message of {len(body)} bytes is over {MAX_MESSAGE_BYTES}")
    return base64.b64encode(body).decode()


def _decode(text: str) -> bytes:
    """Our own messages are base64; a stranger's go on as they are, to be refused by the parser."""
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        return text.encode()


def _delivery(message: QueueMessage) -> Delivery:
    return Delivery(
        id=message.id,
        receipt=message.pop_receipt or "",
        body=_decode(message.content or ""),
        deliveries=message.dequeue_count or 0,
        inserted_at=message.inserted_on or datetime.now(UTC),
    )
