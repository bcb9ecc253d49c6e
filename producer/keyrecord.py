"""What a key file says, as JSON: public facts of a key, and its secret, plain or locked.

A locked secret is sealed with AES-256-GCM; all that the file says besides is authenticated with it,
so that a file in which anything was changed does not open. Version 1, without locks, is still read.
"""

from __future__ import annotations

import base64
import json
import re
import secrets
from datetime import datetime
from typing import Annotated, Literal, NoReturn, Self

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    ValidationError,
    model_validator,
)

from producer import keycrypt
from producer.keycrypt import NONCE_BYTES, OWASP, SALT_BYTES, ScryptCost
from shared.blobnames import KeyId
from shared.errors import SecretKeyError
from shared.messages import SchemeName

VERSION: Literal[2] = 2
_FIELD = re.compile(r"[a-z0-9_.]{1,80}")

Nonce = Annotated[str, StringConstraints(pattern=rf"^[0-9a-f]{{{2 * NONCE_BYTES}}}$")]
Salt = Annotated[str, StringConstraints(pattern=rf"^[0-9a-f]{{{2 * SALT_BYTES}}}$")]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class PassphraseLock(_Part):
    """The secret is sealed under what scrypt makes of a passphrase."""

    kind: Literal["passphrase"] = "passphrase"
    cipher: Literal["AES-256-GCM"] = "AES-256-GCM"
    kdf: Literal["scrypt"] = "scrypt"
    n: int = Field(strict=True)
    r: int = Field(strict=True)
    p: int = Field(strict=True)
    salt: Salt
    nonce: Nonce

    @property
    def cost(self) -> ScryptCost:
        return ScryptCost(self.n, self.r, self.p)

    @model_validator(mode="after")
    def _cost_is_bounded(self) -> Self:
        _ = self.cost
        return self


class VaultPlace(_Part):
    """One version of one secret in an Azure Key Vault."""

    vault: Annotated[str, StringConstraints(pattern=r"^https://[A-Za-z0-9.-]{1,253}(:[0-9]+)?$")]
    name: Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z-]{1,127}$")]
    version: Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z]{1,64}$")]


class VaultLock(_Part):
    """The secret is sealed under a random key that is kept in an Azure Key Vault.

    The secret itself stays here: a vault takes 25 KB, and most schemes' secrets are larger.
    """

    kind: Literal["vault"] = "vault"
    cipher: Literal["AES-256-GCM"] = "AES-256-GCM"
    place: VaultPlace
    nonce: Nonce


Lock = Annotated[PassphraseLock | VaultLock, Field(discriminator="kind")]


class KeyRecord(_Part):
    """One key file. Its secret is redacted in every repr and dump, and it doesn't pickle."""

    version: Literal[1, 2] = VERSION
    scheme: SchemeName
    key_id: KeyId
    created_at: AwareDatetime
    preset: Annotated[str, StringConstraints(pattern=r"^[a-z0-9]{0,16}$")] | None = None
    """Of the scheme's parameters, empty where it has none. None: the file is too old to tell."""
    expires_at: AwareDatetime | None = None
    """From then on nothing new is encrypted under it."""
    lock: Lock | None = None
    secret: SecretStr
    """Base64 of what the scheme's key exports, or of that sealed."""

    @model_validator(mode="after")
    def _old_files_have_no_locks(self) -> Self:
        if self.version == 1 and (self.preset is not None or self.expires_at or self.lock):
            raise ValueError("a field that version 1 doesn't have")
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret key does not pickle: read its file")

    @property
    def protection(self) -> str:
        """What keeps the secret, in a word: `none`, `passphrase` or `vault`."""
        return self.lock.kind if self.lock else "none"

    def has_expired(self, now: datetime) -> bool:
        return self.expires_at is not None and self.expires_at <= now

    @classmethod
    def decode(cls, data: bytes, *, source: str) -> KeyRecord:
        """Parse a key file. Raises `SecretKeyError`, naming `source` and quoting nothing."""
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            named = f"{where}: " if _FIELD.fullmatch(where) else ""  # it may be a stranger's
            raise SecretKeyError(
                f"{source} is not a blindscore key file: {named}{first['msg']}",
                remedy="restore it from a backup",
            ) from None

    def encode(self) -> bytes:
        fields = self._fields() | {"secret": self.secret.get_secret_value()}
        return (json.dumps(fields, indent=1) + "\n").encode()

    def about(self) -> bytes:
        """Everything but the secret, in one form however the file is laid out."""
        return json.dumps(self._fields(), sort_keys=True, separators=(",", ":")).encode()

    def _fields(self) -> dict[str, object]:
        return self.model_dump(mode="json", exclude={"secret"})


def unlocked(record: KeyRecord, secret: bytes | bytearray) -> KeyRecord:
    """The record with its secret in plain."""
    return record.model_copy(
        update={"version": VERSION, "lock": None, "secret": SecretStr(_to_text(secret))}
    )


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
    locked = record.model_copy(update={"version": VERSION, "lock": lock})
    sealed = keycrypt.seal(key, bytes.fromhex(lock.nonce), secret, locked.about())
    return locked.model_copy(update={"secret": SecretStr(_to_text(sealed))})


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
