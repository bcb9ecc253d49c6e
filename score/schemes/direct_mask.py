"""What hides the weights in a result of the `direct` scheme: encryptions of zero, never the same.

The second polynomial of a product is W·a, with W the weights and a that of the row's ciphertext,
which its seed gives to everyone: dividing by a would lay open every weight. So a mask is added,
u·z: an encryption of zero z that the request brings, times a fresh random small polynomial u. That
is how BFV encrypts zero under a public key, the usual way to re-randomise a result (Cheetah's own
code does so too), except that no Gaussian noise is added: instead the low bits of a result, which
are not sent, round it, as in learning with rounding (Banerjee, Peikert, Rosen: "Pseudorandom
Functions and Lattices", EUROCRYPT 2012). Its modulus has 60 bits, where the security tables admit
106 for this degree: the margin is wide.

One u can serve several products, as one secret serves many samples, if each has a z of its own. So
from the request's z some more are made, once per key, by SEAL's public-key encryption with z as
the public key. Their noise is larger; `shared.direct_scale` counts it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tenseal import sealapi

from shared import bfv, seal
from shared.bfv import Ring
from shared.params import DirectPreset


class Masks:
    """Makes masks for the results of one key, from an encryption of zero under it."""

    def __init__(self, ring: Ring, preset: DirectPreset, payload: bytes) -> None:
        """Raises `CiphertextError` when `payload` is not a fresh seeded ciphertext.

        That its second polynomial comes from a seed keeps a client from choosing it.
        """
        self.payload = payload
        self.nbytes = len(payload) + 2 * preset.zeros * ring.result.polynomial_bytes
        self._ring = ring
        self._count = preset.zeros
        self._evaluator = sealapi.Evaluator(ring.context)
        self._parms_id = list(ring.result.parms_id)
        zero = bfv.seeded(ring, ring.result, payload, what="the encryption of zero")
        self._evaluator.transform_to_ntt_inplace(zero)
        self._zeros = [zero]

    def fresh(self, count: int) -> Iterator[Any]:
        """`count` new encryptions of zero, SEAL ciphertexts in NTT form at the result's level."""
        blind: Any = None
        for index in range(count):
            which = index % self._count
            if which == 0:
                blind = bfv.plaintext(self._ring, bfv.small_polynomial(self._ring.degree))
                self._evaluator.transform_to_ntt_inplace(blind, self._parms_id)
            if which == len(self._zeros):
                self._zeros.append(self._another_zero())
            mask = sealapi.Ciphertext()
            self._evaluator.multiply_plain(self._zeros[which], blind, mask)
            yield mask

    def _another_zero(self) -> Any:
        context = self._ring.context
        # A public key is saved as what it is, an encryption of zero in NTT form.
        saved = seal.save(self._zeros[0])
        public = seal.load(sealapi.PublicKey(), context, saved, what="the encryption of zero")
        zero = sealapi.Ciphertext()
        sealapi.Encryptor(context, public).encrypt_zero(zero)
        self._evaluator.transform_to_ntt_inplace(zero)
        return zero
