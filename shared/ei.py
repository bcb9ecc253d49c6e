"""The SEAL objects of `encrypted-inference` 0.9, checked to the last byte before they are loaded.

The SDK's native library (SEAL 3.5) does not catch its own exceptions: an object that it refuses
ends the process. So nothing may reach it that this module has not found sound. The checks are
those of SEAL 3.5.1, native/src/seal/{ciphertext,kswitchkeys,intarray,valcheck}.cpp (`load_members`
and `is_valid_for`), for the SDK's one set of parameters; objects come out uncompressed, so that
whoever loads them can't be made to inflate more than was checked here.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from shared.errors import CiphertextError, EvaluationKeysError
from shared.seal import COMPRESSION_NONE, COMPRESSION_ZLIB, HEADER, SealHeader, parse_header

DEGREE = 8192
SLOTS = DEGREE // 2
SCALE = 2.0**40
PRIMES = (1152921504606748673, 1099510890497, 1099511480321, 1152921504606830593)
"""SEAL's `CoeffModulus::Create(8192, {60, 40, 40, 60})`; the last serves key switching alone."""
PRIME_BITS = tuple(prime.bit_length() for prime in PRIMES)
KEY_LEVEL = len(PRIMES)
INPUT_LEVEL = KEY_LEVEL - 1
"""A level is the number of primes an object has left."""
RESULT_LEVELS = (1, 2, 3)

ROTATIONS = tuple(2**i for i in range(SLOTS.bit_length() - 1))
"""The left rotations that the SDK makes Galois keys for: 1, 2, 4 … 2048 slots."""

_MEMBERS = struct.Struct("<32sBQQQd")  # parms_id, NTT form, polynomials, degree, primes, scale
_COUNT = struct.Struct("<Q")
_SEED_BYTES = 64
_VERSION = (3, 5)
_CKKS = 2


def object_bytes(level: int, *, seeded: bool) -> int:
    """Size of an uncompressed ciphertext (or public key object) with its headers."""
    polynomials = level * DEGREE * 8 if seeded else 2 * level * DEGREE * 8
    framing = HEADER.size + _MEMBERS.size + HEADER.size + _COUNT.size
    return framing + polynomials + (_SEED_BYTES if seeded else 0)


def _compressed_bound(size: int) -> int:
    """What SEAL 3.5 allows for zlib on incompressible data (`ComprSizeEstimate`), and some."""
    return size + size // 1000 + 1024


MAX_INPUT_BYTES = _compressed_bound(object_bytes(INPUT_LEVEL, seeded=True))
MAX_RESULT_BYTES = _compressed_bound(object_bytes(INPUT_LEVEL, seeded=False))
_GALOIS_BYTES = (
    HEADER.size + 32 + 8 + 8 * DEGREE + 3 * len(ROTATIONS) * object_bytes(KEY_LEVEL, seeded=True)
)
_RELIN_BYTES = HEADER.size + 32 + 8 + 8 + 3 * object_bytes(KEY_LEVEL, seeded=True)
MAX_KEYS_BYTES = _compressed_bound(_GALOIS_BYTES) + _compressed_bound(_RELIN_BYTES)


@dataclass(frozen=True, slots=True)
class Ciphertext:
    """A checked ciphertext: an uncompressed SEAL 3.5 object, and what its members say."""

    data: bytes
    level: int
    scale: float


def parms_id(level: int) -> bytes:
    """SEAL's name of a level: BLAKE2b over scheme, degree, primes and plain modulus."""
    words = (_CKKS, DEGREE, *(PRIMES if level == KEY_LEVEL else PRIMES[:level]), 0)
    return hashlib.blake2b(struct.pack(f"<{len(words)}Q", *words), digest_size=32).digest()


_LEVELS = {parms_id(level): level for level in range(1, KEY_LEVEL + 1)}


