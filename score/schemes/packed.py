"""The `packed` scheme, scorer's side: classes are sums of ciphertexts with plaintext factors.

Such a sum is one product of matrices modulo the prime: the model's integers times the ciphertexts'
coefficients (`score.residues`). Only what SEAL alone may do is asked of it: to draw the second
polynomial of each ciphertext from its seed, and to encrypt the masks.

Why masks: a sum's second polynomial is Σ n_kj·a_j, where the seeds give all a_j to everyone (those
of features in one ciphertext are one, times powers of X), and so N equations for the F factors
n_kj. Whoever carries requests and responses could solve them and read the model. So a fresh
public-key encryption of zero, under a key that the request brings, is added to each result: to
anyone without the secret key the result then looks random.

The key owner is another matter. Scores themselves give a linear model away to him (as many rows as
there are features will do), and nothing hides the noise of a result: no circuit privacy.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from tenseal import sealapi
from tenseal.sealapi import util

from score.lru import ByteLru
from score.residues import ResidueSums
from score.schemes import Json
from score.schemes.packed_plan import Plan, make_plan
from shared import bfv, packed, seal
from shared.coefficients import Words
from shared.container import Header
from shared.errors import (
    BodyTooLarge,
    CiphertextError,
    EvaluationKeysError,
    FeatureCountError,
    MalformedRequest,
    ModelError,
)
from shared.linear import LinearModel
from shared.params import PACKED_DEFAULT, PACKED_PRESETS, PackedPreset, interchangeable

MAX_RESPONSE_BYTES = 256 * 1024 * 1024
PLAN_CACHE_BYTES = 64 * 1024 * 1024
PLAN_BYTES = 1024
"""What keeping a plan costs besides its weights; requests choose how many there are."""
_SEED = struct.Struct("<8Q")


class PackedEvaluator:
    """Scores containers of the `packed` scheme. One instance serves one thread."""

    name = packed.SCHEME

    def __init__(self, model: LinearModel, *, announce_zero_features: bool = False) -> None:
        """Raises `ModelError` when no preset can carry this model's weights precisely enough.

        Whether its intercept leaves room for them depends on a request's input bound: see `begin`.
        `announce_zero_features` publishes which features the model uses, so that the others need
        not be encrypted.
        """
        self.model = model
        self._announced = announce_zero_features
        self._plans: ByteLru[tuple[str, float], Plan] = ByteLru(PLAN_CACHE_BYTES)
        self._offered: dict[str, PackedPreset] = {}
        refusal: ModelError | None = None
        for preset in PACKED_PRESETS.values():
            try:
                make_plan(model.weights, 0 * model.intercept, preset=preset, input_bound=1.0)
            except ModelError as error:
                refusal = error
            else:
                self._offered[preset.name] = preset
        if refusal is not None and not self._offered:
            raise refusal
        self.max_frame_bytes = max(
            packed.max_frame_bytes(preset) for preset in self._offered.values()
        )

    def describe(self) -> Json:
        """Each preset's parameters; for inputs up to 1, the bound of errors and results a class."""
        default = PACKED_DEFAULT if PACKED_DEFAULT in self._offered else next(iter(self._offered))
        described: dict[str, Any] = {
            "default": default,
            "presets": {name: self._describe(preset) for name, preset in self._offered.items()},
        }
        if self._announced:
            used = np.flatnonzero(self.model.weights.any(axis=0))
            described["active_features"] = used.tolist()
        return described

    def check_keys(self, blob: bytes) -> None:
        """Refuse a blob whose key serves no preset that is offered. `EvaluationKeysError`."""
        preset = packed.read_key_blob(blob)
        if not any(coding.name in self._offered for coding in interchangeable(preset)):
            raise EvaluationKeysError(f"preset {preset.name} of packed is not offered")

    def begin(self, header: Header) -> PackedEvaluation:
        """Start a request.

        Raises `CiphertextError`, `FeatureCountError`, `MalformedRequest`, `BodyTooLarge`.
        """
        preset, input_bound = packed.read_parameters(header, extra=("active",))
        if preset.name not in self._offered:
            raise CiphertextError(f"preset {preset.name} of packed is not offered")
        if header.features != self.model.features:
            raise FeatureCountError(
                f"rows have {header.features} features, the model takes {self.model.features}"
            )
        active = packed.read_active(header)
        groups = packed.ciphertexts(preset, rows=header.rows, features=active)
        if header.frames != 1 + len(groups):
            raise MalformedRequest(
                f"{len(active)} features of {header.rows} rows make {1 + len(groups)} frames, "
                f"the container has {header.frames}"
            )
        try:
            plan = self._plan(preset, input_bound)
        except ModelError as error:
            raise CiphertextError(
                f"inputs up to {input_bound:g} are not scored: {error}"
            ) from error
        size = (preset.ring.degree + header.rows) * preset.result_bytes * len(plan.weights)
        if size > MAX_RESPONSE_BYTES:
            raise BodyTooLarge(f"scores of {header.rows} rows are over {MAX_RESPONSE_BYTES} bytes")
        missing = np.setdiff1d(np.flatnonzero(plan.weights.any(axis=0)), active)
        if missing.size:
            raise FeatureCountError(
                f"the model uses {missing.size} features that the container leaves out",
                remedy="encrypt all features, or those that the endpoint announces",
            )
        return PackedEvaluation(header, plan, input_bound, groups)

    def _describe(self, preset: PackedPreset) -> Json:
        error_bound = digits = None
        with suppress(ModelError):  # the intercept may leave no room to inputs as small as 1
            plan = self._plan(preset, 1.0)
            error_bound, digits = plan.error_bound, plan.digits
        return {
            "degree": preset.ring.degree,
            "prime_bits": list(preset.ring.prime_bits),
            "data_bits": preset.data_bits,
            "rows_per_ciphertext": preset.ring.degree,
            "error_bound": error_bound,
            "digits": digits,
        }

    def _plan(self, preset: PackedPreset, input_bound: float) -> Plan:
        key = (preset.name, input_bound)
        plan = self._plans.get(key)
        if plan is None:
            plan = make_plan(
                self.model.weights, self.model.intercept, preset=preset, input_bound=input_bound
            )
            self._plans.put(key, plan, PLAN_BYTES + plan.weights.nbytes)
        return plan


