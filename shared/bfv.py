"""SEAL's BFV objects as numpy arrays, in the few shapes that `direct` and `packed` need.

The bodies of SEAL's objects, little endian (SEAL 4.1, native/src/seal: plaintext.cpp,
ciphertext.cpp, dynarray.h, randomgen.h; each header as in `shared.seal`):

    plaintext    parms_id (32 bytes), u64 coefficients, f64 scale, array
    ciphertext   parms_id, u8 NTT form, u64 polynomials, u64 N, u64 primes, f64 scale,
                 u64 correction factor, array (polynomial by polynomial, prime by prime)
    seeded       the same, its array holding the first polynomial alone, then header, u8 generator
                 and the 64-byte seed that the second polynomial is drawn from
    array        header, u64 length, u64 each
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import zstandard
from tenseal import sealapi

from shared import coefficients, seal
from shared.coefficients import Words
from shared.errors import CiphertextError
from shared.params import BfvPreset, check_security
from shared.seal import COMPRESSION_NONE, COMPRESSION_ZSTD, HEADER, SealHeader

_PLAINTEXT = struct.Struct("<32sQd")
_CIPHERTEXT = struct.Struct("<4QBQQQdQ")
_LENGTH = struct.Struct("<Q")
_SEED_BYTES = 65
_ARRAY_HEAD = HEADER.size + _LENGTH.size
_OWN = sealapi.Serialization.SEALHeader()
_MAJOR, _MINOR = int(_OWN.version_major), int(_OWN.version_minor)
_MAX_WINDOW_BYTES = 1 << 23


@dataclass(frozen=True, slots=True)
class Level:
    """The primes that a ciphertext is under, and what its serialised form then starts with."""

    parms_id: tuple[int, int, int, int]
    primes: tuple[int, ...]
    degree: int
    head: bytes = field(init=False, repr=False)
    """Of a ciphertext's body, up to its array: not in NTT form, two polynomials."""

    def __post_init__(self) -> None:
        numbers = (0, 2, self.degree, len(self.primes), 1.0, 1)
        object.__setattr__(self, "head", _CIPHERTEXT.pack(*self.parms_id, *numbers))

    @property
    def polynomial_bytes(self) -> int:
        return 8 * self.degree * len(self.primes)


@dataclass(frozen=True, slots=True, eq=False)
class Ring:
    """A preset's ring in SEAL: fresh ciphertexts are at `fresh`, results at `result`."""

    preset: BfvPreset
    context: Any
    fresh: Level
    result: Level
    """Of one prime."""

    @property
    def degree(self) -> int:
        return self.preset.ring.degree

    @property
    def result_prime(self) -> int:
        return self.result.primes[0]


@cache
def ring(preset: BfvPreset) -> Ring:
    """The ring of a preset. Raises `UsageError` for one below 128-bit security."""
    check_security(preset.ring)
    moduli = sealapi.CoeffModulus.Create(preset.ring.degree, list(preset.ring.prime_bits))
    parameters = sealapi.EncryptionParameters(sealapi.SCHEME_TYPE.BFV)
    parameters.set_poly_modulus_degree(preset.ring.degree)
    parameters.set_coeff_modulus(moduli)
    parameters.set_plain_modulus(1 << preset.plain_bits)
    context = sealapi.SEALContext(parameters, True, sealapi.SEC_LEVEL_TYPE.TC128)
    return Ring(
        preset=preset,
        context=context,
        fresh=_level(context, context.first_parms_id()),
        result=_level(context, context.last_parms_id()),
    )


def plaintext(ring_: Ring, values: npt.NDArray[np.int64]) -> Any:
    """A SEAL plaintext of integers, taken modulo the plain modulus; shape (at most N,)."""
    words = (values & ((1 << ring_.preset.plain_bits) - 1)).astype("<u8", copy=False)
    data = b"".join(
        (
            _header(HEADER.size + _PLAINTEXT.size + _ARRAY_HEAD + words.nbytes),
            _PLAINTEXT.pack(bytes(32), words.size, 1.0),
            _array_head(words.size),
            words.data,
        )
    )
    return seal.load(sealapi.Plaintext(), ring_.context, data, what="plaintext")


def ciphertext(ring_: Ring, polynomials: Words) -> Any:
    """A SEAL ciphertext under the result's prime, of coefficients in shape (2, N).

    Raises `CiphertextError` when a coefficient is not below the prime.
    """
    level = ring_.result
    data = b"".join(
        (
            _header(HEADER.size + len(level.head) + _ARRAY_HEAD + polynomials.nbytes),
            level.head,
            _array_head(polynomials.size),
            polynomials.astype("<u8", order="C", copy=False).data,
        )
    )
    return seal.load(sealapi.Ciphertext(), ring_.context, data, what="result")


