"""Coefficients as bytes: whole or without low bits, and none beyond the prime."""

from __future__ import annotations

import numpy as np
import pytest

from shared import coefficients
from shared.errors import CiphertextError

PRIME = (1 << 53) - 126975
WHOLE = {"size": 7, "dropped_bits": 0}
CUT = {"size": 6, "dropped_bits": 5}


def there_and_back(words: list[int], *, size: int, dropped_bits: int, prime: int) -> list[int]:
    data = coefficients.pack(np.array(words, dtype=np.uint64), size=size, dropped_bits=dropped_bits)
    assert len(data) == size * len(words)
    read = coefficients.unpack(
        data, size=size, dropped_bits=dropped_bits, prime=prime, what="a test"
    )
    return [int(word) for word in read]


def test_whole_ones_come_back() -> None:
    words = [0, 1, PRIME // 3, PRIME - 1]
    assert there_and_back(words, **WHOLE, prime=PRIME) == words


def test_cut_ones_come_back_as_the_middle_of_what_they_may_have_been() -> None:
    words = [0, 31, 32, 32 * 77 + 5, PRIME - 1]
    middles = [16, 16, 48, 32 * 77 + 16, PRIME - 1]  # the prime is 1 more than a multiple of 32
    assert there_and_back(words, **CUT, prime=PRIME) == middles
    assert coefficients.rounding(5) == 16
    assert coefficients.rounding(0) == 0


@pytest.mark.parametrize("form", [WHOLE, CUT])
def test_none_is_beyond_the_prime(form: dict[str, int]) -> None:
    with pytest.raises(CiphertextError, match="a test has a coefficient beyond its prime"):
        there_and_back([0, PRIME, 0], **form, prime=PRIME - PRIME % 32)


def test_the_prime_itself_is_beyond_it() -> None:
    with pytest.raises(CiphertextError):
        there_and_back([PRIME], **WHOLE, prime=PRIME)
