"""scikit-learn's digits: 1,797 images of 8 × 8, built in."""

from __future__ import annotations

import hashlib
from collections.abc import Generator

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_digits

from producer.datasets.stream import Chunk
from producer.rows import StoredRows
from shared.errors import UsageError
from shared.predictions import label_texts

LARGEST_PIXEL = 16.0
TRAIN_SHARE = 0.7


class Digits:
    """A split of the digits, pixels scaled to [0, 1]."""

    bound = 1.0
    has_labels = True

    def __init__(self, split: str) -> None:
        pixels, digits = load_digits(return_X_y=True)
        chosen = split_rows(len(digits), split)
        self._pixels = pixels[chosen]
        self._labels = label_texts(digits[chosen])
        self.rows = len(chosen)
        self.features = int(pixels.shape[1])

    def chunks(self, start: int, size: int) -> Generator[Chunk]:
        for at in range(start, self.rows, size):
            pixels = StoredRows(self._pixels[at : at + size], LARGEST_PIXEL)
            yield pixels, self._labels[at : at + size]


def split_rows(count: int, split: str) -> npt.NDArray[np.intp]:
    """Which of `count` rows belong to a split: `train` (70 %), `test` (the rest) or `all`.

    Rows are dealt by a hash of their number: the same on every machine and for every version of
    numpy, so that a model trained at set-up is always tested on rows that it has not seen.
    """
    order = sorted(range(count), key=lambda row: hashlib.sha256(f"row {row}".encode()).digest())
    cut = int(TRAIN_SHARE * count)
    parts = {"train": order[:cut], "test": order[cut:], "all": list(range(count))}
    if split not in parts:
        raise UsageError(f"unknown split {split!r}", remedy=f"one of {', '.join(parts)}")
    return np.array(parts[split], dtype=np.intp)
