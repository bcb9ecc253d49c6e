"""Keys whose wrapping key is in a Key Vault: the SDK and an identity, against a local vault."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import aiohttp
import pytest
from azure.identity import aio
from azure.keyvault.secrets._shared import http_challenge_cache

from producer import keyvault
from producer.keyrecord import KeyRecord, VaultLock
from producer.keys import KeyRing, new_record
from producer.schemes import SCHEME_NAMES, client_scheme
from shared import azure_account, azure_vault
from shared.errors import (
    AccessDenied,
    SecretKeyError,
    StorageError,
    StorageUnavailable,
    UsageError,
)
from tests.commands import CLEAN_ENVIRONMENT
from tests.vaults import FakeVault, fake_vault

MAX_SECRET_CHARACTERS = 25 * 1024
"""Of a Key Vault's secret (https://learn.microsoft.com/azure/key-vault/secrets/about-secrets)."""


@pytest.fixture
def vault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeVault]:
    with fake_vault(tmp_path) as vault:
        for name, value in vault.environment.items():
            monkeypatch.setenv(name, value)
        # made when aiohttp was imported, before there was a certificate to trust
        aiohttp.connector._SSL_CONTEXT_VERIFIED.load_verify_locations(vault.certificate)
        monkeypatch.setattr(azure_vault, "TRIES", 1)
        http_challenge_cache.clear()
        yield vault


def locked(scheme: str, vault: FakeVault) -> KeyRecord:
    return new_record(
        client_scheme(scheme).generate(), locker=partial(keyvault.lock, vault=vault.url)
    )


@pytest.mark.parametrize("scheme", SCHEME_NAMES)
def test_every_schemes_secret_can_be_kept(scheme: str, vault: FakeVault, tmp_path: Path) -> None:
    """The vault holds 32 bytes, however large a scheme's secret is."""
    record = locked(scheme, vault)
    ring = KeyRing(tmp_path)
    ring.files.add(record)
    key = ring.load(record.key_id).key()
    assert key.key_id == record.key_id
    secret = base64.b64encode(key.export_secret()).decode()
    ((name, versions),) = vault.stored.items()
    assert name == f"blindscore-{record.key_id}"
    (value,) = versions.values()
    assert len(value) <= 44 < MAX_SECRET_CHARACTERS
    file = ring.files.path_of(record.key_id).read_text()
    assert secret[:32] not in file
    assert value not in file
    assert json.loads(file)["lock"]["place"] == {
        "vault": vault.url,
        "name": name,
        "version": next(iter(versions)),
    }


def test_another_version_of_the_secret_is_not_taken(vault: FakeVault, tmp_path: Path) -> None:
    """Each file names its own version: locking again, or another machine, takes nothing away."""
    record = locked("direct", vault)
    name = f"blindscore-{record.key_id}"
    vault.put(name, base64.b64encode(bytes(32)).decode())
    ring = KeyRing(tmp_path)
    ring.files.add(record)
    assert ring.load(record.key_id).key().key_id == record.key_id
    method, path = vault.requests[-1]
    assert isinstance(record.lock, VaultLock)
    assert method == "GET"
    assert f"/{name}/{record.lock.place.version}" in path


@pytest.mark.parametrize("value", [bytes(32), bytes(31), b""])
def test_a_secret_that_was_changed_opens_nothing(
    value: bytes, vault: FakeVault, tmp_path: Path
) -> None:
    record = locked("direct", vault)
    (versions,) = vault.stored.values()
    versions[next(iter(versions))] = base64.b64encode(value).decode()
    with pytest.raises(SecretKeyError, match="does not open the file"):
        KeyRing(tmp_path).open(record)


def test_a_secret_that_is_no_base64_is_told(vault: FakeVault, tmp_path: Path) -> None:
    record = locked("direct", vault)
    (versions,) = vault.stored.values()
    versions[next(iter(versions))] = "not ours"
    with pytest.raises(SecretKeyError, match="not what was put there"):
        KeyRing(tmp_path).open(record)


