"""Between the SEAL 3.5 objects of `encrypted-inference` 0.9 and the SEAL 4 that we compute with.

Both directions are byte for byte. SEAL 4 reads the SDK's objects, with one trap: SEAL changed how
it expands a seed in 3.5.5, and the SDK, which was built before, marks its objects 3.5 all the same.
Marked 3.4, they are expanded as the SDK meant it (`Ciphertext::expand_seed` in SEAL 4.1,
native/src/seal/ciphertext.cpp). The other way, SEAL 4 stores one member more, a correction factor,
and compresses with zstd, which SEAL 3.5 doesn't know.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import zstandard

from shared import ei
from shared.seal import COMPRESSION_NONE, HEADER, SealHeader

Residues = npt.NDArray[np.uint64]

AS_READ = (3, 4)
"""The version to mark the SDK's seeded objects with, for SEAL 4 to expand their seeds right."""
AS_WRITTEN = (3, 5)

_MEMBERS = struct.Struct("<32sBQQQd")  # parms_id, NTT form, polynomials, degree, primes, scale
ARRAY_OFFSET = HEADER.size + _MEMBERS.size
"""Where a ciphertext's or key object's array begins, which has a header of its own."""

_CORRECTION_FACTOR_BYTES = 8
_PLAIN_MEMBERS = struct.Struct("<32sQd")  # parms_id, coefficients, scale
_COUNT = struct.Struct("<Q")
_SEED_BYTES = 64
_HALF, _LOW = np.uint64(32), np.uint64(2**32 - 1)


def _array_header(count: int, version: tuple[int, int]) -> bytes:
    size = HEADER.size + _COUNT.size + 8 * count
    return SealHeader(*version, COMPRESSION_NONE, size).pack() + _COUNT.pack(count)


def lowered(data: bytes, level: int) -> bytes:
    """A fresh ciphertext, as `shared.ei.check_input` returns it, at a lower level, for SEAL 4.

    Dropping a prime means leaving out its residues, of both polynomials. The second is a seed that
    SEAL 3.4 expands prime after prime (`sample_poly_uniform_seal_3_4`, native/src/seal/util/
    rlwe.cpp), so at a lower level it expands to the same numbers and just stops earlier.
    """
    start = ARRAY_OFFSET + HEADER.size + _COUNT.size
    count = level * ei.DEGREE
    members = _MEMBERS.pack(ei.parms_id(level), 1, 2, ei.DEGREE, level, ei.SCALE)
    body = b"".join((
        members,
        _array_header(count, AS_READ),
        memoryview(data)[start : start + 8 * count],
        memoryview(data)[-_SEED_BYTES:],
    ))  # fmt: skip
    return SealHeader(*AS_READ, COMPRESSION_NONE, HEADER.size + len(body)).pack() + body


@dataclass(frozen=True, slots=True)
class Result:
    """A ciphertext of two polynomials in NTT form: `residues` has shape (2, level, N)."""

    level: int
    scale: float
    residues: Residues

    @classmethod
    def of_saved(cls, saved: bytes) -> Result:
        """Read what SEAL 4 saved of a ciphertext without a seed."""
        body = _inflated(saved)
        _, _, size, degree, level, scale = _MEMBERS.unpack_from(body)
        start = _MEMBERS.size + _CORRECTION_FACTOR_BYTES + HEADER.size + _COUNT.size
        residues = np.frombuffer(body, dtype="<u8", offset=start)
        return cls(level, scale, residues.reshape(size, level, degree))

    def to_sdk(self) -> bytes:
        """The object as SEAL 3.5 writes it, without compression."""
        members = _MEMBERS.pack(ei.parms_id(self.level), 1, 2, ei.DEGREE, self.level, self.scale)
        array = _array_header(self.residues.size, AS_WRITTEN)
        size = HEADER.size + len(members) + len(array) + self.residues.nbytes
        header = SealHeader(*AS_WRITTEN, COMPRESSION_NONE, size).pack()
        return b"".join((header, members, array, self.residues.data))


class Multiplier:
    """Multiplies results by a fixed polynomial that is +r or -r modulo each prime, for one r.

    Such as ±X^(N/2), whose values are ±√-1. By Shoup's method (Harvey, Faster arithmetic for
    number-theoretic transforms, 2014, section 3): with f' = ⌊f·2^64/q⌋, a·f - ⌊a·f'/2^64⌋·q lies
    in [0, 2q). The high half of the product is summed from 32-bit parts without their carries,
    which adds at most 2q: below 2^62 for the primes of 60 bits that we have.
    """

    def __init__(self, saved_plaintext: bytes, level: int) -> None:
        """Take the polynomial as SEAL 4 saved its plaintext, in NTT form."""
        body = _inflated(saved_plaintext)
        start = _PLAIN_MEMBERS.size + HEADER.size + _COUNT.size
        factor = np.frombuffer(body, dtype="<u8", offset=start).reshape(level, ei.DEGREE)
        quotient = np.empty_like(factor)
        for row, prime in enumerate(ei.PRIMES[:level]):
            for value in np.unique(factor[row]):
                quotient[row][factor[row] == value] = (int(value) << 64) // prime
        self._factor = factor
        self._high, self._low = quotient >> _HALF, quotient & _LOW
        self._primes = np.array(ei.PRIMES[:level], dtype=np.uint64)[:, np.newaxis]

    def times(self, result: Result, *, scale: float) -> Result:
        """The product, declared to be at `scale`."""
        high, low = result.residues >> _HALF, result.residues & _LOW
        quotient = high * self._high
        quotient += (high * self._low) >> _HALF
        quotient += (low * self._high) >> _HALF
        quotient *= self._primes
        product = result.residues * self._factor
        product -= quotient
        for bound in (2 * self._primes, self._primes):
            np.minimum(product, product - bound, out=product)  # a negative number is a large one
        return replace(result, scale=scale, residues=product)


def _inflated(saved: bytes) -> bytes:
    """The members of an object that our own SEAL 4 saved."""
    limit = ei.object_bytes(ei.KEY_LEVEL, seeded=False)
    inflated: bytes = zstandard.ZstdDecompressor().decompress(
        memoryview(saved)[HEADER.size :], max_output_size=limit
    )
    return inflated
