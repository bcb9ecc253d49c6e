"""Where the account is and as whom: one credential, a narrow or a chosen one, never shown."""

from __future__ import annotations

import traceback

import pytest
from pydantic import SecretStr, ValidationError

from shared import azure_account, azure_sdk
from shared.connection import Connection, sas_token
from shared.errors import AccessDenied, StorageUnavailable, UsageError
from shared.settings import (
    ALLOW_ACCOUNT_KEY_VARIABLE,
    BLOB_SAS_VARIABLE,
    CONNECTION_STRING_VARIABLE,
    POISON_SAS_VARIABLE,
    QUEUE_SAS_VARIABLE,
    StorageSettings,
    storage_settings,
)
from shared.storage import open_queue, open_storage, open_store

KEY = "c2VjcmV0LWtleQ=="
SAS = "sv=2026-06-06&sr=c&sp=r&se=2030-01-01T00%3A00%3A00Z&sig=TOPSECRET%3D"
WITH_KEY = f"DefaultEndpointsProtocol=https;AccountName=mystorage;AccountKey={KEY}"
ENDPOINTS = (
    "BlobEndpoint=https://mystorage.blob.core.windows.net;"
    "QueueEndpoint=https://mystorage.queue.core.windows.net"
)
WITH_SAS = f"{ENDPOINTS};SharedAccessSignature={SAS}"
AZURITE = (
    f"AccountName=devstoreaccount1;AccountKey={KEY};"
    "BlobEndpoint=http://{host}:10000/devstoreaccount1;"
    "QueueEndpoint=http://{host}:10001/devstoreaccount1"
)


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        CONNECTION_STRING_VARIABLE,
        ALLOW_ACCOUNT_KEY_VARIABLE,
        BLOB_SAS_VARIABLE,
        QUEUE_SAS_VARIABLE,
        POISON_SAS_VARIABLE,
        "AZURE_TOKEN_CREDENTIALS",
        "AZURE_AUTHORITY_HOST",
        "AZURE_CLIENT_ID",
    ):
        monkeypatch.delenv(name, raising=False)


# --- which credential ----------------------------------------------------------------------------


@pytest.mark.parametrize("text", [AZURITE.format(host=h) for h in ("127.0.0.1", "[::1]")])
def test_azurites_key_just_works(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CONNECTION_STRING_VARIABLE, text)
    assert storage_settings().connection_string.get_secret_value() == text


@pytest.mark.parametrize(
    "text", ["UseDevelopmentStorage=true", AZURITE.format(host="localhost"), "azurite"]
)
def test_azurite_has_several_names(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine's, and the one it has in a network of containers."""
    string = AZURITE.format(host=text) if text == "azurite" else text
    monkeypatch.setenv(CONNECTION_STRING_VARIABLE, string)
    storage_settings()


@pytest.mark.parametrize(
    "text",
    [
        WITH_KEY,
        AZURITE.format(host="storage.example.com"),
        f"AccountName=mystorage;AccountKey={KEY};BlobEndpoint=http://127.0.0.1:10000/mystorage;"
        "QueueEndpoint=https://mystorage.queue.core.windows.net",
    ],
)
def test_an_account_key_is_an_explicit_choice(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CONNECTION_STRING_VARIABLE, text)
    with pytest.raises(UsageError, match=r"account key.*--account .*blindscore sas") as caught:
        storage_settings()
    assert KEY not in _told(caught.value)
    monkeypatch.setenv(ALLOW_ACCOUNT_KEY_VARIABLE, "0")
    with pytest.raises(UsageError, match=ALLOW_ACCOUNT_KEY_VARIABLE):
        storage_settings()
    monkeypatch.setenv(ALLOW_ACCOUNT_KEY_VARIABLE, "1")
    storage_settings()


def test_a_connection_string_with_a_sas_is_narrow_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CONNECTION_STRING_VARIABLE, WITH_SAS)
    settings = storage_settings()
    assert settings.connection is not None
    assert settings.connection.sas.get_secret_value() == SAS


def test_an_account_wins_over_a_connection_string(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CONNECTION_STRING_VARIABLE, WITH_KEY)
    settings = storage_settings(account="mystorage")
    assert settings.connection is None
    assert settings.connection_string.get_secret_value() == ""


def test_no_account_at_all() -> None:
    with pytest.raises(UsageError, match=r"no storage account.*BLINDSCORE_ACCOUNT"):
        storage_settings()


@pytest.mark.parametrize("text", [WITH_SAS, AZURITE.format(host="127.0.0.1")])
def test_two_credentials_are_one_too_many(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CONNECTION_STRING_VARIABLE, text)
    monkeypatch.setenv(BLOB_SAS_VARIABLE, SAS)
    with pytest.raises(UsageError, match=r"holds a credential, and .* SAS tokens too"):
        storage_settings()


