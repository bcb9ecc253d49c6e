"""Sums of residues are exact, whatever the factors and however many vectors there are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from score import residues
from score.residues import ResidueSums
from shared.params import PACKED_PRESETS

PRIMES = sorted({preset.prime for preset in PACKED_PRESETS.values()})


def expected(factors: np.ndarray, vectors: np.ndarray, prime: int) -> list[list[int]]:
    return [
        [
            sum(int(n) * int(v) for n, v in zip(row, column, strict=True)) % prime
            for column in vectors.T
        ]
        for row in factors
    ]


@given(
    prime=st.sampled_from(PRIMES),
    classes=st.sampled_from([1, 2, residues.ROWS_PER_PRODUCT]),
    count=st.integers(1, 80),
    seed=st.integers(0, 2**32),
    largest=st.sampled_from([1, 2**11, 2**12 - 1, 2**22, 2**32]),
)
@settings(deadline=None, max_examples=60)
def test_sums_equal_those_of_integers(
    prime: int, classes: int, count: int, seed: int, largest: int
) -> None:
    rng = np.random.default_rng(seed)
    largest = min(largest, residues.MAX_NORM // count)
    factors = rng.choice(np.array([-largest, largest, 0, largest - 1]), (classes, count))
    factors[: classes // 2] %= 3  # of which many stay whole
    vectors = rng.choice(np.array([0, prime - 1, prime // 2, 2**32 - 1], np.uint64), (count, 5))
    sums = ResidueSums(factors.astype(np.int64), prime=prime, length=5)
    for column, vector in enumerate(vectors):
        sums.add(column, vector[:2], vector[2:])
    assert sums.total().tolist() == expected(factors, vectors, prime)


def test_more_vectors_than_one_fold_holds() -> None:
    """All factors and all halves as large as they get, so that a sum without folds would round.

    The last of the factors are the largest that stay whole.
    """
    count = 3 * residues.VECTORS_PER_FOLD + 5
    prime = PRIMES[-1]
    factors = np.full((3, count), (1 << 11) - 1, dtype=np.int64)
    factors[1] = -(1 << 11) - (1 << 12) * np.arange(count)[::-1] % 2
    factors[2] = np.where(np.arange(count) < residues.VECTORS_PER_FOLD, 1 << 11, 0)
    assert factors[2].sum() == residues.SMALL_NORM
    vectors = np.full((count, 3), np.uint64(prime - 1))
    vectors[:, 1] = 2**32 - 1
    vectors[:, 2] -= np.arange(count, dtype=np.uint64)
    sums = ResidueSums(factors, prime=prime, length=3)
    for column, vector in enumerate(vectors):
        sums.add(column, vector)
    assert sums.total().tolist() == expected(factors, vectors, prime)


def test_factors_that_could_round_are_refused() -> None:
    with pytest.raises(ValueError, match="too large"):
        ResidueSums(np.full((1, 2), 2**31 + 1), prime=PRIMES[-1], length=1)


def test_a_prime_that_could_overflow_is_refused() -> None:
    with pytest.raises(ValueError, match="too large"):
        ResidueSums(np.ones((1, 1), dtype=np.int64), prime=2**61 - 1, length=1)


def test_nothing_added_is_zero() -> None:
    sums = ResidueSums(np.ones((2, 1), dtype=np.int64), prime=PRIMES[0], length=4)
    assert sums.total().tolist() == [[0] * 4] * 2
