"""What both Azure adapters share: credentials, limits on time, retries, and errors in our words.

The SDK's own retry waits 15 s after one lost response and hides that a call may already have been
carried out. So it is switched off, and `attempt` retries instead, telling each new try of it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import aiohttp
from azure.core.credentials import AzureSasCredential
from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError
from azure.core.pipeline.transport import AioHttpTransport
from pydantic import SecretStr

from shared.azure_account import open_identity, service_url
from shared.connection import Service
from shared.errors import (
    AccessDenied,
    BlobExists,
    BlobNotFound,
    LeaseLost,
    QueueNotFound,
    StorageError,
    StorageUnavailable,
    UsageError,
)
from shared.settings import (
    BLOB_SAS_VARIABLE,
    CONNECTION_STRING_VARIABLE,
    QUEUE_SAS_VARIABLE,
    StorageSettings,
)

if TYPE_CHECKING:
    from azure.identity.aio import DefaultAzureCredential as Identity
    from azure.storage.blob.aio import BlobServiceClient
    from azure.storage.queue.aio import QueueServiceClient

Client = TypeVar("Client", "BlobServiceClient", "QueueServiceClient")
T = TypeVar("T")

ATTEMPTS = 5
FIRST_PAUSE_S = 0.2
RETRY_WINDOW_S = 15.0
"""No new try is begun later than this after the first."""
CONNECT_S = 5.0
PIECE_BYTES = 256 * 1024
"""Read from a socket or written to one at once, as in the SDK's own transport; through one that it
is given it reads 4 KiB."""

_PASSING_STATUSES = frozenset({408, 429, 500, 502, 503, 504})
_DAMAGED = "Md5Mismatch"
"""What arrived is not what was sent."""
_ERRORS_BY_CODE: dict[str, tuple[type[StorageError], str]] = {
    "QueueNotFound": (QueueNotFound, "check the queue's name, or create it"),
    "ContainerNotFound": (BlobNotFound, "check the container's name, or create it"),
    "BlobNotFound": (BlobNotFound, ""),
    "BlobAlreadyExists": (BlobExists, ""),
    "MessageNotFound": (LeaseLost, ""),
    "PopReceiptMismatch": (LeaseLost, ""),
    "InvalidHeaderValue": (StorageError, "it may not speak this API version: see --api-version"),
    "QueueBeingDeleted": (StorageUnavailable, "wait until its deletion is finished"),
    "ContainerBeingDeleted": (StorageUnavailable, "wait until its deletion is finished"),
}


@asynccontextmanager
async def connect(
    kind: type[Client],
    service: Service,
    settings: StorageSettings,
    *,
    read_s: float,
    identity: Identity | None = None,
    sas: SecretStr | None = None,
    **options: Any,
) -> AsyncIterator[Client]:
    """A client of the blob or queue service; no network access yet. Raises `UsageError`.

    It acts by `sas` (by default the settings' own token for the service), else as `identity` (by
    default one that is opened here), else as the connection string allows. `read_s` bounds the
    wait for the next bytes.
    """
    async with AsyncExitStack() as opened:
        session = await opened.enter_async_context(_session())
        options |= {
            "api_version": settings.api_version,
            "transport": AioHttpTransport(
                session=session, session_owner=False, connection_data_block_size=PIECE_BYTES
            ),
            "retry_total": 0,
            "permit_redirects": False,  # another host would be sent a signature, or the SAS token
            "connection_timeout": CONNECT_S,
            "read_timeout": read_s,
        }
        token = _token(service, settings, sas)
        secret = settings.connection_string.get_secret_value()
        if token:
            url = service_url(service, settings)
            narrow = AzureSasCredential(token)
            client = _construct(lambda: kind(url, credential=narrow, **options))
        elif settings.account:
            url = service_url(service, settings)
            own = identity or await opened.enter_async_context(open_identity(settings))
            client = _construct(lambda: kind(url, credential=own, **options))
        else:
            client = _construct(lambda: kind.from_connection_string(secret, **options))
        yield await opened.enter_async_context(client)


def _token(service: Service, settings: StorageSettings, sas: SecretStr | None) -> str:
    """The SAS token to use; empty when the credential is another. Raises `UsageError`."""
    if settings.has_sas_tokens:
        own = settings.blob_sas if service == "blob" else settings.queue_sas
        token = (sas or own).get_secret_value()
        if not token:
            variable = BLOB_SAS_VARIABLE if service == "blob" else QUEUE_SAS_VARIABLE
            raise UsageError(
                f"this needs the {service} service, and there is no SAS token for it",
                remedy=f"set {variable}; `blindscore sas` prints the tokens of each party",
            )
        return token
    connection = settings.connection
    return connection.sas.get_secret_value() if connection else ""


def _session() -> aiohttp.ClientSession:
    """As the SDK would make it, except that nothing is asked twice behind our back."""
    return aiohttp.ClientSession(
        trust_env=True,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        middlewares=(_tell_disconnection,),
    )


async def _tell_disconnection(
    request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Let a lost connection be seen: aiohttp would silently send a PUT or DELETE once more.

    Then a lost answer would look like a refusal. It repeats after these two errors only.
    """
    try:
        return await send(request)
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise aiohttp.ClientConnectionError(str(error)) from error


