"""The `direct` scheme, scorer's side: plaintext products, and only their scores sent back.

Weights meet a row in one product of polynomials (`shared.direct`); the coefficients that are no
score are combinations of weights and row as well, and stay here. Of a product (c0, c1) the client
gets c0 at the scores' coefficients, and c1 whole, without which nothing decrypts. A fresh mask is
added first (`score.schemes.direct_mask`): c1, and with it every coefficient that isn't a score, is
then indistinguishable from random to one who doesn't know the mask, the key owner included.

What is left: the noise of a score. It is a combination of the same weights with the client's own
encryption noise, not flooded with larger noise, so whoever holds the secret key reads some bits of
a second equation from each score: about six under `speed` for a model like MNIST's, next to nothing
under `precision`, where switching the modulus divides that noise by 2^30. A client who sends other
polynomials than encryption would gets such an equation of his choice instead. That, and that scores
themselves give the model away to someone who may ask for enough of them, is outside of what this
scheme protects.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from tenseal import sealapi

from score.lru import ByteLru
from score.schemes import Json
from score.schemes.direct_mask import Masks
from score.schemes.direct_plan import Plan, Product, make_plan
from shared import bfv, direct, direct_scale
from shared.bfv import Ring
from shared.container import Header
from shared.direct import Layout
from shared.direct_scale import Quantised
from shared.errors import (
    BodyTooLarge,
    CiphertextError,
    EvaluationKeysError,
    FeatureCountError,
    MalformedRequest,
    ModelError,
)
from shared.linear import LinearModel
from shared.params import DIRECT_DEFAULT, DIRECT_PRESETS, DirectPreset

MAX_RESPONSE_BYTES = 256 * 1024 * 1024
PLAN_CACHE_BYTES = 128 * 1024 * 1024
"""Encoded weights that are kept, at most; one plan takes what it must: see `_largest_plan`."""
MASK_CACHE_BYTES = 64 * 1024 * 1024


class DirectEvaluator:
    """Scores containers of the `direct` scheme. One instance serves one thread."""

    name = direct.SCHEME

    def __init__(self, model: LinearModel) -> None:
        """Raises `ModelError` when no preset can score this model precisely enough."""
        self.model = model
        self._offered: dict[str, Quantised] = {}
        refusal: ModelError | None = None
        for preset in DIRECT_PRESETS.values():
            try:
                self._offered[preset.name] = self._quantise(preset, 1.0)
            except ModelError as error:
                refusal = error
        if refusal is not None and not self._offered:
            raise refusal
        self.max_frame_bytes = max(
            bfv.max_seeded_bytes(bfv.ring(DIRECT_PRESETS[name])) for name in self._offered
        )
        self._plans: ByteLru[tuple[str, float, int], Plan] = ByteLru(
            max(PLAN_CACHE_BYTES, self._largest_plan())
        )
        self._masks: ByteLru[tuple[str, str], Masks] = ByteLru(MASK_CACHE_BYTES)

    def describe(self) -> Json:
        """Each preset's parameters, and its error bounds for inputs of at most 1."""
        default = DIRECT_DEFAULT if DIRECT_DEFAULT in self._offered else next(iter(self._offered))
        return {
            "default": default,
            "presets": {
                name: self._describe(DIRECT_PRESETS[name], quantised)
                for name, quantised in self._offered.items()
            },
        }

    def check_keys(self, blob: bytes) -> None:
        """Refuse a blob that is not of this scheme and a preset offered. `EvaluationKeysError`."""
        preset = direct.read_key_blob(blob)
        if preset.name not in self._offered:
            raise EvaluationKeysError(f"preset {preset.name} of direct is not offered")

    def begin(self, header: Header) -> DirectEvaluation:
        """Start a request.

        Raises `CiphertextError` for parameters or an input bound that can't be scored precisely,
        `FeatureCountError`, `MalformedRequest` for a number of frames that its rows don't make,
        `BodyTooLarge` when the response would be.
        """
        preset, input_bound = direct.read_parameters(header)
        if preset.name not in self._offered:
            raise CiphertextError(f"preset {preset.name} of direct is not offered")
        if header.features != self.model.features:
            raise FeatureCountError(
                f"rows have {header.features} features, the model takes {self.model.features}"
            )
        layout = Layout(preset.ring.degree, header.features)
        frames = 1 + layout.group_count(header.rows) * layout.parts
        if header.frames != frames:
            raise MalformedRequest(
                f"{header.rows} rows make {frames} frames, the container has {header.frames}"
            )
        groups = layout.groups(header.rows)
        products = sum(layout.products(group, self.model.classes) for group in groups)
        if products * preset.ring.degree * preset.result_bytes > MAX_RESPONSE_BYTES:
            raise BodyTooLarge(
                f"scores of {header.rows} rows are over {MAX_RESPONSE_BYTES} bytes",
                remedy="send fewer rows in a request",
            )
        try:
            weight_bits = self.plan(preset, input_bound, groups[0]).weight_bits
        except ModelError as error:
            raise CiphertextError(
                f"inputs up to {input_bound:g} can't be scored: {error.message}",
                remedy=error.remedy,
            ) from error
        return DirectEvaluation(
            self,
            header,
            layout=layout,
            preset=preset,
            input_bound=input_bound,
            weight_bits=weight_bits,
        )

    def plan(self, preset: DirectPreset, input_bound: float, group: int) -> Plan:
        """The plan for groups of `group` rows, kept for the next. Raises `ModelError`."""
        key = (preset.name, input_bound, group)
        plan = self._plans.get(key)
        if plan is None:
            ring = bfv.ring(preset)
            plan = make_plan(ring, self._quantise(preset, input_bound), group)
            plaintexts = sum(len(product.weights) for product in plan.products)
            self._plans.put(key, plan, plaintexts * ring.fresh.polynomial_bytes)
        return plan

    def masks(self, ring: Ring, preset: DirectPreset, key_id: str, payload: bytes) -> Masks:
        """What masks a key's results, from a request's encryption of zero.

        Clients send the same one again and again, so the last of each key is kept; it is used only
        for the very same bytes. Raises `CiphertextError`.
        """
        known = self._masks.get((preset.name, key_id))
        if known is not None and known.payload == payload:
            return known
        masks = Masks(ring, preset, payload)
        self._masks.put((preset.name, key_id), masks, masks.nbytes)
        return masks

    def _largest_plan(self) -> int:
        """Bytes that no plan exceeds: a product a class, as if no two classes shared any.

        Making one takes a second for 500 classes of 20,000 features (164 MB): never once a row.
        """
        rings = [bfv.ring(DIRECT_PRESETS[name]) for name in self._offered]
        return max(
            self.model.classes
            * Layout(ring.degree, self.model.features).parts
            * ring.fresh.polynomial_bytes
            for ring in rings
        )

    def _describe(self, preset: DirectPreset, quantised: Quantised) -> Json:
        layout = Layout(preset.ring.degree, self.model.features)
        return {
            "degree": preset.ring.degree,
            "prime_bits": list(preset.ring.prime_bits),
            "plain_bits": preset.plain_bits,
            "levels": direct_scale.levels(preset, self.model.features),
            "weight_bits": quantised.weight_bits,
            "error_bound": quantised.error_bound,
            "input_error_bound": quantised.input_error_bound,
            "noise": quantised.noise,
            "rows_per_ciphertext": layout.max_group,
            "ciphertexts_per_row": layout.parts,
        }

    def _quantise(self, preset: DirectPreset, input_bound: float) -> Quantised:
        return direct_scale.quantise(
            self.model.weights, self.model.intercept, preset=preset, input_bound=input_bound
        )


