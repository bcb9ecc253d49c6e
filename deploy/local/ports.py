"""Loopback ports for servers of our own."""

from __future__ import annotations

import random
import socket

from shared.errors import StorageUnavailable

HOST = "127.0.0.1"
ANY_PORTS = range(20_000, 32_000)


def free_port(wanted: int = 0) -> int:
    """The port wanted, or any one. Raises `StorageUnavailable` when it is taken.

    Any one is below the range from which systems take the ports of outgoing connections, so that
    none of those gets there before the server does.
    """
    for port in [wanted] if wanted else random.sample(ANY_PORTS, 100):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise StorageUnavailable(
        f"port {wanted or 'after port'} is in use", remedy="stop its user, or choose another port"
    )
