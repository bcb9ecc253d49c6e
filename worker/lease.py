"""One message held under a lease: renewed every third of it, then given up exactly once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from shared.errors import AccessDenied, LeaseLost, StorageError, StorageUnavailable
from shared.ports import Delivery, JobQueue

log = structlog.get_logger()

_Operation = Callable[[Delivery], Awaitable[None]]


class Lease:
    """A delivery and the right to settle it.

    A renewal replaces the pop receipt, so nothing may use the old one while a renewal is on its
    way: renewing and settling take turns under one lock, and a renewal in flight is never cut off
    by the end of the job (its outcome, and with it the receipt, would be unknown).
    """

    def __init__(
        self, queue: JobQueue, delivery: Delivery, *, lease_s: float, held_since_s: float
    ) -> None:
        """`held_since_s`: the event loop's time before the message was asked for."""
        self.delivery = delivery
        self.lost = False
        """Ownership is unknown: finish, write create-only, leave the message to its next holder."""
        self._queue = queue
        self._lease_s = lease_s
        self._expires_s = held_since_s + lease_s
        self._lock = asyncio.Lock()
        self._ended = asyncio.Event()

    async def keep(self) -> None:
        """Renew until the lease ends. Returns then; raises only what nobody expected."""
        pause_s = self._lease_s / 3
        while not await self._ends_within(pause_s):
            async with self._lock:
                if not self._ended.is_set():
                    pause_s = await self._renew()

    @property
    def ended(self) -> bool:
        """Settled, lost or given up: nothing more can be done to the message."""
        return self._ended.is_set()

    async def prove(self) -> bool:
        """Renew now; False when the message may be another's."""
        async with self._lock:
            if not self._ended.is_set():
                await self._renew()
        return not self._ended.is_set()

    def end(self) -> None:
        """Stop renewing, whatever becomes of the message."""
        self._ended.set()

    async def delete(self) -> bool:
        """Remove the message for good.

        False when it is no longer ours, or storage did not take it: its next holder will see
        that it is done. Raises `AccessDenied`.
        """
        try:
            return await self._settle(self._queue.delete)
        except AccessDenied:
            raise
        except StorageError as error:
            log.warning("delete_failed", message=self.delivery.id, error=str(error))
            return False

    async def release(self, *, delay_s: float) -> bool:
        """Hand the message back, visible after `delay_s`.

        False when it is no longer ours, or storage did not take it: its lease will run out.
        """

        async def hand_back(delivery: Delivery) -> None:
            await self._queue.release(delivery, delay_s=delay_s)

        try:
            return await self._settle(hand_back)
        except StorageError as error:
            log.warning("release_failed", message=self.delivery.id, error=str(error))
            return False

    async def poison(self, envelope: bytes) -> bool:
        """Put `envelope` on the dead-letter queue and remove the message; False when not ours."""

        async def bury(delivery: Delivery) -> None:
            await self._queue.poison(delivery, envelope)

        return await self._settle(bury)

    async def _settle(self, operation: _Operation) -> bool:
        async with self._lock:
            if self._ended.is_set():
                return False
            try:
                await operation(self.delivery)
            except LeaseLost as error:
                self._lose(str(error))
                return False
            self.end()
            return True

    async def _renew(self) -> float:
        """Renew once; returns the pause before the next renewal."""
        loop = asyncio.get_running_loop()
        sent_s = loop.time()
        try:
            async with asyncio.timeout_at(self._expires_s):
                await self._queue.renew(self.delivery, lease_s=self._lease_s)
        except LeaseLost as error:
            self._lose(str(error))
        except TimeoutError:
            self._lose("no answer to a renewal before the lease ran out")
        except StorageUnavailable as error:
            left_s = self._expires_s - loop.time()
            if left_s > 0:
                log.warning("renewal_failed", message=self.delivery.id, left_s=round(left_s, 1))
                return min(left_s, self._lease_s / 12)
            self._lose(f"could not be renewed before it ran out: {error}")
        else:
            self._expires_s = sent_s + self._lease_s
        return max(0.0, sent_s + self._lease_s / 3 - loop.time())

    def _lose(self, reason: str) -> None:
        self.lost = True
        self.end()
        log.warning(
            "lease_lost",
            message=self.delivery.id,
            deliveries=self.delivery.deliveries,
            reason=reason,
        )

    async def _ends_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._ended.wait()
        except TimeoutError:
            return False
        return True
