"""TLS for the endpoint: certificate and key from files, which may be replaced while it runs."""

from __future__ import annotations

import ssl

from score.settings import TlsFiles
from shared.errors import UsageError


class ServerTls:
    """The TLS of a listener, whose certificate can be exchanged while connections come.

    A context holds one certificate for each type of key: another one that is loaded into it may
    only be added. So each pair gets a context of its own, and each connection is handed over to
    the current one when its client says hello (OpenSSL, `SSL_set_SSL_CTX`). Open ones keep theirs.
    """

    def __init__(self, files: TlsFiles) -> None:
        """Raises `UsageError`."""
        self.context = server_context(files)
        """What the listener is given."""
        self.current = self.context
        """What new connections get."""
        self.context.sni_callback = self._hand_over  # called whether the client names a host or not

    def _hand_over(self, connection: ssl.SSLObject, *_: object) -> None:
        connection.context = self.current


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """A context of TLS 1.2 or newer. Raises `UsageError` naming the file that can't be used."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    for flag, path in (("--tls-cert", files.cert), ("--tls-key", files.key)):
        try:
            path.read_bytes()
        except OSError as error:
            raise UsageError(f"{flag} {path} is unreadable: {error.strerror}") from error
    try:
        # Without a password here, OpenSSL would ask for one on the terminal.
        context.load_cert_chain(files.cert, files.key, password="")
    except (ssl.SSLError, OSError) as error:
        if getattr(error, "reason", "") == "KEY_VALUES_MISMATCH":
            raise UsageError(
                f"--tls-key {files.key} is not the key of --tls-cert {files.cert}",
                remedy="the first certificate in the file must be the endpoint's own",
            ) from error
        raise UsageError(
            f"--tls-cert {files.cert} and --tls-key {files.key} are not a certificate "
            "and its key, without a passphrase, in PEM",
            remedy="see docs/endpoint.md",
        ) from error
    return context
