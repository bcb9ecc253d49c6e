"""Locks of key files whose key is in an Azure Key Vault (extra `vault`)."""

from __future__ import annotations

from types import ModuleType

from producer import keycrypt
from producer.keyrecord import KeyRecord, VaultLock, VaultPlace
from producer.keyseal import open_with_vault_key, under_vault_key
from shared import cli
from shared.errors import SecretKeyError, UsageError


def lock(record: KeyRecord, secret: bytes | bytearray, vault: str) -> KeyRecord:
    """Seal a secret under a new random key, and put that key into the vault.

    Raises `UsageError`, `StorageError`.
    """
    adapter = _adapter()
    url = adapter.vault_url(vault)
    name = f"blindscore-{record.key_id}"
    key = keycrypt.new_key()
    try:
        version = cli.run(adapter.put_secret(url, name, bytes(key)))
        place = VaultPlace(vault=url, name=name, version=version)
        return under_vault_key(record, secret, key, place)
    finally:
        keycrypt.wipe(key)


def open_locked(record: KeyRecord, locked: VaultLock) -> bytearray:
    """The secret, by the key that the vault holds. Raises `SecretKeyError`, `StorageError`."""
    place = locked.place
    found = cli.run(_adapter().get_secret(place.vault, place.name, place.version))
    key = bytearray(found)
    try:
        secret = open_with_vault_key(record, locked, key) if len(key) == 32 else None
    finally:
        keycrypt.wipe(key)
    if secret is None:
        raise SecretKeyError(
            f"what {place.vault} keeps as {place.name} does not open the file of {record.key_id}",
            remedy="the file was changed or damaged: restore it from a backup",
        )
    return secret


def _adapter() -> ModuleType:
    """Only who uses a vault needs its library."""
    try:
        from shared import azure_vault  # noqa: PLC0415
    except ImportError as error:
        raise UsageError(
            f"a key vault needs a package that is not installed: {error.name}",
            remedy="pip install 'blindscore[vault]'",
        ) from error
    return azure_vault
