"""A data set as a stream of blocks: memory stays flat however large it is."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from producer.rows import Rows, StoredRows
from shared.errors import DatasetError

Labels = npt.NDArray[np.str_]
"""Shape (rows,); as text, see `shared.predictions.label_text`."""

Chunk = tuple[StoredRows, Labels | None]

MEASURED_VALUES = 1 << 20
"""How many values a pass over the data set holds at a time."""


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive rows of a data set, with their labels where it has any."""

    first_row: int
    stored: StoredRows
    labels: Labels | None

    @property
    def rows(self) -> Rows:
        """As doubles, made on each use."""
        return self.stored.rows


class Source(Protocol):
    """Where a data set's rows come from. Each call of `chunks` reads it again."""

    @property
    def features(self) -> int: ...
    @property
    def rows(self) -> int | None:
        """None where only reading it all would tell."""
        ...

    @property
    def has_labels(self) -> bool: ...
    @property
    def bound(self) -> float | None:
        """Every |x| is at most this, where that is known without reading."""
        ...

    def chunks(self, start: int, size: int) -> Generator[Chunk]:
        """All rows from `start` on, `size` at a time, the last chunk perhaps fewer.

        Raises `DatasetError`, naming the place.
        """
        ...


class Dataset:
    """A data set, or its first `limit` rows."""

    def __init__(
        self, source: Source, *, name: str, spec: Mapping[str, Any], limit: int | None = None
    ) -> None:
        self.name = name
        self.spec: dict[str, Any] = dict(spec)
        """JSON-able: `producer.datasets.reopen` gives the same data set."""
        self._source = source
        self._limit = limit

    @property
    def features(self) -> int:
        return self._source.features

    @property
    def rows(self) -> int | None:
        """How many; None where only reading them all would tell (tables)."""
        known = self._source.rows
        return known if self._limit is None or known is None else min(known, self._limit)

    @property
    def has_labels(self) -> bool:
        return self._source.has_labels

    @cached_property
    def input_bound(self) -> float:
        """Every |x| is at most this: by construction, else from one pass over the rows.

        Positive, also for rows of zeros. Raises `DatasetError`.
        """
        if self._source.bound is not None:
            return self._source.bound
        blocks = self.blocks(max(1, MEASURED_VALUES // self.features))
        extremes = (abs(value) for block in blocks for value in block.stored.extremes)
        return max(extremes, default=0.0) or 1.0

    def blocks(self, rows_per_block: int, *, skip: int = 0) -> Generator[Block]:
        """The rows from `skip` on, in order; every block but the last has `rows_per_block`.

        Raises `DatasetError` for what can't be read, and for values that are not finite.
        """
        if rows_per_block < 1 or skip < 0:
            raise ValueError(f"blocks of {rows_per_block} rows from row {skip} on")
        first_row = skip
        with closing(self._source.chunks(skip, rows_per_block)) as chunks:
            for rows, labels in chunks:
                left = len(rows) if self._limit is None else self._limit - first_row
                if left <= 0:
                    return
                names = labels[:left] if labels is not None else None
                block = Block(first_row, rows.head(left), names)
                self._check(block)
                yield block
                first_row += len(block.stored)

    def _check(self, block: Block) -> None:
        if np.isfinite(block.stored.extremes).all():
            return
        rows = block.rows
        row, column = np.argwhere(~np.isfinite(rows))[0]
        raise DatasetError(
            f"{self.name}: row {block.first_row + row}, feature {column} (counted from 0) is "
            f"{rows[row, column]}",
            remedy="replace or drop values that are not finite",
        )
