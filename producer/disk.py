"""Files that are whole or not there, and files that one process has to itself."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from shared.errors import BlindscoreError

UNFINISHED = ".unfinished"


@contextmanager
def whole(path: Path) -> Iterator[IO[bytes]]:
    """Write a file that takes its name, and the place of an older one, only once it is complete.

    A process that is killed leaves at most a file named `*.unfinished`, which nobody reads.
    """
    unfinished = path.with_name(path.name + UNFINISHED)
    try:
        with unfinished.open("wb") as file:
            yield file
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


@contextmanager
def held(path: Path, refusal: BlindscoreError) -> Iterator[None]:
    """Have a lock file to oneself, or raise `refusal`.

    The system lets go of it when its holder ends, however that ends.
    """
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise refusal from error
        yield
