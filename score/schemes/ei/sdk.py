"""The SDK's own `EIServer`, unmodified: the reference that every other evaluator must agree with.

Slow by design of the SDK: about a second a class, most of it copying the keys byte by byte.
"""

from __future__ import annotations

import base64
import threading
import warnings
from typing import Any

from score.schemes.ei.native import NativeEvaluator, NativeKeys
from shared.errors import CiphertextError
from shared.linear import LinearModel

with warnings.catch_warnings():
    # it compares with `is 0`, which CPython remarks on when it compiles the module
    warnings.simplefilter("ignore", SyntaxWarning)
    from encrypted.inference.eiserver import EIServer


class SdkEvaluator(NativeEvaluator):
    """Scores rows with `EIServer.predict`, one at a time."""

    name = "sdk"

    def __init__(self, model: LinearModel) -> None:
        super().__init__(model)
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", ResourceWarning
            )  # it leaves a file for CPython to close
            self._eiserver: Any = EIServer(self._weights, model.intercept)
        self._lock = threading.Lock()

    def _scores(self, row: list[bytes], keys: NativeKeys) -> list[bytes]:
        texts = [base64.b64encode(ciphertext).decode() for ciphertext in row]
        try:
            with self._lock:
                results: list[str] = self._eiserver.predict(texts, keys.blob)
        except OSError as error:  # what the SDK raises for a native error code
            raise CiphertextError(f"a row can't be scored: {error}") from error
        return [base64.b64decode(result) for result in results]
