"""Secret keys on disk: one file a key, mode 0600, in the key owner's own folder.

The only modules that touch a secret key are the schemes and `producer.key*`.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import NoReturn

import platformdirs
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydantic import SecretStr

from producer import keycrypt, keyseal, keyvault
from producer.keyfolder import KeyFolder
from producer.keyphrase import Passphrases
from producer.keyrecord import KeyRecord, PassphraseLock
from producer.keyseal import under_passphrase
from producer.schemes import ClientKey, client_scheme
from shared.errors import SecretKeyError
from shared.messages import utc_now

SIGNING = "manifest"
CANARIES = "canaries"
ROWS = "rows"
"""What keys derived from a secret are for, see `KeyFile.derive`."""

Locker = Callable[[KeyRecord, bytearray], KeyRecord]
"""Gives a record its secret, sealed in some way."""


def default_home() -> Path:
    """Where this user's keys and run records are kept on this platform."""
    return Path(platformdirs.user_data_dir("blindscore", appauthor=False))


class KeyFile:
    """A key file that is open: what it says, and the secret."""

    def __init__(
        self, record: KeyRecord, secret: bytearray, locker: Locker = keyseal.unlocked
    ) -> None:
        self.record = record
        self.locker = locker
        """Locks another key's secret as this one's is: under the same passphrase, or vault."""
        self._secret = secret

    def __repr__(self) -> str:
        return f"KeyFile(key_id={self.key_id!r}, scheme={self.scheme!r}, secret=<redacted>)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret key does not pickle: use secret_bytes")

    @property
    def scheme(self) -> str:
        return self.record.scheme

    @property
    def key_id(self) -> str:
        return self.record.key_id

    @property
    def preset(self) -> str:
        """Of the scheme's parameters. Raises `SecretKeyError`, as old records don't tell."""
        return self.key().preset_name if self.record.preset is None else self.record.preset

    def key(self) -> ClientKey:
        """The key itself. Raises `SecretKeyError`."""
        key = client_scheme(self.scheme).load(self.secret_bytes())
        if key.key_id != self.key_id:
            raise SecretKeyError(f"key file says key {self.key_id}, its secret is {key.key_id}")
        return key

    def secret_bytes(self) -> bytes:
        """The exported secret, to hand to a process of our own."""
        return bytes(self._secret)

    def derive(self, purpose: str) -> bytes:
        """A 32-byte key of its own for each purpose, which tells nothing of the secret.

        HKDF-SHA256 (RFC 5869) of the exported secret, without salt, with the info string
        `blindscore v1 PURPOSE`. The same on every machine that has the key file.
        """
        info = f"blindscore v1 {purpose}".encode()
        return HKDF(SHA256(), length=32, salt=None, info=info).derive(self._secret)

    def relock(self, locker: Locker) -> KeyRecord:
        """What the file says, its secret kept in another way."""
        return locker(self.record, self._secret)

    def wipe(self) -> None:
        """Overwrite the secret; see `keycrypt.wipe` for what that is worth."""
        keycrypt.wipe(self._secret)


class KeyRing:
    """The folder of secret keys, and the passphrases that open them."""

    def __init__(self, home: Path, passphrases: Passphrases | None = None) -> None:
        self.files = KeyFolder(home / "keys")
        self.passphrases = passphrases or Passphrases()

    def __repr__(self) -> str:
        return f"KeyRing({str(self.files.path)!r})"

    def save(
        self, key: ClientKey, *, now: datetime | None = None, expires_at: datetime | None = None
    ) -> Path:
        """Write a new key in plain, never over an existing one. Raises `SecretKeyError`."""
        return self.files.add(new_record(key, now=now, expires_at=expires_at))

    def load(self, key_id: str, *, to_encrypt: bool = False) -> KeyFile:
        """Open the key of that id; not an expired one `to_encrypt`.

        May ask on the terminal, compute for a second and talk to a vault: not for an event loop.
        Raises `SecretKeyError`, `UsageError`, `StorageError`.
        """
        record = self.files.record(key_id)
        if to_encrypt:
            require_unexpired(record)
        return self.open(record)

    def open(self, record: KeyRecord) -> KeyFile:
        """Unlock a key's secret; raises as `load`."""
        lock = record.lock
        if lock is None:
            return KeyFile(record, keyseal.open_plain(record))
        if not isinstance(lock, PassphraseLock):
            locker = partial(keyvault.lock, vault=lock.place.vault)
            return KeyFile(record, keyvault.open_locked(record, lock), locker)
        for passphrase in self.passphrases.known(record.key_id):
            secret = keyseal.open_with_passphrase(record, lock, passphrase)
            if secret is not None:
                return KeyFile(record, secret, partial(under_passphrase, passphrase=passphrase))
        raise SecretKeyError(
            f"wrong passphrase for key {record.key_id}, or its file was changed",
            remedy="try again; a damaged file can only be restored from a backup",
        )

    def newest(self, scheme: str, *, now: datetime | None = None) -> KeyFile:
        """Open a scheme's youngest key that has not expired. Raises as `load`."""
        records = [record for record in self.files.records() if record.scheme == scheme]
        if not records:
            raise SecretKeyError(
                f"no secret key for scheme {scheme} in {self.files.path}",
                remedy=f"blindscore keygen --scheme {scheme}",
            )
        now = now or utc_now()
        unexpired = [record for record in records if not record.has_expired(now)]
        youngest = max(unexpired or records, key=lambda record: record.created_at)
        require_unexpired(youngest, now=now)
        return self.open(youngest)


def new_record(
    key: ClientKey,
    *,
    locker: Locker = keyseal.unlocked,
    now: datetime | None = None,
    expires_at: datetime | None = None,
) -> KeyRecord:
    """What a new key's file will say."""
    record = KeyRecord(
        scheme=key.scheme,
        key_id=key.key_id,
        created_at=now or utc_now(),
        preset=key.preset_name,
        expires_at=expires_at,
        secret=SecretStr(""),
    )
    secret = bytearray(key.export_secret())
    try:
        return locker(record, secret)
    finally:
        keycrypt.wipe(secret)


def require_unexpired(record: KeyRecord, *, now: datetime | None = None) -> None:
    """Refuse to encrypt anything new under an expired key. Raises `SecretKeyError`."""
    if record.expires_at is not None and record.has_expired(now or utc_now()):
        raise SecretKeyError(
            f"key {record.key_id} expired at {record.expires_at.astimezone(UTC):%Y-%m-%d %H:%M} "
            "UTC: nothing new is encrypted under it",
            remedy=f"blindscore key rotate {record.key_id}, and produce anew",
        )
