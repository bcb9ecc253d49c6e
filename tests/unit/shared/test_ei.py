"""Only sound objects of the SDK's own parameters pass: the native library dies of any other."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from producer.schemes.ei import NativeClient
from shared import ei
from shared.errors import CiphertextError, EvaluationKeysError
from shared.seal import COMPRESSION_NONE, COMPRESSION_ZLIB, COMPRESSION_ZSTD, HEADER, SealHeader

MEMBERS = struct.Struct("<32sBQQQd")
ARRAY = HEADER.size + MEMBERS.size


@pytest.fixture(scope="module")
def client() -> NativeClient:
    return NativeClient(None)


@pytest.fixture(scope="module")
def compressed(client: NativeClient) -> bytes:
    """A ciphertext as the SDK's client sends it."""
    return base64.b64decode(client.encrypt(np.linspace(-1.0, 1.0, 30))[0])


@pytest.fixture(scope="module")
def plain(compressed: bytes) -> bytes:
    """The same, uncompressed."""
    return ei.check_input(compressed, what="it").data


@pytest.fixture(scope="module")
def keys(client: NativeClient) -> bytes:
    return client.public_keys()


def members(
    data: bytes,
    *,
    parms_id: bytes | None = None,
    ntt: int | None = None,
    size: int | None = None,
    degree: int | None = None,
    primes: int | None = None,
    scale: float | None = None,
) -> bytes:
    """The object with some of its members changed."""
    new = (parms_id, ntt, size, degree, primes, scale)
    old = MEMBERS.unpack_from(data, HEADER.size)
    mixed = [b if a is None else a for a, b in zip(new, old, strict=True)]
    return data[: HEADER.size] + MEMBERS.pack(*mixed) + data[ARRAY:]


def wrapped(body: bytes, *, compression: int = COMPRESSION_NONE, minor: int = 5) -> bytes:
    """A SEAL object of that body."""
    return SealHeader(3, minor, compression, HEADER.size + len(body)).pack() + body


def result(level: int, *, scale: float = ei.SCALE, coefficient: int = 1) -> bytes:
    """A full ciphertext of one repeated coefficient, as a scorer might answer it."""
    count = 2 * level * ei.DEGREE
    array = wrapped(struct.pack("<Q", count) + struct.pack("<Q", coefficient) * count)
    return wrapped(MEMBERS.pack(ei.parms_id(level), 1, 2, ei.DEGREE, level, scale) + array)


def test_a_ciphertext_of_the_sdk_passes_compressed_and_not(compressed: bytes, plain: bytes) -> None:
    checked = ei.check_input(compressed, what="it")
    assert (checked.level, checked.scale) == (3, 2.0**40)
    assert zlib.decompress(compressed[HEADER.size :]) == checked.data[HEADER.size :]
    assert ei.check_input(plain, what="it").data == plain
    assert len(plain) == ei.object_bytes(3, seeded=True)


