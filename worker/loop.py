"""The worker's main loop: receive no more than there is room for, until told to stop."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterator

import structlog

from shared.errors import StorageUnavailable
from shared.ports import JobQueue
from worker.lease import Lease
from worker.settings import WorkerSettings
from worker.sidetasks import SideTasks
from worker.slots import Slots
from worker.throttle import Throttle

log = structlog.get_logger()

MAX_RECEIVE = 32
POLL_MIN_S = 0.1
POLL_MAX_S = 2.0
POLL_GROWTH = 1.1
"""From one pause to the next: each is a tenth of the time that nothing came, for who is idle."""
EAGER_S = 5.0
"""After a job pauses stay the shortest for so long: where there was one, there may be more."""
TURN_S = 1.0
"""The loop turns at least so often while it has room for no more; see `Worker.turned_s`."""
HAND_BACK_S = 4.0
"""After the grace period: for writes that have begun, and for handing messages back."""

Work = Callable[[Lease], Awaitable[None]]
"""Works on one message and settles it."""


class Worker:
    """Takes messages from a queue and works on several at a time.

    `stop` ends it in an orderly way; a failing side task, or work that raises, ends it with that
    error.
    """

    def __init__(
        self, queue: JobQueue, work: Work, settings: WorkerSettings, throttle: Throttle
    ) -> None:
        self.turned_s = _now_s()
        """When the main loop was last seen to turn, in the event loop's time."""
        self._queue = queue
        self._work = work
        self._settings = settings
        self._throttle = throttle
        self._slots = Slots(settings.max_concurrency, on_failure=self._fail)
        self._side = SideTasks(on_failure=self._fail)
        self._stopping = asyncio.Event()
        self._stop_by_s = 0.0
        self._receiving: asyncio.Timeout | None = None
        self._quiet_since_s = 0.0
        self._worked_at_s = -EAGER_S
        """When a job last came or went; long ago, where the queue is out of reach."""
        self._error: BaseException | None = None

    async def run(self) -> None:
        """Work until stopped, or idle for too long. Raises what made it stop, if anything did."""
        pauses = _pauses()
        self._quiet_since_s = _now_s()
        self._side.start(self._throttle.run(), name="asking whether the endpoint is back")
        try:
            while not self._stopping.is_set():
                self.turned_s = _now_s()
                if not (room := self._room()):
                    await self._slots.wait(TURN_S)
                elif leases := await self._receive(room):
                    for lease in leases:
                        await self._slots.start(self._hold(lease))
                    pauses, self._worked_at_s = _pauses(), _now_s()
                elif self._idle_too_long():
                    self.stop("the queue is empty")
                elif not self._stopping.is_set():
                    if _now_s() - self._worked_at_s < EAGER_S:
                        pauses = _pauses()
                    patience = max(1, 3 * self.in_hand - 2)  # with jobs in hand more can wait
                    await self._slots.wait(min(patience * next(pauses), POLL_MAX_S))
        finally:
            self.stop("the loop ended")
            await self._drain()
        if self._error is not None:
            raise self._error

    @property
    def in_hand(self) -> int:
        """How many jobs are worked on."""
        return self._slots.busy

    @property
    def stopping(self) -> bool:
        return self._stopping.is_set()

    def stop(self, reason: str) -> None:
        """Receive nothing more; what is in flight has the grace period to finish."""
        if self._stopping.is_set():
            return
        log.info("draining", reason=reason, in_flight=self._slots.busy)
        self._stop_by_s = _now_s() + self._settings.grace_s
        self._stopping.set()
        self._slots.wake()
        if self._receiving is not None:
            self._receiving.reschedule(self._stop_by_s)

    def _fail(self, error: BaseException) -> None:
        """Stop because of `error`; the first one counts."""
        if self._error is None:
            self._error = error
            log.error("worker_failed", kind=type(error).__name__, error=str(error))
        self.stop("failed")

    def _room(self) -> int:
        """How many more jobs to take. A lowered limit is reached by taking none."""
        allowed = self._throttle.allowed - self._slots.busy
        return max(0, min(self._slots.free, allowed, MAX_RECEIVE))

    async def _receive(self, room: int) -> list[Lease]:
        """Take as many messages as there is room for; none when storage is out of reach.

        Not cut off before the grace period ends: an answer that nobody reads is messages that
        nobody works on for a whole lease.
        """
        asked_s = _now_s()
        lease_s = self._settings.lease_s
        try:
            async with asyncio.timeout(None) as self._receiving:
                deliveries = await self._queue.receive(room, lease_s=lease_s)
        except (StorageUnavailable, TimeoutError) as error:
            log.warning("receive_failed", error=str(error) or "stopped while waiting")
            self._quiet_since_s = _now_s()
            self._worked_at_s = -EAGER_S
            return []
        finally:
            self._receiving = None
        return [
            Lease(self._queue, delivery, lease_s=lease_s, held_since_s=asked_s)
            for delivery in deliveries
        ]

    async def _hold(self, lease: Lease) -> None:
        """Work on a message while its lease is renewed beside it.

        Cancelled work hands its message back at once. Work that raises does not: a message that
        breaks workers should not go around them faster than leases run out.
        """
        if self._stopping.is_set():
            await lease.release(delay_s=0)
            return
        self._side.start(lease.keep(), name=f"lease of {lease.delivery.id}")
        try:
            await self._work(lease)
        except asyncio.CancelledError:
            await lease.release(delay_s=0)
            raise
        finally:
            lease.end()
            self._quiet_since_s = self._worked_at_s = _now_s()

    async def _drain(self) -> None:
        """Let what is in flight finish; after the grace period cancel it, which hands it back."""
        for patience_s in (max(0.0, self._stop_by_s - _now_s()), HAND_BACK_S, 1.0):
            try:
                async with asyncio.timeout(patience_s):
                    await self._slots.join()
                break
            except TimeoutError:
                log.warning("cancelling", in_flight=self._slots.busy)
                self._slots.cancel()
        await self._side.close()

    def _idle_too_long(self) -> bool:
        limit_s = self._settings.exit_when_idle_s
        return 0 < limit_s <= _now_s() - self._quiet_since_s and not self._slots.busy


def _pauses() -> Iterator[float]:
    """Seconds between looks at an empty queue: growing, and jittered so that workers spread."""
    uniform = secrets.SystemRandom().uniform
    pause_s = POLL_MIN_S
    while True:
        yield uniform(pause_s / 2, pause_s)
        pause_s = min(POLL_GROWTH * pause_s, POLL_MAX_S)


def _now_s() -> float:
    return asyncio.get_running_loop().time()
