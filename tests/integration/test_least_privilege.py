"""Every program with only the tokens that `blindscore sas` prints for it, and nothing more."""

from __future__ import annotations

import asyncio
import re
import shlex
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from azure.core.exceptions import ServiceResponseError
from azure.storage.blob.aio import BlobClient, ContainerClient
from azure.storage.queue.aio import QueueClient

from deploy.local.models import train_digits
from producer.report import Report
from shared import blobnames
from shared.azure_policy import store_policy
from shared.azure_sas import GRANTS, Validity
from shared.errors import AccessDenied, BlobExists, BlobNotFound, QueueNotFound
from shared.messages import utc_now
from shared.settings import (
    BLOB_SAS_VARIABLE,
    CONNECTION_STRING_VARIABLE,
    POISON_SAS_VARIABLE,
    QUEUE_SAS_VARIABLE,
    StorageSettings,
    storage_settings,
)
from shared.storage import (
    Storage,
    ensure_storage,
    open_poison_queue,
    open_queue,
    open_storage,
    open_store,
)
from tests.commands import CLEAN_ENVIRONMENT, blindscore, refuse, succeed
from tests.unit.worker.server import serving as answering
from worker.deadletter import DeadLetter

BINARY = "application/octet-stream"
KEY, INPUT, OUTPUT = "keys/" + "k" * 32, "runs/r/in/000000", "runs/r/out/000000"
LONG = 9 * 1024 * 1024  # more than two blocks
SECRETS = (BLOB_SAS_VARIABLE, QUEUE_SAS_VARIABLE, POISON_SAS_VARIABLE)
PARTIES = {
    "worker": {BLOB_SAS_VARIABLE, QUEUE_SAS_VARIABLE, POISON_SAS_VARIABLE},
    "scorer": {BLOB_SAS_VARIABLE},
    "producer": {BLOB_SAS_VARIABLE, QUEUE_SAS_VARIABLE},
    "collector": {BLOB_SAS_VARIABLE},
    "cleaner": {BLOB_SAS_VARIABLE, QUEUE_SAS_VARIABLE},
    "operator": {BLOB_SAS_VARIABLE, QUEUE_SAS_VARIABLE, POISON_SAS_VARIABLE},
}

Environment = dict[str, str]
SettingsOf = Callable[[str], StorageSettings]


def owner(settings: StorageSettings) -> Environment:
    """The account owner's environment: the account key."""
    return {
        CONNECTION_STRING_VARIABLE: settings.connection_string.get_secret_value(),
        "BLINDSCORE_CONTAINER": settings.container,
        "BLINDSCORE_QUEUE": settings.queue,
    }


def issue(party: str, settings: StorageSettings, *options: str) -> Environment:
    """What a party is given: the export lines, read as a shell would."""
    lines = succeed("sas", "--party", party, *options, environment=owner(settings)).splitlines()
    words = [shlex.split(line) for line in lines]
    assert all(len(word) == 2 and word[0] == "export" for word in words), lines
    given = dict(word[1].split("=", maxsplit=1) for word in words)
    assert "AccountKey" not in given[CONNECTION_STRING_VARIABLE]
    return given


@pytest.fixture
async def account(storage_settings: StorageSettings) -> AsyncIterator[Storage]:
    """The owner's view, with one blob of each kind and one message."""
    await ensure_storage(storage_settings)
    async with open_storage(storage_settings) as opened:
        for name in (KEY, INPUT):
            await opened.store.create(name, b"as it was", content_type=BINARY)
        await opened.queue.send(b"not a job message")
        yield opened


@pytest.fixture
def settings_of(
    account: Storage, storage_settings: StorageSettings, monkeypatch: pytest.MonkeyPatch
) -> SettingsOf:
    """The settings that a party's program reads from its environment."""
    return lambda party: _read(issue(party, storage_settings), monkeypatch)


