"""Least-privilege SAS tokens: what each party needs of the storage account, and nothing else.

Signed by an account key (a service SAS), a token for blobs is good for a whole container. Signed
by an identity (a user delegation SAS) it is good for one folder, where that is all a party needs.
See https://learn.microsoft.com/rest/api/storageservices/create-service-sas and
https://learn.microsoft.com/rest/api/storageservices/create-user-delegation-sas
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, Self
from urllib.parse import urlsplit

from azure.storage.blob import UserDelegationKey as BlobKey
from azure.storage.blob import generate_blob_sas, generate_container_sas
from azure.storage.blob.aio import BlobServiceClient
from azure.storage.queue import UserDelegationKey as QueueKey
from azure.storage.queue import generate_queue_sas
from azure.storage.queue.aio import QueueServiceClient
from pydantic import SecretStr

from shared import azure_sdk
from shared.azure_account import open_identity, service_url
from shared.connection import is_local_url
from shared.errors import UsageError
from shared.settings import StorageSettings

CALL_S = 10.0
CLOCK_SKEW = timedelta(minutes=15)
"""Tokens are good from a little earlier on: clocks differ. Azure's own advice."""
MAX_DELEGATED = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Grant:
    """What a party may do, in Azure's letters and order; empty for nothing."""

    blobs: str
    """r read, c create (not over an existing blob), w write over, d delete, l list."""
    folder: str = ""
    """The part of the container that `blobs` is about; empty for all of it."""
    queue: str = ""
    """r look, a add, u update (renew, hand back), p process (take, delete)."""
    poison: str = ""


GRANTS: Mapping[str, Grant] = MappingProxyType(
    {
        "worker": Grant(blobs="rc", folder="runs", queue="up", poison="a"),
        "scorer": Grant(blobs="r", folder="keys"),
        "producer": Grant(blobs="rcwl", queue="ra"),
        "collector": Grant(blobs="rl", folder="runs"),
        "cleaner": Grant(blobs="dl", queue="up"),
        "operator": Grant(blobs="d", folder="runs", queue="a", poison="up"),
    }
)


@dataclass(frozen=True, slots=True)
class Validity:
    """From when until when."""

    start: datetime
    expiry: datetime

    @classmethod
    def of(cls, hours: float, *, now: datetime | None = None) -> Self:
        now = (now or datetime.now(UTC)).replace(microsecond=0)
        return cls(now - CLOCK_SKEW, now + timedelta(hours=hours))


@dataclass(frozen=True, slots=True)
class Tokens:
    """One party's tokens; empty where it needs none."""

    blob: SecretStr
    queue: SecretStr
    poison: SecretStr


@dataclass(frozen=True, slots=True)
class Signer:
    """An account key, or the keys that the account delegated to an identity."""

    account: str
    account_key: SecretStr | None = None
    blob_key: BlobKey | None = field(default=None, repr=False)
    queue_key: QueueKey | None = field(default=None, repr=False)

    @property
    def is_delegated(self) -> bool:
        return self.blob_key is not None


async def open_signer(settings: StorageSettings, validity: Validity) -> Signer:
    """Whoever the settings are. Raises `UsageError` where that is a SAS: it can't make another.

    An identity asks the account for its keys, which needs the role Storage Blob Delegator (and
    Storage Queue Delegator), and raises `AccessDenied` without.
    """
    if connection := settings.connection:
        if not connection.account_key.get_secret_value():
            raise UsageError(
                "a SAS can't make another one",
                remedy="run this as the account's owner: --account with your own identity, or a "
                "connection string with the account key",
            )
        return Signer(connection.account, account_key=connection.account_key)
    if settings.has_sas_tokens:
        raise UsageError("a SAS can't make another one", remedy="unset BLINDSCORE_*_SAS")
    if validity.expiry - validity.start > MAX_DELEGATED:
        raise UsageError(
            "an identity can't sign for longer than a week",
            remedy="--hours 167 at most, and again every week",
        )
    return await _delegated(settings, validity)


async def _delegated(settings: StorageSettings, validity: Validity) -> Signer:
    url = service_url("blob", settings)
    where = f"delegation keys of {urlsplit(url).hostname}"
    async with (
        open_identity(settings) as identity,
        azure_sdk.connect(
            BlobServiceClient, "blob", settings, identity=identity, read_s=CALL_S
        ) as blobs,
        azure_sdk.connect(
            QueueServiceClient, "queue", settings, identity=identity, read_s=CALL_S
        ) as queues,
    ):
        blob_key = await azure_sdk.attempt(
            lambda _: blobs.get_user_delegation_key(validity.start, validity.expiry),
            subject=where,
            timeout_s=CALL_S,
        )
        queue_key = await azure_sdk.attempt(
            lambda _: queues.get_user_delegation_key(start=validity.start, expiry=validity.expiry),
            subject=where,
            timeout_s=CALL_S,
        )
    return Signer(str(blobs.account_name), blob_key=blob_key, queue_key=queue_key)


def sign(
    grant: Grant, settings: StorageSettings, signer: Signer, validity: Validity, *, policy: str = ""
) -> Tokens:
    """The tokens of a grant. No network access.

    With `policy` they say nothing but its name, and the account looks there what they allow.
    Raises `UsageError`: Azure has no policies for an identity's tokens.
    """
    if policy and signer.is_delegated:
        raise UsageError(
            "tokens that an identity signs have no stored policy",
            remedy="leave --policy out: they end within a week, and are revoked with the "
            "identity's delegation keys",
        )
    key = signer.account_key.get_secret_value() if signer.account_key else None

    def terms(permission: str, url: str) -> dict[str, Any]:
        shared = {"account_key": key, "protocol": _protocol(url)}
        if policy:
            return {**shared, "policy_id": policy}
        times = {"start": validity.start, "expiry": validity.expiry}
        return {**shared, **times, "permission": permission}

    def for_queue(name: str, permission: str) -> SecretStr:
        if not permission:
            return SecretStr("")
        limits = terms(permission, service_url("queue", settings))
        limits["user_delegation_key"] = signer.queue_key
        return SecretStr(generate_queue_sas(signer.account, name, **limits))

    limits = terms(grant.blobs, service_url("blob", settings))
    limits["user_delegation_key"] = signer.blob_key
    if signer.is_delegated and grant.folder:
        blob = generate_blob_sas(
            signer.account, settings.container, grant.folder, is_directory=True, **limits
        )
    else:
        blob = generate_container_sas(signer.account, settings.container, **limits)
    return Tokens(
        blob=SecretStr(blob),
        queue=for_queue(settings.queue, grant.queue),
        poison=for_queue(settings.poison_queue, grant.poison),
    )


def _protocol(url: str) -> str:
    """Only Azurite may be spoken to in the clear."""
    return "https,http" if url.startswith("http:") and is_local_url(url) else "https"
