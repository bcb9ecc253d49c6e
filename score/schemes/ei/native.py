"""The SDK's native library as an evaluator, without the copies that its Python makes.

It loads the keys again for every class, so it is some thirty times slower than our own evaluator;
it is there to check that one against, with `score.schemes.ei.sdk`.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from score.schemes import Json, LoadedKeys
from shared import ei
from shared.einative import Bytes, Doubles, NativeError, call, library, pointer_to
from shared.errors import CiphertextError, EvaluationKeysError, FeatureCountError, ModelError
from shared.linear import Array, LinearModel

MAX_MAGNITUDE = 2.0**40
"""Of weights and intercepts. The native encoder ends the process beyond 2^58."""
SMALLEST_NORM = 2.0**-28
"""Weights of a smaller norm may all encode to zero, and then the library ends the process.

A polynomial whose N coefficients all round to zero at scale Δ belongs to slots of a Euclidean norm
below N/(√8·Δ), by Parseval: 2^-28.5 here.
"""


@dataclass(slots=True)
class NativeKeys:
    """A checked key blob, uncompressed: inflating it anew for every class would cost 50 ms each."""

    blob: bytes
    nbytes: int = field(init=False)

    def __post_init__(self) -> None:
        self.nbytes = len(self.blob)


class NativeEvaluator:
    """Scores rows with `ComputeDotProduct`, a class at a time. Usable from several threads."""

    name = "native"

    def __init__(self, model: LinearModel) -> None:
        """Raises `ModelError` for weights that the library can't encode."""
        largest = max(np.abs(model.weights).max(), np.abs(model.intercept).max())
        if largest > MAX_MAGNITUDE:
            raise ModelError(
                f"a weight or intercept is {largest:g}; the ei scheme takes up to 2^40",
                remedy="scale the model's weights down",
            )
        self._model = model
        self._weights = encodable(model.weights)
        self._ciphertexts = -(-model.features // ei.SLOTS)
        self._of_thread = threading.local()

    def describe(self) -> Json:
        return {
            "evaluator": self.name,
            "degree": ei.DEGREE,
            "prime_bits": list(ei.PRIME_BITS),
            "scale_bits": int(np.log2(ei.SCALE)),
            "ciphertexts_per_row": self._ciphertexts,
        }

    def load_keys(self, blob: bytes) -> LoadedKeys:
        """Check a key blob whole. Raises `EvaluationKeysError`."""
        return NativeKeys(ei.check_evaluation_keys(blob))

    def evaluate(self, rows: Sequence[Sequence[bytes]], keys: LoadedKeys) -> list[list[bytes]]:
        """Scores of rows under one key; every ciphertext is checked before the first is used.

        Raises `CiphertextError`, `FeatureCountError`.
        """
        if not isinstance(keys, NativeKeys):
            raise EvaluationKeysError("these keys were loaded by another evaluator")
        checked = [self._check(row, index) for index, row in enumerate(rows)]
        return [self._scores(row, keys) for row in checked]

    def _check(self, row: Sequence[bytes], index: int) -> list[bytes]:
        if len(row) != self._ciphertexts:
            raise FeatureCountError(
                f"row {index} has {len(row)} ciphertexts; {self._model.features} features "
                f"take {self._ciphertexts}"
            )
        return [
            ei.check_input(data, what=f"ciphertext {part} of row {index}").data
            for part, data in enumerate(row)
        ]

    def _scores(self, row: list[bytes], keys: NativeKeys) -> list[bytes]:
        joined = b"".join(row)
        try:
            return [
                self._server().dot(weights, float(intercept), joined, keys.blob)
                for weights, intercept in zip(self._weights, self._model.intercept, strict=True)
            ]
        except NativeError as error:
            raise CiphertextError(f"a row can't be scored: {error}") from error

    def _server(self) -> _Server:
        server: _Server | None = getattr(self._of_thread, "server", None)
        if server is None:
            server = self._of_thread.server = _Server()
        return server


class _Server:
    """The SDK's native server instance; one a thread."""

    def __init__(self) -> None:
        self._handle = ctypes.c_void_p()
        bits = (ctypes.c_int32 * len(ei.PRIMES))(*ei.PRIME_BITS)
        call(
            "CreateSEALServerInstance",
            ei.DEGREE,
            len(bits),
            bits,
            ei.SCALE,
            ctypes.byref(self._handle),
        )
        destroy = weakref.finalize(self, library.DestroySEALServerInstance, self._handle)
        destroy.atexit = False  # a daemon thread may still be computing; the process ends anyway

    def dot(self, weights: Array, intercept: float, ciphertexts: bytes, keys: bytes) -> bytes:
        """The result of one class. `ciphertexts` and `keys` must have been checked."""
        out = ctypes.create_string_buffer(ei.MAX_RESULT_BYTES)
        size = ctypes.c_uint64(len(out))
        call(
            "ComputeDotProduct",
            self._handle,
            len(weights),
            weights.ctypes.data_as(Doubles),
            intercept,
            len(ciphertexts),
            pointer_to(ciphertexts),
            len(keys),
            pointer_to(keys),
            ctypes.byref(size),
            ctypes.cast(out, Bytes),
        )
        return bytes(memoryview(out)[: size.value])


def encodable(weights: Array) -> Array:
    """The weights, with 2^-27 added to a class that has (as good as) none.

    That changes a score by 2^-27 of the first feature: less than the scheme's own noise on
    features of the size of one.
    """
    adjusted = np.ascontiguousarray(weights).copy()
    blocks = range(0, weights.shape[1], ei.SLOTS)
    norms = [np.linalg.norm(weights[:, i : i + ei.SLOTS], axis=1) for i in blocks]
    empty = np.max(norms, axis=0) < SMALLEST_NORM
    adjusted[empty, 0] += 2 * SMALLEST_NORM
    return adjusted