def _read(given: Environment, monkeypatch: pytest.MonkeyPatch) -> StorageSettings:
    with monkeypatch.context() as patched:
        for name in (*SECRETS, CONNECTION_STRING_VARIABLE):
            patched.delenv(name, raising=False)
        for name, value in given.items():
            patched.setenv(name, value)
        return storage_settings(
            container=given["BLINDSCORE_CONTAINER"], queue=given["BLINDSCORE_QUEUE"]
        )


# --- all of it ---------------------------------------------------------------------------------


@contextmanager
def serving(environment: Mapping[str, str], model: Path) -> Iterator[str]:
    """An endpoint with only these variables; gives its URL."""
    with subprocess.Popen(
        [sys.executable, "-m", "blindscore", "serve", "--model", str(model), "--port", "0"],
        env=CLEAN_ENVIRONMENT
        | {"BLINDSCORE_PROCESSES": "1", "BLINDSCORE_LOG_LEVEL": "debug", "PYTHONUNBUFFERED": "1"}
        | dict(environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        said = ""
        try:
            assert process.stdout is not None
            for line in process.stdout:
                said += line
                if found := re.search(r"serving .* on (http://\S+)", line):
                    yield found[1]
                    break
            else:
                pytest.fail(f"the endpoint did not start:\n{said}")
        finally:
            process.terminate()
            rest, _ = process.communicate(timeout=60)
            _assert_untold(said + rest, environment)


def run(*arguments: str, given: Environment, home: Path) -> str:
    """A command that must succeed with what it is given, telling everything but its secrets."""
    environment = given | {"BLINDSCORE_HOME": str(home), "BLINDSCORE_LOG_LEVEL": "debug"}
    done = blindscore(*arguments, environment=environment)
    assert done.returncode == 0, f"{arguments}: {done.stdout}\n{done.stderr}"
    _assert_untold(done.stdout + done.stderr, given)
    return done.stdout.strip()


def _assert_untold(text: str, given: Mapping[str, str]) -> None:
    for name in SECRETS:
        if token := given.get(name):
            assert token not in text
            assert token.partition("sig=")[2] not in text, f"{name} was told"


async def test_everything_runs_with_only_its_own_tokens(
    account: Storage, storage_settings: StorageSettings, tmp_path: Path
) -> None:
    given = {party: issue(party, storage_settings) for party in PARTIES}
    for party, variables in PARTIES.items():
        assert variables == {name for name in SECRETS if name in given[party]}, party
    home = tmp_path / "home"
    model = train_digits(tmp_path)
    data = ("--scheme", "direct", "--limit", "6", "--rows-per-job", "3", "--processes", "0")

    run("keygen", "--scheme", "direct", given=given["producer"], home=home)
    with serving(given["scorer"], model) as endpoint:
        to = ("--endpoint", endpoint)
        job_run = run("produce", *data, *to, given=given["producer"], home=home)
        run("work", *to, "--exit-when-idle-s", "1", given=given["worker"], home=home)
    out = tmp_path / "out"
    collect = ("collect", job_run, "--out", str(out), "--processes", "0", "--model", str(model))
    run(*collect, given=given["collector"], home=home)
    assert "complete" in run("status", job_run, given=given["collector"], home=home)

    report = Report.model_validate_json((out / "report.json").read_bytes())
    assert report.rows_scored == 6
    assert report.agreement is not None
    assert report.agreement.mismatches == 0
    assert await account.queue.depth() == 0
    assert "bad_message" in run("dlq", "list", given=given["operator"], home=home)
    run("dlq", "purge", "--all", "--yes", given=given["operator"], home=home)
    async with open_poison_queue(storage_settings) as letters:
        assert await letters.depth() == 0, "the message that is no job was put aside, and purged"

    run("clean", job_run, "--yes", given=given["cleaner"], home=home)
    left = [blob.name async for blob in account.store.list(blobnames.run_prefix(job_run))]
    assert left == []


# --- and nothing beyond --------------------------------------------------------------------------


async def test_a_worker_can_create_but_neither_overwrite_nor_delete_nor_list(
    account: Storage, settings_of: SettingsOf
) -> None:
    async with open_storage(settings_of("worker")) as mine:
        assert await mine.store.read(INPUT, limit=100) == b"as it was"
        await mine.store.create(OUTPUT, b"first", content_type=BINARY)
        for body in (b"second", b"x" * LONG):
            with pytest.raises(BlobExists):
                await mine.store.create(OUTPUT, body, content_type=BINARY)
        await _denied(
            mine.store.replace(OUTPUT, b"second", content_type=BINARY),
            mine.store.replace(KEY, b"x" * LONG, content_type=BINARY),
            mine.store.delete(OUTPUT),
            mine.store.delete(KEY),
            _names(mine, ""),
            mine.queue.send(b"a job of my own"),
            mine.queue.depth(),
        )
    assert await account.store.read(OUTPUT, limit=100) == b"first"
    assert await account.store.read(KEY, limit=100) == b"as it was"


async def test_a_worker_writes_long_results_without_the_right_to_overwrite(
    account: Storage, settings_of: SettingsOf
) -> None:
    """Staging blocks takes that right: a long result goes in one piece."""

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 1_000_000):
            yield body[start : start + 1_000_000]

    body = bytes(range(256)) * (LONG // 256)
    async with open_store(settings_of("worker")) as mine:
        for name in (OUTPUT, f"{OUTPUT}1"):  # the second time it is known
            await mine.create(name, pieces(), content_type=BINARY, metadata={"rows": "3"})
            with pytest.raises(BlobExists):
                await mine.create(name, pieces(), content_type=BINARY)
    found = await account.store.open(f"{OUTPUT}1")
    assert found.info.metadata["rows"] == "3"
    assert b"".join([chunk async for chunk in found]) == body


async def test_a_workers_own_lost_answer_is_not_taken_for_anothers_result(
    account: Storage, settings_of: SettingsOf, monkeypatch: Any
) -> None:
    """A repeated create is refused for lack of a right, and it is still known as one's own."""
    upload = BlobClient.upload_blob
    lost: list[bool] = []

    async def lose_the_first_answer(*args: Any, **kwargs: Any) -> Any:
        answer = await upload(*args, **kwargs)
        if not lost:
            lost.append(True)
            raise ServiceResponseError("connection reset")
        return answer

    monkeypatch.setattr(BlobClient, "upload_blob", lose_the_first_answer)
    async with open_store(settings_of("worker")) as mine:
        await mine.create(OUTPUT, b"first", content_type=BINARY)
    assert lost
    assert await account.store.read(OUTPUT, limit=100) == b"first"


async def test_a_worker_takes_renews_and_puts_aside_but_reads_no_dead_letters(
    account: Storage, settings_of: SettingsOf
) -> None:
    settings = settings_of("worker")
    async with open_queue(settings) as mine, open_poison_queue(settings) as letters:
        (delivery,) = await mine.receive(1, lease_s=60)
        await mine.renew(delivery, lease_s=60)
        await mine.poison(delivery, b"why")
        assert await mine.receive(1, lease_s=60) == []
        await _denied(
            letters.peek(1), letters.receive(1, lease_s=60), letters.purge(), letters.depth()
        )


async def test_a_missing_place_for_dead_letters_is_named(
    account: Storage, storage_settings: StorageSettings, settings_of: SettingsOf
) -> None:
    settings = settings_of("worker")
    async with open_queue(settings) as mine:
        (delivery,) = await mine.receive(1, lease_s=60)
        async with QueueClient.from_connection_string(
            storage_settings.connection_string.get_secret_value(),
            storage_settings.poison_queue,
            api_version=storage_settings.api_version,
        ) as letters:
            await letters.delete_queue()
        with pytest.raises(QueueNotFound, match=settings.poison_queue):
            await mine.poison(delivery, b"why")


async def test_a_worker_without_the_token_for_dead_letters_does_not_start(
    account: Storage, storage_settings: StorageSettings
) -> None:
    given = issue("worker", storage_settings)
    del given[POISON_SAS_VARIABLE]
    async with answering(model=_model) as url:
        told = await asyncio.to_thread(refuse, "work", "--endpoint", url, environment=given)
    assert POISON_SAS_VARIABLE in told
    assert await account.queue.depth() == 1


async def test_a_scorer_reads_and_does_nothing_else(
    account: Storage, settings_of: SettingsOf
) -> None:
    settings = settings_of("scorer")
    async with open_store(settings) as mine:
        assert await mine.read(KEY, limit=100) == b"as it was"
        with pytest.raises(BlobNotFound):
            await mine.stat("keys/no-such-key")
        await _denied(
            mine.create(OUTPUT, b"x", content_type=BINARY),
            mine.create(OUTPUT, b"x" * LONG, content_type=BINARY),
            mine.replace(KEY, b"x", content_type=BINARY),
            mine.delete(KEY),
        )
        with pytest.raises(AccessDenied):
            [blob async for blob in mine.list("")]
    told = refuse("work", environment=_as_environment(settings))
    assert QUEUE_SAS_VARIABLE in told


async def test_a_producer_adds_jobs_but_takes_none_and_deletes_nothing(
    account: Storage, settings_of: SettingsOf
) -> None:
    async with open_storage(settings_of("producer")) as mine:
        await mine.store.create(OUTPUT, b"x" * LONG, content_type=BINARY)
        await mine.store.replace("runs/r/manifest.json", b"{}", content_type=BINARY)
        await mine.queue.send(b"one more")
        assert await mine.queue.depth() == 2, "to wait while too many jobs wait"
        await _denied(mine.store.delete(KEY), mine.queue.receive(1, lease_s=60))


async def test_a_collector_reads_and_lists(account: Storage, settings_of: SettingsOf) -> None:
    async with open_store(settings_of("collector")) as mine:
        assert await mine.read(INPUT, limit=100) == b"as it was"
        assert [blob.name async for blob in mine.list("runs/r/")] == [INPUT]
        await _denied(
            mine.create(OUTPUT, b"x", content_type=BINARY),
            mine.replace(INPUT, b"x", content_type=BINARY),
            mine.delete(INPUT),
        )


async def test_an_operator_moves_dead_letters_back(
    account: Storage, storage_settings: StorageSettings, settings_of: SettingsOf
) -> None:
    async with open_storage(settings_of("worker")) as worker:
        (delivery,) = await worker.queue.receive(1, lease_s=60)
        letter = DeadLetter.wrap(
            b"once more",
            code="x",
            reason="y",
            status=None,
            attempts=0,
            deliveries=1,
            traceparent="",
            worker="w",
            failed_at=utc_now(),
        )
        await worker.queue.poison(delivery, letter.encode())
    operator = issue("operator", storage_settings)
    await asyncio.to_thread(succeed, "dlq", "replay", "--all", environment=operator)
    (back,) = await account.queue.receive(1, lease_s=60)
    assert back.body == b"once more"
    async with open_storage(settings_of("operator")) as mine:
        await _denied(
            mine.store.read(INPUT, limit=100),
            mine.store.create(OUTPUT, b"x", content_type=BINARY),
            mine.queue.receive(1, lease_s=60),
            mine.queue.depth(),
        )


async def test_a_cleaner_reads_nothing(account: Storage, settings_of: SettingsOf) -> None:
    async with open_storage(settings_of("cleaner")) as mine:
        await _denied(
            mine.store.read(INPUT, limit=100),
            mine.store.create(OUTPUT, b"x", content_type=BINARY),
            mine.queue.send(b"x"),
        )
        assert await mine.store.delete(INPUT)


async def test_tokens_are_for_one_container_which_they_can_not_make(
    settings_of: SettingsOf,
) -> None:
    for party in PARTIES:
        settings = settings_of(party)
        elsewhere = settings.model_copy(update={"container": "elsewhere"})
        async with open_store(settings) as mine, open_store(elsewhere) as another:
            await _denied(mine.ensure(), another.stat(INPUT))
        if settings.queue_sas.get_secret_value():
            async with open_queue(settings) as queue:
                await _denied(queue.ensure())


# --- taking them back -----------------------------------------------------------------------------


async def test_a_revoked_policy_ends_its_tokens_and_leaves_the_others(
    account: Storage, storage_settings: StorageSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = issue("worker", storage_settings, "--policy", "night")
    other = issue("collector", storage_settings, "--policy", "day")
    for token in (first[BLOB_SAS_VARIABLE], first[QUEUE_SAS_VARIABLE], first[POISON_SAS_VARIABLE]):
        assert "si=night" in token
        assert "sp=" not in token
    mine, theirs = _read(first, monkeypatch), _read(other, monkeypatch)
    async with open_storage(mine) as worker, open_store(theirs) as collector:
        await worker.store.create(OUTPUT, b"x", content_type=BINARY)
        await _denied(worker.store.delete(OUTPUT))
        (delivery,) = await worker.queue.receive(1, lease_s=60)
        await worker.queue.poison(delivery, b"why")

        succeed("sas", "--revoke", "night", environment=owner(storage_settings))
        await _denied(worker.store.stat(OUTPUT), worker.queue.receive(1, lease_s=60))
        assert (await collector.stat(OUTPUT)).size == 1
    assert "no policy night" in refuse(
        "sas", "--revoke", "night", environment=owner(storage_settings)
    )


async def test_a_policy_changes_nothing_else_of_a_container(
    account: Storage, storage_settings: StorageSettings
) -> None:
    async with ContainerClient.from_connection_string(
        storage_settings.connection_string.get_secret_value(),
        storage_settings.container,
        api_version=storage_settings.api_version,
    ) as container:
        await container.set_container_access_policy({}, public_access="blob")
        await store_policy(storage_settings, "one", GRANTS["scorer"], Validity.of(hours=1))
        await store_policy(storage_settings, "one", GRANTS["worker"], Validity.of(hours=1))
        await store_policy(storage_settings, "two", GRANTS["scorer"], Validity.of(hours=1))
        found = await container.get_container_access_policy()
    assert found["public_access"] == "blob"
    kept = {item.id: item.access_policy.permission for item in found["signed_identifiers"]}
    assert kept == {"one": "rc", "two": "r"}


async def test_a_policy_that_has_no_room_is_refused(
    account: Storage, storage_settings: StorageSettings
) -> None:
    given = owner(storage_settings)
    for number in range(5):
        name = f"p{number}"
        await store_policy(storage_settings, name, GRANTS["scorer"], Validity.of(hours=1))
    told = refuse("sas", "--party", "scorer", "--policy", "p5", environment=given)
    assert "no room" in told
    assert "--revoke" in told
    succeed("sas", "--party", "scorer", "--policy", "p4", environment=given)


# --- told, but not the secret ---------------------------------------------------------------------


async def test_an_expired_token_is_refused_without_being_shown(
    account: Storage, storage_settings: StorageSettings
) -> None:
    given = issue("worker", storage_settings)
    given[BLOB_SAS_VARIABLE] = re.sub(r"se=20\d\d", "se=2020", given[BLOB_SAS_VARIABLE])
    async with answering(model=_model) as url:
        told = await asyncio.to_thread(refuse, "work", "--endpoint", url, environment=given)
    assert "access denied" in told
    assert "blindscore sas" in told
    _assert_untold(told, given)


async def test_a_token_can_make_no_other(
    account: Storage, storage_settings: StorageSettings
) -> None:
    given = issue("producer", storage_settings)
    told = refuse("sas", "--party", "worker", environment=given)
    assert "can't make another" in told
    _assert_untold(told, given)


async def _model(_: web.Request) -> web.Response:
    return web.json_response({"fingerprint": "f" * 64, "schemes": {"direct": {}}})


def _as_environment(settings: StorageSettings) -> Environment:
    return {
        CONNECTION_STRING_VARIABLE: settings.connection_string.get_secret_value(),
        BLOB_SAS_VARIABLE: settings.blob_sas.get_secret_value(),
    }


async def _names(storage: Storage, prefix: str) -> list[str]:
    return [blob.name async for blob in storage.store.list(prefix)]


async def _denied(*calls: Coroutine[Any, Any, Any]) -> None:
    for call in calls:
        with pytest.raises(AccessDenied, match="access denied"):
            await call
