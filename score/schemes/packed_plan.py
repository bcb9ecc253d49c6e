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
- The mask is a public-key encryption of zero. `encrypt_zero_asymmetric` decrypts to e₀ + e₁·s - u·e
  with ternary u and s: a coefficient is at most 21·(2N + 1).
- Results are sent without their low d bits: at most 2^(d-1) for the first polynomial and, times s,
  2^(d-1)·N for the second.
- `decrypt_scale_and_round` (`util/rns.cpp`) divides by q/t, where t = 2^plain_bits and q/t < 2, and
  rounds to a whole number: at most 1.

Decryption finds the value between -q/2 and q/2, so ‖n_k‖₁·(X + 1/2 + E) + |intercept| and the last
three must stay below that: none of it is a matter of probability.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shared import packed
from shared.coefficients import rounding
from shared.errors import ModelError
from shared.params import PackedPreset

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

INPUT_ROUNDING = 0.5
DECRYPT_ROUNDING = 1.0
MAX_RELATIVE_ERROR = 2.0**-12
"""Error bound, over the largest that inputs can contribute to a score, that is still accepted."""
MAX_STEPS = 32
_DOUBLE_ROUNDING = 2.0**-50
_MAX_LOG = 512


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What a request of one preset and input bound is scored with."""

    preset: PackedPreset
    weights: Integers
    """Shape (classes, features)."""
    intercept: Integers
    """Shape (classes,), at the scale of a product."""
    scale_bits: int
    weight_bits: int
    """Scores have the scale 2^(scale_bits + weight_bits). A power of two, since clients see it: it
    tells the order of the model's ℓ1 norm and no more."""
    error_bound: float
    """No score, decrypted, is further from the model's than this."""
    spread: float
    """The largest that inputs can contribute to a score."""


def make_plan(
    weights: Floats, intercept: Floats, *, preset: PackedPreset, input_bound: float
) -> Plan:
    """The finest weights with which nothing can overflow, for any |x| ≤ `input_bound`.

    `weights` has shape (classes, features), `intercept` (classes,). Raises `ModelError` when none
    do, or when scores would be less precise than `MAX_RELATIVE_ERROR`.
    """
    scale_bits = packed.scale_bits(preset, input_bound)
    reach = (
        packed.largest_integer(preset, input_bound) + INPUT_ROUNDING + packed.input_noise(preset)
    )
    limit = preset.prime / 2 * (1 - 2.0**-40) - result_noise(preset)
    with np.errstate(over="ignore"):
        norms = np.abs(weights).sum(axis=1)
        largest = float((norms * reach + np.abs(np.ldexp(intercept, scale_bits))).max())
    if largest and not 2.0**-_MAX_LOG < largest < 2.0**_MAX_LOG:
        raise ModelError("weights of such a size can't be scaled", remedy="scale the model's units")
    finest = math.frexp(limit / largest)[1] - 1 if largest else 0
    for weight_bits in range(finest, finest - MAX_STEPS, -1):
        integers = np.rint(np.ldexp(weights, weight_bits))
        constants = np.rint(np.ldexp(intercept, scale_bits + weight_bits))
        factors = np.abs(integers).sum(axis=1)
        if float((factors * reach + np.abs(constants)).max()) < limit:
            break
    else:
        raise ModelError(f"no scale of the weights fits preset {preset.name} of packed")
    unit = math.ldexp(1.0, -(scale_bits + weight_bits))
    errors = (
        np.abs(weights - np.ldexp(integers, -weight_bits)).sum(axis=1) * input_bound
        + np.abs(intercept - constants * unit)
        + (factors * (INPUT_ROUNDING + packed.input_noise(preset)) + result_noise(preset)) * unit
        + (norms * input_bound + np.abs(intercept)) * _DOUBLE_ROUNDING
    )
    plan = Plan(
        preset=preset,
        weights=integers.astype(np.int64),
        intercept=constants.astype(np.int64),
        scale_bits=scale_bits,
        weight_bits=weight_bits,
        error_bound=float(errors.max()),
        spread=float(norms.max()) * input_bound,
    )
    if plan.spread and plan.error_bound > MAX_RELATIVE_ERROR * plan.spread:
        raise ModelError(
            f"scores could be off by {plan.error_bound:.3g} with inputs up to {input_bound:g}: "
            f"too much for preset {preset.name} of packed",
            remedy="use another preset or scheme, or center the model's intercept",
        )
    return plan


def result_noise(preset: PackedPreset) -> float:
    """What masking, sending and decrypting a result add to it at most, in units modulo q."""
    degree = preset.ring.degree
    mask = packed.NOISE * (2 * degree + 1)
    return mask + rounding(preset.dropped_bits) * (degree + 1) + DECRYPT_ROUNDING
