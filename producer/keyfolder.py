"""The folder of key files: mode 0700, each file 0600 and changed as a whole.

Killed at any point, there is the old file or the new one.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from producer.disk import UNFINISHED
from producer.keyrecord import KeyRecord
from shared.errors import SecretKeyError, UsageError

SUFFIX = ".key"
MAX_FILE_BYTES = 1 << 20


class KeyFolder:
    """Key files, by key id. It opens no locks."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __repr__(self) -> str:
        return f"KeyFolder({str(self.path)!r})"

    def require_writable(self) -> None:
        """Raises `SecretKeyError` where no key can be written."""
        with self._alone():
            pass

    def add(self, record: KeyRecord) -> Path:
        """Write the file of a new key, never over an existing one. Raises `SecretKeyError`."""
        path = self.path_of(record.key_id)
        with self._alone():
            if path.exists():
                raise SecretKeyError(f"can't write {path}: File exists")
            self._write(path, record.encode())
        return path

    def replace(self, record: KeyRecord, was: KeyRecord) -> None:
        """Write a key's file anew, unless it is no longer what it was. Raises `SecretKeyError`."""
        path = self.path_of(record.key_id)
        with self._alone():
            if self.record(record.key_id) != was:
                raise SecretKeyError(f"{path} was changed meanwhile", remedy="try again")
            self._write(path, record.encode())

    def remove(self, key_id: str) -> bool:
        """Delete a key's file; False when there was none. Raises `SecretKeyError`."""
        path = self.path_of(key_id)
        if not path.exists():
            return False
        with self._alone():
            try:
                path.unlink(missing_ok=True)
                self._sync()
            except OSError as error:
                raise SecretKeyError(f"can't remove {path}: {error.strerror}") from error
        return True

    def records(self) -> Iterator[KeyRecord]:
        """What all key files say, by id. Raises `SecretKeyError`."""
        for path in sorted(self.path.glob(f"*{SUFFIX}")):
            yield self._read(path)

    def record(self, key_id: str) -> KeyRecord:
        """What the file of that key says. Raises `SecretKeyError`."""
        path = self.path_of(key_id)
        if not path.is_file():
            raise SecretKeyError(
                f"no secret key {key_id} in {self.path}",
                remedy="copy its file there, or make one with `blindscore keygen`",
            )
        return self._read(path)

    def find(self, name: str) -> KeyRecord:
        """What the file of the key says whose id begins so. Raises as `resolve` and `record`."""
        return self.record(self.resolve(name))

    def resolve(self, name: str) -> str:
        """The key id that begins so. Raises `SecretKeyError`, `UsageError` for several."""
        ids = sorted(path.name.removesuffix(SUFFIX) for path in self.path.glob(f"*{SUFFIX}"))
        found = [key_id for key_id in ids if name and key_id.startswith(name)]
        if name in found:
            return name
        if len(found) > 1:
            raise UsageError(
                f"{len(found)} keys begin with {name}", remedy="give more of the id's characters"
            )
        if not found:
            raise SecretKeyError(
                f"no secret key {name} in {self.path}", remedy="blindscore key list shows them"
            )
        return found[0]

    def path_of(self, key_id: str) -> Path:
        return self.path / f"{key_id}{SUFFIX}"

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One process at a time changes files, which takes milliseconds: the others wait.

        The first thing is to remove what a killed one has left, as it may hold a secret.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            if self.path.stat().st_mode & 0o077:
                self.path.chmod(0o700)
            with (self.path / ".lock").open("ab") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                for leftover in self.path.glob(f"*{SUFFIX}{UNFINISHED}"):
                    leftover.unlink(missing_ok=True)
                yield
        except OSError as error:
            raise SecretKeyError(f"can't write in {self.path}: {error.strerror}") from error

    def _write(self, path: Path, data: bytes) -> None:
        """Put a file in its place once all of it is on the disk."""
        unfinished = path.with_name(path.name + UNFINISHED)
        try:
            descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
            self._sync()
        except OSError as error:
            raise SecretKeyError(f"can't write {path}: {error.strerror}") from error
        finally:
            unfinished.unlink(missing_ok=True)

    def _sync(self) -> None:
        """So that a name that was given or taken away stays so after a power cut."""
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    @staticmethod
    def _read(path: Path) -> KeyRecord:
        try:
            with path.open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode & 0o777
                data = file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise SecretKeyError(f"can't read {path}: {error.strerror}") from error
        if os.name == "posix" and mode & 0o077:
            raise SecretKeyError(
                f"secret key {path} can be read by others (mode {mode:03o})",
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
