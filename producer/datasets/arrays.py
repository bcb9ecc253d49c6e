"""Rows and labels in numpy's arrays."""

from __future__ import annotations

import math
from collections.abc import Generator

from producer.datasets.stored import StoredArray
from producer.datasets.stream import Chunk, Labels
from producer.rows import StoredRows
from shared.errors import DatasetError
from shared.predictions import label_texts


class ArrayRows:
    """The rows of a numeric array of two or more dimensions, those after the first flattened."""

    bound = None
    has_labels = False

    def __init__(self, array: StoredArray, *, scale: float) -> None:
        if array.dtype.kind not in "biuf":
            raise DatasetError(
                f"{array.title} holds {array.dtype}, not real numbers",
                remedy="save it as a numeric array, for example with .astype(float)",
            )
        if len(array.shape) < 2 or 0 in array.shape:
            raise DatasetError(
                f"{array.title} has shape {array.shape}; (rows, features) is needed",
                remedy="reshape it, to (-1, 1) for one feature",
            )
        self._array = array
        self._scale = scale
        self.rows = array.shape[0]
        self.features = math.prod(array.shape[1:])

    def chunks(self, start: int, size: int) -> Generator[Chunk]:
        for piece in self._array.read(start, size):
            yield StoredRows(piece, self._scale), None


class ArrayLabels:
    """Labels in an array, one a row."""

    def __init__(self, array: StoredArray) -> None:
        if array.dtype.kind not in "biufSU" or math.prod(array.shape[1:]) != 1 or not array.shape:
            raise DatasetError(
                f"{array.title} has shape {array.shape} and type {array.dtype}: not one label a row"
            )
        self._array = array
        self.name = array.title
        self.count = array.shape[0]

    def chunks(self, start: int, size: int) -> Generator[Labels]:
        for piece in self._array.read(start, size):
            yield label_texts(piece[:, 0])
