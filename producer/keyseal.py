"""The secret of a key file: kept in plain, or sealed under a passphrase or a vault's key.

Sealed is with AES-256-GCM; all that the file says besides is authenticated with it, so that a file
in which anything was changed does not open.
"""

from __future__ import annotations

import base64
import secrets

from pydantic import SecretStr

from producer import keycrypt
from producer.keycrypt import NONCE_BYTES, OWASP, SALT_BYTES, ScryptCost
from producer.keyrecord import VERSION, KeyRecord, PassphraseLock, VaultLock, VaultPlace
from shared.errors import SecretKeyError


def unlocked(record: KeyRecord, secret: bytes | bytearray) -> KeyRecord:
    """The record with its secret in plain."""
    return record.saying(version=VERSION, lock=None, secret=SecretStr(_to_text(secret)))


def under_passphrase(
    record: KeyRecord,
    secret: bytes | bytearray,
    passphrase: SecretStr,
    *,
    cost: ScryptCost = OWASP,
) -> KeyRecord:
    """The record with its secret sealed under a passphrase, with a fresh salt and nonce."""
    salt, nonce = secrets.token_bytes(SALT_BYTES), secrets.token_bytes(NONCE_BYTES)
    lock = PassphraseLock(n=cost.n, r=cost.r, p=cost.p, salt=salt.hex(), nonce=nonce.hex())
    key = keycrypt.derive(passphrase.get_secret_value(), salt, cost)
    try:
        return _sealed(record, lock, key, secret)
    finally:
        keycrypt.wipe(key)


def under_vault_key(
    record: KeyRecord, secret: bytes | bytearray, key: bytearray, place: VaultPlace
) -> KeyRecord:
    """The record with its secret sealed under the 32-byte key that is at `place`."""
    nonce = secrets.token_bytes(NONCE_BYTES)
    return _sealed(record, VaultLock(place=place, nonce=nonce.hex()), key, secret)


def open_plain(record: KeyRecord) -> bytearray:
    """The secret of a record without a lock. Raises `SecretKeyError`."""
    return bytearray(_to_bytes(record))


def open_with_passphrase(
    record: KeyRecord, lock: PassphraseLock, passphrase: SecretStr
) -> bytearray | None:
    """The secret; None for a wrong passphrase, or a record that was changed.

    Takes as long as the lock's cost says. Raises `SecretKeyError` for a secret that is no base64.
    """
    sealed = _to_bytes(record)
    key = keycrypt.derive(passphrase.get_secret_value(), bytes.fromhex(lock.salt), lock.cost)
    try:
        return keycrypt.open_sealed(key, bytes.fromhex(lock.nonce), sealed, record.about())
    finally:
        keycrypt.wipe(key)


def open_with_vault_key(record: KeyRecord, lock: VaultLock, key: bytearray) -> bytearray | None:
    """The secret; None for another key, or a record that was changed. Raises `SecretKeyError`."""
    sealed = _to_bytes(record)
    return keycrypt.open_sealed(key, bytes.fromhex(lock.nonce), sealed, record.about())


def _sealed(
    record: KeyRecord,
    lock: PassphraseLock | VaultLock,
    key: bytearray,
    secret: bytes | bytearray,
) -> KeyRecord:
    locked = record.saying(version=VERSION, lock=lock)
    sealed = keycrypt.seal(key, bytes.fromhex(lock.nonce), secret, locked.about())
    return locked.saying(secret=SecretStr(_to_text(sealed)))


def _to_text(data: bytes | bytearray) -> str:
    return base64.b64encode(data).decode()


def _to_bytes(record: KeyRecord) -> bytes:
    text = record.secret.get_secret_value()
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:
        data = b""
    if not data or _to_text(data) != text:  # the last character has bits to spare
        raise SecretKeyError(
            f"the file of key {record.key_id} is damaged", remedy="restore it from a backup"
        )
    return data