def check_input(data: bytes, *, what: str) -> Ciphertext:
    """Check a ciphertext as the SDK's client makes it: all three primes, seeded, scale 2^40.

    A seed also means that the second polynomial is not zero, which SEAL can't compute with.
    Raises `CiphertextError`, naming `what`.
    """
    if len(data) > MAX_INPUT_BYTES:
        raise CiphertextError(f"{what} is over {MAX_INPUT_BYTES} bytes")
    plain = uncompressed(data, limit=object_bytes(INPUT_LEVEL, seeded=True), what=what)
    level, scale = _check_members(plain, seeded=True, what=what)
    if level != INPUT_LEVEL:
        raise CiphertextError(f"{what} has {level} primes left; {INPUT_LEVEL} are needed")
    if scale != SCALE:
        raise CiphertextError(f"{what} has scale {scale:g}; 2^40 is needed")
    return Ciphertext(plain, level, scale)


def check_result(data: bytes, *, what: str) -> Ciphertext:
    """Check a ciphertext as a scorer answers it: any level, not seeded.

    Raises `CiphertextError`, naming `what`.
    """
    if len(data) > MAX_RESULT_BYTES:
        raise CiphertextError(f"{what} is over {MAX_RESULT_BYTES} bytes")
    plain = uncompressed(data, limit=object_bytes(INPUT_LEVEL, seeded=False), what=what)
    level, scale = _check_members(plain, seeded=False, what=what)
    if level not in RESULT_LEVELS:
        raise CiphertextError(f"{what} is at the level of keys, not of ciphertexts")
    if not 1.0 <= scale < 2.0 ** (sum(PRIME_BITS[:level]) - 1):
        raise CiphertextError(f"{what} has a scale out of bounds ({scale:g})")
    return Ciphertext(plain, level, scale)


def check_evaluation_keys(blob: bytes) -> bytes:
    """Check a key blob (Galois keys, then relinearisation keys); both uncompressed, in that order.

    Raises `EvaluationKeysError`.
    """
    if len(blob) > MAX_KEYS_BYTES:
        raise EvaluationKeysError(f"key blob is over {MAX_KEYS_BYTES} bytes")
    view = memoryview(blob)
    try:
        split = parse_header(view, what="Galois keys").size
        galois = uncompressed(view[:split], limit=_GALOIS_BYTES, what="Galois keys")
        relin = uncompressed(view[split:], limit=_RELIN_BYTES, what="relinearisation keys")
        needed = {_galois_index(steps) for steps in ROTATIONS}
        _check_key_switching(galois, positions=DEGREE, needed=needed, what="Galois keys")
        _check_key_switching(relin, positions=1, needed={0}, what="relinearisation keys")
    except CiphertextError as error:
        raise EvaluationKeysError(f"not a key blob: {error.message}") from error
    return galois + relin


def uncompressed(data: bytes | memoryview, *, limit: int, what: str) -> bytes:
    """The same SEAL 3.5 object without compression, at most `limit` bytes, with nothing after it.

    Raises `CiphertextError`.
    """
    header = parse_header(data, what=what)
    if header.size != len(data):
        raise CiphertextError(f"{what} has bytes after its end")
    if (header.major, header.minor) != _VERSION:
        raise CiphertextError(f"{what} is of SEAL {header.major}.{header.minor}, not 3.5")
    body: bytes | memoryview = memoryview(data)[HEADER.size :]
    if header.compression == COMPRESSION_ZLIB:
        body = _inflate(body, limit=limit - HEADER.size, what=what)
    elif header.compression != COMPRESSION_NONE:
        raise CiphertextError(f"{what} has a compression that SEAL 3.5 doesn't know")
    if HEADER.size + len(body) > limit:
        raise CiphertextError(f"{what} is over {limit} bytes")
    return SealHeader(*_VERSION, COMPRESSION_NONE, HEADER.size + len(body)).pack() + body


def _inflate(data: bytes | memoryview, *, limit: int, what: str) -> bytes:
    stream = zlib.decompressobj()
    try:
        body = stream.decompress(data, limit + 1)
    except zlib.error as error:
        raise CiphertextError(f"{what} can't be decompressed") from error
    if len(body) > limit:
        raise CiphertextError(f"{what} is over {limit} bytes when decompressed")
    if not stream.eof or stream.unused_data:
        raise CiphertextError(f"{what} does not end where its compressed data does")
    return body


