"""What SEAL does for the evaluator: slot-wise sums and products, rotations, rescaling.

The parameters are the SDK's. All of it holds the GIL.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from tenseal import sealapi

from shared import ei

Slots = npt.NDArray[np.complex128]
"""A vector of `ei.SLOTS` numbers."""


def new_context() -> Any:
    """A SEALContext of the SDK's parameters, 128-bit security enforced."""
    parameters = sealapi.EncryptionParameters(sealapi.SCHEME_TYPE.CKKS)
    parameters.set_poly_modulus_degree(ei.DEGREE)
    parameters.set_coeff_modulus([sealapi.Modulus(prime) for prime in ei.PRIMES])
    return sealapi.SEALContext(parameters, True, sealapi.SEC_LEVEL_TYPE.TC128)


class Arithmetic:
    """Operations on ciphertexts under one context. A level is the number of primes left."""

    def __init__(self, context: Any) -> None:
        self.context = context
        self._evaluator = sealapi.Evaluator(context)
        self._encoder = sealapi.CKKSEncoder(context)
        self._parms_ids: dict[int, list[int]] = {}
        data = context.first_context_data()
        while data is not None:
            self._parms_ids[data.chain_index() + 1] = data.parms_id()
            data = data.next_context_data()

    def encode(self, slots: Slots, *, level: int, scale: float) -> Any:
        """A plaintext of the slots' values."""
        plain = sealapi.Plaintext()
        self._encoder.encode(slots.tolist(), self._parms_ids[level], scale, plain)
        return plain

    def multiply(self, ciphertext: Any, plain: Any) -> Any:
        """A new ciphertext: the slot-wise product."""
        product = sealapi.Ciphertext()
        self._evaluator.multiply_plain(ciphertext, plain, product)
        return product

    def add(self, total: Any, ciphertext: Any) -> None:
        self._evaluator.add_inplace(total, ciphertext)

    def add_plain(self, total: Any, plain: Any) -> None:
        self._evaluator.add_plain_inplace(total, plain)

    def rotate(self, ciphertext: Any, steps: int, keys: Any) -> Any:
        """A new ciphertext: slot j holds what slot j + `steps` held. One of `ei.ROTATIONS`."""
        rotated = sealapi.Ciphertext()
        self._evaluator.rotate_vector(ciphertext, steps, keys, rotated)
        return rotated

    def rescale(self, ciphertext: Any, *, scale: float) -> None:
        """Divide by the last prime and drop it; `scale` says what the scale is then."""
        self._evaluator.rescale_to_next_inplace(ciphertext)
        ciphertext.scale = scale