@pytest.mark.parametrize("level", ei.RESULT_LEVELS)
def test_a_result_passes_at_every_level_of_ciphertexts(level: int) -> None:
    assert ei.check_result(result(level), what="it").level == level


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda _: b"",
    "text": lambda _: b"not a SEAL object at all",
    "cut short": lambda data: data[:-1],
    "cut in its members": lambda data: wrapped(data[HEADER.size : HEADER.size + 40]),
    "cut, with a fitting header": lambda data: wrapped(data[HEADER.size : -8]),
    "followed by a byte": lambda data: data + b"\0",
    "longer, with a fitting header": lambda data: wrapped(data[HEADER.size :] + b"\0"),
    "of SEAL 3.4": lambda data: wrapped(data[HEADER.size :], minor=4),
    "said to be zstd": lambda data: wrapped(data[HEADER.size :], compression=COMPRESSION_ZSTD),
    "said to be zlib": lambda data: wrapped(data[HEADER.size :], compression=COMPRESSION_ZLIB),
    "zlib, with bytes after it": lambda data: wrapped(
        zlib.compress(data[HEADER.size :]) + b"\0", compression=COMPRESSION_ZLIB
    ),
    "zlib, cut short": lambda data: wrapped(
        zlib.compress(data[HEADER.size :])[:-6], compression=COMPRESSION_ZLIB
    ),
    "zlib, inflating without end": lambda data: wrapped(
        zlib.compress(bytes(50_000_000)), compression=COMPRESSION_ZLIB
    ),
    "of another chain of primes": lambda data: members(data, parms_id=bytes(32)),
    "of another level's name": lambda data: members(data, parms_id=ei.parms_id(2)),
    "at another level": lambda data: members(data, parms_id=ei.parms_id(2), primes=2),
    "at the level of keys": lambda data: members(data, parms_id=ei.parms_id(4), primes=4),
    "not in NTT form": lambda data: members(data, ntt=0),
    "of three polynomials": lambda data: members(data, size=3),
    "of no polynomial": lambda data: members(data, size=0),
    "of another degree": lambda data: members(data, degree=4096),
    "of another number of primes": lambda data: members(data, primes=2),
    "of scale 0": lambda data: members(data, scale=0.0),
    "of an infinite scale": lambda data: members(data, scale=float("inf")),
    "of a scale that is not a number": lambda data: members(data, scale=float("nan")),
    "of a negative scale": lambda data: members(data, scale=-(2.0**40)),
    "of a scale over its primes": lambda data: members(data, scale=2.0**160),
    "with a coefficient beyond the first prime": lambda data: (
        data[: ARRAY + 24] + struct.pack("<Q", ei.PRIMES[0]) + data[ARRAY + 32 :]
    ),
    "with an array said to be shorter": lambda data: (
        data[: ARRAY + 16] + struct.pack("<Q", ei.DEGREE) + data[ARRAY + 24 :]
    ),
    "with an array said to be huge": lambda data: (
        data[: ARRAY + 16] + struct.pack("<Q", 2**61) + data[ARRAY + 24 :]
    ),
    "with a compressed array": lambda data: (
        data[:ARRAY]
        + SealHeader(3, 5, COMPRESSION_ZLIB, HEADER.unpack_from(data, ARRAY)[-1]).pack()
        + data[ARRAY + 16 :]
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_input_is_refused(plain: bytes, damage: str) -> None:
    with pytest.raises(CiphertextError, match="ciphertext 0"):
        ei.check_input(DAMAGE[damage](plain), what="ciphertext 0")


@pytest.mark.parametrize("damage", sorted(DAMAGE.keys() - {"at another level"}))
def test_a_damaged_result_is_refused(damage: str) -> None:
    with pytest.raises(CiphertextError, match="result 0"):
        ei.check_result(DAMAGE[damage](result(3)), what="result 0")


def test_a_result_is_no_input_and_an_input_no_result(plain: bytes) -> None:
    with pytest.raises(CiphertextError):
        ei.check_input(result(3), what="it")
    with pytest.raises(CiphertextError):
        ei.check_result(plain, what="it")


def test_every_prime_bounds_its_own_coefficients() -> None:
    """A value between the small and the large primes is fine in one place only."""
    between = ei.PRIMES[1] + 1
    assert ei.check_result(result(1, coefficient=between), what="it").level == 1
    with pytest.raises(CiphertextError, match="coefficients"):
        ei.check_result(result(2, coefficient=between), what="it")


def test_oversize_is_refused_before_anything_is_read() -> None:
    with pytest.raises(CiphertextError, match="over"):
        ei.check_input(bytes(ei.MAX_INPUT_BYTES + 1), what="it")
    with pytest.raises(CiphertextError, match="over"):
        ei.check_result(bytes(ei.MAX_RESULT_BYTES + 1), what="it")
    with pytest.raises(EvaluationKeysError, match="over"):
        ei.check_evaluation_keys(bytes(ei.MAX_KEYS_BYTES + 1))


@given(position=st.integers(0, ARRAY + 23), bit=st.integers(0, 7))
@settings(max_examples=200, deadline=None)
def test_no_bit_of_the_framing_of_an_input_can_change(
    plain: bytes, position: int, bit: int
) -> None:
    changed = bytearray(plain)
    changed[position] ^= 1 << bit
    with pytest.raises(CiphertextError):
        ei.check_input(bytes(changed), what="it")


def test_the_keys_of_the_sdk_pass_compressed_and_not(keys: bytes) -> None:
    plain = ei.check_evaluation_keys(keys)
    assert len(plain) > len(keys)
    assert ei.check_evaluation_keys(plain) == plain


def _split(keys: bytes) -> int:
    return int(HEADER.unpack_from(keys)[-1])


KEY_DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda _: b"",
    "Galois keys alone": lambda keys: keys[: _split(keys)],
    "relinearisation keys alone": lambda keys: keys[_split(keys) :],
    "in the other order": lambda keys: keys[_split(keys) :] + keys[: _split(keys)],
    "Galois keys twice": lambda keys: 2 * keys[: _split(keys)],
    "followed by a byte": lambda keys: keys + b"\0",
    "cut short": lambda keys: keys[:-1],
    "of other parameters": lambda keys: keys[:16] + bytes(32) + keys[48:],
    "with another number of positions": lambda keys: (
        keys[:48] + struct.pack("<Q", 4096) + keys[56:]
    ),
    "with a key where none belongs": lambda keys: keys[:56] + struct.pack("<Q", 3) + keys[64:],
    "without the first rotation": lambda keys: keys[:64] + struct.pack("<Q", 0) + keys[72:],
    "with a key of two objects": lambda keys: keys[:64] + struct.pack("<Q", 2) + keys[72:],
    "with a key object of another version": lambda keys: (
        keys[:72] + SealHeader(3, 4, 0, ei.object_bytes(4, seeded=True)).pack() + keys[88:]
    ),
    "with a key object of another size": lambda keys: (
        keys[:72] + SealHeader(3, 5, 0, ei.object_bytes(3, seeded=True)).pack() + keys[88:]
    ),
    "with a key object of a lower level": lambda keys: keys[:88] + ei.parms_id(3) + keys[120:],
    "with a coefficient beyond its prime": lambda keys: (
        keys[: 72 + ARRAY + 24] + b"\xff" * 8 + keys[72 + ARRAY + 32 :]
    ),
}


@pytest.mark.parametrize("damage", KEY_DAMAGE)
def test_a_damaged_key_blob_is_refused(keys: bytes, damage: str) -> None:
    plain = ei.check_evaluation_keys(keys)
    with pytest.raises(EvaluationKeysError):
        ei.check_evaluation_keys(KEY_DAMAGE[damage](plain))


def test_a_key_blob_that_inflates_without_end_is_refused() -> None:
    bomb = wrapped(zlib.compress(bytes(100_000_000)), compression=COMPRESSION_ZLIB)
    with pytest.raises(EvaluationKeysError, match="when decompressed"):
        ei.check_evaluation_keys(bomb)
