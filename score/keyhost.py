"""Which storage a request may point the scorer at, and a strict reading of its `conn_str`.

A connection string in a request is a leaked credential and a way to make the scorer connect
anywhere. So it is taken apart here, field by field, and only what is known to be good is put
together again for the storage library; no part of it is ever echoed, logged or kept.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass

from shared.connection import sas_token
from shared.errors import KeyHostNotAllowed, UsageError
from shared.settings import StorageSettings

CLOUD_SUFFIX = "core.windows.net"

_PORTS = {"https": 443, "http": 80}
_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>[a-z0-9](?:[a-z0-9.-]{0,252}))(?::(?P<port>[0-9]{1,5}))?"
    r"(?:/(?P<account>[a-z0-9]{3,24}))?/?",
    re.IGNORECASE | re.ASCII,  # or ſ would pass for s, and K for k
)
_ACCOUNT = re.compile(r"[a-z0-9]{3,24}")
_SUFFIX = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,200})", re.IGNORECASE | re.ASCII)
_KEY = re.compile(r"[A-Za-z0-9+/]{1,128}={0,2}")
_IGNORED = {"queueendpoint", "tableendpoint", "fileendpoint"}
_FIELDS = {
    "defaultendpointsprotocol",
    "accountname",
    "accountkey",
    "endpointsuffix",
    "blobendpoint",
    "sharedaccesssignature",
} | _IGNORED


@dataclass(frozen=True, slots=True)
class KeyHost:
    """A blob endpoint: scheme, host, port, and the account where that is in the path (Azurite)."""

    scheme: str
    host: str
    port: int
    account: str

    @classmethod
    def parse(cls, url: str) -> KeyHost:
        """Read a bare endpoint URL. Raises `ValueError` for anything more or less."""
        match = _URL.fullmatch(url)
        if match is None:
            raise ValueError("not a bare blob endpoint")
        scheme = match["scheme"].lower()
        port = int(match["port"] or _PORTS[scheme])
        if not 0 < port < 65536:
            raise ValueError("not a port")
        return cls(scheme, match["host"].lower(), port, match["account"] or "")

    @property
    def url(self) -> str:
        """The endpoint, written in one way only."""
        port = "" if self.port == _PORTS[self.scheme] else f":{self.port}"
        account = f"/{self.account}" if self.account else ""
        return f"{self.scheme}://{self.host}{port}{account}"


def allowed_hosts(settings: StorageSettings, more: tuple[str, ...]) -> frozenset[KeyHost]:
    """The scorer's own account, and `more` endpoints. Raises `UsageError` naming a bad one."""
    own = _own_host(settings)
    hosts = set() if own is None else {own}
    for url in more:
        try:
            hosts.add(KeyHost.parse(url))
        except ValueError as error:
            raise UsageError(
                f"{url!r} is not a blob endpoint",
                remedy="for example https://theirs.blob.core.windows.net",
            ) from error
    return frozenset(hosts)


def request_storage(
    conn_str: str, container: str, own: StorageSettings, allowed: frozenset[KeyHost]
) -> StorageSettings:
    """The storage that a request's `conn_str` names, if it is allowed.

    Raises `KeyHostNotAllowed`, which says nothing of the string.
    """
    try:
        fields = _fields(conn_str)
        host = _host(fields)
        credential = _credential(fields)
    except ValueError:
        raise KeyHostNotAllowed("conn_str is not one this endpoint understands") from None
    if host not in allowed:
        raise KeyHostNotAllowed(
            "conn_str names storage that this endpoint does not read",
            remedy="leave conn_str out, or have the endpoint allow it with --allow-key-host",
        )
    return StorageSettings.model_validate(
        {
            "connection_string": f"BlobEndpoint={host.url};{credential}",
            "container": container,
            "api_version": own.api_version,
        }
    )


def _own_host(settings: StorageSettings) -> KeyHost | None:
    """The scorer's own blob endpoint; None for a form that requests may not have anyway."""
    url = settings.account
    if connection := settings.connection:
        url = connection.blob_endpoint
    elif _ACCOUNT.fullmatch(url):
        url = f"https://{url}.blob.{CLOUD_SUFFIX}"
    try:
        return KeyHost.parse(url)
    except ValueError:
        return None


def _fields(text: str) -> dict[str, str]:
    """Fields by lower-case name. Raises `ValueError` for unknown, doubled or empty ones."""
    fields: dict[str, str] = {}
    for part in text.rstrip(";").split(";"):
        name, equals, value = part.partition("=")
        name = name.lower()
        if not equals or not value or name not in _FIELDS or name in fields:
            raise ValueError("unusable field")
        fields[name] = value
    return fields


def _host(fields: dict[str, str]) -> KeyHost:
    if "blobendpoint" in fields:
        return KeyHost.parse(fields["blobendpoint"])
    account = fields.get("accountname", "")
    suffix = fields.get("endpointsuffix", CLOUD_SUFFIX)
    scheme = fields.get("defaultendpointsprotocol", "https")
    if not _ACCOUNT.fullmatch(account) or not _SUFFIX.fullmatch(suffix):
        raise ValueError("no endpoint")
    return KeyHost.parse(f"{scheme}://{account}.blob.{suffix}")


def _credential(fields: dict[str, str]) -> str:
    account = fields.get("accountname", "")
    key, sas = fields.get("accountkey"), fields.get("sharedaccesssignature", "").lstrip("?")
    if key is not None and not sas and _ACCOUNT.fullmatch(account) and _KEY.fullmatch(key):
        base64.b64decode(key, validate=True)
        return f"AccountName={account};AccountKey={key}"
    if key is None and sas:
        return f"SharedAccessSignature={sas_token(sas)}"
    raise ValueError("no credential")
