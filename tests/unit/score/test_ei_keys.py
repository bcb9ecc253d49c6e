"""A client's keys rotate its ciphertexts; anything else is refused, cheaply."""

from __future__ import annotations

import tracemalloc
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tenseal import sealapi

from score.schemes.ei import wire
from score.schemes.ei.arithmetic import Arithmetic, new_context
from score.schemes.ei.keys import LOADED_BYTES, galois_element, load_keys
from shared import ei, seal
from shared.errors import EvaluationKeysError
from shared.seal import COMPRESSION_NONE, COMPRESSION_ZLIB, HEADER, SealHeader
from tests.sdk_client import sdk_client


@pytest.fixture(scope="module")
def blob() -> bytes:
    return sdk_client().keys


@pytest.fixture(scope="module")
def plain(blob: bytes) -> bytes:
    """The blob without compression."""
    return ei.check_evaluation_keys(blob)


@pytest.fixture(scope="module")
def context() -> Any:
    return new_context()


def galois_size(blob: bytes) -> int:
    return seal.parse_header(blob, what="it").size


def test_all_twelve_rotations_work(blob: bytes, context: Any) -> None:
    keys = load_keys(blob, context)
    assert keys.nbytes == LOADED_BYTES == 36 * 2 * 4 * 8192 * 8
    arithmetic = Arithmetic(context)
    row = np.arange(4096) / 4096
    (parts,) = sdk_client().encrypt(row[np.newaxis])
    lowered = wire.lowered(ei.check_input(parts[0], what="it").data, 2)
    ciphertext = seal.load(sealapi.Ciphertext(), context, lowered, what="it")
    results = [
        wire.Result.of_saved(seal.save(arithmetic.rotate(ciphertext, steps, keys.galois))).to_sdk()
        for steps in ei.ROTATIONS
    ]
    scores = sdk_client().decrypt([results])[0]
    np.testing.assert_allclose(scores, [row[steps] for steps in ei.ROTATIONS], atol=1e-5)


def test_the_elements_are_seals(blob: bytes, context: Any) -> None:
    galois = load_keys(blob, context).galois
    assert [steps for steps in range(1, 4096) if galois.has_key(galois_element(steps))] == list(
        ei.ROTATIONS
    )


def test_keys_without_compression_load_too(plain: bytes, context: Any) -> None:
    assert load_keys(plain, context).nbytes == LOADED_BYTES


def bomb(plain_bytes: int) -> bytes:
    """An object whose body inflates to that many zeros."""
    squeezed = zlib.compress(b"\0" * plain_bytes)
    size = HEADER.size + len(squeezed)
    return SealHeader(3, 5, COMPRESSION_ZLIB, size).pack() + squeezed


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda blob: b"", id="empty"),
        pytest.param(lambda blob: b"not keys", id="text"),
        pytest.param(lambda blob: blob[:5000], id="truncated"),
        pytest.param(lambda blob: blob[:-1], id="last byte missing"),
        pytest.param(lambda blob: blob[: galois_size(blob)], id="no relinearisation keys"),
        pytest.param(lambda blob: blob[galois_size(blob) :], id="no Galois keys"),
        pytest.param(lambda blob: blob + b"\0", id="a byte too many"),
        pytest.param(lambda blob: blob + blob, id="twice"),
        pytest.param(lambda blob: bomb(50_000_000) + blob[galois_size(blob) :], id="bomb"),
        pytest.param(lambda blob: SealHeader(3, 5, COMPRESSION_NONE, 2**62).pack(), id="huge"),
    ],
)
def test_anything_else_is_refused(blob: bytes, context: Any, damage: Any) -> None:
    with pytest.raises(EvaluationKeysError, match="key"):
        load_keys(damage(blob), context)


def test_a_bomb_takes_no_more_memory_than_keys_do(context: Any) -> None:
    hostile = bomb(200_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(EvaluationKeysError):
            load_keys(hostile, context)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3 * ei.MAX_KEYS_BYTES


@given(offset=st.one_of(st.integers(0, 200), st.integers(0, 9_500_000)), flip=st.integers(1, 255))
@settings(max_examples=25, deadline=None)
def test_flipped_bits_are_refused_or_harmless(
    plain: bytes, context: Any, offset: int, flip: int
) -> None:
    """In the uncompressed blob, where each may hit a header, a count, a residue or a seed."""
    damaged = bytearray(plain)
    damaged[offset] ^= flip
    try:
        keys = load_keys(bytes(damaged), context)
    except EvaluationKeysError:
        return
    assert keys.nbytes == LOADED_BYTES


@given(cut=st.integers(0, 10_000_000), tail=st.binary(max_size=40))
@settings(max_examples=25, deadline=None)
def test_cut_and_patched_blobs_are_refused(
    plain: bytes, context: Any, cut: int, tail: bytes
) -> None:
    patched = plain[:cut] + tail
    if patched != plain:
        with pytest.raises(EvaluationKeysError):
            load_keys(patched, context)