def _check_members(data: bytes | memoryview, *, seeded: bool, what: str) -> tuple[int, float]:
    """Check an uncompressed ciphertext or key object; its level and scale."""
    if len(data) < HEADER.size + _MEMBERS.size:
        raise CiphertextError(f"{what} ends inside its members")
    name, ntt, size, degree, primes, scale = _MEMBERS.unpack_from(data, HEADER.size)
    level = _LEVELS.get(name)
    if level is None:
        raise CiphertextError(f"{what} has other encryption parameters than the SDK's")
    if (ntt, size, degree, primes) != (1, 2, DEGREE, level):
        raise CiphertextError(f"{what} is not two polynomials in NTT form of its own level")
    if len(data) != object_bytes(level, seeded=seeded):
        raise CiphertextError(f"{what} has {len(data)} bytes, which is not its level's size")
    count = (1 if seeded else 2) * level * DEGREE
    start = HEADER.size + _MEMBERS.size
    array = parse_header(memoryview(data)[start:], what=f"{what}'s array")
    expected = SealHeader(*_VERSION, COMPRESSION_NONE, HEADER.size + _COUNT.size + 8 * count)
    if array != expected or _COUNT.unpack_from(data, start + HEADER.size) != (count,):
        raise CiphertextError(f"{what} has an array of the wrong size")
    coefficients = np.frombuffer(
        data, dtype="<u8", count=count, offset=start + HEADER.size + _COUNT.size
    )
    if (coefficients.reshape(-1, level, DEGREE) >= _primes(level)).any():
        raise CiphertextError(f"{what} has coefficients beyond their primes")
    return level, scale


def _primes(level: int) -> npt.NDArray[np.uint64]:
    return np.array(PRIMES[:level], dtype=np.uint64)[:, np.newaxis]


def _galois_index(steps: int) -> int:
    """Where SEAL keeps the key for a left rotation: its Galois element is 3^steps mod 2N."""
    return (pow(3, steps, 2 * DEGREE) - 1) // 2


def _check_key_switching(data: bytes, *, positions: int, needed: set[int], what: str) -> None:
    """Check that exactly the `needed` of the `positions` hold a key of three sound objects."""
    offset = HEADER.size
    if len(data) < offset + 40 or data[offset : offset + 32] != parms_id(KEY_LEVEL):
        raise CiphertextError(f"{what} have other encryption parameters than the SDK's")
    if _COUNT.unpack_from(data, offset + 32) != (positions,):
        raise CiphertextError(f"{what} have the wrong number of positions")
    offset += 40
    marks = sorted(needed)
    object_size = object_bytes(KEY_LEVEL, seeded=True)
    expected = HEADER.size + 40 + 8 * positions + INPUT_LEVEL * object_size * len(needed)
    if len(data) != expected:
        raise CiphertextError(f"{what} have {len(data)} bytes, not {expected}")
    for before, mark in pairwise([-1, *marks, positions]):
        gap = 8 * (mark - before - 1)
        if any(data[offset : offset + gap]):
            raise CiphertextError(f"{what} have a key that is not one of the SDK's")
        offset += gap
        if mark == positions:
            return
        if _COUNT.unpack_from(data, offset) != (INPUT_LEVEL,):
            raise CiphertextError(f"{what} lack the key at position {mark}")
        offset += 8
        for _ in range(INPUT_LEVEL):
            key = memoryview(data)[offset : offset + object_size]
            _check_key_object(key, what=f"a key of the {what}")
            offset += object_size


def _check_key_object(key: memoryview, *, what: str) -> None:
    header = parse_header(key, what=what)
    if header != SealHeader(*_VERSION, COMPRESSION_NONE, len(key)):
        raise CiphertextError(f"{what} has an unexpected header")
    level, _ = _check_members(key, seeded=True, what=what)
    if level != KEY_LEVEL:
        raise CiphertextError(f"{what} is not at the key level")
