"""How many jobs may be in hand, by what the endpoint's answers tell."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import structlog

from worker.breaker import Breaker, State
from worker.concurrency import AdaptiveLimit
from worker.metrics import Metrics
from worker.outcome import Outcome, outcome_of

log = structlog.get_logger()


class Throttle:
    """Watches requests; `run` asks an endpoint that counts as down whether it is back."""

    def __init__(
        self,
        limit: AdaptiveLimit,
        breaker: Breaker,
        *,
        is_ready: Callable[[], Awaitable[bool]],
        metrics: Metrics,
    ) -> None:
        self._limit = limit
        self._breaker = breaker
        self._is_ready = is_ready
        self._metrics = metrics
        self._opened = asyncio.Event()

    @property
    def allowed(self) -> int:
        """How many jobs may be in hand now. More may be: nobody takes them away."""
        match self._breaker.state:
            case "closed":
                return self._limit.limit
            case "half-open":
                return 1
            case "open":
                return 0

    @property
    def state(self) -> State:
        return self._breaker.state

    @property
    def is_open(self) -> bool:
        return self._opened.is_set()

    @property
    def open_for_s(self) -> float:
        """How long no job will be taken at least; 0 unless open."""
        return max(0.0, self._breaker.probe_at_s - _now_s()) if self.is_open else 0.0

    async def blames_endpoint(self) -> bool:
        """Whether failures are no job's own: several jobs have them, or the endpoint is down."""
        return self._breaker.blames_endpoint or not await self._is_ready()

    @contextmanager
    def watching(self, job: str) -> Iterator[None]:
        """Around one request for `job`."""
        begun = self._limit.begin(), self._breaker.begin()
        try:
            yield
        except BaseException as error:
            self._note(begun, job, outcome_of(error))
            raise
        self._note(begun, job, Outcome.ANSWERED)

    async def rest(self, seconds: float) -> None:
        """Wait between attempts; less when the endpoint is found to be down meanwhile."""
        try:
            async with asyncio.timeout(seconds):
                await self._opened.wait()
        except TimeoutError:
            return

    async def run(self) -> None:
        """Whenever the breaker is open: wait, ask the endpoint, tell the breaker."""
        while True:
            await self._opened.wait()
            if pause_s := self.open_for_s:
                await asyncio.sleep(pause_s)
                continue
            ready = await self._is_ready()
            before = self.state
            self._breaker.probed(ready=ready, now_s=_now_s())
            self._tell(before)

    def _note(self, begun: tuple[int, int], job: str, outcome: Outcome) -> None:
        before, limit = self.state, self._limit.limit
        self._limit.end(begun[0], outcome)
        self._breaker.end(begun[1], job, outcome, now_s=_now_s())
        self._metrics.requests.labels(outcome).inc()
        if self._limit.limit < limit:
            log.info("concurrency_lowered", limit=self._limit.limit, because=outcome.value)
        elif self._limit.limit > limit:
            log.debug("concurrency_raised", limit=self._limit.limit)
        self._tell(before)

    def _tell(self, before: State) -> None:
        if self.state == before:
            return
        if self.state == "open":
            self._opened.set()
            log.warning(
                "circuit_opened",
                failures=self._breaker.in_a_row,
                probe_in_s=round(self.open_for_s, 1),
            )
        else:
            self._opened.clear()
            log.info("circuit_closed" if self.state == "closed" else "circuit_half_open")


def _now_s() -> float:
    return asyncio.get_running_loop().time()