def test_a_secret_that_is_gone_is_told(vault: FakeVault, tmp_path: Path) -> None:
    record = locked("direct", vault)
    vault.stored.clear()
    with pytest.raises(SecretKeyError, match="recover the secret there"):
        KeyRing(tmp_path).open(record)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (403, AccessDenied),
        (503, StorageUnavailable),
        (429, StorageUnavailable),
        (400, StorageError),
    ],
)
def test_what_the_vault_refuses_is_said_in_our_words(
    vault: FakeVault, tmp_path: Path, status: int, error: type[Exception]
) -> None:
    record = locked("direct", vault)
    vault.refuse = status
    with pytest.raises(error, match=vault.url):
        KeyRing(tmp_path).open(record)
    with pytest.raises(error, match=vault.url):
        locked("direct", vault)


def test_a_vault_that_is_not_there_is_told(vault: FakeVault, tmp_path: Path) -> None:
    record = locked("direct", vault)
    assert isinstance(record.lock, VaultLock)
    place = record.lock.place.model_copy(update={"vault": "https://127.0.0.1:1"})
    moved = record.model_copy(update={"lock": record.lock.model_copy(update={"place": place})})
    with pytest.raises(StorageUnavailable, match=r"127\.0\.0\.1:1 can't be reached"):
        KeyRing(tmp_path).open(moved)


def test_a_vault_gets_no_token_for_another_service(vault: FakeVault) -> None:
    """Else a file that names a stranger's server would hand it our identity."""
    vault.resource = "https://vault.azure.net"
    with pytest.raises(AccessDenied, match="another service than itself"):
        locked("direct", vault)
    assert vault.requests == []


def test_an_unknown_certificate_is_not_trusted(tmp_path: Path) -> None:
    """Without the fixture that has this process trust it."""
    ring = KeyRing(tmp_path)
    path = ring.save(client_scheme("direct").generate())
    before = path.read_bytes()
    with fake_vault(tmp_path) as vault:
        environment = CLEAN_ENVIRONMENT | vault.environment | {"BLINDSCORE_HOME": str(tmp_path)}
        del environment["SSL_CERT_FILE"]
        arguments = ("key", "protect", path.stem, "--vault", vault.url)
        done = subprocess.run(
            [sys.executable, "-m", "blindscore", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 1
    assert "its certificate is not one that this machine trusts" in done.stderr
    assert vault.requests == []
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("named", "url"),
    [
        ("myvault", "https://myvault.vault.azure.net"),
        ("MyVault", "https://myvault.vault.azure.net"),
        ("https://myvault.vault.azure.net/", "https://myvault.vault.azure.net"),
        ("https://myvault.vault.azure.cn", "https://myvault.vault.azure.cn"),
    ],
)
def test_a_vault_is_named_by_name_or_url(named: str, url: str) -> None:
    assert azure_vault.vault_url(named) == url


@pytest.mark.parametrize(
    "named",
    [
        *["", "a_b", "http://myvault.vault.azure.net", "https://u:p@v.example", "https://v/x"],
        *["https:", "https://[", "https://v:99999", "https://v_x.example"],
    ],
)
def test_what_is_no_vault_is_refused(named: str) -> None:
    with pytest.raises(UsageError, match="no key vault's URL") as told:
        azure_vault.vault_url(named)
    assert "u:p" not in str(told.value)


def test_without_the_extra_the_remedy_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "azure.keyvault.secrets.aio", None)
    monkeypatch.delitem(sys.modules, "shared.azure_vault", raising=False)
    monkeypatch.delattr("shared.azure_vault", raising=False)
    with pytest.raises(UsageError, match=r"pip install 'blindscore\[vault\]'"):
        keyvault._adapter()


@pytest.mark.parametrize(
    ("vault", "authority"),
    [
        ("https://myvault.vault.azure.net", None),
        ("https://myvault.vault.azure.cn", "login.chinacloudapi.cn"),
        ("https://myvault.vault.usgovcloudapi.net", "login.microsoftonline.us"),
    ],
)
async def test_a_sovereign_clouds_vault_is_signed_in_to_there(
    vault: str, authority: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(azure_account.AUTHORITY_VARIABLE, raising=False)
    given: dict[str, object] = {}
    credential = aio.DefaultAzureCredential

    def watched(**options: object) -> aio.DefaultAzureCredential:
        given.update(options)
        return credential(**options)

    monkeypatch.setattr(aio, "DefaultAzureCredential", watched)
    async with azure_account.own_identity(vault.removeprefix("https://")):
        assert given.get("authority") == authority
