"""A storage connection string, taken apart: where the account is, and with which credential.

The format is Azure's: `Name=value` fields between semicolons, names in any case
(https://learn.microsoft.com/azure/storage/common/storage-configure-connection-string).
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import SecretStr

from shared.errors import UsageError

Service = Literal["blob", "queue"]

EMULATOR_ACCOUNT = "devstoreaccount1"
"""Azurite's own account. Its key is the same for everyone, and published: it protects nothing."""

_EMULATOR_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)
_EMULATOR = (
    f"AccountName={EMULATOR_ACCOUNT};AccountKey={_EMULATOR_KEY};"
    f"BlobEndpoint=http://127.0.0.1:10000/{EMULATOR_ACCOUNT};"
    f"QueueEndpoint=http://127.0.0.1:10001/{EMULATOR_ACCOUNT}"
)
_CLOUD_SUFFIX = "core.windows.net"
_SAS = re.compile(r"(?=(?:.*&)?sig=)[A-Za-z0-9%&=+/:._~,-]{1,4096}")


@dataclass(frozen=True, slots=True)
class Connection:
    """One account. Endpoints are bare URLs without a slash at the end; empty if none is named."""

    account: str
    blob_endpoint: str
    queue_endpoint: str
    account_key: SecretStr
    sas: SecretStr

    @classmethod
    def parse(cls, text: str) -> Self:
        """Take a connection string apart. Raises `UsageError`, which quotes none of it."""
        try:
            fields = _fields(text)
            if fields.get("usedevelopmentstorage") == "true":
                fields = _fields(_EMULATOR)
            return cls(
                account=fields.get("accountname", ""),
                blob_endpoint=_endpoint(fields, "blob"),
                queue_endpoint=_endpoint(fields, "queue"),
                account_key=SecretStr(fields.get("accountkey", "")),
                sas=SecretStr(sas_token(fields.get("sharedaccesssignature", ""))),
            )
        except ValueError:
            raise UsageError(
                "the storage connection string is missing or malformed",
                remedy="set BLINDSCORE_CONNECTION_STRING",
            ) from None

    def endpoint(self, service: Service) -> str:
        """The URL of a service. Raises `UsageError` when the string doesn't name it."""
        url = self.blob_endpoint if service == "blob" else self.queue_endpoint
        if not url:
            raise UsageError(
                f"the storage connection string names no {service} endpoint",
                remedy=f"add {service.capitalize()}Endpoint=https://... to it",
            )
        return url

    @property
    def is_local(self) -> bool:
        """Whether it is Azurite: on this machine, or with Azurite's own account."""
        urls = [url for url in (self.blob_endpoint, self.queue_endpoint) if url]
        return bool(urls) and all(is_local_url(url) for url in urls)


def sas_token(text: str) -> str:
    """A SAS token without the question mark before it. Raises ValueError for anything else."""
    token = text.removeprefix("?")
    if token and not _SAS.fullmatch(token):
        raise ValueError("not a SAS token (which looks like sv=...&sig=...)")
    return token


def is_local_url(url: str) -> bool:
    """Whether an endpoint is Azurite's: on this machine, or of Azurite's own account."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if "." not in host and parts.path.strip("/") == EMULATOR_ACCOUNT:
        return True  # by a name that only a private network knows, such as a container's
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _fields(text: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in text.strip().rstrip(";").split(";")]
    if any(not name or not equals for name, equals, _ in pairs):
        raise ValueError("a part that is no field")
    return {name.strip().lower(): value for name, _, value in pairs}


def _endpoint(fields: dict[str, str], service: Service) -> str:
    url = fields.get(f"{service}endpoint", "")
    if not url and (account := fields.get("accountname", "")):
        scheme = fields.get("defaultendpointsprotocol", "https")
        suffix = fields.get("endpointsuffix", _CLOUD_SUFFIX)
        url = f"{scheme}://{account}.{service}.{suffix}"
    if not url:
        return ""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.port == 0:
        raise ValueError("not an endpoint")
    if parts.query or parts.fragment or parts.username or parts.password:
        raise ValueError("an endpoint with a credential")
    return url.rstrip("/")
