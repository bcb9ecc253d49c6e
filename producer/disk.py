"""Files that are whole or not there, and files that one process has to itself."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from shared.errors import BlindscoreError, RunError

UNFINISHED = ".unfinished"


@contextmanager
def whole(path: Path) -> Iterator[IO[bytes]]:
    """Write a file that takes its name, and the place of an older one, only once it is complete.

    A process that is killed leaves at most a file named `*.unfinished`, which nobody reads. Raises
    `RunError` for a disk that doesn't take it.
    """
    unfinished = path.with_name(path.name + UNFINISHED)
    try:
        with unfinished.open("wb") as file:
            yield file
        unfinished.replace(path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise cannot_write(path, error) from error
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


@contextmanager
def held(path: Path, refusal: BlindscoreError) -> Iterator[None]:
    """Have a lock file to oneself, or raise `refusal`.

    The system lets go of it when its holder ends, however that ends.
    """
    try:
        file = path.open("ab")
    except OSError as error:
        raise cannot_write(path, error) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise refusal from error
        yield


def cannot_write(path: Path, error: OSError) -> RunError:
    return RunError(f"can't write {path}: {error.strerror}", remedy="is there room and permission?")
