"""Both directions between SEAL 3.5 and SEAL 4, checked by the SDK's client and by SEAL."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tenseal import sealapi

from score.schemes.ei import wire
from score.schemes.ei.arithmetic import Arithmetic, new_context
from shared import ei, seal
from tests.sdk_client import sdk_client

LEVELS = [1, 2, 3]


@pytest.fixture(scope="module")
def arithmetic() -> Arithmetic:
    return Arithmetic(new_context())


@pytest.fixture(scope="module")
def fresh() -> bytes:
    """A checked ciphertext of (0.25, -3, 7)."""
    (row,) = sdk_client().encrypt(np.array([[0.25, -3.0, 7.0]]))
    return ei.check_input(row[0], what="it").data


def loaded(arithmetic: Arithmetic, data: bytes) -> Any:
    return seal.load(sealapi.Ciphertext(), arithmetic.context, data, what="it")


def of_saved(ciphertext: Any) -> wire.Result:
    return wire.Result.of_saved(seal.save(ciphertext))


@pytest.mark.parametrize("level", LEVELS)
def test_a_fresh_ciphertext_comes_back_at_every_level(
    arithmetic: Arithmetic, fresh: bytes, level: int
) -> None:
    ciphertext = loaded(arithmetic, wire.lowered(fresh, level))
    assert ciphertext.coeff_modulus_size() == level
    result = of_saved(ciphertext).to_sdk()
    assert ei.check_result(result, what="it").level == level
    assert len(result) == ei.object_bytes(level, seeded=False)
    assert sdk_client().decrypt([[result]])[0, 0] == pytest.approx(0.25, abs=1e-8)


def test_lowering_is_dropping_primes(arithmetic: Arithmetic, fresh: bytes) -> None:
    """The seed's expansion too: residues of the primes that stay are the same numbers."""
    highest = of_saved(loaded(arithmetic, wire.lowered(fresh, 3))).residues
    for level in (1, 2):
        lower = of_saved(loaded(arithmetic, wire.lowered(fresh, level))).residues
        np.testing.assert_array_equal(lower, highest[:, :level])


def test_the_scale_is_what_the_client_divides_by(arithmetic: Arithmetic, fresh: bytes) -> None:
    ciphertext = loaded(arithmetic, wire.lowered(fresh, 1))
    ciphertext.scale = ei.SCALE * np.sqrt(2)
    scores = sdk_client().decrypt([[of_saved(ciphertext).to_sdk()]])
    assert scores[0, 0] == pytest.approx(0.25 / np.sqrt(2), abs=1e-8)


def monomial(arithmetic: Arithmetic, level: int) -> Any:
    """-X^(N/2)."""
    slots = np.where(np.arange(ei.SLOTS) % 2, 1j, -1j)
    return arithmetic.encode(slots, level=level, scale=1.0)


@pytest.mark.parametrize("level", LEVELS)
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=5, deadline=None)
def test_a_multiplier_does_what_seal_does(arithmetic: Arithmetic, level: int, seed: int) -> None:
    """On any residues: random ones, and the ends of their range."""
    primes = np.array(ei.PRIMES[:level], dtype=np.uint64)[:, np.newaxis]
    rng = np.random.default_rng(seed)
    residues = rng.integers(0, primes, size=(2, level, ei.DEGREE), dtype=np.uint64)
    residues[:, :, :100], residues[:, :, -100:] = 0, primes - np.uint64(1)
    result = wire.Result(level, ei.SCALE, residues)
    plain = monomial(arithmetic, level)
    ours = wire.Multiplier(seal.save(plain), level).times(result, scale=1.5)
    ciphertext = loaded(arithmetic, result.to_sdk())  # without a seed SEAL 4 reads 3.5's
    theirs = of_saved(arithmetic.multiply(ciphertext, plain))
    np.testing.assert_array_equal(ours.residues, theirs.residues)
    assert ours.scale == 1.5


def test_a_multiplier_brings_the_imaginary_part_forward(
    arithmetic: Arithmetic, fresh: bytes
) -> None:
    ciphertext = loaded(arithmetic, wire.lowered(fresh, 1))
    turned = arithmetic.multiply(ciphertext, monomial(arithmetic, 1))
    back = wire.Multiplier(seal.save(monomial(arithmetic, 1)), 1).times(
        of_saved(turned), scale=ei.SCALE
    )
    scores = sdk_client().decrypt([[of_saved(turned).to_sdk(), back.to_sdk()]])
    np.testing.assert_allclose(scores, [[0.0, -0.25]], atol=1e-8)