def polynomials(ring_: Ring, result: Any) -> Words:
    """The coefficients of a SEAL ciphertext under the result's prime, shape (2, N)."""
    offset = len(ring_.result.head) + _ARRAY_HEAD
    size = offset + 2 * ring_.result.polynomial_bytes
    packed = memoryview(seal.save(result))[HEADER.size :]
    words: Words = np.frombuffer(
        _decompress(packed, size=size, what="result"), "<u8", offset=offset
    )
    return words.reshape(2, ring_.degree)


def seeded(ring_: Ring, level: Level, data: bytes, *, what: str) -> Any:
    """Load a fresh symmetric ciphertext, its second polynomial drawn from a seed.

    Nothing else is taken: such a ciphertext has one possible size, which bounds what decompression
    may yield, and nobody can choose its second polynomial. Raises `CiphertextError`.
    """
    array_at = len(level.head)
    array_size = _ARRAY_HEAD + level.polynomial_bytes
    seed_at = array_at + array_size
    body = _body(data, size=seed_at + HEADER.size + _SEED_BYTES, what=what)
    if not body.startswith(level.head):
        raise CiphertextError(f"{what} is not a fresh ciphertext of these parameters")
    view = memoryview(body)
    for part, size in ((view[array_at:], array_size), (view[seed_at:], HEADER.size + _SEED_BYTES)):
        header = seal.parse_header(part, what=what)
        if (header.major, header.compression, header.size) != (_MAJOR, COMPRESSION_NONE, size):
            raise CiphertextError(f"{what} is not laid out as a fresh seeded ciphertext")
    plain = _header(HEADER.size + len(body)) + body
    return seal.load(sealapi.Ciphertext(), ring_.context, plain, what=what)


def max_seeded_bytes(ring_: Ring) -> int:
    """No serialised seeded ciphertext is larger."""
    size = _CIPHERTEXT.size + _ARRAY_HEAD + ring_.fresh.polynomial_bytes + HEADER.size + _SEED_BYTES
    return HEADER.size + size + size // 128 + 512  # zstd adds 1/256 and a few bytes at most


def pack(preset: BfvPreset, words: Words) -> bytes:
    """Coefficients of a result as they are sent, `preset.result_bytes` each."""
    return coefficients.pack(words, size=preset.result_bytes, dropped_bits=preset.dropped_bits)


def unpack(ring_: Ring, data: bytes, *, what: str) -> Words:
    """What `pack` made, but for half a step.

    Raises `CiphertextError` for a coefficient beyond the prime.
    """
    preset = ring_.preset
    return coefficients.unpack(
        data,
        size=preset.result_bytes,
        dropped_bits=preset.dropped_bits,
        prime=ring_.result_prime,
        what=what,
    )


def small_polynomial(degree: int) -> npt.NDArray[np.int64]:
    """A fresh random polynomial to blind with, its coefficients -1, 0, 0 or 1.

    The difference of two bits each, from the operating system's generator: the centered binomial
    distribution of ML-KEM (FIPS 203, algorithm 8) with η = 1. Shape (degree,).
    """
    return _small_of_byte()[np.frombuffer(os.urandom(degree // 4), dtype=np.uint8)].ravel()


@cache
def _small_of_byte() -> npt.NDArray[np.int64]:
    """The four coefficients that a byte's bits give; shape (256, 4)."""
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).astype(np.int64)
    return bits[:, :4] - bits[:, 4:]


def _level(context: Any, parms_id: Any) -> Level:
    parameters = context.get_context_data(parms_id).parms()
    primes = tuple(modulus.value() for modulus in parameters.coeff_modulus())
    return Level(tuple(parms_id), primes, parameters.poly_modulus_degree())


def _header(size: int) -> bytes:
    return SealHeader(_MAJOR, _MINOR, COMPRESSION_NONE, size).pack()


def _array_head(length: int) -> bytes:
    return _header(_ARRAY_HEAD + 8 * length) + _LENGTH.pack(length)


def _body(data: bytes, *, size: int, what: str) -> bytes:
    """The body of a SEAL object, decompressed; it must have `size` bytes."""
    header = seal.parse_header(data, what=what)
    if header.size != len(data):
        raise CiphertextError(f"{what} has bytes after its end")
    if header.major != _MAJOR:
        raise CiphertextError(f"{what} was written by SEAL {header.major}")
    packed = memoryview(data)[HEADER.size :]
    if header.compression == COMPRESSION_ZSTD:
        body = _decompress(packed, size=size, what=what)
    elif header.compression == COMPRESSION_NONE:
        body = bytes(packed)
    else:
        raise CiphertextError(f"{what} has a compression that is not used here")
    if len(body) != size:
        raise CiphertextError(f"{what} has {len(body)} bytes, {size} are needed")
    return body


def _decompress(packed: memoryview, *, size: int, what: str) -> bytes:
    try:
        if zstandard.frame_content_size(packed) > size:
            raise CiphertextError(f"{what} is over {size} bytes")
        decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES)
        return decompressor.decompress(packed, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise CiphertextError(f"{what} does not decompress: {error}") from error
