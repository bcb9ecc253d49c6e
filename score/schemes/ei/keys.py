"""A client's evaluation keys, from the SDK's blob to what SEAL 4 rotates with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tenseal import sealapi

from score.schemes.ei import wire
from shared import ei, seal
from shared.errors import CiphertextError, EvaluationKeysError

LOADED_BYTES = len(ei.ROTATIONS) * ei.INPUT_LEVEL * 2 * ei.KEY_LEVEL * ei.DEGREE * 8
"""Memory of one client's loaded Galois keys: 36 objects of two polynomials over four primes."""

_MAJOR, _MINOR = 3, 4  # where a SEAL header keeps its version
_POSITIONS = 32 + 8  # parms_id and count, before the positions themselves


@dataclass(slots=True)
class RotationKeys:
    """Galois keys for the left rotations `ei.ROTATIONS`, ready to use."""

    galois: Any
    nbytes: int = LOADED_BYTES


def load_keys(blob: bytes, context: Any) -> RotationKeys:
    """Check a key blob to the last byte, then load its Galois keys.

    The relinearisation keys are checked too, but not loaded: products with plaintexts need none.
    Raises `EvaluationKeysError`.
    """
    checked = ei.check_evaluation_keys(blob)
    size = seal.parse_header(checked, what="Galois keys").size
    galois = bytearray(memoryview(checked)[:size])
    for offset in _header_offsets():
        galois[offset + _MAJOR], galois[offset + _MINOR] = wire.AS_READ
    try:
        loaded = seal.load(sealapi.GaloisKeys(), context, memoryview(galois), what="Galois keys")
    except CiphertextError as error:
        raise EvaluationKeysError(f"not a key blob: {error.message}") from error
    return RotationKeys(loaded)


def galois_element(steps: int) -> int:
    """The automorphism X → X^g that rotates left by `steps`: SEAL's generator is 3."""
    return pow(3, steps, 2 * ei.DEGREE)


def _header_offsets() -> list[int]:
    """Where the headers are in checked Galois keys: the outer, each key object's, its array's."""
    object_size = ei.object_bytes(ei.KEY_LEVEL, seeded=True)
    key_size = ei.INPUT_LEVEL * object_size
    positions = sorted((galois_element(steps) - 1) // 2 for steps in ei.ROTATIONS)
    offsets = [0]
    for before, position in enumerate(positions):
        start = seal.HEADER.size + _POSITIONS + 8 * (position + 1) + before * key_size
        for outer in range(start, start + key_size, object_size):
            offsets += [outer, outer + wire.ARRAY_OFFSET]
    return offsets
