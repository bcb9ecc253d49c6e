"""Exact sums of residue vectors with integer factors, as a product of matrices of doubles.

A BLAS multiplies doubles many times faster than anything multiplies residues, and it is exact as
long as all its sums are integers below 2^53, in whichever order it adds. So residues are cut into
halves of 32 bits, and factors that are too large for that into 12 low bits and the rest.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import ThreadpoolController

from shared.coefficients import Words

Integers = npt.NDArray[np.int64] | npt.NDArray[np.int32]
Doubles = npt.NDArray[np.float64]

LOW_BITS = 12
HALF_BITS = 32
SMALL_NORM = 1 << 21
"""Of a row of factors that stay whole."""
MAX_NORM = 1 << 32
"""Of a row of factors, in ℓ1."""
MAX_PRIME_BITS = 60
VECTORS_PER_PRODUCT = 32
"""Enough to pay for going over the sums once more; their doubles take 4 MB at N = 4096."""
ROWS_PER_PRODUCT = 32
"""Of whole factors or parts of them: a product is kept only until it is added to the sums."""
VECTORS_PER_FOLD = 1024


class ResidueSums:
    """Σ_j factors[k, j] · vector_j modulo a prime, for all k, with vectors taken one by one.

    Between two folds each sum stays below 2^53, as halves are below 2^32 and each row multiplies
    them by at most 2^21: a whole one by its norm; and of n = high·2^12 + low, |low| ≤ 2^11, it is
    Σ|low| ≤ 1024·2^11 = 2^21 and Σ|high| ≤ MAX_NORM/2^12 + 1024/2 < 2^21.
    """

    def __init__(self, factors: Integers, *, prime: int, length: int) -> None:
        """`factors` has shape (K, J); vectors have shape (length,)."""
        factors = factors.astype(np.int64)
        norms = np.abs(factors).sum(axis=1)
        if int(norms.max()) > MAX_NORM or prime.bit_length() > MAX_PRIME_BITS:
            raise ValueError("factors or prime too large for exact sums")
        self._prime = prime
        self._large = np.flatnonzero(norms > SMALL_NORM)
        high = (factors[self._large] + (1 << (LOW_BITS - 1))) >> LOW_BITS
        factors[self._large] -= high << LOW_BITS
        self._factors = np.concatenate((factors, high)).astype(np.float64)
        self._halves = np.empty((VECTORS_PER_PRODUCT, 2 * length))
        self._columns: list[int] = []
        self._sums = np.zeros((len(self._factors), 2 * length))
        self._since_fold = 0
        self._totals = np.zeros((len(factors), length), dtype=np.int64)

    def add(self, column: int, *parts: Words) -> None:
        """Add factors[:, column] times the vector that `parts` make, one after the other.

        Words are below 2^MAX_PRIME_BITS: the prime itself, as a negative zero, is as good as zero.
        """
        row, start = self._halves[len(self._columns)], 0
        for part in parts:
            row[start : start + 2 * part.size] = part.astype("<u8", copy=False).view("<u4")
            start += 2 * part.size
        self._columns.append(column)
        if len(self._columns) == VECTORS_PER_PRODUCT:
            self._multiply()

    def total(self) -> Words:
        """The sums so far, modulo the prime, shape (K, length)."""
        self._multiply()
        self._fold()
        return self._totals.astype(np.uint64)

    def _multiply(self) -> None:
        count = len(self._columns)
        if not count:
            return
        factors, halves = self._factors[:, self._columns], self._halves[:count]
        with _blas().limit(limits=1):
            for first in range(0, len(factors), ROWS_PER_PRODUCT):
                rows = slice(first, first + ROWS_PER_PRODUCT)
                self._sums[rows] += factors[rows] @ halves
        self._columns.clear()
        self._since_fold += count
        if self._since_fold > VECTORS_PER_FOLD - VECTORS_PER_PRODUCT:
            self._fold()

    def _fold(self) -> None:
        """Move the sums of doubles into the totals."""
        count = len(self._totals)
        for row, sums in enumerate(self._sums):
            k, shift = (row, 0) if row < count else (self._large[row - count], LOW_BITS)
            for half in (0, 1):
                bits = shift + half * HALF_BITS
                self._totals[k] += _shifted(sums[half::2], bits, self._prime)
        self._totals %= self._prime
        self._sums[:] = 0
        self._since_fold = 0


@cache
def _blas() -> Any:
    """numpy's BLAS, whose threads cost twice the CPU at this size; evaluators have a core each."""
    return ThreadpoolController().select(user_api="blas")


def _shifted(values: Doubles, bits: int, prime: int) -> Integers:
    """values · 2^bits modulo `prime`, between -prime and prime, for integers below 2^53.

    The quotient is off by one at most, as it is below 2^51; the difference is small, so that
    unsigned arithmetic modulo 2^64 has it right.
    """
    quotients = np.rint(values * (2.0**bits / prime)).astype(np.int64).view(np.uint64)
    shifted = values.astype(np.int64).view(np.uint64) << np.uint64(bits)
    return (shifted - quotients * np.uint64(prime)).view(np.int64)
