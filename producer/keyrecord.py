"""What a key file says, as JSON: public facts of a key, and its secret, plain or locked.

`producer.keyseal` locks and opens the secret. Version 1, without locks, is still read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, NoReturn, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    StringConstraints,
    ValidationError,
    model_validator,
)

from producer.keycrypt import NONCE_BYTES, SALT_BYTES, ScryptCost
from shared.blobnames import KeyId
from shared.errors import SecretKeyError
from shared.messages import SchemeName

VERSION: Literal[2] = 2
YEARS = range(2000, 9000)
"""Of any time in a key file: far enough from the calendar's ends to reckon with it."""
_FIELD = re.compile(r"[a-z0-9_.]{1,80}")


def _in_reach(at: datetime) -> datetime:
    if at.year not in YEARS:
        raise ValueError(f"not a time from {YEARS.start} to {YEARS.stop - 1}")
    return at


Moment = Annotated[AwareDatetime, AfterValidator(_in_reach)]

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
    created_at: Moment
    preset: Annotated[str, StringConstraints(pattern=r"^[a-z0-9]{0,16}$")] | None = None
    """Of the scheme's parameters, empty where it has none. None: the file is too old to tell."""
    expires_at: Moment | None = None
    """From then on nothing new is encrypted under it."""
    lock: Lock | None = None
    secret: SecretStr
    """Base64 of what the scheme's key exports, or of that sealed."""
    _stated: Mapping[str, Any] | None = PrivateAttr(None)
    """What its file says but the secret, where that is not word for word what we would write."""

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
    def decode(cls, data: bytes, *, source: str) -> Self:
        """Parse a key file. Raises `SecretKeyError`, naming `source` and quoting nothing."""
        try:
            fields = json.loads(data.decode())
            record = cls.model_validate_json(json.dumps(fields))  # what was parsed, not once more
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            named = f"{where}: " if _FIELD.fullmatch(where) else ""  # it may be a stranger's
            raise _not_a_key_file(source, f"{named}{first['msg']}") from None
        except (ValueError, RecursionError):
            raise _not_a_key_file(source, "it is not JSON") from None
        del fields["secret"]
        if fields != record._fields():
            record._stated = fields  # noqa: SLF001 - its own class's
        return record

    def saying(self, **fields: object) -> Self:
        """A copy that says something else of some fields, in the words that we would write."""
        record = self.model_copy(update=fields)
        record._stated = None  # noqa: SLF001 - its own class's
        return record

    def encode(self) -> bytes:
        fields = {**self._says(), "secret": self.secret.get_secret_value()}
        return (json.dumps(fields, indent=1) + "\n").encode()

    def about(self) -> bytes:
        """Everything but the secret, in one form however the file is laid out.

        In the file's own words, not in ours: it still opens when we have come to write other ones.
        """
        return json.dumps(self._says(), sort_keys=True, separators=(",", ":")).encode()

    def _says(self) -> Mapping[str, Any]:
        return self._fields() if self._stated is None else self._stated

    def _fields(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude={"secret"})


def _not_a_key_file(source: str, why: str) -> SecretKeyError:
    return SecretKeyError(
        f"{source} is not a blindscore key file: {why}", remedy="restore it from a backup"
    )
