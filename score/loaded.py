"""Keys in the form that evaluators compute with, kept for the next request under them."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass

from score.lru import ByteLru
from score.schemes import ContainerEvaluator, EiEvaluator, LoadedKeys
from shared.errors import EvaluationKeysError

CHECKED_BYTES = 256
"""What remembering one checked key blob costs."""


@dataclass(slots=True)
class _Checked:
    """A key blob of our own schemes that was found good: there is nothing in it to compute with."""

    nbytes: int = CHECKED_BYTES


class LoadedKeyRing:
    """Loaded keys by version, bounded by the bytes they occupy."""

    def __init__(self, max_bytes: int) -> None:
        self._keys: ByteLru[tuple[str, str], LoadedKeys] = ByteLru(max_bytes)

    def ei(
        self, evaluator: EiEvaluator, version: str, blob: bytes | None
    ) -> tuple[LoadedKeys | None, float]:
        """The keys, and the seconds it took to load them; None when `blob` is needed first.

        Raises `EvaluationKeysError`.
        """
        keys = self._keys.get(("ei", version))
        if keys is not None or blob is None:
            return keys, 0.0
        started = time.perf_counter()
        keys = evaluator.load_keys(blob)
        self._keys.put(("ei", version), keys, keys.nbytes)
        return keys, time.perf_counter() - started

    def block(
        self, evaluator: ContainerEvaluator, version: str, key_id: str, blob: bytes | None
    ) -> bool:
        """True once the blob is known to be good; False when it is needed first.

        In our schemes the key id is the SHA-256 of the blob. Raises `EvaluationKeysError`.
        """
        known = (evaluator.name, version)
        if self._keys.get(known) is not None:
            return True
        if blob is None:
            return False
        if hashlib.sha256(blob).hexdigest() != key_id:
            raise EvaluationKeysError(f"the key blob of {key_id} does not have that hash")
        evaluator.check_keys(blob)
        self._keys.put(known, _Checked(), CHECKED_BYTES)
        return True