def test_endpoints_alone_are_no_credential(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CONNECTION_STRING_VARIABLE, ENDPOINTS)
    with pytest.raises(UsageError, match=f"no credential.*{BLOB_SAS_VARIABLE}"):
        storage_settings()
    monkeypatch.setenv(BLOB_SAS_VARIABLE, SAS)
    assert storage_settings().has_sas_tokens


def test_no_token_travels_unencrypted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        CONNECTION_STRING_VARIABLE, WITH_SAS.replace("https://mystorage.q", "http://mystorage.q")
    )
    with pytest.raises(UsageError, match="unencrypted"):
        storage_settings()


async def test_what_a_party_has_no_token_for_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BLOB_SAS_VARIABLE, f"?{SAS}\n")
    settings = storage_settings(account="mystorage")
    assert settings.blob_sas.get_secret_value() == SAS
    async with open_store(settings):
        pass
    with pytest.raises(UsageError, match=f"the queue service.*{QUEUE_SAS_VARIABLE}"):
        async with open_queue(settings):
            pass


# --- never shown ---------------------------------------------------------------------------------


def test_secrets_are_in_no_repr(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (BLOB_SAS_VARIABLE, QUEUE_SAS_VARIABLE, POISON_SAS_VARIABLE):
        monkeypatch.setenv(name, SAS)
    settings = storage_settings(account="mystorage")
    other = StorageSettings(connection_string=SecretStr(WITH_SAS))
    for shown in (settings, other, other.connection, Connection.parse(WITH_KEY)):
        assert "TOPSECRET" not in f"{shown!r} {shown}"
        assert KEY not in f"{shown!r} {shown}"


@pytest.mark.parametrize("name", [BLOB_SAS_VARIABLE, QUEUE_SAS_VARIABLE, POISON_SAS_VARIABLE])
@pytest.mark.parametrize(
    "text",
    [
        f"https://mystorage.blob.core.windows.net/blindscore?{SAS}",
        "TOPSECRET",
        f"{SAS} {SAS}",
        "sv=2026-06-06&signature=TOPSECRET",
    ],
)
def test_what_is_no_token_is_refused_unquoted(
    name: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, text)
    with pytest.raises(UsageError, match=rf"{name}: not a SAS token") as caught:
        storage_settings(account="mystorage")
    assert "TOPSECRET" not in _told(caught.value)


async def test_a_refused_token_is_in_no_error_and_no_object(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Port 9 answers nothing; the library's own error knows the address that was asked."""
    monkeypatch.setattr(azure_sdk, "ATTEMPTS", 1)
    endpoints = "BlobEndpoint=http://127.0.0.1:9/a;QueueEndpoint=http://127.0.0.1:9/a"
    told = ""
    for settings in (
        StorageSettings(
            connection_string=SecretStr(endpoints),
            blob_sas=SecretStr(SAS),
            queue_sas=SecretStr(SAS),
            poison_sas=SecretStr(SAS),
        ),
        StorageSettings(connection_string=SecretStr(f"{endpoints};SharedAccessSignature={SAS}")),
    ):
        async with open_storage(settings) as opened:
            for call in (opened.store.stat("blob"), opened.queue.send(b"x")):
                with pytest.raises(StorageUnavailable, match="can't be reached") as caught:
                    await call
                told += _told(caught.value) + repr(caught.value.__cause__)
            told += f"{opened!r} {vars(opened.store)!r} {vars(opened.queue)!r}"
    assert "TOPSECRET" not in told


@pytest.mark.parametrize(
    "text", ["", "?", "sv=1", "sig=a b", "sig=ü", "a" * 5000 + "&sig=a", "xsig=1"]
)
def test_tokens_have_a_form(text: str) -> None:
    if text in ("", "?"):
        assert sas_token(text) == ""
    else:
        with pytest.raises(ValueError, match="not a SAS token"):
            sas_token(text)


# --- names ---------------------------------------------------------------------------------------


def test_a_queues_name_leaves_room_for_its_dead_letters() -> None:
    longest = "q" * 56
    assert len(StorageSettings(account="a", queue=longest).poison_queue) == 63
    with pytest.raises(ValidationError, match="over 56 characters"):
        StorageSettings(account="a", queue=f"{longest}q")
    with pytest.raises(UsageError, match=r"queue: .*over 56 characters.*NAME-poison"):
        storage_settings(account="mystorage", queue=f"{longest}q")


# --- where ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "blob", "queue"),
    [
        (
            WITH_KEY,
            "https://mystorage.blob.core.windows.net",
            "https://mystorage.queue.core.windows.net",
        ),
        (
            f"{WITH_KEY};EndpointSuffix=core.chinacloudapi.cn;",
            "https://mystorage.blob.core.chinacloudapi.cn",
            "https://mystorage.queue.core.chinacloudapi.cn",
        ),
        (
            f"blobendpoint=https://blobs.example.com/;QUEUEENDPOINT=https://queues.example.com;"
            f"SharedAccessSignature=?{SAS}",
            "https://blobs.example.com",
            "https://queues.example.com",
        ),
        (
            "UseDevelopmentStorage=true;",
            "http://127.0.0.1:10000/devstoreaccount1",
            "http://127.0.0.1:10001/devstoreaccount1",
        ),
    ],
)
def test_endpoints_are_named_or_follow_from_the_account(text: str, blob: str, queue: str) -> None:
    settings = StorageSettings(connection_string=SecretStr(text))
    assert azure_account.service_url("blob", settings) == blob
    assert azure_account.service_url("queue", settings) == queue


@pytest.mark.parametrize(
    "text",
    [
        "TOPSECRET",
        "=TOPSECRET",
        "BlobEndpoint=ftp://TOPSECRET",
        "BlobEndpoint=https://host/?sig=TOPSECRET",
        "BlobEndpoint=https://user:TOPSECRET@host",
        "BlobEndpoint=https://host:0",
        f"{ENDPOINTS};SharedAccessSignature=TOPSECRET",
    ],
)
def test_a_malformed_connection_string_is_refused_unquoted(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CONNECTION_STRING_VARIABLE, text)
    with pytest.raises(UsageError, match=r"malformed.*BLINDSCORE_CONNECTION_STRING") as caught:
        storage_settings()
    assert "TOPSECRET" not in _told(caught.value)


def test_a_service_that_the_string_leaves_out_is_named() -> None:
    settings = StorageSettings(
        connection_string=SecretStr("BlobEndpoint=https://blobs.example.com"),
        blob_sas=SecretStr(SAS),
    )
    with pytest.raises(UsageError, match=r"no queue endpoint.*QueueEndpoint=https"):
        azure_account.service_url("queue", settings)


# --- identity ------------------------------------------------------------------------------------


async def test_both_halves_share_one_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    original = azure_account.open_identity

    def counted(settings: StorageSettings) -> object:
        made.append(settings)
        return original(settings)

    monkeypatch.setattr("shared.storage.open_identity", counted)
    monkeypatch.setattr(azure_sdk, "open_identity", counted)
    async with open_storage(StorageSettings(account="mystorage")):
        assert len(made) == 1


async def test_no_identity_is_opened_where_there_are_tokens() -> None:
    settings = StorageSettings(account="mystorage", blob_sas=SecretStr(SAS))
    async with azure_account.open_identity(settings) as identity:
        assert identity is None


async def test_a_user_assigned_identity_is_the_one_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client_id = "00000000-1111-2222-3333-444444444444"
    monkeypatch.setenv("AZURE_CLIENT_ID", client_id)
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "ManagedIdentityCredential")
    async with azure_account.open_identity(StorageSettings(account="mystorage")) as identity:
        assert identity is not None
        (only,) = identity.credentials
        assert type(only).__name__ == "ManagedIdentityCredential"
        assert client_id in repr(_deep_values(only))


