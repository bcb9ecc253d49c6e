"""Coefficients modulo a prime as bytes, and without low bits where precision can spare them.

What is dropped is a public rounding of a ciphertext: it adds an error of half a step at most, and
takes nothing from its security (as in the compressed ciphertexts of ML-KEM, FIPS 203).
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from shared.errors import CiphertextError

Words = npt.NDArray[np.uint64]

WORD_BYTES, WORD_BITS = 8, 64


def pack(words: Words, *, size: int, dropped_bits: int) -> bytes:
    """Coefficients without their low bits, little endian, `size` bytes each; shape (n,)."""
    if dropped_bits:
        words = words >> np.uint64(dropped_bits)
    words = np.ascontiguousarray(words, dtype="<u8")
    return words.tobytes() if size == WORD_BYTES else words.view(_low_bytes(size))["low"].tobytes()


def unpack(data: bytes, *, size: int, dropped_bits: int, prime: int, what: str) -> Words:
    """What `pack` made, each coefficient in the middle of what it may have been; shape (n,).

    Raises `CiphertextError` for a coefficient beyond the prime.
    """
    # Words of eight bytes, `size` bytes apart: the next one's bytes are shifted out.
    words: Words = np.ndarray(
        (len(data) // size,), dtype="<u8", buffer=data + bytes(WORD_BYTES - size), strides=(size,)
    )
    others = WORD_BITS - 8 * size
    words = words << np.uint64(others)
    words >>= np.uint64(others - dropped_bits)
    highest = int(words.max())
    if highest >= prime:
        raise CiphertextError(f"{what} has a coefficient beyond its prime")
    half_step = (1 << dropped_bits) // 2
    words += np.uint64(half_step)
    return words if highest + half_step < prime else np.minimum(words, np.uint64(prime - 1))


def rounding(dropped_bits: int) -> float:
    """How far `unpack` may be from what was packed: half a step, or nothing."""
    return 2.0 ** (dropped_bits - 1) if dropped_bits else 0.0


@cache
def _low_bytes(count: int) -> np.dtype[np.void]:
    """A word of eight bytes of which the lowest `count` are a field."""
    return np.dtype({"names": ["low"], "formats": [f"V{count}"], "itemsize": WORD_BYTES})
