"""Tokens say exactly what a party needs: which letters, of what, from when until when."""

from __future__ import annotations

import base64
import hashlib
import hmac
import shlex
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs

import pytest
from azure.storage.blob import UserDelegationKey as BlobKey
from azure.storage.queue import UserDelegationKey as QueueKey
from pydantic import SecretStr

from deploy.sas import sas
from shared.azure_policy import remove_policy, store_policy
from shared.azure_sas import GRANTS, Signer, Tokens, Validity, open_signer, sign
from shared.errors import UsageError
from shared.settings import (
    ALLOW_ACCOUNT_KEY_VARIABLE,
    BLOB_SAS_VARIABLE,
    CONNECTION_STRING_VARIABLE,
    QUEUE_SAS_VARIABLE,
    StorageSettings,
)

NOW = datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=UTC)
VALIDITY = Validity.of(8, now=NOW)
KEY = base64.b64encode(b"the account's key").decode()
ACCOUNT = StorageSettings(account="mystorage", container="box", queue="jobs")
LOCAL = StorageSettings(
    connection_string=SecretStr("UseDevelopmentStorage=true"), container="box", queue="jobs"
)
BY_KEY = Signer("mystorage", account_key=SecretStr(KEY))


def delegated() -> Signer:
    """As the account hands them out; the values are made up."""
    return Signer("mystorage", blob_key=_key(BlobKey, "b"), queue_key=_key(QueueKey, "q"))


def _key(kind: Any, service: str) -> Any:
    key = kind()
    key.signed_oid, key.signed_tid = "owner", "tenant"
    key.signed_start, key.signed_expiry = "2026-01-31T11:45:00Z", "2026-01-31T20:00:00Z"
    key.signed_service, key.signed_version, key.value = service, "2026-06-06", KEY
    return key


def fields(token: SecretStr) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(token.get_secret_value()).items()}


def tokens_of(party: str, signer: Signer = BY_KEY, *, policy: str = "") -> Tokens:
    return sign(GRANTS[party], ACCOUNT, signer, VALIDITY, policy=policy)


@pytest.mark.parametrize(
    ("party", "blobs", "queue", "poison"),
    [
        ("worker", "rc", "up", "a"),
        ("scorer", "r", "", ""),
        ("producer", "rcwl", "ra", ""),
        ("collector", "rl", "", ""),
        ("cleaner", "dl", "up", ""),
        ("operator", "d", "a", "up"),
    ],
)
def test_each_party_gets_its_letters_and_no_others(
    party: str, blobs: str, queue: str, poison: str
) -> None:
    tokens = tokens_of(party)
    assert fields(tokens.blob)["sp"] == blobs
    for token, letters in ((tokens.queue, queue), (tokens.poison, poison)):
        assert fields(token).get("sp", "") == letters
        assert bool(token.get_secret_value()) is bool(letters)


def test_few_may_delete_and_only_the_owner_of_the_rows_may_overwrite() -> None:
    deleting = {party for party, grant in GRANTS.items() if "d" in grant.blobs}
    assert deleting == {"cleaner", "operator"}
    assert {party for party, grant in GRANTS.items() if "w" in grant.blobs} == {"producer"}


def test_tokens_begin_a_little_earlier_and_end_in_time() -> None:
    said = fields(tokens_of("worker").blob)
    assert said["st"] == "2026-01-31T11:45:00Z"
    assert said["se"] == "2026-01-31T20:00:00Z"


def test_a_key_signs_for_the_whole_container() -> None:
    """The signature is over these lines; so a token can't be made to say anything else."""
    token = fields(tokens_of("scorer").blob)
    assert token["sr"] == "c"
    lines = [token["sp"], token["st"], token["se"], "/blob/mystorage/box", "", "", token["spr"]]
    text = "\n".join([*lines, token["sv"], "c", *[""] * 7])
    mac = hmac.new(base64.b64decode(KEY), text.encode(), hashlib.sha256).digest()
    assert token["sig"] == base64.b64encode(mac).decode()


@pytest.mark.parametrize(
    ("party", "folder"), [("worker", "runs"), ("collector", "runs"), ("scorer", "keys")]
)
def test_an_identity_signs_for_one_folder(party: str, folder: str) -> None:
    token = fields(tokens_of(party, delegated()).blob)
    assert (token["sr"], token["sdd"]) == ("d", "1")
    assert (token["skoid"], token["sks"]) == ("owner", "b")
    elsewhere = GRANTS[party].__class__(GRANTS[party].blobs, folder=f"{folder}2")
    other = fields(sign(elsewhere, ACCOUNT, delegated(), VALIDITY).blob)
    assert other["sig"] != token["sig"], "the folder is signed"


@pytest.mark.parametrize("party", ["producer", "cleaner"])
def test_who_needs_both_folders_gets_the_container(party: str) -> None:
    assert fields(tokens_of(party, delegated()).blob)["sr"] == "c"


