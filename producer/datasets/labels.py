"""Labels that come beside the rows: a second array, or a file of their own."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import Protocol

from producer.datasets.arrays import ArrayLabels
from producer.datasets.stored import open_npy
from producer.datasets.stream import Chunk, Labels, Source
from producer.datasets.tables import LabelLines
from shared.errors import DatasetError, UsageError


class LabelSource(Protocol):
    """Labels in the order of their rows."""

    name: str

    @property
    def count(self) -> int | None: ...
    def chunks(self, start: int, size: int) -> Generator[Labels]: ...


class Labelled:
    """Rows from one source, labels from another."""

    has_labels = True

    def __init__(self, rows: Source, labels: LabelSource) -> None:
        if rows.rows is not None and labels.count is not None and rows.rows != labels.count:
            raise DatasetError(f"{labels.name} has {labels.count:,} labels for {rows.rows:,} rows")
        self._rows = rows
        self._labels = labels
        self.rows = rows.rows
        self.features = rows.features
        self.bound = rows.bound

    def chunks(self, start: int, size: int) -> Generator[Chunk]:
        at = start
        with (
            closing(self._labels.chunks(start, size)) as labels,
            closing(self._rows.chunks(start, size)) as chunks,
        ):
            for rows, _ in chunks:
                texts = next(labels, None)
                if texts is None or len(texts) < len(rows):
                    raise self._too_few(at + (0 if texts is None else len(texts)))
                at += len(rows)
                if len(texts) > len(rows):
                    raise self._surplus(at)
                yield rows, texts
            if next(labels, None) is not None:
                raise self._surplus(at)

    def _too_few(self, labels: int) -> DatasetError:
        return DatasetError(f"{self._labels.name} ends after {labels:,} labels, rows go on")

    def _surplus(self, rows: int) -> DatasetError:
        return DatasetError(f"{self._labels.name} has more labels than there are rows ({rows:,})")


def open_labels(path: Path) -> LabelSource:
    """A file of labels: `.npy`, or `.csv` and `.txt` with one a line. Raises `DatasetError`."""
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return ArrayLabels(open_npy(path))
    if suffix in (".csv", ".txt"):
        return LabelLines(path)
    raise UsageError(f"{path} is not a file of labels", remedy="one of .npy, .csv or .txt")
