"""A model as the integers that `packed` multiplies ciphertexts by, and how exact its scores are.

Why nothing overflows and no score is off by more than `error_bound`, in units of a coefficient
modulo the prime q. Sources are SEAL 4.1's, in native/src/seal; N is the degree.

- Feature j of a row is the integer m = round(x·2^scale_bits), so |m - x·2^scale_bits| ≤ 1/2 and
  |m| ≤ X with X = input_bound·2^scale_bits ≤ 2^data_bits.
- Its coefficient of a ciphertext decrypts to m + e. `util/rlwe.cpp`, `sample_poly_cbd`, draws e as
  21 bits minus 21 others, so |e| ≤ 21, always. (For Gaussian noise SEAL clips at 6·3.2, which is
  less.) Multiplied by a power of X, both polynomials of a ciphertext decrypt to the product of that
  power and what they decrypted to: the same values elsewhere, some with the other sign, none of
  these among a feature's. So it makes no difference how many features share a ciphertext.
- It comes without its low c bits, for which the middle is taken: up to 2^(c-1) more.
- Class k is Σ_j n_kj·(feature j's ciphertext) + round(b_k·2^(scale_bits + weight_bits)), with the
  integers n_kj = round(w_kj·2^weight_bits). A factor scales coefficients, so |Σ_j n_kj·e| ≤
  E·‖n_k‖₁ with E = 21 + 2^(c-1).
- Where these integers would be too coarse, they and the intercept are written in digits, n = Σ_i
  2^(digit_bits·i)·n_i, all but the highest at most half of the base in size. Each digit of a class
  is a result of its own, for which all that follows is true, and the key owner adds them up. So
  inputs and weights don't share the room that a product has: inputs get more of it, for which more
  of their low bits, c, need not be sent.
- The mask is a public-key encryption of zero. `encrypt_zero_asymmetric` decrypts to e₀ + e₁·s - u·e
  with ternary u and s: a coefficient is at most 21·(2N + 1).
- Results are sent without their low d bits: at most 2^(d-1) for the first polynomial and, times s,
  2^(d-1)·N for the second.
- `decrypt_scale_and_round` (`util/rns.cpp`) divides by q/t, where t = 2^plain_bits and q/t < 2, and
  rounds to a whole number: at most 1.

Decryption finds the value between -q/2 and q/2, so ‖n_k‖₁·(X + 1/2 + E) + |intercept| and the last
three must stay below that, for each digit: none of it is a matter of probability.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from score.schemes.packed_digits import Digits, Floats, Room, finest
from shared import packed
from shared.coefficients import rounding
from shared.errors import ModelError
from shared.params import PackedPreset

Integers = npt.NDArray[np.int64] | npt.NDArray[np.int32]

INPUT_ROUNDING = 0.5
DECRYPT_ROUNDING = 1.0
MAX_RELATIVE_ERROR = 2.0**-12
"""Error bound, over the largest that inputs can contribute to a score, that is still accepted."""
PRECISE = 2.0**-20
"""Rounding of weights, in the same measure, that no more digits are spent on."""
MAX_EXCESS = 1.2
"""Noise of weights in digits, over that of whole ones (`producer.disclosure` reckons with it)."""
_DOUBLE_ROUNDING = 2.0**-50


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What a request of one preset and input bound is scored with."""

    preset: PackedPreset
    weights: Integers
    """Shape (classes · digits, features), the lowest digit of each class first."""
    intercept: Integers
    """Shape (classes · digits,), at the scale of a product."""
    scale_bits: int
    weight_bits: int
    """Scores have the scale 2^(scale_bits + weight_bits). A power of two, since clients and those
    who carry it see it: it tells the order of the model's ℓ1 norm and no more."""
    digits: int
    digit_bits: int
    """It tells, where there are several digits, the order of the number of weights in use."""
    error_bound: float
    """No score, decrypted, is further from the model's than this."""
    spread: float
    """The largest that inputs can contribute to a score."""


