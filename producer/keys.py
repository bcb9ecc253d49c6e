"""Secret keys on disk: one file a key, mode 0600, in the key owner's own folder.

The only module, with the schemes, that touches a secret key.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Literal

import platformdirs
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydantic import AwareDatetime, BaseModel, ConfigDict, SecretStr, ValidationError

from producer.schemes import ClientKey, client_scheme
from shared.blobnames import KeyId
from shared.errors import SecretKeyError
from shared.messages import SchemeName, utc_now

SUFFIX = ".key"

SIGNING = "manifest"
CANARIES = "canaries"
ROWS = "rows"
"""What keys derived from a secret are for, see `KeyFile.derive`."""


def default_home() -> Path:
    """Where this user's keys and run records are kept on this platform."""
    return Path(platformdirs.user_data_dir("blindscore", appauthor=False))


class KeyFile(BaseModel):
    """A secret key at rest. Its secret is redacted in every repr and dump."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    scheme: SchemeName
    key_id: KeyId
    created_at: AwareDatetime
    secret: SecretStr
    """Base64 of what the scheme's key exports."""

    def key(self) -> ClientKey:
        """The key itself. Raises `SecretKeyError`."""
        key = client_scheme(self.scheme).load(self.secret_bytes())
        if key.key_id != self.key_id:
            raise SecretKeyError(f"key file says key {self.key_id}, its secret is {key.key_id}")
        return key

    def secret_bytes(self) -> bytes:
        """The exported secret, to hand to a process of our own."""
        try:
            return base64.b64decode(self.secret.get_secret_value(), validate=True)
        except ValueError as error:
            raise SecretKeyError(f"key file of {self.key_id} is damaged") from error

    def derive(self, purpose: str) -> bytes:
        """A 32-byte key of its own for each purpose, which tells nothing of the secret.

        HKDF-SHA256 (RFC 5869) of the exported secret, without salt, with the info string
        `blindscore v1 PURPOSE`. The same on every machine that has the key file.
        """
        info = f"blindscore v1 {purpose}".encode()
        return HKDF(SHA256(), length=32, salt=None, info=info).derive(self.secret_bytes())


class KeyRing:
    """The folder of secret keys."""

    def __init__(self, home: Path) -> None:
        self.folder = home / "keys"

    def __repr__(self) -> str:
        return f"KeyRing({str(self.folder)!r})"

    def save(self, key: ClientKey, *, now: datetime | None = None) -> Path:
        """Write a new key, never over an existing one. Raises `SecretKeyError`."""
        path = self.folder / f"{key.key_id}{SUFFIX}"
        fields = {
            "version": 1,
            "scheme": key.scheme,
            "key_id": key.key_id,
            "created_at": (now or utc_now()).isoformat(),
            "secret": base64.b64encode(key.export_secret()).decode(),
        }
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(json.dumps(fields, indent=1) + "\n")
        except OSError as error:
            raise SecretKeyError(f"can't write {path}: {error.strerror}") from error
        return path

    def discard(self, key_id: str) -> None:
        """Remove a key that was never used."""
        (self.folder / f"{key_id}{SUFFIX}").unlink(missing_ok=True)

    def load(self, key_id: str) -> KeyFile:
        """The key of that id. Raises `SecretKeyError`."""
        path = self.folder / f"{key_id}{SUFFIX}"
        if not path.is_file():
            raise SecretKeyError(
                f"no secret key {key_id} in {self.folder}",
                remedy="copy its file there, or make one with `blindscore keygen`",
            )
        return self._read(path)

    def newest(self, scheme: str) -> KeyFile:
        """The youngest key of a scheme. Raises `SecretKeyError` when there is none."""
        keys = [entry for entry in self.entries() if entry.scheme == scheme]
        if not keys:
            raise SecretKeyError(
                f"no secret key for scheme {scheme} in {self.folder}",
                remedy=f"blindscore keygen --scheme {scheme}",
            )
        return max(keys, key=lambda entry: entry.created_at)

    def entries(self) -> Iterator[KeyFile]:
        """All keys, by id."""
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            yield self._read(path)

    @staticmethod
    def _read(path: Path) -> KeyFile:
        try:
            mode = path.stat().st_mode & 0o777
            if os.name == "posix" and mode & 0o077:
                raise SecretKeyError(
                    f"secret key {path} can be read by others (mode {mode:03o})",
                    remedy=f"chmod 600 {path}",
                )
            return KeyFile.model_validate_json(path.read_bytes())
        except OSError as error:
            raise SecretKeyError(f"can't read {path}: {error.strerror}") from error
        except ValidationError as error:
            raise SecretKeyError(f"{path} is not a blindscore key file") from error
