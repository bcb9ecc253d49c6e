"""The unmodified client of `encrypted-inference` 0.9, with ciphertexts as bytes."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from functools import cache, cached_property

import numpy as np
import numpy.typing as npt
from encrypted.inference.eiclient import EILinearRegressionClient

Rows = npt.NDArray[np.float64]


class SdkClient:
    """A key owner who has only the SDK."""

    def __init__(self) -> None:
        self._client = EILinearRegressionClient()

    @cached_property
    def keys(self) -> bytes:
        """The public key blob; making it takes the SDK 1.7 s."""
        _, blob = self._client.get_public_keys()
        return bytes(blob)

    def encrypt(self, rows: Rows) -> list[list[bytes]]:
        """The ciphertexts of each row. `rows` has shape (rows, features)."""
        return [[base64.b64decode(text) for text in self._client.encrypt(row)] for row in rows]

    def decrypt(self, results: Sequence[Sequence[bytes]]) -> Rows:
        """Scores, shape (rows, classes); some 15 ms each."""
        texts = [[base64.b64encode(result).decode() for result in row] for row in results]
        return np.array([self._client.decrypt(row) for row in texts])


@cache
def sdk_client() -> SdkClient:
    """The one client that all tests of a process share, which saves them making keys."""
    return SdkClient()
