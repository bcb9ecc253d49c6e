"""Our own evaluator of the `encrypted-inference` 0.9 wire format.

What the SDK computes a class at a time, it computes at once for all classes, and for several rows
of one key: see `score.schemes.ei.plan`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from tenseal import sealapi

from score.schemes import Json, LoadedKeys
from score.schemes.ei import keys as rotation_keys
from score.schemes.ei import wire
from score.schemes.ei.arithmetic import Arithmetic, new_context
from score.schemes.ei.circuit import RESULT_SCALE, Circuit
from score.schemes.ei.keys import RotationKeys
from score.schemes.ei.plan import Grouping, Plan, Value, plans
from score.settings import EI_INPUT_BOUND
from shared import ei, seal
from shared.errors import CiphertextError, EvaluationKeysError, FeatureCountError, ModelError
from shared.linear import LinearModel

GROUP_BYTES = 32 * 1024 * 1024
"""Encoded weights of one plan for several rows, at most. A single row's plan takes what it must:
1 MB for 10 classes of 784 features, 67 MB for 1,000, 336 MB for 1,000 classes of 20,000."""
MAX_GROUP_ROWS = 16


class SealEiEvaluator:
    """Scores rows with SEAL 4. One thread at a time; it holds the GIL.

    Encodes the weights for single rows when it is made (0.03 s for 10 classes of 784 features, 3 s
    for 1,000 classes of 20,000), those for groups of rows when they are first needed.
    """

    name = "seal"

    def __init__(
        self,
        model: LinearModel,
        *,
        input_bound: float = EI_INPUT_BOUND,
        arithmetic: type[Arithmetic] = Arithmetic,
    ) -> None:
        """If scores of features within `input_bound` fit (`max_score`), results have one prime.

        Else they have two, which takes twice the time and bytes. Raises `ModelError` when not even
        those suffice. Scores of larger features may wrap around: they are encrypted, so nobody here
        can tell.
        """
        self._model = model
        self._input_bound = input_bound
        self._context = new_context()
        self._do = arithmetic(self._context)
        self._level = _result_level(model, input_bound)
        options = plans(
            model.classes,
            model.features,
            level=self._level,
            max_rows=MAX_GROUP_ROWS,
            max_bytes=GROUP_BYTES,
        )
        self._grouping = Grouping(options)
        self._single = options[0]
        self._circuits: dict[Plan, Circuit] = {}
        self._circuit(self._single)
        self._imaginary = _imaginary_part(self._do, self._level)

    def describe(self) -> Json:
        return {
            "evaluator": self.name,
            "degree": ei.DEGREE,
            "prime_bits": list(ei.PRIME_BITS),
            "scale_bits": int(np.log2(ei.SCALE)),
            "slots": ei.SLOTS,
            "ciphertexts_per_row": self._single.parts,
            "result_primes": self._level,
            "max_score": max_score(self._level),
            "input_bound": self._input_bound,
            "group_rows": MAX_GROUP_ROWS,
        }

    def load_keys(self, blob: bytes) -> LoadedKeys:
        """Check a key blob whole and load what rotations need. Raises `EvaluationKeysError`."""
        return rotation_keys.load_keys(blob, self._context)

    def evaluate(self, rows: Sequence[Sequence[bytes]], keys: LoadedKeys) -> list[list[bytes]]:
        """Scores of rows under one key, sharing rotations between rows where that pays.

        Raises `CiphertextError`, `FeatureCountError`.
        """
        if not isinstance(keys, RotationKeys):
            raise EvaluationKeysError("these keys were loaded by another evaluator")
        for index, row in enumerate(rows):
            self._check_count(row, index)
        scores: list[list[bytes]] = []
        for plan in self._grouping.groups(len(rows)):
            group = range(len(scores), len(scores) + plan.rows)
            loaded = [self._load(rows[index], index) for index in group]
            scores += self._scored(self._circuit(plan), loaded, keys.galois)
        return scores

    def _check_count(self, row: Sequence[bytes], index: int) -> None:
        if len(row) != self._single.parts:
            raise FeatureCountError(
                f"row {index} has {len(row)} ciphertexts; {self._model.features} features "
                f"take {self._single.parts}"
            )

    def _load(self, row: Sequence[bytes], index: int) -> list[Any]:
        """A row's ciphertexts, checked, one level above the results'."""
        loaded = []
        for part, data in enumerate(row):
            what = f"ciphertext {part} of row {index}"
            checked = ei.check_input(data, what=what).data
            lowered = wire.lowered(checked, self._level + 1)
            loaded.append(seal.load(sealapi.Ciphertext(), self._context, lowered, what=what))
        return loaded

    def _scored(self, circuit: Circuit, rows: list[list[Any]], galois: Any) -> list[list[bytes]]:
        """The results of a group, by row and class."""
        scores = [[b""] * self._model.classes for _ in rows]
        try:
            for output, ciphertext in enumerate(circuit.run(rows, galois)):
                result = wire.Result.of_saved(seal.save(ciphertext))
                for value in circuit.plan.values(output):
                    scores[value.row][value.label] = self._half(result, value).to_sdk()
        except (RuntimeError, ValueError) as error:  # SEAL's, of what it can't compute with
            raise CiphertextError(f"rows can't be scored: {error}") from error
        return scores

    def _half(self, result: wire.Result, value: Value) -> wire.Result:
        """The result with `value` as the real part of slot 0, which is what the client reads."""
        scale = RESULT_SCALE[self._level] * value.factor
        if value.imaginary:
            return self._imaginary.times(result, scale=scale)
        return replace(result, scale=scale)

    def _circuit(self, plan: Plan) -> Circuit:
        circuit = self._circuits.get(plan)
        if circuit is None:
            circuit = self._circuits[plan] = Circuit(plan, self._model, self._do)
        return circuit


def max_score(level: int) -> float:
    """The largest |score| that a result of `level` primes can hold, with two bits to spare: for
    the sign, and for a slot's other value."""
    return math.prod(ei.PRIMES[:level]) / RESULT_SCALE[level] / 4


def _result_level(model: LinearModel, input_bound: float) -> int:
    """The least number of primes that scores fit in. Raises `ModelError`."""
    bounds = input_bound * np.abs(model.weights).sum(axis=1) + np.abs(model.intercept)
    largest = float(bounds.max())
    for level in RESULT_SCALE:
        if largest <= max_score(level):
            return level
    raise ModelError(
        f"scores may be as large as {largest:g}; the ei scheme takes up to {max_score(level):g}",
        remedy="scale the model's weights down",
    )


def _imaginary_part(arithmetic: Arithmetic, level: int) -> wire.Multiplier:
    """Multiplies by -X^(N/2), which is -i in slot 0: the imaginary part becomes the real one.

    Slot j is the value at ζ^(3^j), so X^(N/2) is i in even and -i in odd slots.
    """
    slots = np.where(np.arange(ei.SLOTS) % 2, 1j, -1j)
    return wire.Multiplier(seal.save(arithmetic.encode(slots, level=level, scale=1.0)), level)
