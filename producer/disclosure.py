"""How much of a run's scores predictions.csv and report.json tell, for those they are passed on to.

In approximate schemes the error of a decrypted score depends on the secret key. Who knows the rows
and the model, and so the exact scores, gets that error by subtraction, an equation in the key for
each score; enough of them solve for it (Li and Micciancio, "On the Security of Homomorphic
Encryption on Approximate Numbers", EUROCRYPT 2021). Rounding to a grid far coarser than the error
hides it, but for scores so close to a boundary of the grid that the error decides which side they
fall on: those tell up to one bit each. It is no proof of security. That takes noise some 2^(k/2)
times the error for k bits (Li, Micciancio, Schultz and Sorrell, "Securing Approximate Homomorphic
Encryption Using Differential Privacy", CRYPTO 2022), which leaves nothing of scores like ours.

In `direct` decryption rounds the noise away, so scores tell nothing of the key at any precision.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from producer.schemes import Scores
from shared import packed
from shared.errors import UsageError
from shared.params import interchangeable, served_by

SLACK = 100.0
"""How many times coarser than the error bound a grid has to be: at most 2 in 100 scores can then
lie where the error matters. Typical errors are a twentieth of the bound."""
MAX_DIGITS = 15

EI_ABSOLUTE, EI_RELATIVE = 1e-5, 1e-6
"""Error bound of `ei`, and the part of it that grows with the largest score. Five and twenty times
what `make bench` measures: the format carries no bound of its own."""
PACKED_NOISE = 1.6
"""Error of a score in `packed`, in times of the noise of an input's integer: there is rounding,
what results add, and what digits do (`score.schemes.packed_plan`). Its share of what inputs can
contribute to a score is that of the noise in the largest integer; and that may be …"""
PACKED_ROOM = 16.0
"""… this many times the largest score of a run; for pixels it is six times."""


@dataclass(frozen=True, slots=True)
class Disclosure:
    """What is told: all of the scores, `digits` decimals of them, or nothing but labels."""

    digits: int | None = None
    labels_only: bool = False
    error: float = 0.0
    """What scores may be off by through the key; rounding is measured against it."""

    @property
    def is_limited(self) -> bool:
        return self.labels_only or self.digits is not None

    def told(self, scores: Scores) -> Scores:
        """The scores that everything told is made from; a rounded zero has no sign."""
        if self.digits is None:
            return scores
        rounded: Scores = np.round(scores, self.digits) + 0.0
        return rounded

    def undecided(self, scores: Scores) -> int:
        """How many scores lie where the error may decide what they are rounded to."""
        if self.digits is None or not self.error:
            return 0
        step = 10.0**-self.digits
        to_boundary = np.abs(np.remainder(scores, step) - step / 2)
        return int((to_boundary <= self.error).sum())

    @property
    def score_format(self) -> str:
        return "%.9g" if self.digits is None else f"%.{max(self.digits, 0)}f"


EVERYTHING = Disclosure()


def key_dependent_error(
    scheme: str,
    key_blob: Callable[[], bytes],
    *,
    largest: float,
    input_bound: float | None,
    preset: str | None,
) -> float:
    """How far a key's noise can take a score from its exact value; `largest` |score| of the run.

    `key_blob` makes the key's evaluation keys; only schemes whose presets differ ask for them.
    Without `input_bound` and the run's `preset` (empty: the key's own), which one machine alone may
    know, the bound holds for any.
    Raises `UsageError` for a scheme without a known bound, `EvaluationKeysError`.
    """
    match scheme:
        case "direct":
            return 0.0
        case "ei":
            return EI_ABSOLUTE + EI_RELATIVE * largest
        case "packed":
            own = packed.read_key_blob(key_blob())
            possible = interchangeable(own)
            if preset is not None:
                possible = (served_by(own, preset or own.name),)
            share = max(
                packed.input_noise(coding) / packed.largest_integer(coding, input_bound)
                for coding in possible
            )
            return PACKED_ROOM * PACKED_NOISE * share * largest
    raise UsageError(f"there is no error bound for scheme {scheme}", remedy="--labels-only")


def rounded(digits: int, error: float) -> Disclosure:
    """Scores of `digits` decimals. Raises `UsageError` when these would tell of the error."""
    if not math.isfinite(error):
        raise UsageError("there are scores that are no numbers", remedy="--labels-only")
    finest = finest_digits(error)
    if digits > finest:
        raise UsageError(
            f"scores of this run may be off by {error:.1g} in a way that depends on the secret "
            f"key: {digits} decimals would tell of it",
            remedy=f"--round {finest}, or --labels-only",
        )
    return Disclosure(digits=digits, error=error)


def finest_digits(error: float) -> int:
    """The most decimals whose grid is `SLACK` times coarser than the error."""
    if error <= 0:
        return MAX_DIGITS
    return min(MAX_DIGITS, math.floor(-math.log10(SLACK * error)))


def labels_only(link: str) -> Disclosure:
    """Nothing but labels. Raises `UsageError` where the model has none."""
    if link == "identity":
        raise UsageError(
            "there are no labels: the scores are a regressor's, or their model is not known",
            remedy="--round DIGITS; or name the model with --model, if it is a classifier",
        )
    return Disclosure(labels_only=True)
