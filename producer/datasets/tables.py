"""Tables of numbers in text: `.csv`, comma-separated, with or without a header line."""

from __future__ import annotations

import csv
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TextIO

import numpy as np
import numpy.typing as npt

from producer.datasets.stream import Chunk, Labels
from producer.rows import StoredRows
from shared.errors import DatasetError
from shared.predictions import label_texts

MAX_LINE_CHARACTERS = 16 << 20
HEADERS_OF_LABELS = frozenset(("label", "labels", "y", "target", "class"))

Record = tuple[int, list[str]]
"""Line number (from 1) and cells."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What a table's first line says of the others."""

    columns: int
    has_header: bool
    label: int | None
    """Index of the column of labels."""


class Table:
    """A table's rows. A first line without any number in it is a header, and so is 0, 1, 2, …"""

    bound = None
    rows = None

    def __init__(self, path: Path, *, label_column: str | None, scale: float) -> None:
        first = next(_records(path), None)
        if first is None:
            raise DatasetError(f"{path} is empty")
        self._path = path
        self._scale = scale
        self._layout = _layout(path, first, label_column)
        self.has_labels = self._layout.label is not None
        self.features = self._layout.columns - self.has_labels
        if self.features == 0:
            raise DatasetError(f"{path} has no column besides the labels")
        if next(islice(_records(path), self._layout.has_header, None), None) is None:
            raise DatasetError(f"{path} has a header and no rows")

    def chunks(self, start: int, size: int) -> Generator[Chunk]:
        with closing(_records(self._path)) as records:
            data = islice(records, start + self._layout.has_header, None)
            while parsed := [self._parse(record) for record in islice(data, size)]:
                rows = np.stack([values for values, _ in parsed])
                labels = label_texts([label for _, label in parsed]) if self.has_labels else None
                yield StoredRows(rows, self._scale), labels

    def _parse(self, record: Record) -> tuple[npt.NDArray[np.float64], str]:
        """One row's values, and its label (empty where the table has none)."""
        line, cells = record
        if len(cells) != self._layout.columns:
            raise DatasetError(
                f"{self._path}, line {line}: {len(cells)} columns, not {self._layout.columns} as "
                "in the first line"
            )
        label = ""
        if self._layout.label is not None:
            label = cells.pop(self._layout.label).strip()
            if not label:
                raise DatasetError(f"{self._path}, line {line}: the label is empty")
        try:
            return np.array([float(cell) for cell in cells]), label
        except ValueError as error:
            wrong = next(cell for cell in cells if not _is_number(cell))
            raise DatasetError(
                f"{self._path}, line {line}: {wrong[:40]!r} is not a number",
                remedy="name a column of labels with --label-column",
            ) from error


class LabelLines:
    """A file with one label a line; a first line `label` (or `y`, `target`, `class`) is skipped."""

    count = None

    def __init__(self, path: Path) -> None:
        first = next(_records(path), None)
        if first is None:
            raise DatasetError(f"{path} is empty")
        self.name = str(path)
        self._path = path
        self._has_header = first[1][0].strip().lower() in HEADERS_OF_LABELS

    def chunks(self, start: int, size: int) -> Generator[Labels]:
        with closing(_records(self._path)) as records:
            lines = islice(records, start + self._has_header, None)
            while labels := [self._label(record) for record in islice(lines, size)]:
                yield label_texts(labels)

    def _label(self, record: Record) -> str:
        line, cells = record
        if len(cells) != 1 or not cells[0].strip():
            raise DatasetError(f"{self._path}, line {line}: not one label")
        return cells[0].strip()


def _layout(path: Path, first: Record, label_column: str | None) -> Layout:
    """Decide what the first line is. Raises `DatasetError` when it is neither header nor row."""
    line, cells = first
    names = [cell.strip() for cell in cells]
    label = _label_index(path, names, label_column)
    values = [name for index, name in enumerate(names) if index != label]
    numbers = sum(map(_is_number, values))
    counted = len(values) > 1 and values == [str(index) for index in range(len(values))]
    named = label is not None and label_column == names[label]
    if 0 < numbers < len(values) and not named:
        wrong = next(value for value in values if not _is_number(value))
        raise DatasetError(
            f"{path}, line {line}: {wrong[:40]!r} is not a number, and others are: neither a "
            "header nor a row",
            remedy="name a column of labels with --label-column",
        )
    return Layout(len(cells), has_header=named or counted or numbers == 0, label=label)


def _label_index(path: Path, names: list[str], label_column: str | None) -> int | None:
    """Where the labels are: the column of that name, else of that number (-1 is the last)."""
    if label_column is None:
        return None
    if label_column in names and not _is_number(label_column):
        return names.index(label_column)
    try:
        return range(len(names))[int(label_column)]
    except (ValueError, IndexError) as error:
        raise DatasetError(
            f"{path} has no column {label_column!r}",
            remedy=f"a number below {len(names)}, or one of: {', '.join(names)[:200]}",
        ) from error


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _records(path: Path) -> Generator[Record]:
    """The lines of a table that aren't blank. Raises `DatasetError`, with the line's number."""
    reader = None
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(_lines(path, file))
            for cells in reader:
                if cells:
                    yield reader.line_num, cells
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is not text in UTF-8", remedy="save it as UTF-8") from error
    except csv.Error as error:
        line = reader.line_num if reader else 1
        raise DatasetError(f"{path}, line {line}: {error}") from error
    except OSError as error:
        raise DatasetError(f"can't read {path}: {error.strerror or error}") from error


def _lines(path: Path, file: TextIO) -> Iterator[str]:
    """Lines of bounded length: a file without line ends must not be read as one."""
    while line := file.readline(MAX_LINE_CHARACTERS):
        if len(line) == MAX_LINE_CHARACTERS:
            raise DatasetError(f"{path} has a line of over {MAX_LINE_CHARACTERS:,} characters")
        yield line
