"""Which scheme suits a run: what the endpoint offers, then the least work by measured cost."""

from __future__ import annotations

from dataclasses import dataclass

from producer.cost import direct_cost_ms, packed_cost_ms
from producer.offer import Offer
from shared.errors import UsageError

WITHOUT_EVALUATION_KEYS = ("direct", "packed")


@dataclass(frozen=True, slots=True)
class Choice:
    """A scheme, and why."""

    scheme: str
    reason: str


def choose(*, rows: int | None, features: int, classes: int, offered: frozenset[str]) -> Choice:
    """The scheme for `rows` rows (None: unknown, taken as many). Raises `UsageError`."""
    ours = [name for name in WITHOUT_EVALUATION_KEYS if name in offered]
    if not ours:
        if "ei" in offered:
            return Choice("ei", "the endpoint offers nothing else")
        raise UsageError("the endpoint offers no scheme that we know", remedy="update blindscore")
    if len(ours) == 1:
        return Choice(ours[0], "the endpoint does not offer the alternative")
    if rows is None:
        return Choice("packed", "the number of rows is unknown")
    direct_ms = direct_cost_ms(rows, features, classes)
    packed_ms = packed_cost_ms(rows, features, classes)
    scheme = "direct" if direct_ms <= packed_ms else "packed"
    return Choice(
        scheme,
        f"{rows:,} rows take about {direct_ms / 1000:,.1f} s of processor time "
        f"in direct, {packed_ms / 1000:,.1f} s in packed",
    )


def offered_schemes(offer: Offer | None) -> frozenset[str]:
    """What an endpoint offers; without one to ask, what any of ours does."""
    return frozenset(offer.schemes if offer else WITHOUT_EVALUATION_KEYS)
