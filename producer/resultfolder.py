"""Where a collection's files go: exact scores in one folder, what may be passed on in another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from producer import disk
from producer.runs import RunFolder
from shared.errors import RunError

PARTS = "parts"


def make_public(target: Path, run_folder: RunFolder) -> Path:
    """Make `target` for what is passed on; returns where exact scores are kept instead.

    Raises `RunError` for a folder that holds exact scores already.
    """
    if (target / PARTS).exists():
        raise RunError(
            f"{target} holds the exact scores of an earlier collect, which are not to be passed on",
            remedy="choose another folder with --out",
        )
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk.cannot_write(target, error) from error
    return run_folder.path / "collected"


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """A folder for decrypted scores, for one collection at a time. Raises `RunError`."""
    busy = RunError(f"another collect is writing to {folder}", remedy="wait for it, or use --out")
    try:
        (folder / PARTS).mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise disk.cannot_write(folder, error) from error
    with disk.held(folder / PARTS / "lock", busy):
        yield