class PackedEvaluation:
    """One request: sums grow as ciphertexts arrive; no ciphertext is kept."""

    def __init__(
        self, header: Header, plan: Plan, input_bound: float, groups: Sequence[Sequence[int]]
    ) -> None:
        """`groups` are the features in each ciphertext."""
        self._header = header
        self._plan = plan
        self._input_bound = input_bound
        self._groups = groups
        self._ring = bfv.ring(plan.preset)
        self._parameters = self._ring.context.key_context_data().parms()
        self._used: list[bool] = np.any(plan.weights, axis=0).tolist()
        self._sums = ResidueSums(
            plan.weights,
            prime=plan.preset.prime,
            length=header.rows + plan.preset.ring.degree,
        )
        self._public_key: Any = None
        self._next = 0

    def add(self, payload: bytes) -> None:
        """The next frame: the encryption of zero, then features. Raises `CiphertextError`.

        Features that the model doesn't use cost no more than a look at their size.
        """
        if self._public_key is None:
            self._public_key = self._open_public_key(payload)
            return
        if self._next == len(self._groups):
            raise MalformedRequest("a ciphertext more than there are features")
        group, rows = self._groups[self._next], self._header.rows
        seed, first = packed.read_features(self._plan.preset, payload, len(group) * rows)
        self._next += 1
        used = [(at * rows, feature) for at, feature in enumerate(group) if self._used[feature]]
        if not used:
            return
        second = self._expand(seed)
        prime = np.uint64(self._plan.preset.prime)
        negative = prime - second[: used[-1][0]]  # the prime itself for 0
        for start, feature in used:  # times X^-start, where X^N = -1
            self._sums.add(feature, first[start : start + rows], second[start:], negative[:start])

    def finish(self) -> tuple[Header, Iterator[bytes]]:
        """The response, a ciphertext a digit of a class.

        Raises `MalformedRequest` when ciphertexts are missing.
        """
        if self._public_key is None or self._next != len(self._groups):
            raise MalformedRequest(f"{self._next} of {len(self._groups)} ciphertexts came")
        plan = self._plan
        parameters = packed.header_parameters(plan.preset, input_bound=self._input_bound)
        parameters |= {
            "weight_bits": plan.weight_bits,
            "digits": plan.digits,
            "digit_bits": plan.digit_bits,
        }
        header = Header(
            scheme=packed.SCHEME,
            parameters=parameters,
            rows=self._header.rows,
            features=self._header.features,
            key_id=self._header.key_id,
            frames=len(plan.weights),
        )
        return header, self._results()

    def _results(self) -> Iterator[bytes]:
        rows, prime = self._header.rows, np.uint64(self._plan.preset.prime)
        encryptor = sealapi.Encryptor(self._ring.context, self._public_key)
        mask = sealapi.Ciphertext()
        totals = self._sums.total()
        for total, intercept in zip(totals, self._plan.intercept, strict=True):
            encryptor.encrypt_zero(mask)
            zero = bfv.polynomials(self._ring, mask)
            total[:rows] += zero[0, :rows] + np.uint64(int(intercept) % int(prime))
            total[rows:] += zero[1]
            yield bfv.pack(self._plan.preset, total % prime)

    def _expand(self, seed: bytes) -> Words:
        """The uniform polynomial of a seed, shape (N,), by SEAL's generator and sampler."""
        generator = sealapi.Blake2xbPRNG(_SEED.unpack(seed))
        values = util.sample_poly_uniform(generator, self._parameters)
        return np.fromiter(values, dtype=np.uint64, count=self._ring.degree)

    def _open_public_key(self, payload: bytes) -> Any:
        """A symmetric encryption of zero as a SEAL public key, which it is in NTT form."""
        preset, ring = self._plan.preset, self._ring
        seed, first = packed.read_zero(preset, payload)
        zero = bfv.ciphertext(ring, np.stack((first, self._expand(seed))))
        sealapi.Evaluator(ring.context).transform_to_ntt_inplace(zero)
        return seal.load(sealapi.PublicKey(), ring.context, seal.save(zero), what="the public key")
