"""What the key owner reads out of SEAL's own objects for `packed`, as numpy arrays.

Layouts are those in `shared.bfv`; the bytes were written by SEAL in this process, so that sizes are
checked only against a SEAL that would lay them out differently.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import zstandard

from shared import seal
from shared.bfv import Ring
from shared.coefficients import Words
from shared.errors import BlindscoreError
from shared.packed import SEED_BYTES
from shared.seal import COMPRESSION_ZSTD, HEADER

_PLAINTEXT_HEAD = 32 + 8 + 8
_CIPHERTEXT_HEAD = 32 + 1 + 5 * 8
_ARRAY_HEAD = HEADER.size + 8
_BLAKE2XB = 1
_decompressor = zstandard.ZstdDecompressor()


def encryption_of_zero(ring: Ring, encryptor: Any) -> tuple[Words, bytes]:
    """A fresh symmetric encryption of zero: c0, shape (N,), and the seed that c1 is drawn from."""
    fresh = encryptor.encrypt_zero_symmetric(list(ring.fresh.parms_id))
    start = _CIPHERTEXT_HEAD + _ARRAY_HEAD
    end = start + 8 * ring.degree
    body = _body(fresh, size=end + HEADER.size + 1 + SEED_BYTES)
    if body[-SEED_BYTES - 1] != _BLAKE2XB:
        raise BlindscoreError("SEAL draws from another generator than Blake2xb")
    return np.frombuffer(body, dtype="<u8", count=ring.degree, offset=start), body[-SEED_BYTES:]


def plain_coefficients(ring: Ring, plain: Any) -> npt.NDArray[np.int64]:
    """A SEAL plaintext's coefficients, between -t/2 and t/2 of the plain modulus t; shape (N,)."""
    plain.resize(ring.degree)  # SEAL cuts leading zeros
    start = _PLAINTEXT_HEAD + _ARRAY_HEAD
    body = _body(plain, size=start + 8 * ring.degree)
    words = np.frombuffer(body, dtype="<i8", offset=start)
    modulus = 1 << ring.preset.plain_bits
    return np.where(words >= modulus // 2, words - modulus, words)


def _body(obj: seal.Savable, *, size: int) -> bytes:
    """SEAL's serialised form without its header and compression."""
    data = seal.save(obj)
    if seal.parse_header(data, what="an object of SEAL").compression != COMPRESSION_ZSTD:
        raise BlindscoreError("SEAL compresses with something else than zstd")
    body = _decompressor.decompress(memoryview(data)[HEADER.size :], max_output_size=size)
    if len(body) != size:
        raise BlindscoreError(f"SEAL wrote {len(body)} bytes where {size} were expected")
    return body
