"""When to try again. Pure: no clock and no sleep, and the randomness is handed in."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass

MAX_HAND_BACK_S = 900.0
_MAX_DOUBLINGS = 32

Random = Callable[[], float]
"""Uniform in [0, 1)."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff with full jitter, within a budget of attempts and of time.

    "Full jitter": the wait is uniform between nothing and the exponential ceiling
    (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/). What the other
    side asks for with `Retry-After` is a minimum, itself capped.
    """

    max_attempts: int = 5
    base_s: float = 0.5
    cap_s: float = 30.0
    budget_s: float = 600.0
    retry_after_cap_s: float = 120.0
    random: Random = secrets.SystemRandom().random

    def delay_s(
        self, *, attempt: int, elapsed_s: float, retry_after_s: float | None = None
    ) -> float | None:
        """The wait after failed attempt number `attempt` (from 1); None: the budget is spent."""
        if attempt >= self.max_attempts:
            return None
        ceiling_s = _doubled(self.base_s, attempt - 1, self.cap_s)
        delay_s = max(self.random() * ceiling_s, self._asked_s(retry_after_s))
        return delay_s if elapsed_s + delay_s <= self.budget_s else None

    def hand_back_s(self, *, deliveries: int, retry_after_s: float | None = None) -> float:
        """How long a message stays invisible when it is handed back.

        `deliveries`: how often it has been worked on, which may be less often than the queue says.
        Between half of the ceiling and all of it: unlike a retry's, this wait is never nothing.
        """
        ceiling_s = _doubled(self.cap_s, deliveries - 1, MAX_HAND_BACK_S)
        return max((1 + self.random()) / 2 * ceiling_s, self._asked_s(retry_after_s))

    def _asked_s(self, retry_after_s: float | None) -> float:
        return min(retry_after_s or 0.0, self.retry_after_cap_s)


def _doubled(base_s: float, times: int, cap_s: float) -> float:
    return min(cap_s, base_s * 2.0 ** min(times, _MAX_DOUBLINGS))
