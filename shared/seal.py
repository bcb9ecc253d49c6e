"""SEAL's serialised objects: a strict look at the header, and load and save without disk.

Every SEAL object starts with 16 bytes, little endian (SEAL 4.1, native/src/seal/serialization.h):
u16 magic 0xA15E, u8 header size 16, u8 major, u8 minor, u8 compression, u16 reserved, u64 size.
`tenseal.sealapi` loads and saves by file path only; a memfd gives it a path that is memory.
"""

from __future__ import annotations

import atexit
import os
import struct
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
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
        nameless = _memory_file() or _nameless_file()
        self.fd, self.path = nameless or _named_file()
        self.may_stay = nameless is None

    def clear(self, *, secret: bool) -> None:
        """Leave nothing of a secret behind. Zeros first: a disk keeps what is only cut off.

        In a file that may outlive its process, anything may be one: a fresh encryption of zero
        tells what was added to it later.
        """
        if not secret and not self.may_stay:
            return
        size = os.fstat(self.fd).st_size
        os.pwrite(self.fd, bytes(size), 0)
        os.ftruncate(self.fd, 0)


def _memory_file() -> tuple[int, str] | None:
    if not hasattr(os, "memfd_create"):
        return None
    fd = os.memfd_create("seal")
    return fd, f"/proc/self/fd/{fd}"


def _nameless_file() -> tuple[int, str] | None:
    """A temporary file without a name, so that the system removes it with this process.

    It needs a system on which opening /dev/fd/N is opening the file again. On others that is a
    duplicate of N, with its position: then the second of two writes does not begin at the start.
    """
    fd, name = tempfile.mkstemp(prefix="seal-")
    try:
        Path(name).unlink()
        path = f"/dev/fd/{fd}"
        for _ in range(2):
            Path(path).write_bytes(b"probe")
        if os.pread(fd, 16, 0) == b"probe":
            return fd, path
    except OSError:
        pass  # a name that can't be removed while it is open, or no /dev/fd: not on this system
    os.close(fd)
    Path(name).unlink(missing_ok=True)
    return None


def _named_file() -> tuple[int, str]:
    """A temporary file, removed when this process ends in an orderly way.

    A process of a pool does not: an empty file is what it leaves.
    """
    fd, name = tempfile.mkstemp(prefix="seal-")
    atexit.register(_remove, fd, name)
    return fd, name


def _remove(fd: int, name: str) -> None:
    os.close(fd)
    Path(name).unlink(missing_ok=True)


_scratch = _Scratch()


def _after_fork() -> None:
    """A child has a file of its own: in its parent's, both would write over each other's objects.

    Only the thread that forked is there, so only its file is.
    """
    global _scratch  # noqa: PLW0603 - a process has one
    os.close(_scratch.fd)
    _scratch = _Scratch()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def save(obj: Savable, *, secret: bool = False) -> bytes:
    """Serialise a SEAL object (zstd-compressed, as `sealapi` does).

    With `secret`, its bytes don't stay behind in this module.
    """
    fd = _scratch.fd
    os.ftruncate(fd, 0)
    try:
        obj.save(_scratch.path)
        return os.pread(fd, os.fstat(fd).st_size, 0)
    finally:
        _scratch.clear(secret=secret)


def load(
    obj: Any, context: Any, data: bytes | memoryview, *, what: str, secret: bool = False
) -> Any:
    """Fill a SEAL object from bytes, with SEAL's own validation; returns it.

    With `secret`, they don't stay behind in this module: not for every object, as the pages that
    are given back cost a third of loading one. Raises `CiphertextError` naming `what` when the
    header is wrong, when bytes are left over, or when SEAL refuses the object.
    """
    if parse_header(data, what=what).size != len(data):
        raise CiphertextError(f"{what} has bytes after its end")
    fd = _scratch.fd
    try:
        os.pwrite(fd, data, 0)
        os.ftruncate(fd, len(data))  # in this order the file keeps its pages
        obj.load(context, _scratch.path)
    except (RuntimeError, ValueError, OverflowError, MemoryError) as error:
        raise CiphertextError(f"{what} was refused by SEAL: {error}") from error
    finally:
        _scratch.clear(secret=secret)
    return obj