def make_plan(
    weights: Floats, intercept: Floats, *, preset: PackedPreset, input_bound: float
) -> Plan:
    """The finest weights with which nothing can overflow, for any |x| ≤ `input_bound`.

    In the fewest digits with which they are rounded by less than noise adds, or `PRECISE`.
    `weights` has shape (classes, features), `intercept` (classes,). Raises `ModelError` when no
    weights fit, or when scores would be less precise than `MAX_RELATIVE_ERROR`.
    """
    room = _room(preset, input_bound)
    spread = float(np.abs(weights).sum(axis=1).max()) * input_bound
    chosen: tuple[Digits, Floats] | None = None
    for count in range(1, packed.MAX_WEIGHT_DIGITS + 1):
        digits = finest(weights, intercept, room, count)
        if digits is None:
            break
        rounded = _rounded_away(weights, intercept, digits, room, input_bound)
        noise = _noise(digits, room, preset)
        chosen = digits, rounded + noise
        if float(rounded.max()) <= max(float(noise.max()), PRECISE * spread):
            break
    if chosen is None:
        raise ModelError(
            f"no scale of the weights fits preset {preset.name} of packed",
            remedy="scale the model's units",
        )
    digits, errors = chosen
    largest = np.abs(weights).sum(axis=1) * input_bound + np.abs(intercept)
    plan = Plan(
        preset=preset,
        weights=_integers(np.concatenate(digits.weights.swapaxes(0, 1))),
        intercept=digits.intercept.T.ravel().astype(np.int64),
        scale_bits=room.scale_bits,
        weight_bits=digits.weight_bits,
        digits=len(digits.weights),
        digit_bits=digits.digit_bits,
        error_bound=float((errors + largest * _DOUBLE_ROUNDING).max()),
        spread=spread,
    )
    if digits.excess > MAX_EXCESS:
        raise ModelError(
            f"{weights.shape[1]} features are too many for preset {preset.name} of packed",
            remedy="use another preset or scheme",
        )
    if spread and plan.error_bound > MAX_RELATIVE_ERROR * spread:
        raise ModelError(
            f"scores could be off by {plan.error_bound:.3g} with inputs up to {input_bound:g}: "
            f"too much for preset {preset.name} of packed",
            remedy="use another preset or scheme, or center the model's intercept",
        )
    return plan


def _room(preset: PackedPreset, input_bound: float) -> Room:
    largest = packed.largest_integer(preset, input_bound)
    return Room(
        reach=largest + INPUT_ROUNDING + packed.input_noise(preset),
        limit=preset.prime / 2 * (1 - 2.0**-40) - result_noise(preset),
        scale_bits=packed.scale_bits(preset, input_bound),
    )


def _rounded_away(
    weights: Floats, intercept: Floats, digits: Digits, room: Room, input_bound: float
) -> Floats:
    """What scores are off by because weights and intercept are whole numbers; shape (classes,)."""
    bits = digits.weight_bits
    away: Floats = np.abs(weights - _rounded(weights, bits)).sum(axis=1) * input_bound
    return away + np.abs(intercept - _rounded(intercept, room.scale_bits + bits))


def _noise(digits: Digits, room: Room, preset: PackedPreset) -> Floats:
    """What scores are off by through inputs and results; shape (classes,)."""
    inputs = digits.norms * (INPUT_ROUNDING + packed.input_noise(preset))
    unit = math.ldexp(1.0, -(room.scale_bits + digits.weight_bits))
    noise: Floats = digits.places @ (inputs + result_noise(preset)) * unit
    return noise


def _integers(numbers: Floats) -> Integers:
    """In half of the memory where they fit: plans are kept."""
    small = float(np.abs(numbers).max(initial=0.0)) < 2.0**31
    return numbers.astype(np.int32) if small else numbers.astype(np.int64)


def _rounded(values: Floats, bits: int) -> Floats:
    return np.ldexp(np.rint(np.ldexp(values, bits)), -bits)


def result_noise(preset: PackedPreset) -> float:
    """What masking, sending and decrypting a result add to it at most, in units modulo q."""
    degree = preset.ring.degree
    mask = packed.NOISE * (2 * degree + 1)
    return mask + rounding(preset.dropped_bits) * (degree + 1) + DECRYPT_ROUNDING
