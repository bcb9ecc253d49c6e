"""An https endpoint with a certificate of a private authority, its probes, and its callers."""

from __future__ import annotations

import asyncio
import json
import secrets
import signal
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from deploy.local.azurite import Azurite
from deploy.local.models import train_digits
from deploy.local.ports import free_port
from shared.settings import CONNECTION_STRING_VARIABLE, StorageSettings
from shared.storage import ensure_storage
from tests.certificates import Authority
from tests.commands import refuse, succeed
from tests.integration.endpoints import WITHIN_S, Running, saved, serving

CONTAINER = f"tls-{secrets.token_hex(6)}"
TOKENS = ("first-token-of-two", "other-token-of-two")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def trusting(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(authority.file))


def tls_options(authority: Authority) -> tuple[str, ...]:
    cert, key = authority.issue("endpoint")
    return ("--tls-cert", str(cert), "--tls-key", str(key), "--processes", "1")


def ask(url: str, trusting: ssl.SSLContext | None = None, token: str = "") -> tuple[int, bytes]:
    """GET; status and body."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request, timeout=WITHIN_S, context=trusting) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


@pytest.fixture
def endpoint(
    azurite: Azurite, authority: Authority, tmp_path: Path
) -> Iterator[tuple[Running, str]]:
    """An https endpoint with the first token, and where its probes are answered."""
    (tmp_path / "tokens").write_text(TOKENS[0])
    port = free_port()
    options = (
        *tls_options(authority),
        *("--token-file", str(tmp_path / "tokens"), "--health-port", str(port)),
    )
    with serving(tmp_path, azurite, CONTAINER, *options) as running:
        yield running, f"http://127.0.0.1:{port}"


def test_callers_come_by_https_and_probes_by_a_port_of_their_own(
    endpoint: tuple[Running, str], trusting: ssl.SSLContext
) -> None:
    running, probes = endpoint
    assert running.url.startswith("https://")
    assert json.loads(ask(f"{running.url}/model", trusting, TOKENS[0])[1])["features"] == 4
    with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
        ask(running.url)
    with pytest.raises(OSError, match=r"closed|reset|Remote"):
        ask(running.url.replace("https", "http"))
    assert ask(probes) == (200, b"Healthy")
    assert ask(f"{probes}/ready")[0] == 200
    assert b"blindscore_lanes 1.0" in ask(f"{probes}/metrics")[1]
    assert ask(f"{probes}/score")[0] == 404
    assert ask(f"{running.url}/metrics", trusting, TOKENS[0])[0] == 404
    assert ask(f"{running.url}/ready", trusting)[0] == 200


def test_certificate_and_tokens_are_exchanged_without_a_restart(
    endpoint: tuple[Running, str], authority: Authority, trusting: ssl.SSLContext, tmp_path: Path
) -> None:
    running, _ = endpoint
    other = Authority(tmp_path)  # whose certificate nobody trusts yet
    trusting_other = ssl.create_default_context(cafile=str(other.file))
    other.issue("endpoint", is_rsa=True)  # a key of another type
    (tmp_path / "tokens").write_text(TOKENS[1])
    assert ask(f"{running.url}/model", trusting, TOKENS[0])[0] == 200
    running.process.send_signal(signal.SIGHUP)
    deadline_s = time.monotonic() + WITHIN_S
    while (log := (tmp_path / "serve.log").read_text()).count("read again") < 2:  # tokens, then it
        assert time.monotonic() < deadline_s, log
        time.sleep(0.02)
    assert ask(f"{running.url}/model", trusting_other, TOKENS[1])[0] == 200
    assert ask(f"{running.url}/model", trusting_other, TOKENS[0])[0] == 401

    (tmp_path / "tokens").write_text("")  # would open the endpoint to everybody
    running.process.send_signal(signal.SIGHUP)
    while "not used" not in (log := (tmp_path / "serve.log").read_text()):
        assert time.monotonic() < deadline_s, log
        time.sleep(0.02)
    assert ask(f"{running.url}/model", trusting_other)[0] == 401
    assert ask(f"{running.url}/model", trusting_other, TOKENS[1])[0] == 200


def test_a_worker_trusts_the_authority_that_ssl_cert_file_names(
    azurite: Azurite, authority: Authority, tmp_path: Path
) -> None:
    """From rows to scores, by way of an https endpoint."""
    environment = {
        CONNECTION_STRING_VARIABLE: azurite.connection_string,
        "BLINDSCORE_CONTAINER": CONTAINER,
        "BLINDSCORE_QUEUE": CONTAINER,
        "BLINDSCORE_HOME": str(tmp_path / "home"),
        "BLINDSCORE_ENDPOINT_TOKEN": TOKENS[0],
    }
    settings = StorageSettings(
        connection_string=SecretStr(azurite.connection_string),
        container=CONTAINER,
        queue=CONTAINER,
    )
    asyncio.run(ensure_storage(settings))
    with serving(
        tmp_path,
        azurite,
        CONTAINER,
        *tls_options(authority),
        model=train_digits(tmp_path),
        BLINDSCORE_TOKENS=TOKENS[0],
    ) as running:
        succeed("keygen", "--scheme", "direct", environment=environment)
        run = succeed("produce", "--scheme", "direct", "--limit", "2", environment=environment)
        work = ("work", "--endpoint", running.url, "--exit-when-idle-s", "0.2")
        told = refuse(*work, "--wait-endpoint-s", "0", environment=environment)
        assert "ClientConnectorCertificateError" in told
        trusting = {"SSL_CERT_FILE": str(authority.file)}
        succeed(*work, environment=environment | trusting)
        succeed("collect", run, "--out", str(tmp_path / "results"), environment=environment)
    report = json.loads((tmp_path / "results" / "report.json").read_text())
    assert report["rows_scored"] == 2


@pytest.mark.parametrize(("given", "missing"), [("cert", "key"), ("key", "cert")])
def test_half_of_a_pair_is_refused(
    authority: Authority, tmp_path: Path, given: str, missing: str
) -> None:
    path = authority.issue("endpoint")[given == "key"]
    told = refuse(
        *("serve", "--model", str(saved(tmp_path)), f"--tls-{given}", str(path)),
        environment={CONNECTION_STRING_VARIABLE: "UseDevelopmentStorage=true"},
    )
    assert f"--tls-{given} needs --tls-{missing} beside it" in told


def test_a_file_that_is_no_certificate_is_refused(
    authority: Authority, azurite: Azurite, tmp_path: Path
) -> None:
    cert, key = authority.issue("endpoint")
    cert.write_text("no certificate")
    told = refuse(
        *("serve", "--model", str(saved(tmp_path)), "--port", "0"),
        *("--tls-cert", str(cert), "--tls-key", str(key)),
        environment={CONNECTION_STRING_VARIABLE: azurite.connection_string},
    )
    assert f"--tls-cert {cert} and --tls-key {key} are not a certificate" in told
