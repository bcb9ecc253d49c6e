"""How `packed` codes the values of a run: in few bytes each, where that is worth more results.

Presets of one ring share their keys, and differ in how many low bits of a value's coefficient are
left out. The fewer bytes that leaves, the more digits a model's weights need, each a result a class
(`score.schemes.packed_plan`): the endpoint says how many.
"""

from __future__ import annotations

from dataclasses import dataclass

from producer.choose import PACKED_CLASS_MS
from producer.offer import Offer
from shared.errors import UsageError
from shared.params import PACKED_PRESETS, PackedPreset, interchangeable

SCHEME = "packed"
CARRY_MS_PER_BYTE = 15e-6
"""Processor time of all who handle a byte on its way, as `make bench` measures it; a line of 500
megabits a second takes as long."""

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
    served = {preset.name: preset for preset in interchangeable(PACKED_PRESETS[own])}
    if wanted and wanted not in served:
        raise UsageError(
            f"a key of preset {own} doesn't serve preset {wanted!r}",
            remedy=f"one of {', '.join(served)}; or keygen --scheme packed --preset {wanted}",
        )
    if offer is None:
        return Coding(wanted or own)
    offered = offer.presets(SCHEME)
    if wanted and offered and wanted not in offered:
        raise UsageError(
            f"the endpoint doesn't score preset {wanted} of packed",
            remedy=f"one of {', '.join(offered)}",
        )
    if wanted or own not in offered:
        return Coding(wanted or own)
    coarsest = MAX_COARSER * offered[own].error_bound
    bytes_up = {
        name: _bytes_up(served[name], offer, rows)
        for name, preset in offered.items()
        if name in served and preset.error_bound <= coarsest
    }
    costs = {
        name: size * CARRY_MS_PER_BYTE
        + _results_ms(served[name], offer, rows, offered[name].digits)
        for name, size in bytes_up.items()
    }
    cheapest = min(costs, key=lambda name: (costs[name], name != own))
    if cheapest == own:
        return Coding(own)
    saved = bytes_up[own] - bytes_up[cheapest]
    less = f"{saved / bytes_up[own]:.0%} fewer bytes to send" if saved > 0 else "fewer results"
    return Coding(cheapest, f"{less} than in {own}")


def _bytes_up(preset: PackedPreset, offer: Offer, rows: int) -> int:
    active = offer.active_features(SCHEME)
    features = offer.features if active is None else len(active)
    return features * min(rows, preset.ring.degree) * preset.input_bytes


def _results_ms(preset: PackedPreset, offer: Offer, rows: int, digits: int) -> float:
    size = (min(rows, preset.ring.degree) + preset.ring.degree) * preset.result_bytes
    return offer.classes * digits * (PACKED_CLASS_MS + size * CARRY_MS_PER_BYTE)
