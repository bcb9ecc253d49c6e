"""The sockets that an endpoint listens on, bound before anything expensive is started."""

from __future__ import annotations

import errno
import ipaddress
import socket

from shared.errors import UsageError


def bind(host: str, port: int, *, flag: str = "--port") -> socket.socket:
    """A bound socket that doesn't listen yet. Raises `UsageError`, whose remedy names `flag`."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family)
    except OSError as error:
        raise UsageError(f"{host} is not an address to listen on") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise UsageError(
                f"port {port} on {host} is in use", remedy=f"choose another {flag}, or 0"
            ) from error
        raise UsageError(f"can't listen on {host}, port {port}: {error.strerror}") from error
    return listener


def is_loopback(listener: socket.socket) -> bool:
    """Whether only this machine reaches it."""
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback


def url(listener: socket.socket, *, scheme: str = "http") -> str:
    """Where it is, as a client writes it."""
    address, port = listener.getsockname()[:2]
    host = f"[{address}]" if ":" in address else address
    return f"{scheme}://{host}:{port}"
