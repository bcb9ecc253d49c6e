"""Which storage account, container and queue; shared by all three programs.

The connection string is a credential: it comes from `BLINDSCORE_CONNECTION_STRING` (or `.env`)
alone, never from an argument, and never shows in a repr.
"""

from __future__ import annotations

import os

from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError, field_validator

from shared import blobnames
from shared.errors import UsageError

CONNECTION_STRING_VARIABLE = "BLINDSCORE_CONNECTION_STRING"
DEFAULT_CONTAINER = "blindscore"
DEFAULT_QUEUE = "blindscore-jobs"
DEFAULT_API_VERSION = "2026-06-06"
"""The newest storage API that Azurite speaks too; Azure keeps old versions for many years."""


class StorageSettings(BaseModel):
    """Where a program's blobs and messages are, and as whom it reaches them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    account: str = ""
    """Account name or blob URL, reached with the program's own Azure identity."""
    connection_string: SecretStr = SecretStr("")
    container: str = DEFAULT_CONTAINER
    queue: str = DEFAULT_QUEUE
    api_version: str = DEFAULT_API_VERSION

    @field_validator("container", "queue")
    @classmethod
    def _azure_name(cls, value: str) -> str:
        if not blobnames.is_container(value):
            raise ValueError(f"{value!r} is not a valid name (3 to 63 of a-z, 0-9 and -)")
        return value

    @property
    def poison_queue(self) -> str:
        return f"{self.queue}-poison"


def storage_settings(
    *,
    account: str = "",
    container: str = DEFAULT_CONTAINER,
    queue: str = DEFAULT_QUEUE,
    api_version: str = DEFAULT_API_VERSION,
) -> StorageSettings:
    """Settings from options and the environment. Raises `UsageError` when no account is named."""
    connection_string = os.environ.get(CONNECTION_STRING_VARIABLE, "")
    if not account and not connection_string:
        raise UsageError(
            "no storage account",
            remedy=f"set BLINDSCORE_ACCOUNT, or {CONNECTION_STRING_VARIABLE} for Azurite",
        )
    try:
        return StorageSettings(
            account=account,
            connection_string=SecretStr("" if account else connection_string),
            container=container,
            queue=queue,
            api_version=api_version,
        )
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise UsageError(f"{first['loc'][0]}: {first['msg']}") from error
