"""Where a storage account is, and the identity with which a program goes there, or to a vault."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from shared.connection import Service
from shared.errors import UsageError
from shared.settings import BLOB_SAS_VARIABLE, StorageSettings

if TYPE_CHECKING:
    from azure.identity.aio import DefaultAzureCredential as Identity

AUTHORITY_VARIABLE = "AZURE_AUTHORITY_HOST"
_AUTHORITIES = {
    ".chinacloudapi.cn": "login.chinacloudapi.cn",
    ".vault.azure.cn": "login.chinacloudapi.cn",
    ".usgovcloudapi.net": "login.microsoftonline.us",
}

_ACCOUNT_NAME = re.compile(r"[a-z0-9]{3,24}")


@asynccontextmanager
async def open_identity(settings: StorageSettings) -> AsyncIterator[Identity | None]:
    """This program's own Azure identity, to be shared by its clients; None where none is needed."""
    if not settings.account or settings.has_sas_tokens:
        yield None
        return
    async with own_identity(urlsplit(blob_url(settings.account)).netloc) as identity:
        yield identity


@asynccontextmanager
async def own_identity(host: str) -> AsyncIterator[Identity]:
    """Who this program is to the service at `host`.

    A managed identity (the one that AZURE_CLIENT_ID names, if set), a workload identity, a service
    principal in the environment, or a developer's login; AZURE_TOKEN_CREDENTIALS narrows that
    down, as everywhere (https://aka.ms/azsdk/python/identity/credential-chains).
    """
    # Loading the identity library takes a while, and with Azurite nobody needs it.
    from azure.identity.aio import DefaultAzureCredential  # noqa: PLC0415

    authority = {} if os.environ.get(AUTHORITY_VARIABLE) else _authority(host)
    try:
        credential = DefaultAzureCredential(
            # On Windows, whoever signed in to some other program long ago: never meant.
            exclude_shared_token_cache_credential=True,
            **authority,
        )
    except ValueError as error:
        raise UsageError(
            "the Azure identity can't be set up from this environment",
            remedy="AZURE_TOKEN_CREDENTIALS is prod, dev or one credential's name; "
            "AZURE_AUTHORITY_HOST is a host name",
        ) from error
    async with credential:
        yield credential


def _authority(host: str) -> dict[str, str]:
    """Where a sovereign cloud's identities sign in, by the service's host."""
    for suffix, authority in _AUTHORITIES.items():
        if host.endswith(suffix):
            return {"authority": authority}
    return {}


def service_url(service: Service, settings: StorageSettings) -> str:
    """The endpoint of one service of the settings' account. Raises `UsageError`."""
    if connection := settings.connection:
        return connection.endpoint(service)
    return blob_url(settings.account) if service == "blob" else queue_url(settings.account)


def blob_url(account: str) -> str:
    """The blob endpoint of an account's name or URL. Raises `UsageError`."""
    if _ACCOUNT_NAME.fullmatch(account):
        return f"https://{account}.blob.core.windows.net"
    parts = urlsplit(account)
    if parts.query or parts.username or parts.password:
        raise UsageError(
            "the storage account's URL carries a credential",
            remedy=f"give the bare URL, and a SAS token in {BLOB_SAS_VARIABLE}",
        )
    if parts.scheme != "https" or ".blob." not in parts.netloc or parts.path.strip("/"):
        raise UsageError(
            f"storage account {account!r} is neither a name nor a blob endpoint",
            remedy="for example mystorage, or https://mystorage.blob.core.windows.net",
        )
    return f"https://{parts.netloc}"


def queue_url(account: str) -> str:
    """The queue endpoint beside `blob_url`."""
    return blob_url(account).replace(".blob.", ".queue.", 1)
