"""Whether the endpoint counts as down. Pure: the time is told, and the randomness is handed in."""

from __future__ import annotations

import secrets
from typing import Literal

from worker.outcome import Outcome
from worker.retry import Random

State = Literal["closed", "open", "half-open"]

PAUSE_CAP_S = 60.0
_random = secrets.SystemRandom().random


class Breaker:
    """A circuit breaker (M. Nygard, "Release It!").

    Closed, all is well. After `failures` failed requests in a row, of whatever jobs, it opens: the
    endpoint is left alone. Once it says that it is ready, one job at a time may try (half-open);
    an answer closes the breaker, a failure opens it again, for longer.
    """

    def __init__(self, *, failures: int, pause_s: float, random: Random = _random) -> None:
        self.state: State = "closed"
        self.probe_at_s = 0.0
        """When to ask the endpoint whether it is ready, while open."""
        self.in_a_row = 0
        self._failures = failures
        self._first_pause_s = min(pause_s, PAUSE_CAP_S)
        self._pause_s = self._first_pause_s
        self._random = random
        self._era = 0
        self._failing: set[str] = set()

    @property
    def blames_endpoint(self) -> bool:
        """Whether failures are no job's own: several jobs failed, and none was answered since."""
        return len(self._failing) > 1

    def begin(self) -> int:
        """A request is sent. Returns what `end` wants to know."""
        return self._era

    def end(self, begun: int, job: str, outcome: Outcome, *, now_s: float) -> None:
        """The end of a request for `job`, whatever it was."""
        if outcome is Outcome.ANSWERED:
            self._close()
        elif outcome.is_failure:
            self._fail(begun, job, now_s)

    def probed(self, *, ready: bool, now_s: float) -> None:
        """What the endpoint said when it was asked."""
        if self.state != "open":
            return
        if ready:
            self._enter("half-open")
        else:
            self._wait(now_s)

    def _close(self) -> None:
        self.in_a_row = 0
        self._failing.clear()
        self._pause_s = self._first_pause_s
        if self.state != "closed":
            self._enter("closed")

    def _fail(self, begun: int, job: str, now_s: float) -> None:
        if len(self._failing) < 2:
            self._failing.add(job)
        if begun != self._era:
            return  # sent before the last change, so it tells nothing new
        self.in_a_row += 1  # half-open, it is high enough already
        if self.in_a_row >= self._failures:
            self._enter("open")
            self._wait(now_s)

    def _wait(self, now_s: float) -> None:
        """Jittered, so that many workers do not ask at once; and doubled each time."""
        self.probe_at_s = now_s + self._pause_s * (1 + self._random()) / 2
        self._pause_s = min(2 * self._pause_s, PAUSE_CAP_S)

    def _enter(self, state: State) -> None:
        self.state = state
        self._era += 1
