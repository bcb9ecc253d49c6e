"""Keys over Azurite, the way a user looks after them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from producer.keylife import blob_metadata
from producer.keys import KeyRing
from producer.report import Report
from producer.schemes import Encoding, client_scheme
from shared import blobnames
from shared.container import CONTENT_TYPE
from shared.errors import BlobNotFound
from shared.messages import utc_now
from shared.settings import CONNECTION_STRING_VARIABLE, StorageSettings
from shared.storage import Storage
from tests.commands import CLEAN_ENVIRONMENT, blindscore, refuse, succeed
from tests.integration.test_least_privilege import issue, serving
from tests.vaults import fake_vault

WITHIN_S = 60.0
PASSPHRASE = "correct horse battery staple"
WRONG = "correct horse battery stable"
FEATURES = 4


@dataclass(frozen=True)
class Owner:
    """A key owner's machine, and the account."""

    home: Path
    storage: Storage
    settings: StorageSettings

    @property
    def environment(self) -> dict[str, str]:
        return {
            CONNECTION_STRING_VARIABLE: self.settings.connection_string.get_secret_value(),
            "BLINDSCORE_CONTAINER": self.settings.container,
            "BLINDSCORE_QUEUE": self.settings.queue,
            "BLINDSCORE_HOME": str(self.home),
            "BLINDSCORE_PROCESSES": "0",
        }

    @property
    def ring(self) -> KeyRing:
        return KeyRing(self.home)

    def run(self, *arguments: str, **variables: str) -> str:
        return succeed(*arguments, environment=self.environment | variables)

    def refused(self, *arguments: str, **variables: str) -> str:
        return refuse(*arguments, environment=self.environment | variables)

    def ask(self, *arguments: str, answer: str) -> subprocess.CompletedProcess[str]:
        """Run a command and answer its question."""
        return subprocess.run(
            [sys.executable, "-m", "blindscore", *arguments],
            env=CLEAN_ENVIRONMENT | self.environment,
            input=answer,
            capture_output=True,
            text=True,
            timeout=WITHIN_S,
            check=False,
        )

    def rows(self) -> Path:
        path = self.home.parent / "rows.npy"
        np.save(path, np.random.default_rng(2).uniform(-1, 1, (6, FEATURES)))
        return path

    def produce(self, *options: str, **variables: str) -> str:
        data = ("--dataset", str(self.rows()), "--input-bound", "1", "--scheme", "direct")
        return self.run("produce", *data, *options, **variables)

    def model(self) -> Path:
        path = self.home.parent / "model.npz"
        np.savez(path, coef=np.array([[0.5, -1.0, 2.0, 0.25]]), intercept=np.array([0.125]))
        return path

    def listed(self, *options: str) -> dict[str, dict[str, Any]]:
        """`key list`, by key id."""
        return {
            facts["key_id"]: facts
            for facts in json.loads(self.run("key", "list", "--json", *options))
        }

    async def is_published(self, key_id: str) -> bool:
        try:
            await self.storage.store.stat(blobnames.key(key_id))
        except BlobNotFound:
            return False
        return True


@pytest.fixture
def owner(storage: Storage, storage_settings: StorageSettings, tmp_path: Path) -> Owner:
    return Owner(tmp_path / "home", storage, storage_settings)


def post(endpoint: str, body: bytes) -> tuple[int, bytes]:
    request = urllib.request.Request(
        f"{endpoint}/score", data=body, headers={"Content-Type": CONTENT_TYPE}
    )
    try:
        with urllib.request.urlopen(request, timeout=WITHIN_S) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


async def test_nothing_is_scored_under_a_key_that_was_forgotten(owner: Owner) -> None:
    key_id = owner.run("keygen", "--scheme", "direct")
    key = owner.ring.load(key_id).key()
    encoding = Encoding(owner.settings.container, FEATURES, 1.0)
    body = b"".join(key.encrypt(np.zeros((1, FEATURES)), encoding))
    with serving(owner.environment | {"BLINDSCORE_KEY_TTL_S": "0.2"}, owner.model()) as endpoint:
        assert post(endpoint, body)[0] == 200
        assert "are taken out" in owner.run("key", "forget", key_id, "--yes")
        deadline = time.monotonic() + WITHIN_S
        while (answer := post(endpoint, body))[0] == 200:
            assert time.monotonic() < deadline, "the key still works"
    status, problem = answer
    assert status == 404
    assert json.loads(problem)["code"] == "key_unknown"
    assert owner.ring.load(key_id).key_id == key_id, "to collect with"


