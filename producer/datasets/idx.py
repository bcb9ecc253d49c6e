"""Files in the idx format of MNIST, gzip-compressed or not, read as a stream.

Format: two zero bytes, a type (8: unsigned bytes), the number of dimensions, each dimension as a
big-endian 32-bit integer, then the values, last dimension fastest (Yann LeCun's MNIST page).
"""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from shared.errors import DatasetError

UNSIGNED_BYTES = 8
GZIP_MAGIC = b"\x1f\x8b"
READ_BYTES = 1 << 20
MAX_ITEM_BYTES = 1 << 24
"""One item is the least that is read at a time."""


@dataclass(frozen=True, slots=True)
class IdxFile:
    """A checked idx file of unsigned bytes."""

    path: Path
    shape: tuple[int, ...]
    sha256: str
    """Of the whole file, decompressed."""

    @property
    def items(self) -> int:
        return self.shape[0]

    @property
    def item_bytes(self) -> int:
        return math.prod(self.shape[1:])

    def read(self, start: int, size: int) -> Iterator[npt.NDArray[np.uint8]]:
        """Items from `start` on, `size` at a time, shape (items, item bytes)."""
        with _opened(self.path) as stream:
            _skip(stream, 4 + 4 * len(self.shape) + start * self.item_bytes)
            for at in range(start, self.items, size):
                count = min(size, self.items - at)
                data = stream.read(count * self.item_bytes)
                if len(data) != count * self.item_bytes:
                    raise _damaged(self.path, "it has become shorter")
                yield np.frombuffer(data, dtype=np.uint8).reshape(count, self.item_bytes)


def open_idx(path: Path, *, dimensions: int) -> IdxFile:
    """Check a whole file, header, length and compression's checksums. Raises `DatasetError`."""
    with _opened(path) as stream:
        header = stream.read(4)
        expected = bytes([0, 0, UNSIGNED_BYTES, dimensions])
        if header != expected:
            found = header.hex() or "nothing"
            raise _damaged(path, f"it starts with {found}, not {expected.hex()}")
        sizes = stream.read(4 * dimensions)
        if len(sizes) != 4 * dimensions:
            raise _damaged(path, "its header is cut off")
        shape = struct.unpack(f">{dimensions}I", sizes)
        if 0 in shape or math.prod(shape[1:]) > MAX_ITEM_BYTES:
            raise _damaged(path, f"its header announces {' × '.join(map(str, shape))} bytes")
        digest = hashlib.sha256(header + sizes)
        length = 0
        while piece := stream.read(READ_BYTES):
            digest.update(piece)
            length += len(piece)
            if length > math.prod(shape):
                break
    if length != math.prod(shape):
        found = f"{length:,} bytes" if length < math.prod(shape) else "more"
        raise _damaged(path, f"its header announces {math.prod(shape):,} bytes, {found} follow")
    return IdxFile(path, shape, digest.hexdigest())


@contextmanager
def _opened(path: Path) -> Iterator[io.BufferedIOBase]:
    """The file's bytes, decompressed; errors of the file system and of gzip are translated."""
    try:
        with path.open("rb") as file:
            magic = file.read(len(GZIP_MAGIC))
            file.seek(0)
            if magic != GZIP_MAGIC:
                yield file
                return
            with gzip.open(file) as stream:
                yield stream
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _damaged(path, str(error) or "it is cut off") from error
    except OSError as error:
        raise DatasetError(f"can't read {path}: {error.strerror or error}") from error


def _skip(stream: io.BufferedIOBase, count: int) -> None:
    while count > 0:
        piece = stream.read(min(count, READ_BYTES))
        if not piece:
            return
        count -= len(piece)


def _damaged(path: Path, what: str) -> DatasetError:
    return DatasetError(
        f"{path} is not an intact idx file: {what}", remedy="delete it and download it again"
    )