def test_an_identity_signs_for_queues_too() -> None:
    tokens = tokens_of("worker", delegated())
    assert fields(tokens.queue)["sks"] == fields(tokens.poison)["sks"] == "q"
    assert tokens.queue != tokens.poison


def test_only_azurite_is_spoken_to_in_the_clear() -> None:
    tokens = tokens_of("worker")
    for token in (tokens.blob, tokens.queue, tokens.poison):
        assert fields(token)["spr"] == "https"
    local = sign(GRANTS["worker"], LOCAL, BY_KEY, VALIDITY)
    for token in (local.blob, local.queue, local.poison):
        assert fields(token)["spr"] == "https,http"


def test_with_a_policy_the_account_says_what_is_allowed() -> None:
    tokens = tokens_of("worker", policy="night")
    for token in (tokens.blob, tokens.queue, tokens.poison):
        assert fields(token)["si"] == "night"
        assert not {"sp", "st", "se"} & set(fields(token))


def test_an_identitys_tokens_have_no_policy() -> None:
    with pytest.raises(UsageError, match="--policy"):
        tokens_of("worker", delegated(), policy="night")


def test_nothing_shows_a_secret() -> None:
    shown = f"{tokens_of('worker')!r} {BY_KEY!r} {delegated()!r}"
    assert "sig=" not in shown
    assert KEY not in shown


def printed(capsys: pytest.CaptureFixture[str], party: str, **options: Any) -> dict[str, str]:
    """What the command prints, read as a shell would."""
    sas(party=party, **options)
    words = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    assert all(word[0] == "export" for word in words)
    return dict(word[1].split("=", maxsplit=1) for word in words)


@pytest.mark.parametrize(
    ("endpoints", "name", "value"),
    [
        ("", "BLINDSCORE_ACCOUNT", "https://mystorage.blob.core.windows.net"),
        (
            "BlobEndpoint=https://b.example.com;QueueEndpoint=https://q.example.com",
            CONNECTION_STRING_VARIABLE,
            "BlobEndpoint=https://b.example.com;QueueEndpoint=https://q.example.com",
        ),
    ],
)
def test_the_command_tells_where_the_account_is_but_not_its_key(
    endpoints: str,
    name: str,
    value: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for variable in (BLOB_SAS_VARIABLE, QUEUE_SAS_VARIABLE):
        monkeypatch.delenv(variable, raising=False)
    text = f"AccountName=mystorage;AccountKey={KEY};{endpoints}"
    monkeypatch.setenv(CONNECTION_STRING_VARIABLE, text)
    monkeypatch.setenv(ALLOW_ACCOUNT_KEY_VARIABLE, "1")
    given = printed(capsys, "collector", container="box", queue="jobs")
    assert given.pop(BLOB_SAS_VARIABLE)
    assert given == {name: value, "BLINDSCORE_CONTAINER": "box", "BLINDSCORE_QUEUE": "jobs"}


@pytest.mark.parametrize(
    ("party", "hours", "told"),
    [("", 1.0, "whose"), ("mallory", 1.0, "not a party"), ("worker", 0.0, "time to live")],
)
def test_the_command_wants_a_party_and_a_time(
    party: str, hours: float, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CONNECTION_STRING_VARIABLE, "UseDevelopmentStorage=true")
    with pytest.raises(UsageError, match=told):
        sas(party=party, hours=hours)


async def test_an_account_key_signs_by_itself() -> None:
    signer = await open_signer(LOCAL, VALIDITY)
    assert signer.account == "devstoreaccount1"
    assert not signer.is_delegated


@pytest.mark.parametrize(
    "settings",
    [
        StorageSettings(account="mystorage", blob_sas=SecretStr("sv=1&sig=x")),
        StorageSettings(
            connection_string=SecretStr(
                "BlobEndpoint=https://a.example.com;SharedAccessSignature=sv=1&sig=x"
            )
        ),
    ],
)
async def test_a_sas_makes_no_other(settings: StorageSettings) -> None:
    with pytest.raises(UsageError, match="can't make another"):
        await open_signer(settings, VALIDITY)


async def test_an_identity_signs_for_a_week_at_most() -> None:
    with pytest.raises(UsageError, match="longer than a week"):
        await open_signer(ACCOUNT, Validity.of(168, now=NOW))
    assert Validity.of(167, now=NOW).expiry - NOW < timedelta(days=7)


@pytest.mark.parametrize("name", ["", "Night", "a/b", "x" * 64, "-night"])
async def test_a_policys_name_is_plain(name: str) -> None:
    with pytest.raises(UsageError, match="not a policy name"):
        await store_policy(LOCAL, name, GRANTS["worker"], VALIDITY)
    with pytest.raises(UsageError, match="not a policy name"):
        await remove_policy(LOCAL, name)
