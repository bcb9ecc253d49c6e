"""Where the socket goes over which evaluators are started: the one file that is written."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from shared.errors import UsageError

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - files in it are made for their owner alone
"""In memory; containers have it even where their root file system is read-only."""


def find_scratch_folder() -> None:
    """Have temporary files made where they can be. Raises `UsageError` where they nowhere can."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError as error:
        if not os.access(SHARED_MEMORY, os.W_OK | os.X_OK):
            raise UsageError(
                "no folder for temporary files is writable",
                remedy="mount an empty one at /tmp; a few kilobytes will do",
            ) from error
        tempfile.tempdir = str(SHARED_MEMORY)
