"""The native library of `encrypted-inference` 0.9, called without the SDK's per-byte loops.

Its functions release the GIL and return an HRESULT. They end the process on objects that they
can't load: pass nothing that `shared.ei` has not checked.
"""

from __future__ import annotations

import ctypes
from typing import Any

from shared.errors import BlindscoreError, UsageError

try:
    from encrypted.inference.internal.einative import _einative as library
except (ImportError, OSError) as error:
    raise UsageError(
        f"the encrypted-inference 0.9 library can't be loaded: {error}",
        remedy="it exists for Linux and Windows on x86-64 only, and writes itself into "
        "site-packages when it is imported for the first time",
    ) from error

__all__ = ["Bytes", "Doubles", "NativeError", "call", "library", "pointer_to"]

Bytes = ctypes.POINTER(ctypes.c_byte)
Doubles = ctypes.POINTER(ctypes.c_double)


class NativeError(BlindscoreError):
    """A native function returned an error code."""

    code = "native"


def call(name: str, *arguments: Any) -> None:
    """Call a native function. Raises `NativeError`."""
    status = getattr(library, name)(*arguments)
    if status != 0:
        raise NativeError(f"{name} failed with 0x{status & 0xFFFFFFFF:08X}")


def pointer_to(data: bytes) -> Any:
    """The bytes' own memory, not copied; `data` must outlive its use."""
    return ctypes.cast(ctypes.c_char_p(data), Bytes)
