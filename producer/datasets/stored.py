"""numpy's files as streams: `.npy`, and the arrays in an `.npz`. Pickled objects are never loaded.

Arrays stored row by row are read in pieces. Those stored column by column (what pandas often
gives) are mapped, an `.npz` member by way of an unnamed temporary file.
"""

from __future__ import annotations

import lzma
import math
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from shared.errors import DatasetError

ROWS_NAMES = ("x", "X", "data", "images")
LABELS_NAMES = ("y", "labels", "target")

READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class StoredArray:
    """An array in a file: its header is read and its length checked, its values are not read yet.

    Errors name it by `title`.
    """

    path: Path
    member: str | None
    """Of an `.npz`; None for an `.npy`."""
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    by_column: bool
    offset: int
    """Bytes of header before the values."""

    @property
    def title(self) -> str:
        return _title(self.path, self.member)

    def read(self, start: int, size: int) -> Iterator[npt.NDArray[Any]]:
        """Rows from `start` on, `size` at a time, shape (rows, values). Raises `DatasetError`."""
        with _opened(self.path, self.member) as stream:
            pieces = self._mapped if self.by_column else self._streamed
            for rows in pieces(stream, start, size):
                yield rows.reshape(rows.shape[0], -1)

    def _streamed(self, stream: IO[bytes], start: int, size: int) -> Iterator[npt.NDArray[Any]]:
        row_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
        stream.seek(self.offset + start * row_bytes)
        for at in range(start, self.shape[0], size):
            count = min(size, self.shape[0] - at)
            data = stream.read(count * row_bytes)
            if len(data) != count * row_bytes:
                raise EOFError(f"it ends within the rows from {at} on")
            yield np.frombuffer(data, dtype=self.dtype).reshape(count, *self.shape[1:])

    def _mapped(self, stream: IO[bytes], start: int, size: int) -> Iterator[npt.NDArray[Any]]:
        with nullcontext(stream) if self.member is None else tempfile.TemporaryFile() as file:
            if self.member is not None:
                shutil.copyfileobj(stream, file, READ_BYTES)
                file.flush()
            for at in range(start, self.shape[0], size):
                # mapped anew for each piece, so that the pages of the last one are let go
                values = np.memmap(
                    file, self.dtype, mode="r", offset=self.offset, shape=self.shape, order="F"
                )
                yield np.array(values[at : at + size], order="C")


def open_npy(path: Path) -> StoredArray:
    """The array of an `.npy` file. Raises `DatasetError`."""
    return _open(path, None, path_bytes(path))


def open_npz(path: Path) -> tuple[StoredArray, StoredArray | None]:
    """Rows and labels of an `.npz` file: by their usual names, or the only array there is.

    Raises `DatasetError`, naming the arrays when it is not clear which holds the rows.
    """
    with _translated(path, None), zipfile.ZipFile(path) as archive:
        members = {
            info.filename.removesuffix(".npy"): info
            for info in archive.infolist()
            if info.filename.endswith(".npy")
        }
    labels = next((name for name in LABELS_NAMES if name in members), None)
    others = [name for name in members if name != labels]
    rows = next((name for name in ROWS_NAMES if name in members), None)
    if rows is None:
        if len(others) != 1:
            raise DatasetError(
                f"{path} holds the arrays {', '.join(members) or '(none)'}",
                remedy=f"name the one with the rows {ROWS_NAMES[0]}, labels {LABELS_NAMES[0]}",
            )
        rows = others[0]
    return (
        _open(path, rows, members[rows].file_size),
        _open(path, labels, members[labels].file_size) if labels else None,
    )


def path_bytes(path: Path) -> int:
    """A file's size. Raises `DatasetError`."""
    try:
        return path.stat().st_size
    except OSError as error:
        raise DatasetError(f"can't read {path}: {error.strerror}") from error


def _open(path: Path, member: str | None, length: int) -> StoredArray:
    with _opened(path, member) as stream:
        shape, by_column, dtype = _header(stream)
        array = StoredArray(path, member, shape, dtype, by_column and len(shape) > 1, stream.tell())
    if dtype.hasobject:
        raise DatasetError(
            f"{array.title} holds Python objects, which only unpickling could load",
            remedy="save it as a numeric array, for example with .astype(float)",
        )
    announced = array.offset + math.prod(shape) * dtype.itemsize
    if length != announced:
        raise DatasetError(
            f"{array.title} is damaged: {length:,} bytes, its header announces {announced:,}",
            remedy="save or download it again",
        )
    return array


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether it is stored by column, and type."""
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        header = np.lib.format.read_array_header_1_0(stream)
    elif version == (2, 0):
        header = np.lib.format.read_array_header_2_0(stream)
    else:
        raise ValueError(f"version {version} of the format is for structured arrays only")
    if any(size < 0 for size in header[0]):
        raise ValueError(f"its header announces the shape {header[0]}")
    return header


@contextmanager
def _opened(path: Path, member: str | None) -> Iterator[IO[bytes]]:
    """A stream over the file or the archive's member, foreign errors translated."""
    with _translated(path, member):
        if member is None:
            with path.open("rb") as file:
                yield file
        else:
            with zipfile.ZipFile(path) as archive, archive.open(f"{member}.npy") as stream:
                yield stream


@contextmanager
def _translated(path: Path, member: str | None) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DatasetError(f"can't read {path}: {error.strerror or error}") from error
    except (
        EOFError,
        KeyError,
        NotImplementedError,
        RuntimeError,
        ValueError,
        lzma.LZMAError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise DatasetError(
            f"{_title(path, member)} is damaged, or of another format: {error}",
            remedy="save or download it again",
        ) from error


def _title(path: Path, member: str | None) -> str:
    return str(path) if member is None else f"{path}, array {member!r},"
