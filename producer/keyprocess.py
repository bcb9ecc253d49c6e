"""What runs in the processes of `producer.keypool`: each has a key, and ends with its parent."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading

from producer.rows import StoredRows
from producer.schemes import ClientKey, Encoding, Scores, client_scheme
from shared.errors import BlindscoreError

_key: ClientKey | BlindscoreError | None = None


def started() -> None:
    """The first thing a process has to do: nothing."""


def start(scheme: str, secret: bytes) -> None:
    """What a process begins with."""
    global _key  # noqa: PLW0603 - one key a process, set once
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        _key = client_scheme(scheme).load(secret)
    except BlindscoreError as error:
        _key = error  # each task tells of it; what is raised here would only break the pool


def _end_with_parent() -> None:
    """A killed parent tells its pool nothing, and processes with the secret would stay behind."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _own_key() -> ClientKey:
    if _key is None:
        raise BlindscoreError("this process was not given a key")
    if isinstance(_key, BlindscoreError):
        raise _key
    return _key


def encrypt(rows: StoredRows, encoding: Encoding) -> bytes:
    """A part of a body, with this process's key."""
    return encrypt_with(_own_key(), rows, encoding)


def decrypt(body: bytes, rows: int) -> Scores:
    """The scores in a body, with this process's key."""
    return decrypt_with(_own_key(), body, rows)


def encrypt_with(key: ClientKey, rows: StoredRows, encoding: Encoding) -> bytes:
    """The same, in any process."""
    return b"".join(key.encrypt(rows.rows, encoding))


def decrypt_with(key: ClientKey, body: bytes, rows: int) -> Scores:
    """The same, in any process."""
    return key.decrypt(body, rows=rows)