class DirectEvaluation:
    """One request: each result is made as soon as the last ciphertext of its rows is in."""

    def __init__(
        self,
        owner: DirectEvaluator,
        header: Header,
        *,
        layout: Layout,
        preset: DirectPreset,
        input_bound: float,
        weight_bits: int,
    ) -> None:
        self._owner = owner
        self._header = header
        self._preset = preset
        self._input_bound = input_bound
        self._weight_bits = weight_bits
        self._ring = bfv.ring(preset)
        self._parts_due = layout.parts
        self._groups = iter(layout.groups(header.rows))
        self._evaluator = sealapi.Evaluator(self._ring.context)
        self._masks: Masks | None = None
        self._parts: list[Any] = []
        self._results: list[bytes] = []
        self._frames = 0

    def add(self, payload: bytes) -> None:
        """Take the encryption of zero, then the rows' ciphertexts. Raises `CiphertextError`."""
        self._frames += 1
        if self._masks is None:
            key_id = self._header.key_id
            self._masks = self._owner.masks(self._ring, self._preset, key_id, payload)
            return
        what = f"ciphertext {self._frames - 2}"
        part = bfv.seeded(self._ring, self._ring.fresh, payload, what=what)
        self._evaluator.transform_to_ntt_inplace(part)
        self._parts.append(part)
        if len(self._parts) == self._parts_due:
            plan = self._owner.plan(self._preset, self._input_bound, next(self._groups))
            masks = self._masks.fresh(len(plan.products))
            try:
                self._results += map(self._score, plan.products, masks)
            except RuntimeError as error:  # SEAL's, of parts that cancel as the same one twice may
                raise CiphertextError(f"rows can't be scored: {error}") from error
            self._parts.clear()

    def finish(self) -> tuple[Header, Iterable[bytes]]:
        """The response. Raises `MalformedRequest` when ciphertexts are missing."""
        if self._frames != self._header.frames:
            raise MalformedRequest(f"{self._frames} of {self._header.frames} ciphertexts came")
        header = direct.make_header(
            self._preset,
            input_bound=self._input_bound,
            rows=self._header.rows,
            features=self._header.features,
            key_id=self._header.key_id,
            frames=len(self._results),
            classes=self._owner.model.classes,
            weight_bits=self._weight_bits,
        )
        return header, self._results

    def _score(self, product: Product, mask: Any) -> bytes:
        """A product's scores, and nothing else of it: c0 where they are, and c1."""
        result = self._masked(self._sum(product.weights), mask)
        polynomials = bfv.polynomials(self._ring, result)
        scores = (polynomials[0, product.wanted] + product.intercept) % self._ring.result_prime
        return bfv.pack(self._preset, np.concatenate((scores, polynomials[1])))

    def _sum(self, weights: tuple[Any, ...]) -> Any:
        """Σ part · weights in NTT form; None when all weights are zero, as SEAL refuses that."""
        total: Any = None
        for part, plain in zip(self._parts, weights, strict=True):
            if plain is None:
                continue
            term = sealapi.Ciphertext()
            self._evaluator.multiply_plain(part, plain, term)
            if total is None:
                total = term
            else:
                self._evaluator.add_inplace(total, term)
        return total

    def _masked(self, total: Any, mask: Any) -> Any:
        """`total` plus `mask`, both in NTT form, as coefficients under the result's prime."""
        if total is None:
            self._evaluator.transform_from_ntt_inplace(mask)
        elif self._ring.fresh == self._ring.result:
            self._evaluator.add_inplace(mask, total)
            self._evaluator.transform_from_ntt_inplace(mask)
        else:
            self._evaluator.transform_from_ntt_inplace(mask)
            self._evaluator.transform_from_ntt_inplace(total)
            self._evaluator.mod_switch_to_next_inplace(total)
            self._evaluator.add_inplace(mask, total)
        return mask
