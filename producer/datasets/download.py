"""Fetching a published file: all of it and the right one, or nothing."""

from __future__ import annotations

import hashlib
import http.client
import secrets
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import IO, BinaryIO

from shared.errors import DatasetError

TIMEOUT_S = 30.0
READ_BYTES = 1 << 16


def fetch(url: str, target: Path, *, sha256: str, limit_bytes: int) -> Path:
    """Download `url` to `target`, which appears only once it is complete and checked.

    Raises `DatasetError` that says what to download by hand and where to put it.
    """
    remedy = f"download it elsewhere and put it into {target.parent}"
    unfinished = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:  # noqa: S310 - our own URLs
            target.parent.mkdir(parents=True, exist_ok=True)
            with unfinished.open("xb") as file:
                digest = _copy(response, file, limit_bytes=limit_bytes)
        if digest != sha256:
            raise DatasetError(
                f"{url} gave a file with SHA-256 {digest}, not {sha256}", remedy=remedy
            )
        unfinished.replace(target)
    except (OSError, http.client.HTTPException) as error:
        cause = getattr(error, "reason", error)
        cause = getattr(cause, "strerror", None) or cause
        raise DatasetError(f"can't download {url}: {cause}", remedy=remedy) from error
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
    return target


def _copy(response: IO[bytes], file: BinaryIO, *, limit_bytes: int) -> str:
    """Write the answer to `file`; its SHA-256."""
    digest = hashlib.sha256()
    size = 0
    while piece := response.read(READ_BYTES):
        size += len(piece)
        if size > limit_bytes:
            raise OSError(f"the answer is over {limit_bytes:,} bytes")
        digest.update(piece)
        file.write(piece)
    return digest.hexdigest()