async def test_a_run_under_a_passphrase_from_key_to_report(owner: Owner, tmp_path: Path) -> None:
    key_id = owner.run("keygen", "--scheme", "direct", BLINDSCORE_PASSPHRASE=PASSPHRASE)
    lock = json.loads(owner.ring.files.path_of(key_id).read_text())["lock"]
    assert (lock["kind"], lock["n"], lock["r"], lock["p"]) == ("passphrase", 2**17, 8, 1)
    remedy = "set BLINDSCORE_PASSPHRASE, or use --passphrase-file"
    produce = ("produce", "--dataset", str(owner.rows()), "--input-bound", "1", "--key", key_id[:7])
    assert remedy in owner.refused(*produce)
    file = tmp_path / "passphrase"
    file.write_text(f"{PASSPHRASE}\n")
    run = owner.produce("--passphrase-file", str(file))
    with serving(owner.environment, owner.model()) as endpoint:
        owner.run("work", "--endpoint", endpoint, "--exit-when-idle-s", "1")
    out = ("--out", str(tmp_path / "out"))
    assert remedy in owner.refused("collect", run, *out)
    assert "wrong passphrase" in owner.refused("collect", run, *out, BLINDSCORE_PASSPHRASE=WRONG)
    assert owner.listed()[key_id]["runs_not_collected"] == 1
    owner.run("collect", run, *out, BLINDSCORE_PASSPHRASE=PASSPHRASE)
    report = Report.model_validate_json((tmp_path / "out" / "report.json").read_bytes())
    assert report.rows_scored == 6
    facts = owner.listed()[key_id]
    assert (facts["runs"], facts["runs_not_collected"]) == (1, 0)


async def test_a_rotated_key_is_like_the_old_one_and_takes_its_place(owner: Owner) -> None:
    made = ("keygen", "--scheme", "direct", "--preset", "speed", "--expires-days", "30")
    old_id = owner.run(*made, BLINDSCORE_PASSPHRASE=PASSPHRASE)
    assert "wrong passphrase" in owner.refused("key", "rotate", old_id, BLINDSCORE_PASSPHRASE=WRONG)
    new_id = owner.run("key", "rotate", old_id[:8], BLINDSCORE_PASSPHRASE=PASSPHRASE)
    assert new_id != old_id
    old, new = (owner.ring.files.record(key_id) for key_id in (old_id, new_id))
    for record in (old, new):
        assert (record.scheme, record.preset, record.protection) == (
            "direct",
            "speed",
            "passphrase",
        )
        assert record.expires_at is not None
        made_at = record.created_at.replace(microsecond=0)
        assert record.expires_at == made_at + timedelta(days=30)
        blob = await owner.storage.store.stat(blobnames.key(record.key_id))
        assert blob.metadata == blob_metadata(record)
        said = datetime.fromisoformat(blob.metadata["expires_at"])
        assert said == record.expires_at
        assert said.tzinfo == UTC
    run = owner.produce(BLINDSCORE_PASSPHRASE=PASSPHRASE)
    assert owner.listed()[new_id]["runs"] == 1
    assert json.loads(owner.run("key", "show", new_id))["runs"][0]["run"] == run
    third = owner.run(
        "key", "rotate", new_id, "--expires-days", "0", BLINDSCORE_PASSPHRASE=PASSPHRASE
    )
    assert owner.ring.files.record(third).expires_at is None


async def test_a_key_that_cannot_be_published_leaves_nothing(owner: Owner) -> None:
    told = owner.refused("keygen", "--scheme", "direct", "--container", "no-such-container")
    assert "no-such-container" in told
    assert list(owner.home.rglob("*.key*")) == []


async def test_an_expired_key_encrypts_nothing_but_is_listed(owner: Owner) -> None:
    key = client_scheme("direct").generate()
    owner.ring.save(
        key, now=utc_now() - timedelta(days=2), expires_at=utc_now() - timedelta(days=1)
    )
    data = ("--dataset", str(owner.rows()), "--input-bound", "1", "--scheme", "direct")
    told = owner.refused("produce", *data, "--key", key.key_id)
    assert f"key {key.key_id} expired" in told
    assert f"blindscore key rotate {key.key_id}" in told
    assert owner.listed()[key.key_id]["expired"]
    new_id = owner.run("key", "rotate", key.key_id)
    facts = owner.listed()[new_id]
    assert (facts["expired"], facts["published"], facts["runs"]) == (False, True, 0)


async def test_a_run_is_not_resumed_under_a_key_that_has_expired(owner: Owner) -> None:
    """What is complete is told to be; what would have to be encrypted is not.

    Nor is it under one that was forgotten.
    """
    key_id = owner.run("keygen", "--scheme", "direct", "--expires-days", "1")
    run = owner.produce()
    assert await owner.storage.store.delete(blobnames.key(key_id))
    assert owner.run("produce", "--resume", run) == run
    assert await owner.storage.store.delete(blobnames.manifest(run))
    assert f"key {key_id} is not in the account" in owner.refused("produce", "--resume", run)
    record = owner.ring.files.record(key_id)
    past = record.model_copy(update={"expires_at": record.created_at})
    owner.ring.files.replace(past, record)
    assert f"key {key_id} expired" in owner.refused("produce", "--resume", run)


