"""Which scheme suits a run: what the endpoint offers, then the least work by measured cost.

The constants are processor milliseconds on one core, encrypting, scoring and decrypting together,
as `make bench` measures them. Their ratio decides, so the machine they come from hardly matters.
"""

from __future__ import annotations

from dataclasses import dataclass

from producer.offer import Offer
from shared.errors import UsageError

AUTO = "auto"
PACKED_ROWS = 4096
PACKED_CIPHERTEXT_MS = 0.84
"""Of each feature of a block, however few rows it holds."""
DIRECT_DEGREE = 4096
DIRECT_CIPHERTEXT_MS = 1.2
"""Of each ciphertext of rows: floor(4096 / features) rows share one."""
DIRECT_PRODUCT_MS = 1.0
"""Of each product: floor(4096 / features) scores share one."""
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
    direct_ms, packed_ms = direct_cost_ms(rows, features, classes), packed_cost_ms(rows, features)
    scheme = "direct" if direct_ms <= packed_ms else "packed"
    return Choice(
        scheme,
        f"{rows:,} rows take about {direct_ms / 1000:,.1f} s of processor time "
        f"in direct, {packed_ms / 1000:,.1f} s in packed",
    )


def direct_cost_ms(rows: int, features: int, classes: int) -> float:
    """Work of `direct`: it grows with the rows."""
    parts = -(-features // DIRECT_DEGREE)
    room = max(1, DIRECT_DEGREE // features)
    ciphertexts = parts * -(-rows // room)
    products = parts * -(-rows * classes // room)
    return ciphertexts * DIRECT_CIPHERTEXT_MS + products * DIRECT_PRODUCT_MS


def packed_cost_ms(rows: int, features: int) -> float:
    """Work of `packed`: it grows with the blocks of 4,096 rows."""
    return -(-rows // PACKED_ROWS) * (features + 1) * PACKED_CIPHERTEXT_MS


def offered_schemes(offer: Offer | None) -> frozenset[str]:
    """What an endpoint offers; without one to ask, what any of ours does."""
    return frozenset(offer.schemes if offer else WITHOUT_EVALUATION_KEYS)
