"""How often, and how much at once, one caller may ask.

The generic cell rate algorithm (ITU-T I.371, annex A), the token bucket in another notation: of
each caller only the time is kept at which it will have paid for what it has asked so far.
"""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from shared.errors import RateLimited

MAX_CALLERS = 10_000
"""Callers that are remembered; the one that asked least recently is forgotten first, and may then
burst again. Memory is bounded to some 2 MB so, but without tokens the rate is no bound for whoever
has this many addresses: a site with an IPv6 network of 48 bits counts as 65,536 callers."""


class Limiter:
    """Admits requests by caller. Not for use from several threads."""

    def __init__(
        self,
        *,
        rate_per_s: float,
        burst: int,
        max_at_once: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`rate_per_s` and `max_at_once`: 0 for no limit. `burst` requests may come at once."""
        self._interval_s = 1 / rate_per_s if rate_per_s else 0.0
        self._slack_s = self._interval_s * (burst - 1)
        self._max_at_once = max_at_once
        self._clock = clock
        self._paid_at_s: OrderedDict[str, float] = OrderedDict()
        self._active: Counter[str] = Counter()

    @property
    def callers(self) -> int:
        """Callers that are remembered."""
        return len(self._paid_at_s.keys() | self._active.keys())

    @contextmanager
    def admit(self, caller: str) -> Iterator[None]:
        """Count one request of `caller`, until the block ends. Raises `RateLimited`."""
        if self._max_at_once and self._active[caller] >= self._max_at_once:
            raise RateLimited(
                f"{self._max_at_once} requests of this caller are in progress",
                remedy="wait for an answer before asking again",
            )
        if self._interval_s:
            self._pay(caller)
        self._active[caller] += 1
        try:
            yield
        finally:
            self._active[caller] -= 1
            if not self._active[caller]:
                del self._active[caller]

    def _pay(self, caller: str) -> None:
        now_s = self._clock()
        paid_at_s = max(now_s, self._paid_at_s.get(caller, now_s))
        early_s = paid_at_s - self._slack_s - now_s
        if early_s > 0:
            raise RateLimited(
                f"more than {1 / self._interval_s:g} requests a second from this caller",
                retry_after_s=early_s,
                remedy="ask less often",
            )
        self._paid_at_s[caller] = paid_at_s + self._interval_s
        self._paid_at_s.move_to_end(caller)
        if len(self._paid_at_s) > MAX_CALLERS:
            self._paid_at_s.popitem(last=False)