async def test_forgetting_names_the_runs_that_still_need_the_key(owner: Owner) -> None:
    key_id = owner.run("keygen", "--scheme", "direct")
    run = owner.produce()
    for options in ((), ("--secret",)):
        done = owner.ask("key", "forget", key_id, *options, answer="n\n")
        assert done.returncode == 2, done.stderr
        assert f"run {run} under this key is not collected yet" in done.stderr
        assert "nothing removed" in done.stderr
        assert await owner.is_published(key_id)
        assert owner.ring.load(key_id).key_id == key_id
    done = owner.ask("key", "forget", key_id, "--secret", answer="")
    assert done.returncode != 0, "nobody there to ask"
    assert await owner.is_published(key_id)

    done = owner.ask("key", "forget", key_id, answer="y\n")
    assert done.returncode == 0, done.stderr
    assert not await owner.is_published(key_id)
    assert owner.ring.load(key_id).key_id == key_id
    (facts,) = owner.listed().values()
    assert (facts["published"], facts["runs"]) == (False, 1)
    data = ("--dataset", str(owner.rows()), "--input-bound", "1", "--scheme", "direct")
    told = owner.refused("produce", *data)
    assert f"key {key_id} is not in the account" in told
    assert f"blindscore key rotate {key_id}" in told
    assert len(list((owner.home / "runs").iterdir())) == 1, "no run was begun"

    owner.run("clean", run, "--yes")
    done = owner.ask("key", "forget", key_id[:12], "--secret", answer="y\n")
    assert done.returncode == 0, done.stderr
    assert f"run {run} under this key is not collected yet (not in this account)" in done.stderr
    assert "its secret is deleted" in done.stdout
    assert owner.listed() == {}

    again = owner.run("key", "forget", key_id, "--secret", "--yes")
    assert "nothing was taken out" in again
    assert "its secret was not here" in again
    assert "blindscore key list" in owner.refused("key", "forget", key_id[:12], "--yes")


async def test_a_secret_that_is_deleted_is_deleted_last(owner: Owner) -> None:
    """Where the account can't be reached, the key is as it was."""
    key_id = owner.run("keygen", "--scheme", "direct")
    connection = (
        "AccountName=a;AccountKey=YQ==;BlobEndpoint=http://127.0.0.1:1/a;"
        "QueueEndpoint=http://127.0.0.1:1/a"
    )
    owner.refused(
        *("key", "forget", key_id, "--secret", "--yes"),
        **{CONNECTION_STRING_VARIABLE: connection},
    )
    assert owner.ring.load(key_id).key_id == key_id


async def test_a_damaged_key_can_be_forgotten(owner: Owner) -> None:
    key_id = owner.run("keygen", "--scheme", "direct")
    path = owner.ring.files.path_of(key_id)
    path.write_text("not a key")
    assert str(path) in blindscore("key", "list", environment=owner.environment).stderr
    owner.run("key", "forget", key_id[:9], "--secret", "--yes")
    assert owner.run("key", "list") == "no keys; blindscore keygen makes one"


async def test_no_more_rights_are_needed_than_the_document_says(owner: Owner) -> None:
    """Tokens of `producer` to make keys, of `cleaner` to forget them."""
    producer, cleaner = (issue(party, owner.settings) for party in ("producer", "cleaner"))
    key_id = owner.run("keygen", "--scheme", "direct", **producer)
    new_id = owner.run("key", "rotate", key_id, **producer)
    run = owner.produce(**producer)
    shown = json.loads(owner.run("key", "show", new_id, **producer))
    assert shown["published"] is True
    done = blindscore(
        *("key", "forget", new_id, "--secret", "--yes"), environment=owner.environment | cleaner
    )
    assert done.returncode == 0, done.stderr
    assert run in done.stderr, "it is asked for in the account"
    assert not await owner.is_published(new_id)
    assert await owner.is_published(key_id)


async def test_a_key_in_a_vault_from_key_to_run(owner: Owner, tmp_path: Path) -> None:
    with fake_vault(tmp_path) as vault:
        made = ("keygen", "--scheme", "direct", "--vault", vault.url)
        key_id = owner.run(*made, **vault.environment)
        new_id = owner.run("key", "rotate", key_id, **vault.environment)
        owner.produce(**vault.environment)
        assert set(vault.stored) == {f"blindscore-{each}" for each in (key_id, new_id)}
        vault.refuse = 403
        data = ("--dataset", str(owner.rows()), "--input-bound", "1", "--scheme", "direct")
        assert "Key Vault Secrets User" in owner.refused("produce", *data, **vault.environment)
    listed = owner.listed("--local")
    assert {facts["protection"] for facts in listed.values()} == {"vault"}
    assert [listed[each]["runs"] for each in (key_id, new_id)] == [0, 1]
