"""Small secrets in an Azure Key Vault, as `shared.azure_sdk` does for storage: errors in our words.

A vault's client always signs in with this program's own identity; there are no keys or tokens to
pass around. The SDK asks the vault where to sign in, and checks that the answer is for that vault.
"""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from azure.core.exceptions import AzureError, ClientAuthenticationError, ResourceNotFoundError
from azure.keyvault.secrets.aio import SecretClient

from shared.azure_account import own_identity
from shared.azure_sdk import status
from shared.errors import (
    AccessDenied,
    BlindscoreError,
    SecretKeyError,
    StorageError,
    StorageUnavailable,
    UsageError,
)

CONNECT_S = 5.0
READ_S = 20.0
TRIES = 3
CONTENT_TYPE = "application/octet-stream;base64"
_NAME = re.compile(r"[A-Za-z0-9-]{3,24}")
_URL = re.compile(r"https://([A-Za-z0-9.-]{1,253}(?::([0-9]{1,5}))?)/*", re.IGNORECASE)
MAX_PORT = 65535
_PASSING = frozenset({408, 429, 500, 502, 503, 504})


def vault_url(vault: str) -> str:
    """A vault's bare URL, of its URL or of its name in the public cloud. Raises `UsageError`."""
    if _NAME.fullmatch(vault):
        return f"https://{vault.lower()}.vault.azure.net"
    url = _URL.fullmatch(vault)
    if url is None or int(url[2] or 0) > MAX_PORT:  # there may be a password in it
        raise UsageError(
            "--vault is no key vault's URL, and no vault's name",
            remedy="for example https://myvault.vault.azure.net",
        )
    return f"https://{url[1]}"


async def put_secret(vault: str, name: str, value: bytes) -> str:
    """Store a secret as a new version of `name`; returns the version.

    Raises `StorageUnavailable`, `AccessDenied`, `StorageError`.
    """
    async with _connected(vault) as client:
        stored = await client.set_secret(
            name, base64.b64encode(value).decode(), content_type=CONTENT_TYPE
        )
    version = stored.properties.version
    if not version:
        raise StorageError(f"vault {vault} gave secret {name} no version")
    return version


async def get_secret(vault: str, name: str, version: str) -> bytes:
    """Read one version of a secret. Raises as `put_secret`, and `SecretKeyError`."""
    async with _connected(vault) as client:
        found = await client.get_secret(name, version)
    try:
        return base64.b64decode(found.value or "", validate=True)
    except ValueError as error:
        raise SecretKeyError(f"secret {name} in {vault} is not what was put there") from error


@asynccontextmanager
async def _connected(vault: str) -> AsyncIterator[SecretClient]:
    """A client of the vault, whose failures are said in our words."""
    host = urlsplit(vault).netloc
    async with (
        own_identity(host) as identity,
        SecretClient(
            vault,
            identity,
            retry_total=TRIES - 1,
            permit_redirects=False,
            connection_timeout=CONNECT_S,
            read_timeout=READ_S,
        ) as client,
    ):
        try:
            yield client
        except AzureError as error:
            raise _translate(error, vault) from error
        except ValueError as error:  # the SDK's, when the vault asks for somebody else's token
            raise AccessDenied(
                f"{vault} asks to sign in for another service than itself",
                remedy="is this the vault's URL?",
            ) from error


def _translate(error: AzureError, vault: str) -> BlindscoreError:
    answered = status(error)
    if isinstance(error, ResourceNotFoundError):
        return SecretKeyError(
            f"vault {vault} does not have the key that this secret is sealed under",
            remedy="recover the secret there (az keyvault secret recover), or restore a backup",
        )
    if isinstance(error, ClientAuthenticationError) or answered in (401, 403):
        return AccessDenied(
            f"vault {vault}: access denied{f' ({answered})' if answered else ''}",
            remedy="sign in with `az login`, or run where there is a managed identity; it needs "
            "the role Key Vault Secrets User, and to put keys there Key Vault Secrets Officer",
        )
    if answered is None and "certificate" in str(error).lower():
        return StorageError(
            f"vault {vault}: its certificate is not one that this machine trusts",
            remedy="is this the vault's URL? An authority of your own goes into SSL_CERT_FILE",
        )
    if answered is None or answered in _PASSING:
        return StorageUnavailable(
            f"vault {vault} can't be reached{f' ({answered})' if answered else ''}",
            remedy="check its name and the network, and try again",
        )
    return StorageError(f"vault {vault} refused the request ({answered})")
