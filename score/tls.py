"""TLS for the endpoint: certificate and key from files, which may be replaced while it runs."""

from __future__ import annotations

import ssl

from score.settings import TlsFiles
from shared.errors import UsageError


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """A context of TLS 1.2 or newer. Raises `UsageError`."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    load(context, files)
    return context


def reload(context: ssl.SSLContext, files: TlsFiles) -> None:
    """Use what the files hold now for new connections; those that are open keep theirs.

    Raises `UsageError`; then everything stays as it was.
    """
    server_context(files)  # tried on another one first: half of a pair must not get in
    load(context, files)


def load(context: ssl.SSLContext, files: TlsFiles) -> None:
    """Read certificate and key into a context. Raises `UsageError` naming the file."""
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
