"""Which storage account, container and queue, and as whom; shared by all three programs.

Credentials come from the environment (or `.env`) alone, never from an argument, and never show in
a repr or an error: a connection string, or SAS tokens, each for one queue or one container.
"""

from __future__ import annotations

import os

from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError, field_validator

from shared import blobnames
from shared.connection import Connection, is_local_url, sas_token
from shared.errors import UsageError

CONNECTION_STRING_VARIABLE = "BLINDSCORE_CONNECTION_STRING"
ALLOW_ACCOUNT_KEY_VARIABLE = "BLINDSCORE_ALLOW_ACCOUNT_KEY"
BLOB_SAS_VARIABLE = "BLINDSCORE_BLOB_SAS"
QUEUE_SAS_VARIABLE = "BLINDSCORE_QUEUE_SAS"
POISON_SAS_VARIABLE = "BLINDSCORE_POISON_SAS"
STORAGE_SECRETS = (
    CONNECTION_STRING_VARIABLE,
    BLOB_SAS_VARIABLE,
    QUEUE_SAS_VARIABLE,
    POISON_SAS_VARIABLE,
)
"""Variables that a program removes from its environment before it starts less trusted ones."""

DEFAULT_CONTAINER = "blindscore"
DEFAULT_QUEUE = "blindscore-jobs"
DEFAULT_API_VERSION = "2026-06-06"
"""The newest storage API that Azurite speaks too; Azure keeps old versions for many years."""

POISON_SUFFIX = "-poison"
MAX_QUEUE_NAME = 63 - len(POISON_SUFFIX)


class StorageSettings(BaseModel):
    """Where a program's blobs and messages are, and as whom it reaches them.

    Either an `account` or a `connection_string` tells where. SAS tokens, where there are any, are
    then the only credential; else it is the program's own identity, or what the string holds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    account: str = ""
    """Account name or blob URL, reached with the program's own Azure identity."""
    connection_string: SecretStr = SecretStr("")
    blob_sas: SecretStr = SecretStr("")
    queue_sas: SecretStr = SecretStr("")
    poison_sas: SecretStr = SecretStr("")
    """For the dead letters: a SAS is for one queue."""
    container: str = DEFAULT_CONTAINER
    queue: str = DEFAULT_QUEUE
    api_version: str = DEFAULT_API_VERSION

    @field_validator("container", "queue")
    @classmethod
    def _azure_name(cls, value: str) -> str:
        if not blobnames.is_container(value):
            raise ValueError(f"{value!r} is not a valid name (3 to 63 of a-z, 0-9 and -)")
        return value

    @field_validator("queue")
    @classmethod
    def _room_for_dead_letters(cls, value: str) -> str:
        if len(value) > MAX_QUEUE_NAME:
            raise ValueError(
                f"{value!r} has over {MAX_QUEUE_NAME} characters, which leaves no room for "
                f"NAME{POISON_SUFFIX}"
            )
        return value

    @field_validator("blob_sas", "queue_sas", "poison_sas")
    @classmethod
    def _token(cls, value: SecretStr) -> SecretStr:
        return SecretStr(sas_token(value.get_secret_value().strip()))

    @property
    def poison_queue(self) -> str:
        return f"{self.queue}{POISON_SUFFIX}"

    @property
    def connection(self) -> Connection | None:
        """The connection string, taken apart. Raises `UsageError` for a malformed one."""
        text = self.connection_string.get_secret_value()
        return None if self.account else Connection.parse(text)

    @property
    def has_sas_tokens(self) -> bool:
        """Whether tokens of its own, each for one thing, are the credential."""
        tokens = (self.blob_sas, self.queue_sas, self.poison_sas)
        return any(token.get_secret_value() for token in tokens)

    def require_dead_letters(self) -> None:
        """Raises `UsageError` where tokens are the credential, and none is for dead letters."""
        if self.has_sas_tokens and not self.poison_sas.get_secret_value():
            raise UsageError(
                f"there is no SAS token for {self.poison_queue}, where dead letters are",
                remedy=f"set {POISON_SAS_VARIABLE}; `blindscore sas` prints each party's tokens",
            )


def storage_settings(
    *,
    account: str = "",
    container: str = DEFAULT_CONTAINER,
    queue: str = DEFAULT_QUEUE,
    api_version: str = DEFAULT_API_VERSION,
) -> StorageSettings:
    """Settings from options and the environment.

    Raises `UsageError` when no account is named, for more than one credential, and for an account
    key that is neither Azurite's nor explicitly allowed.
    """
    connection_string = os.environ.get(CONNECTION_STRING_VARIABLE, "")
    if not account and not connection_string:
        raise UsageError(
            "no storage account",
            remedy=f"set BLINDSCORE_ACCOUNT, or {CONNECTION_STRING_VARIABLE} for Azurite",
        )
    try:
        settings = StorageSettings(
            account=account,
            connection_string=SecretStr("" if account else connection_string),
            blob_sas=SecretStr(os.environ.get(BLOB_SAS_VARIABLE, "")),
            queue_sas=SecretStr(os.environ.get(QUEUE_SAS_VARIABLE, "")),
            poison_sas=SecretStr(os.environ.get(POISON_SAS_VARIABLE, "")),
            container=container,
            queue=queue,
            api_version=api_version,
        )
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = str(first["loc"][0])
        where = f"BLINDSCORE_{name.upper()}" if name.endswith("_sas") else name
        raise UsageError(f"{where}: {first['msg'].removeprefix('Value error, ')}") from error
    if connection := settings.connection:
        _check(connection, settings)
    return settings


def _check(connection: Connection, settings: StorageSettings) -> None:
    """One credential, a narrow one or a chosen one, and no token over an open wire."""
    own_key = bool(connection.account_key.get_secret_value())
    own_sas = bool(connection.sas.get_secret_value())
    if settings.has_sas_tokens and (own_key or own_sas):
        raise UsageError(
            f"{CONNECTION_STRING_VARIABLE} holds a credential, and there are SAS tokens too",
            remedy=f"unset one, or leave only endpoints in {CONNECTION_STRING_VARIABLE}",
        )
    if not (settings.has_sas_tokens or own_key or own_sas):
        raise UsageError(
            f"{CONNECTION_STRING_VARIABLE} holds no credential",
            remedy=f"set {BLOB_SAS_VARIABLE} and {QUEUE_SAS_VARIABLE} (see `blindscore sas`), "
            "or use your own identity: --account",
        )
    if own_key and not connection.is_local and not _account_key_is_allowed():
        raise UsageError(
            f"{CONNECTION_STRING_VARIABLE} holds an account key, which may do anything to "
            f"storage account {connection.account}",
            remedy=f"use your own identity (--account {connection.account}) or a narrow SAS "
            f"(`blindscore sas`); to use the key all the same, set {ALLOW_ACCOUNT_KEY_VARIABLE}=1",
        )
    for url in (connection.blob_endpoint, connection.queue_endpoint):
        if not own_key and url.startswith("http:") and not is_local_url(url):
            raise UsageError(
                "a SAS token would travel unencrypted: the endpoint is http",
                remedy=f"write https in {CONNECTION_STRING_VARIABLE}",
            )


def _account_key_is_allowed() -> bool:
    return os.environ.get(ALLOW_ACCOUNT_KEY_VARIABLE, "").strip().lower() in {"1", "true", "yes"}
