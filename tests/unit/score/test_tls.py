"""Certificate and key: what is served with them, and what is refused."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import socket
import ssl
import subprocess
import sys
import termios
import threading
from pathlib import Path

import pytest
from aiohttp import web

from score import tls
from score.settings import TlsFiles
from shared.errors import UsageError
from tests.certificates import Authority


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def connect(server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[str, str]:
    """The subject that a client sees, and the version of TLS."""
    ours, theirs = socket.socketpair()

    def answer() -> None:
        try:
            with server.wrap_socket(theirs, server_side=True) as secured:
                secured.recv(1)
        except (ssl.SSLError, OSError):
            theirs.close()  # the client says why

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        with client.wrap_socket(ours, server_hostname="127.0.0.1") as secured:
            certificate = secured.getpeercert()
            assert certificate is not None
            subject = dict(pair for part in certificate["subject"] for pair in part)  # type: ignore[misc]
            secured.send(b"x")
            return str(subject["commonName"]), str(secured.version())
    finally:
        ours.close()
        thread.join()


def trusting(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(authority.file))


def test_who_trusts_the_authority_can_connect(authority: Authority) -> None:
    context = tls.server_context(TlsFiles(*authority.issue("first")))
    assert connect(context, trusting(authority)) == ("first", "TLSv1.3")
    with pytest.raises(ssl.SSLCertVerificationError):
        connect(context, ssl.create_default_context())


def test_nothing_older_than_tls_1_2(authority: Authority) -> None:
    context = tls.server_context(TlsFiles(*authority.issue("first")))
    client = trusting(authority)
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    assert connect(context, client)[1] == "TLSv1.2"
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2


async def seen(port: int, client: ssl.SSLContext, host: str | None = None) -> str:
    """The subject that a client of an endpoint sees; `host` is the name that it asks for."""
    client.check_hostname = host is None
    _, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=client, server_hostname=host or "127.0.0.1"
    )
    try:
        certificate = writer.get_extra_info("peercert")
        return str(dict(pair for part in certificate["subject"] for pair in part)["commonName"])
    finally:
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("rsa_comes", [1, 0])
@pytest.mark.parametrize("host", [None, "a.name.of.its.own"])
async def test_new_connections_get_the_new_certificate_whatever_its_key(
    authority: Authority, rsa_comes: int, newest: ssl.TLSVersion, host: str | None
) -> None:
    """From one type of key to another, by names (SNI) and without: 127.0.0.1 is none."""
    first, second = (
        TlsFiles(*authority.issue(name, is_rsa=number == rsa_comes))
        for number, name in enumerate(("first", "second"))
    )
    client = trusting(authority)
    client.maximum_version = newest
    secured = tls.ServerTls(first)
    runner = web.AppRunner(web.Application(), shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=secured.context).start()
        port = runner.addresses[0][1]
        assert await seen(port, client, host) == "first"
        secured.current = tls.server_context(second)
        assert await seen(port, client, host) == "second"
        secured.current = tls.server_context(first)
        assert await seen(port, client, host) == "first"
    finally:
        await runner.cleanup()


def test_a_key_of_another_certificate(authority: Authority) -> None:
    cert, _ = authority.issue("first")
    _, key = authority.issue("second")
    with pytest.raises(UsageError, match=r"second\.key is not the key of --tls-cert .*first\.pem"):
        tls.server_context(TlsFiles(cert, key))


LOAD = """
import sys
from pathlib import Path
from score import tls
from score.settings import TlsFiles
from shared.errors import UsageError
try:
    tls.server_context(TlsFiles(Path(sys.argv[1]), Path(sys.argv[2])))
except UsageError as error:
    print(error)
"""


def test_a_key_with_a_passphrase_is_refused_not_asked_for_on_the_terminal(
    authority: Authority,
) -> None:
    ours, terminal = pty.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-c", LOAD, *authority.issue("locked", passphrase=b"secret")],
            stdin=terminal,
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
    finally:
        os.close(ours)
        os.close(terminal)
    assert "without a passphrase" in done.stdout


@pytest.mark.parametrize("which", ["cert", "key"])
@pytest.mark.parametrize("content", [None, b"", b"no certificate", b"\xff\x00"])
def test_a_file_that_is_none_is_named(
    authority: Authority, which: str, content: bytes | None
) -> None:
    cert, key = authority.issue("first")
    broken = cert if which == "cert" else key
    broken.unlink()
    if content is not None:
        broken.write_bytes(content)
    with pytest.raises(UsageError, match=str(broken)) as refused:
        tls.server_context(TlsFiles(cert, key))
    assert (f"--tls-{which} {broken} is unreadable" in str(refused.value)) == (content is None)
