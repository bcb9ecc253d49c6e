"""`blindscore dlq` over Azurite, the way a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from shared import blobnames
from shared.errors import BlobNotFound
from shared.messages import FailureRecord, JobMessage
from shared.settings import CONNECTION_STRING_VARIABLE, StorageSettings
from shared.storage import Storage
from tests.commands import CLEAN_ENVIRONMENT, refuse, succeed
from tests.contract.conftest import send_raw
from tests.unit.worker.harness import RUN, TRACEPARENT, message
from worker.deadletter import DeadLetter

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def _environment(settings: StorageSettings) -> dict[str, str]:
    return {
        CONNECTION_STRING_VARIABLE: settings.connection_string.get_secret_value(),
        "BLINDSCORE_CONTAINER": settings.container,
        "BLINDSCORE_QUEUE": settings.queue,
    }


def _run(
    settings: StorageSettings, *arguments: str, answer: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run a command and answer its question."""
    return subprocess.run(
        [sys.executable, "-m", "blindscore", "dlq", *arguments],
        env=CLEAN_ENVIRONMENT | _environment(settings),
        input=answer,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def _bury(storage: Storage, settings: StorageSettings, job: int, code: str) -> JobMessage:
    """A job that failed: its record, and its letter."""
    failed = message(job, container=settings.container)
    record = FailureRecord(
        run=RUN,
        job=failed.job,
        code=code,
        reason="64 features were due",
        attempts=1,
        deliveries=1,
        worker="worker-1",
        failed_at=NOW,
    )
    await storage.store.create(
        blobnames.failure_blob(RUN, failed.job), record.encode(), content_type="application/json"
    )
    letter = DeadLetter.wrap(
        failed.encode(),
        code=code,
        reason=record.reason,
        status=422,
        attempts=1,
        deliveries=1,
        traceparent=TRACEPARENT,
        worker="worker-1",
        failed_at=NOW,
    )
    await storage.queue.send(failed.encode())
    (delivery,) = await storage.queue.receive(1, lease_s=60)
    await storage.queue.poison(delivery, letter.encode())
    return failed


async def _has_failed(storage: Storage, job: JobMessage) -> bool:
    try:
        await storage.store.stat(blobnames.failure_blob(RUN, job.job))
    except BlobNotFound:
        return False
    return True


def _listed(settings: StorageSettings, *options: str) -> list[dict[str, object]]:
    found = succeed("dlq", "list", "--json", *options, environment=_environment(settings))
    letters: list[dict[str, object]] = json.loads(found)
    return letters


async def test_without_a_queue_of_dead_letters_there_are_none(
    storage: Storage, storage_settings: StorageSettings
) -> None:
    missing = storage_settings.model_copy(update={"queue": "no-such-queue"})
    assert succeed("dlq", "list", environment=_environment(missing)) == "no dead letters"
    assert _listed(missing) == []
    assert "sent 0" in succeed("dlq", "replay", "--all", environment=_environment(missing))
    assert "no such" in refuse("dlq", "show", "run/000000", environment=_environment(missing))


async def test_letters_are_listed_shown_sent_again_and_removed(
    storage: Storage, storage_settings: StorageSettings
) -> None:
    first = await _bury(storage, storage_settings, 0, "feature_count")
    second = await _bury(storage, storage_settings, 1, "corrupt_input")
    third = await _bury(storage, storage_settings, 2, "corrupt_input")
    environment = _environment(storage_settings)

    table = succeed("dlq", "list", environment=environment)
    for job in (first, second, third):
        assert f"{RUN}/{job.job}" in table
    assert table.count("64 features were due") == 3
    (only,) = _listed(storage_settings, "--code", "feature_count")
    assert (only["run"], only["job"], only["trace_id"]) == (RUN, "000000", "a" * 32)

    shown = json.loads(succeed("dlq", "show", f"{RUN}/000000", environment=environment))
    assert shown["message"] == json.loads(first.encode())
    assert shown == json.loads(succeed("dlq", "show", str(only["id"])[:8], environment=environment))

    said = succeed("dlq", "replay", "--code", "corrupt_input", environment=environment)
    assert said == "sent 2 messages again"
    again = [delivery.body for delivery in await storage.queue.receive(32, lease_s=60)]
    assert sorted(again) == sorted([second.encode(), third.encode()])
    assert [await _has_failed(storage, job) for job in (first, second, third)] == [
        True,
        False,
        False,
    ]
    assert [letter["job"] for letter in _listed(storage_settings)] == ["000000"]

    said = succeed("dlq", "purge", f"{RUN}/000000", "--yes", environment=environment)
    assert said == "removed 1 dead letters"
    assert _listed(storage_settings) == []
    assert await _has_failed(storage, first)


@pytest.mark.parametrize("answer", ["n\n", ""])
async def test_nothing_is_removed_without_a_yes(
    answer: str, storage: Storage, storage_settings: StorageSettings
) -> None:
    await _bury(storage, storage_settings, 0, "feature_count")
    done = _run(storage_settings, "purge", "--all", answer=answer)
    assert done.returncode != 0
    assert f"{RUN}/000000" in done.stdout  # what it asks about
    assert "Remove these 1 dead letters?" in done.stderr
    assert len(_listed(storage_settings)) == 1


async def test_foreign_messages_are_shown_and_stay_when_others_are_sent(
    storage: Storage, storage_settings: StorageSettings
) -> None:
    await _bury(storage, storage_settings, 0, "feature_count")
    poison = storage_settings.model_copy(update={"queue": storage_settings.poison_queue})
    await send_raw(poison, "AccountKey=c2VjcmV0")
    environment = _environment(storage_settings)
    assert "1 dead letters don't hold a whole message" in refuse(
        "dlq", "replay", "--all", environment=environment
    )
    assert await storage.queue.depth() == 1
    (foreign,) = _listed(storage_settings)
    shown = succeed("dlq", "show", str(foreign["id"]), environment=environment)
    assert (foreign["code"], json.loads(shown)["message"]) == ("foreign", "AccountKey=<redacted>")


async def test_an_unreadable_letter_is_not_passed_over_in_silence(
    storage: Storage, storage_settings: StorageSettings
) -> None:
    poison = storage_settings.model_copy(update={"queue": storage_settings.poison_queue})
    await send_raw(poison, "bell \x07")
    done = _run(storage_settings, "list")
    assert (done.returncode, done.stdout) == (0, "no dead letters\n")
    assert "about 1 more are out of reach" in done.stderr
