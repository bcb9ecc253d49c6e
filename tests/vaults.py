"""A Key Vault on this machine: its REST API for secrets, over TLS, and an identity to go there.

As the service's own (https://learn.microsoft.com/rest/api/keyvault/secrets): a request without a
token is answered 401 with a challenge that says where to sign in. What it does not do: check the
token's signature, permissions, soft deletion, throttling.
"""

from __future__ import annotations

import ipaddress
import json
import secrets
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

HOST = "127.0.0.1"
POLL_S = 0.02
TOKEN = "a-token-of-the-managed-identity"


@dataclass
class FakeVault:
    """A vault that is running, and what it has been asked."""

    url: str
    certificate: Path
    identity_url: str
    stored: dict[str, dict[str, str]] = field(default_factory=dict)
    """Values by name and version."""
    requests: list[tuple[str, str]] = field(default_factory=list)
    """Method and path of those that came with a token."""
    refuse: int = 0
    """A status to answer everything with."""
    resource: str = ""
    """For which service the challenge asks a token."""

    @property
    def environment(self) -> dict[str, str]:
        """With which a program trusts the vault's certificate and has an identity."""
        return {
            "SSL_CERT_FILE": str(self.certificate),
            "IDENTITY_ENDPOINT": self.identity_url,
            "IDENTITY_HEADER": "header",
            "AZURE_TOKEN_CREDENTIALS": "ManagedIdentityCredential",
        }

    def put(self, name: str, value: str) -> str:
        version = secrets.token_hex(16)
        self.stored.setdefault(name, {})[version] = value
        return version


@contextmanager
def fake_vault(folder: Path) -> Iterator[FakeVault]:
    """A vault with a certificate of its own in `folder`, until the block ends."""
    certificate = _certificate(folder)
    vault_server = ThreadingHTTPServer((HOST, 0), _VaultHandler)
    identity_server = ThreadingHTTPServer((HOST, 0), _IdentityHandler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    vault_server.socket = context.wrap_socket(vault_server.socket, server_side=True)
    port, identity_port = vault_server.server_port, identity_server.server_port
    vault = FakeVault(
        url=f"https://{HOST}:{port}",
        certificate=certificate,
        identity_url=f"http://{HOST}:{identity_port}/token",
        resource=f"https://0.0.1:{port}",  # a parent domain of the vault's, as in Azure
    )
    vault_server.vault = vault  # type: ignore[attr-defined]
    servers = (vault_server, identity_server)
    threads = [threading.Thread(target=server.serve_forever, args=(POLL_S,)) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield vault
    finally:
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            thread.join()
            server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Say nothing."""

    def answer(self, status: int, body: Any = None, **headers: str) -> None:
        data = json.dumps(body).encode() if body is not None else b""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class _IdentityHandler(_Handler):
    """The endpoint of a managed identity, as Azure App Service has it."""

    def do_GET(self) -> None:
        expires = datetime.now(UTC) + timedelta(hours=8)
        self.answer(
            200,
            {
                "access_token": TOKEN,
                "expires_on": str(int(expires.timestamp())),
                "resource": "any",
                "token_type": "Bearer",
            },
        )


class _VaultHandler(_Handler):
    @property
    def vault(self) -> FakeVault:
        return self.server.vault  # type: ignore[attr-defined, no-any-return]

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if not self._is_welcome():
            return
        name = self._path()[1]
        value = json.loads(body)["value"]
        if len(value) > 25 * 1024:
            self._problem(400, "BadParameter")
        else:
            self._bundle(name, self.vault.put(name, value))

    def do_GET(self) -> None:
        if not self._is_welcome():
            return
        _, name, *version = self._path()
        versions = self.vault.stored.get(name, {})
        wanted = version[0] if version else next(reversed(versions), "")
        if wanted in versions:
            self._bundle(name, wanted)
        else:
            self._problem(404, "SecretNotFound")

    def _path(self) -> list[str]:
        return self.path.split("?", maxsplit=1)[0].strip("/").split("/")

    def _is_welcome(self) -> bool:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            challenge = (
                f'Bearer authorization="https://login.microsoftonline.com/{"0" * 8}", '
                f'resource="{self.vault.resource}"'
            )
            self.answer(401, {}, WWW_Authenticate=challenge)
            return False
        self.vault.requests.append((self.command, self.path))
        if self.vault.refuse:
            self._problem(self.vault.refuse, "Forbidden")
            return False
        return True

    def _bundle(self, name: str, version: str) -> None:
        self.answer(
            200,
            {
                "value": self.vault.stored[name][version],
                "id": f"{self.vault.url}/secrets/{name}/{version}",
                "attributes": {"enabled": True},
            },
        )

    def _problem(self, status: int, code: str) -> None:
        self.answer(status, {"error": {"code": code, "message": "no"}})


def _certificate(folder: Path) -> Path:
    """A key and a certificate for this machine that it has signed itself, in one PEM file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"vault {secrets.token_hex(8)}")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(HOST))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    path = folder / "vault.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return path
