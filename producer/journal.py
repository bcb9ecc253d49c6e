"""What has become of a run's blocks, on the key owner's own disk: what a resumed run goes by.

    encrypted   a line per encryption of a block, written before it is uploaded
    enqueued    a line per job whose message was sent

So a run is continued from what this machine knows, not from what the account says: hashes of
inputs that end up in the signed manifest are of ciphertexts that were made here.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from producer import disk
from shared.errors import RunError
from shared.messages import JobEntry

_JOB = r"(?P<job>[0-9]{6,12})"
_ENCRYPTED = re.compile(
    _JOB + r" (?P<first_row>[0-9]+) (?P<rows>[1-9][0-9]*) (?P<sha256>[0-9a-f]{64}) (?P<tag>\S+)"
)
_ENQUEUED = re.compile(_JOB)


@dataclass(frozen=True, slots=True)
class Encryption:
    """One encryption of a block."""

    entry: JobEntry
    tag: str
    """Tells whether stored rows are those that were encrypted, see `submit.rows_tag`."""


class Journal:
    """The two files, and what they say."""

    def __init__(self, folder: Path) -> None:
        self._encrypted = _Lines(folder / "encrypted")
        self._enqueued = _Lines(folder / "enqueued")
        self._encryptions: dict[str, list[Encryption]] = {}
        self._sent: set[str] = set()

    @property
    def jobs(self) -> int:
        """How many blocks have been encrypted so far."""
        return len(self._encryptions)

    def load(self) -> None:
        """Read what an earlier process wrote. Raises `RunError` for files it didn't write."""
        for line in self._encrypted.load(_ENCRYPTED):
            fields = line.groupdict()
            tag = fields.pop("tag")
            self._note(Encryption(JobEntry.model_validate_strings(fields), tag))
        self._sent = {line["job"] for line in self._enqueued.load(_ENQUEUED)}

    def encryptions(self, job: str) -> list[Encryption]:
        """All encryptions of a job's block. The last one counts: it is, or is about to be, the
        job's input blob."""
        return self._encryptions.get(job, [])

    def is_enqueued(self, job: str) -> bool:
        return job in self._sent

    def add_encryption(self, encryption: Encryption) -> None:
        """Write down what is about to be uploaded."""
        entry = encryption.entry
        self._encrypted.append(
            f"{entry.job} {entry.first_row} {entry.rows} {entry.sha256} {encryption.tag}"
        )
        self._note(encryption)

    def add_enqueued(self, job: str) -> None:
        """Write down that a job's message was sent."""
        self._enqueued.append(job)
        self._sent.add(job)

    def _note(self, encryption: Encryption) -> None:
        self._encryptions.setdefault(encryption.entry.job, []).append(encryption)


class _Lines:
    """A file that grows by lines. A line that a kill has torn was never written: it is cut off."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self, pattern: re.Pattern[str]) -> list[re.Match[str]]:
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return []
        length = data.rfind(b"\n") + 1
        if length < len(data):
            os.truncate(self._path, length)
        return [
            self._match(pattern, line)
            for line in data[:length].decode(errors="replace").splitlines()
        ]

    def append(self, line: str) -> None:
        """One write, so that a kill right after it loses nothing."""
        data = f"{line}\n".encode()
        try:
            with self._path.open("ab", buffering=0) as file:
                written = file.write(data)
        except OSError as error:
            raise disk.cannot_write(self._path, error) from error
        if written != len(data):
            raise RunError(f"can't write {self._path}: the disk is full")

    def _match(self, pattern: re.Pattern[str], line: str) -> re.Match[str]:
        match = pattern.fullmatch(line)
        if match is None:
            raise RunError(f"{self._path} is damaged", remedy="produce the data set again")
        return match
