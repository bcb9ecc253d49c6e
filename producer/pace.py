"""When to look for results again, and how thoroughly.

A look is a call to the account, or several, of some milliseconds of both, in which hundreds of
scores could be made: so while results come in regularly there are a few looks to each.
"""

from __future__ import annotations

from enum import IntEnum

FIRST_PAUSE_S, SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.04, 0.1, 2.0
"""The shortest is that of a collection which has taken ten of it; a younger one's are shorter."""
PAUSE_GROWTH = 1.1
"""From one pause to the next without news: each adds a tenth of what was waited so far, and no run
ends much later for it."""
LOOKS_A_NEWS = 4
"""About as many while there is news at equal intervals."""
REST_S = 1.0
SWEEP_S = 15.0


class Look(IntEnum):
    """What a look is for, besides what the ones before are for."""

    RESULTS = 0
    """Results, where the next ones are due."""
    REST = 1
    """Whether the run is produced whole, and failures: they can wait."""
    SWEEP = 2
    """Results everywhere."""


class Pace:
    """Of one collection; times are those of one clock, in seconds."""

    def __init__(self, now_s: float) -> None:
        self._began_s = self._rest_s = self._sweep_s = now_s
        self._news_s: float | None = None
        self._pause_s = FIRST_PAUSE_S

    def due(self, now_s: float) -> Look:
        """What to look for now."""
        if now_s >= self._sweep_s:
            return Look.SWEEP
        return Look.REST if now_s >= self._rest_s else Look.RESULTS

    def looked(self, look: Look, now_s: float) -> None:
        """This was looked for, at this time, and storage answered."""
        if look >= Look.REST:
            self._rest_s = now_s + min(REST_S, now_s - self._began_s)
        if look >= Look.SWEEP:
            self._sweep_s = now_s + SWEEP_S

    def pause_s(self, began_s: float, ended_s: float, *, news: bool) -> float:
        """How long to wait after a look: pauses are counted from one's beginning to the next's."""
        shortest_s = min(max((ended_s - self._began_s) / 10, FIRST_PAUSE_S), SHORTEST_PAUSE_S)
        if news:
            interval_s = 0.0 if self._news_s is None else began_s - self._news_s
            self._pause_s = max(interval_s / LOOKS_A_NEWS, shortest_s)
            self._news_s = began_s
        else:
            self._pause_s *= PAUSE_GROWTH
        self._pause_s = min(self._pause_s, LONGEST_PAUSE_S)
        return max(self._pause_s - (ended_s - began_s), shortest_s)