def _construct(build: Callable[[], T]) -> T:
    """Build an SDK client. Raises `UsageError` for what it will not take, quoting none of it."""
    try:
        return build()
    except ValueError as error:
        if "API version" in str(error):
            raise UsageError(
                "the storage API version is not one that the SDK speaks", remedy="see --api-version"
            ) from None
        raise UsageError(
            "the storage connection string is missing or malformed",
            remedy=f"set {CONNECTION_STRING_VARIABLE}",
        ) from None


async def attempt(
    operation: Callable[[bool], Awaitable[T]], *, subject: str, timeout_s: float
) -> T:
    """Run one storage call, again after passing faults, and raise its failure as ours.

    `operation` is told whether an earlier try may have been carried out although no answer came.
    Each try gets `timeout_s`. `subject` names what the call is about in error messages.
    """
    started = time.monotonic()
    maybe_done = False
    tries = 0
    while True:
        tries += 1
        try:
            async with asyncio.timeout(timeout_s):
                return await operation(maybe_done)
        except (AzureError, TimeoutError) as error:
            too_late = time.monotonic() - started > RETRY_WINDOW_S
            if tries == ATTEMPTS or too_late or not _is_passing(error):
                raise translate(error, subject) from error
        maybe_done = True
        await asyncio.sleep(random.uniform(0, FIRST_PAUSE_S * 2 ** (tries - 1)))  # noqa: S311


def error_code(error: BaseException) -> str:
    """The service's own name for a failure, for example `BlobNotFound`; empty when it gave none."""
    code = getattr(error, "error_code", None)
    return str(getattr(code, "value", code) or "")


def status(error: BaseException) -> int | None:
    """The HTTP status of a failure; None when there was no answer."""
    return error.status_code if isinstance(error, HttpResponseError) else None


def _is_passing(error: BaseException) -> bool:
    if isinstance(error, ClientAuthenticationError):
        return False
    code = status(error)
    return code is None or code in _PASSING_STATUSES or error_code(error) == _DAMAGED


def translate(error: BaseException, subject: str) -> StorageError:
    """Say a failure of the SDK in our words: names, a status and a code, never a request."""
    code, answered = error_code(error), status(error)
    said = " ".join(str(part) for part in (answered, code) if part)
    if code in _ERRORS_BY_CODE:
        kind, remedy = _ERRORS_BY_CODE[code]
        return kind(f"{subject}: {code}", remedy=remedy)
    if isinstance(error, ClientAuthenticationError) and answered is None:
        return AccessDenied(
            f"{subject}: access denied (no Azure identity here gave a token)",
            remedy="sign in with `az login`, or run where there is a managed identity, with its "
            "client id in AZURE_CLIENT_ID if there are several; it needs the roles Storage Blob "
            "Data Contributor and Storage Queue Data Contributor",
        )
    if answered in (401, 403):
        return AccessDenied(
            f"{subject}: access denied{f' ({said})' if said else ''}", remedy=_denial_remedy(code)
        )
    if answered is None:
        return StorageUnavailable(
            f"{subject}: the storage account can't be reached ({type(error).__name__})",
            remedy="check the account's name, the network and, for Azurite, that it is running",
        )
    if answered in _PASSING_STATUSES:
        return StorageUnavailable(
            f"{subject}: the storage account is overloaded or failing ({said})", remedy="try again"
        )
    return StorageError(f"{subject}: the storage account refused the request ({said})")


def _denial_remedy(code: str) -> str:
    if code == "KeyBasedAuthenticationNotPermitted":
        return "this account takes no account keys: use your own identity (--account)"
    return (
        "check the credential: an identity needs its roles (Storage Blob Data Contributor, Storage "
        "Queue Data Contributor), a SAS the permission and a time to live; see `blindscore sas`"
    )
