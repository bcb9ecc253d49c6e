"""Who a request is from: the bearer token it brings or, on an open endpoint, its address."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Iterable

from aiohttp import web

from shared.errors import Unauthorized

IPV6_HOME_BITS = 64
"""One subscriber has all addresses of such a network (RFC 6177)."""


class Callers:
    """The tokens that are accepted now; none for an endpoint that is open to all."""

    def __init__(self, tokens: Iterable[str]) -> None:
        self.accept(tokens)

    def accept(self, tokens: Iterable[str]) -> None:
        """Accept these tokens from now on, and no others."""
        self._digests = [_digest(token) for token in tokens]

    def identify(self, request: web.Request) -> str:
        """A name for the caller that tells nothing of its token.

        Raises `Unauthorized`. Each token is compared, in constant time, whichever fits.
        """
        if not self._digests:
            return _home(request.remote or "")
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        given = _digest(token.strip())
        fits = [hmac.compare_digest(given, accepted) for accepted in self._digests]
        if scheme.lower() != "bearer" or not any(fits):
            raise Unauthorized(
                "no bearer token, or not an accepted one", remedy="send Authorization: Bearer …"
            )
        return given.hex()


def _digest(token: str) -> bytes:
    """Tokens are compared by digest: their lengths show nothing then."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def _home(address: str) -> str:
    """The address, or its network where a caller has a whole one."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:  # a socket without addresses
        return address
    if parsed.version == 4:
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, IPV6_HOME_BITS), strict=False))
