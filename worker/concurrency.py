"""How many jobs to have in hand: additive increase, multiplicative decrease. Pure: no clock."""

from __future__ import annotations

import math

from worker.outcome import Outcome

DECREASE = 0.7
"""What is left after a sign of overload, as in CUBIC (RFC 9438 §4.6)."""


class AdaptiveLimit:
    """Feels for what the endpoint can take, as TCP feels for what a network can take.

    One more at a time after as many answers as there are requests on their way, that is, after
    each round trip; fewer at the first sign of overload (429, 503, a timeout). Requests that were
    on their way by then tell of the load before, so nothing they say counts any more: however
    many fail together, that is one decrease (RFC 6582 §3.2). Answers while most of the limit is
    unused prove nothing, and raise nothing (RFC 7661).
    """

    def __init__(self, minimum: int, maximum: int) -> None:
        """Starts in between, at the geometric mean."""
        self.limit = round(math.sqrt(minimum * maximum))
        self._minimum = minimum
        self._maximum = maximum
        self._in_flight = 0
        self._most_in_flight = 0
        self._answers = 0
        self._round = 0

    def begin(self) -> int:
        """A request is sent. Returns what `end` wants to know."""
        self._in_flight += 1
        self._most_in_flight = max(self._most_in_flight, self._in_flight)
        return self._round

    def end(self, begun: int, outcome: Outcome) -> None:
        """The end of a request, whatever it was."""
        self._in_flight -= 1
        if begun != self._round:
            return
        if outcome.is_overload:
            self._round += 1
            self._set(max(self._minimum, int(self.limit * DECREASE)))
        elif outcome is Outcome.ANSWERED and self._most_in_flight * 2 >= self.limit:
            self._answers += 1
            if self._answers >= self.limit:
                self._set(min(self._maximum, self.limit + 1))

    def _set(self, limit: int) -> None:
        self.limit = limit
        self._answers = 0
        self._most_in_flight = self._in_flight
