"""Weights as whole numbers that fit a ring: the finest of so many digits.

A number n is Σ_i 2^(digit_bits·i)·n_i, where all digits n_i but the highest lie between
-2^(digit_bits - 1) and 2^(digit_bits - 1). Each digit of a class is scored by itself, so that the
room which a sum of products has in the ring bounds a digit's weights, and not the whole ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_MAX_STEPS = 32
_MAX_LOG = 512


@dataclass(frozen=True, slots=True)
class Room:
    """What weights n and intercept c of a class must satisfy: ‖n‖₁·reach + |c| < limit."""

    reach: float
    limit: float
    scale_bits: int
    """Of the inputs: intercepts have the scale of a product."""

    def weight_bits(self, weights: Floats, intercept: Floats) -> int | None:
        """No more of them fit in one piece; fewer may be needed. None: for weights of no size."""
        with np.errstate(over="ignore"):
            norms = np.abs(weights).sum(axis=1) * self.reach
            largest = float((norms + np.abs(np.ldexp(intercept, self.scale_bits))).max())
        if largest and not 2.0**-_MAX_LOG < largest < 2.0**_MAX_LOG:
            return None
        return math.frexp(self.limit / largest)[1] - 1 if largest else 0

    def fits(self, weights: Floats, intercept: Floats) -> bool:
        """For shapes (..., features) and (...)."""
        sums = np.abs(weights).sum(axis=-1) * self.reach + np.abs(intercept)
        return float(sums.max(initial=0.0)) < self.limit

    def digit_bits(self, weights: Floats) -> int:
        """With digits of so many bits all but the highest fit, whatever they are."""
        used = max(int(np.count_nonzero(weights, axis=1).max()), 1)
        return math.frexp(self.limit / ((used + 1) * self.reach))[1]


@dataclass(frozen=True, slots=True, eq=False)
class Digits:
    """A model's weights and intercept in digits, the lowest first: whole numbers all."""

    weights: Floats
    """Shape (digits, classes, features)."""
    intercept: Floats
    """Shape (digits, classes)."""
    weight_bits: int
    """Whole weights are multiples of 2^-weight_bits."""
    digit_bits: int

    @property
    def places(self) -> Floats:
        """What a unit of each digit is worth, shape (digits,)."""
        return np.ldexp(1.0, self.digit_bits * np.arange(len(self.weights)))

    @property
    def excess(self) -> float:
        """How much larger the ℓ1 norm of the digits is than that of the whole: they have signs."""
        whole = np.abs(np.tensordot(self.places, self.weights, axes=1)).sum(axis=1)
        return float((self.places @ self.norms).max() / max(float(whole.max()), 1.0))

    @property
    def norms(self) -> Floats:
        """‖n_i‖₁ of each digit, shape (digits, classes)."""
        norms: Floats = np.abs(self.weights).sum(axis=2)
        return norms


def finest(weights: Floats, intercept: Floats, room: Room, count: int) -> Digits | None:
    """A model in `count` digits, of as many bits as fit; None if none do.

    `weights` has shape (classes, features), `intercept` (classes,).
    """
    most = room.weight_bits(weights, intercept)
    if most is None:
        return None
    safe = room.digit_bits(weights)
    # Most digits are half as large as they may be, so that one more bit tends to fit.
    for digit_bits in (0,) if count == 1 else range(safe + 1, max(safe, 1) - 1, -1):
        top = most + digit_bits * (count - 1)
        for weight_bits in range(top, top - _MAX_STEPS, -1):
            found = Digits(
                split(np.rint(np.ldexp(weights, weight_bits)), count, digit_bits),
                split(
                    np.rint(np.ldexp(intercept, room.scale_bits + weight_bits)), count, digit_bits
                ),
                weight_bits,
                digit_bits,
            )
            if room.fits(found.weights, found.intercept):
                return found
            if not room.fits(found.weights[:-1], found.intercept[:-1]):
                break
    return None


def split(numbers: Floats, count: int, bits: int) -> Floats:
    """Whole numbers in digits of base 2^bits, the lowest first; shape (count, *shape).

    Exact: a number of 53 significant bits and the nearest multiple of a power of two differ by one
    that has no more.
    """
    digits = np.empty((count, *numbers.shape))
    for index in range(count - 1):
        higher = np.rint(np.ldexp(numbers, -bits))
        digits[index] = numbers - np.ldexp(higher, bits)
        numbers = higher
    digits[-1] = numbers
    return digits
