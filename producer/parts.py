"""Decrypted scores on disk, one file a job: collecting can be killed, and goes on from them.

    parts/{run}/run.json                              of which run they are
    parts/{run}/{job}.{tag}.{rows}x{classes}.scores   a job's scores, row by row, as little-endian
                                                      doubles; the tag names the blob they are from

Files are written whole or not at all, and never read for another run or another result. They are
bare numbers because there may be a hundred thousand of them: numpy's own format takes ten times
as long to open.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from producer import disk
from producer.schemes import Scores
from shared.errors import RunError
from shared.messages import Manifest
from shared.ports import BlobInfo

DOUBLE = np.dtype("<f8")

_NAME = re.compile(r"([0-9]+)\.([0-9a-f]{16})\.([0-9]+)x([0-9]+)\.scores")


@dataclass(frozen=True, slots=True)
class Part:
    """A job's scores: where, and of which shape."""

    name: str
    rows: int
    classes: int


class Parts:
    """One run's parts."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        """Open the parts below a folder of results, or begin them.

        Raises `RunError` when they are of another run of that name.
        """
        self._folder = folder / "parts" / manifest.run
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise disk.cannot_write(self._folder, error) from error
        self._bind(manifest)
        self._names = dict(self._existing())

    def find(self, job: str, blob: BlobInfo) -> Part | None:
        """The scores that were decrypted from this blob, if they are here and whole."""
        name = self._names.get(job, "")
        match = _NAME.fullmatch(name)
        if match is None or match[2] != _tag(blob):
            return None
        part = Part(name, rows=int(match[3]), classes=int(match[4]))
        try:
            size = (self._folder / name).stat().st_size
        except FileNotFoundError:
            return None
        return part if size == part.rows * part.classes * DOUBLE.itemsize else None

    def write(self, job: str, blob: BlobInfo, scores: Scores) -> Part:
        """Keep scores of shape (rows, classes), in place of those of an earlier blob."""
        rows, classes = scores.shape
        name = f"{job}.{_tag(blob)}.{rows}x{classes}.scores"
        with disk.whole(self._folder / name) as file:
            file.write(scores.astype(DOUBLE).tobytes())
        earlier = self._names.get(job, name)
        if earlier != name:
            (self._folder / earlier).unlink(missing_ok=True)
        self._names[job] = name
        return Part(name, rows, classes)

    def read(self, part: Part) -> Scores:
        """Scores of shape (rows, classes). Raises `RunError`."""
        path = self._folder / part.name
        try:
            values = np.fromfile(path, dtype=DOUBLE)
            return values.astype(np.float64, copy=False).reshape(part.rows, part.classes)
        except (OSError, ValueError) as error:
            raise RunError(f"can't read {path}", remedy="remove it, and collect again") from error

    def _bind(self, manifest: Manifest) -> None:
        mark = self._folder / "run.json"
        ours = {
            "run": manifest.run,
            "key_id": manifest.key_id,
            "created_at": manifest.created_at.isoformat(),
            "canaries": manifest.canaries,
        }
        content = f"{json.dumps(ours, indent=1)}\n".encode()
        if not mark.exists():
            with disk.whole(mark) as file:
                file.write(content)
        elif mark.read_bytes() != content:
            raise RunError(
                f"{self._folder} holds scores of another run of that name",
                remedy="choose another folder with --out",
            )

    def _existing(self) -> Iterator[tuple[str, str]]:
        for path in self._folder.iterdir():
            if match := _NAME.fullmatch(path.name):
                yield match[1], path.name
            elif path.suffix == disk.UNFINISHED:
                path.unlink()


def _tag(blob: BlobInfo) -> str:
    """A name for a blob as it is now: another one of the same name has another."""
    identity = f"{blob.etag} {blob.size} {blob.metadata.get('sha256', '')}"
    return hashlib.sha256(identity.encode()).hexdigest()[:16]
