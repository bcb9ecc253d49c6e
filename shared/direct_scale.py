"""How the `direct` scheme turns models and rows into integers, and why nothing overflows.

Everything is an integer modulo 2^plain_bits, so a score is exact but for what this rounds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shared.coefficients import rounding
from shared.direct import Integers, Layout
from shared.errors import ModelError
from shared.params import DirectPreset

Floats = npt.NDArray[np.float64]

COARSE_LEVELS = 255
"""The fewest levels of an input: those of a pixel, which are then coded exactly."""
MAX_DOUBLINGS = 12
"""How often these are doubled at most. From four on, multiples of 1/16 are exact too."""
MAX_RELATIVE_ERROR = 2.0**-12
"""Worst rounding error, over the largest score that inputs can make, that is still accepted."""
FAILURE_BITS = 64
"""Noise exceeds its bound with a probability below 2^-64 a score."""
MAX_WEIGHT_BITS = 700
_MAX_LOG = 512
_TAIL = math.sqrt(2 * math.log(2) * (FAILURE_BITS + 1))
_ERROR_VARIANCE = 10.5


def levels(preset: DirectPreset, features: int) -> int:
    """The largest integer that an input becomes: |x| ≤ bound is coded as round(x·levels/bound).

    It depends on nothing but the shape of the data, so it tells nothing of the rows.
    """
    room = (1 << preset.grid_bits) // (COARSE_LEVELS * features)
    return COARSE_LEVELS << max(preset.grid_doublings, min(MAX_DOUBLINGS, room.bit_length() - 1))


@dataclass(frozen=True, slots=True, eq=False)
class Quantised:
    """A model in integers: score·scale = weights · x + intercept, for x in integers too."""

    weights: Integers
    """Shape (classes, features)."""
    intercept: Integers
    """Shape (classes,), at the scale of the product."""
    weight_bits: int
    """Weights are multiples of 2^-weight_bits."""
    scale: float
    noise: float
    """The noise bound over what decryption can bear; below 1."""
    error_bound: float
    """Largest error of a score through rounding the model; what typical rows see is far smaller."""
    input_error_bound: float
    """The largest that rounding inputs adds; 0 for inputs that are multiples of bound/levels."""


def product_scale(
    preset: DirectPreset, *, features: int, input_bound: float, weight_bits: int
) -> float:
    """What a score is multiplied by to become an integer."""
    return math.ldexp(levels(preset, features) / input_bound, weight_bits)


def quantise(
    weights: Floats, intercept: Floats, *, preset: DirectPreset, input_bound: float
) -> Quantised:
    """The finest integers with which nothing can overflow, for any |x| ≤ `input_bound`.

    `weights` has shape (classes, features), `intercept` (classes,). The scale of the weights is a
    power of two, since clients see it: so it tells the order of their ℓ1 norm and no more. Two
    bounds hold for what is returned: levels·‖weights_k‖₁ + |intercept_k| < 2^(plain_bits - 1) for
    each class k, so no score wraps around; and `noise_bound` is below what decryption can bear.
    Raises `ModelError` when a bound can't be met, or rounding costs over `MAX_RELATIVE_ERROR`.
    """
    features = weights.shape[1]
    grid = levels(preset, features)
    limit = 2.0 ** (preset.plain_bits - 1)
    with np.errstate(over="ignore"):
        norms = np.abs(weights).sum(axis=1)
        largest = float((norms + np.abs(intercept) / input_bound).max()) * grid
    if largest >= 2.0**_MAX_LOG:
        raise ModelError("the model's weights are too large for direct", remedy="scale them down")
    finest = _floor_log2(limit / largest) if largest > 2.0**-_MAX_LOG else 0
    slots = Layout(preset.ring.degree, features).classes_per_product(1)
    for weight_bits in range(finest, finest - preset.plain_bits, -1):
        scale = product_scale(
            preset, features=features, input_bound=input_bound, weight_bits=weight_bits
        )
        integers = np.rint(np.ldexp(weights, weight_bits))
        constants = np.rint(intercept * scale)
        reach = (grid * np.abs(integers).sum(axis=1) + np.abs(constants)).max()
        noise = noise_bound(integers, preset=preset, classes_per_product=slots)
        if reach < limit and noise < noise_limit(preset):
            break
    else:
        raise ModelError(f"no scale of the weights fits the {preset.name} preset of direct")
    rounding = np.abs(weights - np.ldexp(integers, -weight_bits)).sum(axis=1) * input_bound
    error = float((rounding + np.abs(intercept - constants / scale)).max())
    spread = float(norms.max()) * input_bound
    if error > MAX_RELATIVE_ERROR * spread:
        raise ModelError(
            f"scores could be off by {error:.3g} with inputs up to {input_bound:g}: "
            f"too much for the {preset.name} preset of direct",
            remedy="use the precision preset or another scheme, or center the model's intercept",
        )
    return Quantised(
        weights=integers.astype(np.int64),
        intercept=constants.astype(np.int64),
        weight_bits=weight_bits,
        scale=scale,
        noise=noise / noise_limit(preset),
        error_bound=error,
        input_error_bound=spread / (2 * grid),
    )


def noise_limit(preset: DirectPreset) -> float:
    """Noise below which SEAL decrypts right: half of (first prime) / (plain modulus).

    The margin of 2^-10 is for primes, which are below 2^bits by less than 2^-14 of it, and for
    SEAL's decryption (`rns.cpp`, `decrypt_scale_and_round`), exact up to some 2^-60 of the limit.
    """
    return 2.0 ** (preset.ring.prime_bits[0] - preset.plain_bits - 1) * (1 - 2.0**-10)


def noise_bound(weights: Floats, *, preset: DirectPreset, classes_per_product: int) -> float:
    """How large the noise of a score can get, but with probability 2^-64.

    `weights` are the integers, shape (classes, features). By SEAL 4.1, native/src/seal/util:

    - A fresh symmetric ciphertext decrypts to (q/t)·m + ε + e. `scalingvariant.cpp` rounds q·m/t,
      so |ε| ≤ 1/2, and ε = 0 where m = 0. `rlwe.cpp`, `sample_poly_cbd`, draws e as 21 fair bits
      minus 21 others: variance 10.5, and sub-Gaussian with that very factor.
    - A product with the weights W has (q/t)·(W·m mod t) + W·ε + W·e: multiples of q vanish, so
      nothing of q mod t is left. At a score's coefficient |W·ε| ≤ ‖w_k‖₁/2, as only the class's own
      weights meet coefficients with m ≠ 0. W·e has factor 10.5·‖W‖₂², which is at most the sum over
      the largest `classes_per_product` classes; parts of a long row add theirs.
    - Switching from q to its first prime divides all that by the rest, and rounds both polynomials:
      1/2, and a factor ‖s‖₂²/4 ≤ N/4 with the ternary secret s.
    - The mask u·z adds u·e': a factor 10.5·N, as no coefficient of u is beyond ±1. If z was made by
      encryption under a public key, e' = u'·e1 + e2 + e3·s instead, each coefficient of factor
      10.5·(2N + 1); all N are below B = √(2·10.5·(2N + 1)·ln 2·(65 + log2 N)), and u·e' then has
      factor B²·N.
    - The dropped bits d of what is sent round by up to 2^(d-1): so much for the first polynomial, a
      factor 4^(d-1)·N for the second, whose mask makes it uniform.

    A sum with factor v exceeds √(2·v·ln 2·65) with probability below 2^-64.
    """
    ring = preset.ring
    carried = 2.0 ** (sum(ring.prime_bits[1:-1]))
    squares = np.sort((weights**2).sum(axis=1))[-classes_per_product:].sum()
    fixed = float(np.abs(weights).sum(axis=1).max()) / 2 / carried
    factor = _ERROR_VARIANCE * float(squares) / carried**2
    zero_noise = _ERROR_VARIANCE
    if preset.zeros > 1:
        tail = 2 * math.log(2) * (FAILURE_BITS + 1 + math.log2(ring.degree))
        zero_noise = tail * _ERROR_VARIANCE * (2 * ring.degree + 1)
    factor += zero_noise * ring.degree
    if carried > 1:
        fixed, factor = fixed + 0.5, factor + ring.degree / 4
    half_step = rounding(preset.dropped_bits)
    fixed, factor = fixed + half_step, factor + half_step**2 * ring.degree
    return fixed + 0.5 + _TAIL * math.sqrt(factor)  # 1/2: the intercept's own rounding


def _floor_log2(value: float) -> int:
    return math.frexp(value)[1] - 1
