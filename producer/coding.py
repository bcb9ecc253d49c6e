"""How `packed` codes the values of a run: in few bytes each, where that is worth more results.

Presets of one ring share their keys, and differ in how many low bits of a value's coefficient are
left out. The fewer bytes that leaves, the more digits a model's weights need, each a result a class
(`score.schemes.packed_plan`): the endpoint says how many.
"""

from __future__ import annotations

from dataclasses import dataclass

from producer.cost import PACKED_CLASS_MS
from producer.offer import Offer
from shared import packed
from shared.errors import UsageError
from shared.params import PACKED_PRESETS, PackedPreset, interchangeable, served_by

CARRY_MS_PER_BYTE = 15e-6
"""Processor time of all who handle a byte on its way, as `make bench` measures it; a line of 500
megabits a second takes as long."""
PRODUCT_MS = 1.5e-3
"""Of the scorer, for each feature and each row of factors; factors of a digit that may sum to more
than 2^21 make two rows (`score.residues`)."""
ONE_ROW_BITS = 21
MAX_COARSER = 16.0
"""Error bound, in times of the key's own preset, that a run is given without being asked for it."""


@dataclass(frozen=True, slots=True)
class Coding:
    """A preset, and why; without a reason where there was no choice."""

    preset: str
    reason: str = ""


def choose_coding(own: str, offer: Offer | None, *, wanted: str, rows: int) -> Coding:
    """The preset for blocks of `rows` rows under a key of preset `own`: as `wanted`, if not empty.

    Raises `UsageError` for one that the key doesn't serve, or the endpoint, and for unknown ones.
    """
    if own not in PACKED_PRESETS:
        raise UsageError(f"unknown preset {own!r} of packed", remedy="update blindscore")
    key = PACKED_PRESETS[own]
    wanted = wanted and served_by(key, wanted).name
    names = offer.preset_names(packed.SCHEME) if offer else frozenset()
    if offer is None or not names:
        return Coding(wanted or own)
    served = [preset for preset in interchangeable(key) if preset.name in names]
    if not served or (wanted and wanted not in names):
        raise UsageError(
            f"the endpoint doesn't score preset {wanted or own} of packed",
            remedy=f"--preset {served[0].name}" if served else "a key of another preset",
        )
    standing = wanted or (own if own in names else served[0].name)
    offered = offer.presets(packed.SCHEME)
    if wanted or standing not in offered:
        return Coding(standing)
    coarsest = MAX_COARSER * offered[standing].error_bound
    costs = {
        preset: _cost_ms(preset, offer, rows, offered[preset.name].digits)
        for preset in served
        if preset.name in offered and offered[preset.name].error_bound <= coarsest
    }
    cheapest = min(costs, key=lambda preset: (costs[preset], preset.name != own))
    return Coding(cheapest.name, _reason(cheapest, key) if cheapest != key else "")


def _cost_ms(preset: PackedPreset, offer: Offer, rows: int, digits: int) -> float:
    """What of a block's work depends on the preset."""
    active = offer.active_features(packed.SCHEME)
    features = offer.features if active is None else len(active)
    degree = preset.ring.degree
    rows = min(rows, degree)
    results = offer.classes * digits
    sent = features * rows * preset.input_bytes + results * (rows + degree) * preset.result_bytes
    factors = results if preset.plain_bits - preset.data_bits <= ONE_ROW_BITS else 2 * results
    return sent * CARRY_MS_PER_BYTE + results * PACKED_CLASS_MS + features * factors * PRODUCT_MS


def _reason(preset: PackedPreset, key: PackedPreset) -> str:
    saved = 1 - preset.input_bytes / key.input_bytes
    less = f"{saved:.0%} fewer bytes to send" if saved > 0 else "fewer results"
    return f"{less} than in {key.name}"
