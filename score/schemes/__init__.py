"""The model owner's side of each scheme. Nothing here takes, makes or loads a secret key.

`ei` bodies are JSON and evaluated as one batch; container schemes (`direct`, `packed`) are
evaluated frame by frame as they arrive.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from shared.container import Header

Json = Mapping[str, Any]


class LoadedKeys(Protocol):
    """Evaluation keys in the form an evaluator computes with."""

    nbytes: int
    """Memory they occupy; the cache is bounded by it."""


class EiEvaluator(Protocol):
    """Scores rows in the `encrypted-inference` 0.9 wire format."""

    def describe(self) -> Json:
        """Parameters, for `/model`."""
        ...

    def load_keys(self, blob: bytes) -> LoadedKeys:
        """Parse a key blob strictly. Raises `EvaluationKeysError`."""
        ...

    def evaluate(self, rows: Sequence[Sequence[bytes]], keys: LoadedKeys) -> list[list[bytes]]:
        """Scores of rows under one key.

        `rows[r]` are the serialised SEAL ciphertexts of row r (`ceil(features / 4096)` of them);
        the answer's `[r][k]` is the serialised result of class k. Raises `CiphertextError`,
        `FeatureCountError`.
        """
        ...


class BlockEvaluation(Protocol):
    """One request being evaluated as its frames arrive."""

    def add(self, payload: bytes) -> None:
        """Take the next frame's ciphertext. Raises `CiphertextError`."""
        ...

    def finish(self) -> tuple[Header, Iterable[bytes]]:
        """The response's header and ciphertexts, once every frame is in."""
        ...


class ContainerEvaluator(Protocol):
    """Scores rows in our own container format."""

    name: str
    max_frame_bytes: int

    def describe(self) -> Json:
        """Parameters, precision and limits, for `/model`."""
        ...

    def check_keys(self, blob: bytes) -> None:
        """Refuse a key blob of another scheme or parameters. Raises `EvaluationKeysError`."""
        ...

    def begin(self, header: Header) -> BlockEvaluation:
        """Start a request. Raises `CiphertextError` for parameters this side doesn't offer,
        `FeatureCountError`."""
        ...
