"""The folder of key files: mode 0700, each file 0600 and changed as a whole.

Killed at any point, there is the old file or the new one. Links are refused: what is deleted or
replaced would be the link, and the secret would stay where it leads.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from producer import keyreader
from producer.disk import UNFINISHED
from producer.keyreader import SUFFIX
from producer.keyrecord import KeyRecord
from shared.errors import SecretKeyError, UsageError

log = structlog.get_logger()


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
            if os.path.lexists(path):
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
        if not self.require_removable(key_id):
            return False
        path = self.path_of(key_id)
        with self._alone():
            try:
                path.unlink(missing_ok=True)
                self._sync()
            except OSError as error:
                raise SecretKeyError(f"can't remove {path}: {error.strerror}") from error
        return True

    def require_removable(self, key_id: str) -> bool:
        """Whether there is a key's file. Raises `SecretKeyError` for one that can't be deleted."""
        path = self.path_of(key_id)
        try:
            mode = path.lstat().st_mode
        except FileNotFoundError:
            return False
        except OSError as error:
            raise SecretKeyError(f"can't remove {path}: {error.strerror}") from error
        if stat.S_ISLNK(mode):
            raise keyreader.is_a_link(path)
        self.require_writable()
        return True

    def records(self) -> Iterator[KeyRecord]:
        """What the key files say, by id; the unusable are left out, with a warning.

        Raises `SecretKeyError` for a folder that can't be read.
        """
        for found in self.scan().values():
            if isinstance(found, KeyRecord):
                yield found
            else:
                log.warning("a key was left out", why=str(found))

    def scan(self) -> dict[str, KeyRecord | SecretKeyError]:
        """What the key files say, by id, or why they can't be used. Raises as `records`."""
        found: dict[str, KeyRecord | SecretKeyError] = {}
        for key_id in self._ids():
            try:
                found[key_id] = self.record(key_id)
            except SecretKeyError as error:
                found[key_id] = error
        return found

    def record(self, key_id: str) -> KeyRecord:
        """What the file of that key says. Raises `SecretKeyError`."""
        return keyreader.read(self.path_of(key_id))

    def find(self, name: str) -> KeyRecord:
        """What the file of the key says whose id begins so. Raises as `resolve` and `record`."""
        return self.record(self.resolve(name))

    def resolve(self, name: str) -> str:
        """The key id that begins so. Raises `SecretKeyError`, `UsageError` for several."""
        found = [key_id for key_id in self._ids() if name and key_id.startswith(name)]
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

    def _ids(self) -> list[str]:
        """Of all key files, in order; none where there is no folder yet."""
        try:
            with os.scandir(self.path) as entries:
                names = [entry.name for entry in entries]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise SecretKeyError(
                f"can't read {self.path}: {error.strerror}", remedy="whose folder is it?"
            ) from error
        return sorted(name.removesuffix(SUFFIX) for name in names if name.endswith(SUFFIX))

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
