"""Plaintext rows, on their way from a data set to encryption.

They travel as narrow as they are stored (an eighth of the bytes, for pixels), and become doubles
where they are used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.float64]
"""Shape (rows, features)."""


@dataclass(frozen=True, slots=True, repr=False)
class StoredRows:
    """Rows as their source has them: `values`, of any real type, divided by `scale`."""

    values: npt.NDArray[Any]
    """Shape (rows, features)."""
    scale: float = 1.0

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        return f"StoredRows(shape={self.values.shape}, dtype={self.values.dtype})"

    @property
    def rows(self) -> Rows:
        """The rows themselves, made on each use."""
        rows = np.asarray(self.values, dtype=np.float64)
        return rows if self.scale == 1.0 else rows / self.scale

    @property
    def extremes(self) -> tuple[float, float]:
        """The least and the largest value of the rows; NaN where one of them is."""
        return float(self.values.min()) / self.scale, float(self.values.max()) / self.scale

    def head(self, count: int) -> StoredRows:
        """The first `count` rows, or as many as there are."""
        return StoredRows(self.values[:count], self.scale)

    def columns(self, columns: range | None) -> StoredRows:
        """Some neighbouring features of all rows (a view); None for all of them."""
        if columns is None:
            return self
        return StoredRows(self.values[:, columns.start : columns.stop], self.scale)