async def test_a_wrong_choice_of_identity_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "nonsense")
    with pytest.raises(UsageError, match="AZURE_TOKEN_CREDENTIALS"):
        async with open_storage(StorageSettings(account="mystorage")):
            pass


@pytest.mark.parametrize(
    ("account", "authority"),
    [
        ("mystorage", "https://login.microsoftonline.com"),
        ("https://s.blob.core.chinacloudapi.cn", "https://login.chinacloudapi.cn"),
        ("https://s.blob.core.usgovcloudapi.net", "https://login.microsoftonline.us"),
    ],
)
async def test_sovereign_clouds_sign_in_at_their_own_place(
    account: str, authority: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "AZURE_TOKEN_CREDENTIALS": "EnvironmentCredential",
        "AZURE_CLIENT_ID": "client",
        "AZURE_TENANT_ID": "tenant",
        "AZURE_CLIENT_SECRET": "secret",
    }.items():
        monkeypatch.setenv(name, value)
    async with azure_account.open_identity(StorageSettings(account=account)) as identity:
        assert identity is not None
        assert authority in repr(_deep_values(identity.credentials[0]))


async def test_no_identity_at_all_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The service principal's variables are incomplete, so nobody is asked over the network."""
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "EnvironmentCredential")
    async with open_storage(StorageSettings(account="mystorage")) as opened:
        with pytest.raises(AccessDenied, match=r"no Azure identity.*az login.*AZURE_CLIENT_ID"):
            await opened.store.stat("blob")


def _deep_values(thing: object, depth: int = 4) -> object:
    """What an object of the identity library is made of."""
    if depth == 0 or not hasattr(thing, "__dict__"):
        return thing
    return {name: _deep_values(value, depth - 1) for name, value in vars(thing).items()}


def _told(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))
