"""A model encoded for the `direct` scheme: what is the same in every request of one shape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from tenseal import sealapi

from shared import bfv
from shared.bfv import Ring
from shared.coefficients import Words
from shared.direct import Layout, Positions
from shared.direct_scale import Quantised


@dataclass(frozen=True, slots=True, eq=False)
class Product:
    """Everything that one product of a group needs, made once per model."""

    weights: tuple[Any, ...]
    """SEAL plaintexts in NTT form, one a part of the row; None where all weights are zero."""
    wanted: Positions
    """The scores' coefficients, shape (group × classes,)."""
    intercept: Words
    """What to add there, modulo the result's prime."""


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """How to score a group of a certain number of rows under one preset and input bound."""

    products: tuple[Product, ...]
    weight_bits: int


def make_plan(ring: Ring, quantised: Quantised, group: int) -> Plan:
    """Encode a quantised model for groups of `group` rows."""
    layout = Layout(ring.degree, quantised.weights.shape[1])
    evaluator = sealapi.Evaluator(ring.context)
    prime, plain_modulus = ring.result_prime, 1 << ring.preset.plain_bits
    products = []
    for classes in layout.classes_of(group, len(quantised.weights)):
        weights = []
        for polynomial in layout.weight_polynomials(quantised.weights[classes]):
            plain = bfv.plaintext(ring, polynomial) if polynomial.any() else None
            if plain is not None:
                evaluator.transform_to_ntt_inplace(plain, list(ring.fresh.parms_id))
            weights.append(plain)
        scaled = [
            (2 * prime * int(value) + plain_modulus) // (2 * plain_modulus) % prime
            for value in quantised.intercept[classes]
        ]
        products.append(
            Product(
                weights=tuple(weights),
                wanted=layout.wanted(group, classes.stop - classes.start).ravel(),
                intercept=np.tile(np.array(scaled, dtype=np.uint64), group),
            )
        )
    return Plan(tuple(products), quantised.weight_bits)
