"""Reading one key file: whose it is, and what it is, before anything in it is believed."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from producer.keyrecord import KeyRecord
from shared.errors import SecretKeyError

SUFFIX = ".key"
MAX_FILE_BYTES = 1 << 20


def read(path: Path) -> KeyRecord:
    """What a key file says. Raises `SecretKeyError`."""
    try:
        # without O_NONBLOCK, a pipe of that name would be waited for
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            mode = os.fstat(descriptor).st_mode
            data = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError as error:
        raise SecretKeyError(
            f"no secret key {path.name.removesuffix(SUFFIX)} in {path.parent}",
            remedy="copy its file there, or make one with `blindscore keygen`",
        ) from error
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise is_a_link(path) from error
        raise SecretKeyError(f"can't read {path}: {error.strerror}") from error
    if mode & 0o077:
        raise SecretKeyError(
            f"secret key {path} can be read by others (mode {mode & 0o777:03o})",
            remedy=f"chmod 600 {path}",
        )
    if len(data) > MAX_FILE_BYTES:
        raise SecretKeyError(f"{path} is too large to be a blindscore key file")
    record = KeyRecord.decode(data, source=str(path))
    if path.name != f"{record.key_id}{SUFFIX}":
        raise SecretKeyError(
            f"{path} holds key {record.key_id}", remedy=f"rename it {record.key_id}{SUFFIX}"
        )
    return record


def is_a_link(path: Path) -> SecretKeyError:
    """Why a key file that is a link is refused."""
    return SecretKeyError(
        f"{path} is a link to {os.path.realpath(path)}", remedy=f"move the key itself there: {path}"
    )
