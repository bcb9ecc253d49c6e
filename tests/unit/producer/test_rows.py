"""Rows travel as they are stored, and are used as doubles."""

from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from producer.rows import StoredRows

PIXELS = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10


@pytest.mark.parametrize("dtype", [np.uint8, np.bool_, np.int64, np.float32, np.dtype(">f4")])
def test_rows_are_the_values_over_the_scale(dtype: npt.DTypeLike) -> None:
    values: npt.NDArray[Any] = PIXELS.astype(dtype)
    stored = StoredRows(values, scale=255.0)
    assert len(stored) == 4
    assert stored.rows.dtype == np.float64
    assert np.array_equal(stored.rows, values.astype(np.float64) / 255)
    assert stored.extremes == (stored.rows.min(), stored.rows.max())
    assert np.array_equal(stored.head(3).rows, stored.rows[:3])
    assert np.array_equal(stored.columns(range(2, 5)).rows, stored.rows[:, 2:5])
    assert stored.columns(None) is stored


def test_doubles_are_not_copied() -> None:
    values = np.ones((2, 3))
    assert StoredRows(values).rows is values


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_extremes_tell_of_values_that_are_not_finite(odd: float) -> None:
    values = np.ones((2, 3))
    values[1, 1] = odd
    assert not np.isfinite(StoredRows(values).extremes).all()


def test_extremes_tell_of_a_scale_that_makes_values_infinite() -> None:
    assert not np.isfinite(StoredRows(np.full((1, 1), 1e10), scale=1e-300).extremes).all()


def test_pixels_go_to_another_process_as_bytes() -> None:
    wide = StoredRows(np.zeros((100, 400), dtype=np.uint8), scale=255.0)
    pickled = pickle.dumps(wide.columns(range(100, 300)))
    assert len(pickled) < 100 * 200 + 1000
    assert pickle.loads(pickled).rows.shape == (100, 200)


def test_what_is_logged_shows_no_row() -> None:
    assert repr(StoredRows(PIXELS)) == "StoredRows(shape=(4, 6), dtype=uint8)"
