"""SEAL's serialised objects: a strict look at the header, and load and save without disk.

Every SEAL object starts with 16 bytes, little endian (SEAL 4.1, native/src/seal/serialization.h):
u16 magic 0xA15E, u8 header size 16, u8 major, u8 minor, u8 compression, u16 reserved, u64 size.
`tenseal.sealapi` loads and saves by file path only; a memfd gives it a path that is memory.
"""

from __future__ import annotations

import os
import struct
import tempfile
import threading
from dataclasses import dataclass
from typing import Any, Protocol

from shared.errors import CiphertextError

HEADER = struct.Struct("<HBBBBHQ")
MAGIC = 0xA15E
COMPRESSION_NONE, COMPRESSION_ZLIB, COMPRESSION_ZSTD = 0, 1, 2


class Savable(Protocol):
    """A SEAL object, or its seeded `Serializable` form."""

    def save(self, path: str, /) -> None: ...


@dataclass(frozen=True, slots=True)
class SealHeader:
    """The first 16 bytes of a SEAL object. `size` counts them too."""

    major: int
    minor: int
    compression: int
    size: int

    def pack(self) -> bytes:
        return HEADER.pack(
            MAGIC, HEADER.size, self.major, self.minor, self.compression, 0, self.size
        )


def parse_header(data: bytes | memoryview, *, what: str) -> SealHeader:
    """Read and check the header of the SEAL object that `data` starts with.

    Raises `CiphertextError` for anything but a plausible header whose size `data` can hold.
    """
    if len(data) < HEADER.size:
        raise CiphertextError(f"{what} is too short to be a SEAL object")
    magic, header_size, major, minor, compression, reserved, size = HEADER.unpack_from(data)
    if magic != MAGIC or header_size != HEADER.size or reserved != 0:
        raise CiphertextError(f"{what} is not a SEAL object")
    if compression not in (COMPRESSION_NONE, COMPRESSION_ZLIB, COMPRESSION_ZSTD):
        raise CiphertextError(f"{what} has an unknown compression ({compression})")
    if not HEADER.size < size <= len(data):
        raise CiphertextError(f"{what} has {len(data)} bytes, its header says {size}")
    return SealHeader(major, minor, compression, size)


class _Scratch(threading.local):
    """One in-memory file a thread, reused: SEAL reads and writes it by path."""

    def __init__(self) -> None:
        if hasattr(os, "memfd_create"):
            self.fd = os.memfd_create("seal")
            self.path = f"/proc/self/fd/{self.fd}"
        else:
            self.fd, self.path = tempfile.mkstemp(prefix="seal-")


_scratch = _Scratch()


def save(obj: Savable) -> bytes:
    """Serialise a SEAL object (zstd-compressed, as `sealapi` does)."""
    fd = _scratch.fd
    os.ftruncate(fd, 0)
    obj.save(_scratch.path)
    return os.pread(fd, os.fstat(fd).st_size, 0)


def load(obj: Any, context: Any, data: bytes | memoryview, *, what: str) -> Any:
    """Fill a SEAL object from bytes, with SEAL's own validation; returns it.

    Raises `CiphertextError` naming `what` when the header is wrong, when bytes are left over,
    or when SEAL refuses the object.
    """
    if parse_header(data, what=what).size != len(data):
        raise CiphertextError(f"{what} has bytes after its end")
    fd = _scratch.fd
    os.pwrite(fd, data, 0)
    os.ftruncate(fd, len(data))  # in this order the file keeps its pages
    try:
        obj.load(context, _scratch.path)
    except (RuntimeError, ValueError, OverflowError, MemoryError) as error:
        raise CiphertextError(f"{what} was refused by SEAL: {error}") from error
    return obj
