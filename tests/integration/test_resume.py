"""`produce` and `collect` as processes of their own, killed and run again, over Azurite."""

from __future__ import annotations

import asyncio
import csv
import hashlib
import os
import shutil
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from producer.keys import SIGNING, KeyRing
from producer.report import Report
from producer.rows import Rows
from producer.schemes.direct import SCHEME
from producer.signing import ManifestSigner
from score.schemes.direct import DirectEvaluator
from shared import blobnames
from shared.errors import BlobNotFound
from shared.messages import JobMessage, Manifest
from shared.settings import CONNECTION_STRING_VARIABLE, StorageSettings
from shared.storage import Storage
from tests.commands import CLEAN_ENVIRONMENT, blindscore
from tests.scoring import respond
from tests.unit.producer.pipeline import ERROR, MODEL, data_set, result_info

ROWS = data_set(240)
ROWS_PER_JOB = 4
DEADLINE_S = 60.0


@dataclass
class Owner:
    """A key owner's machine, and the account."""

    home: Path
    storage: Storage
    settings: StorageSettings
    key_id: str
    messages: list[JobMessage] = field(default_factory=list)
    """All that were taken out of the queue so far."""

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
    def signer(self) -> ManifestSigner:
        return ManifestSigner(KeyRing(self.home).load(self.key_id).derive(SIGNING))

    async def run(self, *arguments: str, code: int = 0, home: Path | None = None) -> str:
        """Run a command to its end; standard output, or standard error of one that must fail."""
        environment = self.environment | ({"BLINDSCORE_HOME": str(home)} if home else {})
        done = await asyncio.to_thread(blindscore, *arguments, environment=environment)
        assert done.returncode == code, done.stdout + done.stderr
        return (done.stderr if code else done.stdout).strip()

    @asynccontextmanager
    async def running(self, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
        """A command that is killed, if it is still there, when the block ends."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "blindscore", *arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=CLEAN_ENVIRONMENT | self.environment,
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGKILL)
            await process.communicate()

    async def has_inputs(self, run: str, count: int) -> bool:
        return await self.count(blobnames.inputs(run)) >= count

    async def count(self, prefix: str) -> int:
        return len([blob async for blob in self.storage.store.list(prefix)])

    def enqueued(self, run: str) -> set[str]:
        """Jobs whose message was sent, as far as this machine knows."""
        log = self.home / "runs" / run / "enqueued"
        return {*log.read_text().split()} if log.exists() else set()

    async def drain(self) -> Counter[str]:
        """Take all messages out of the queue; how many there have been of each job."""
        while deliveries := await self.storage.queue.receive(32, lease_s=60):
            for delivery in deliveries:
                self.messages.append(JobMessage.decode(delivery.body))
                await self.storage.queue.delete(delivery)
        return Counter(message.job for message in self.messages)

    async def score(self) -> None:
        """Be worker and endpoint for each job, once."""
        evaluator = DirectEvaluator(MODEL)
        for message in {message.job: message for message in self.messages}.values():
            body = await self.storage.store.read(message.input, limit=1 << 24)
            assert hashlib.sha256(body).hexdigest() == message.sha256
            await self.storage.store.create(
                message.output,
                respond(evaluator, body),
                content_type="x",
                metadata=result_info(message).to_metadata(),
            )


async def until(
    condition: Callable[[], Awaitable[bool]], process: asyncio.subprocess.Process
) -> None:
    """Look again and again until it holds, or the process has ended."""
    deadline_s = asyncio.get_running_loop().time() + DEADLINE_S
    while process.returncode is None and not await condition():
        assert asyncio.get_running_loop().time() < deadline_s
        await asyncio.sleep(0.005)


@pytest.fixture
async def owner(tmp_path: Path, storage: Storage, storage_settings: StorageSettings) -> Owner:
    key = SCHEME.generate()
    KeyRing(tmp_path / "home").save(key)
    await storage.store.create(blobnames.key(key.key_id), key.evaluation_keys(), content_type="x")
    return Owner(tmp_path / "home", storage, storage_settings, key.key_id)


def saved(folder: Path, rows: Rows) -> Path:
    np.save(folder / "rows.npy", rows)
    return folder / "rows.npy"


def produce(rows: Path) -> tuple[str, ...]:
    size = ("--rows-per-job", str(ROWS_PER_JOB), "--input-bound", "1")
    return ("produce", "--dataset", str(rows), "--scheme", "direct", *size)


async def require_whole(owner: Owner, run: str) -> Manifest:
    """Every row is in one job, in order, and every job's message belongs to its input."""
    manifest = await owner.signer.read(owner.storage.store, run)
    assert manifest.complete
    assert manifest.rows == len(ROWS)
    expected = range(0, len(ROWS), ROWS_PER_JOB)
    assert [(e.first_row, e.rows) for e in manifest.jobs] == [(i, ROWS_PER_JOB) for i in expected]
    hashes = {entry.job: entry.sha256 for entry in manifest.jobs}
    assert all(message.sha256 == hashes[message.job] for message in owner.messages)
    return manifest


async def test_produce_is_killed_at_several_moments_and_loses_nothing(
    owner: Owner, tmp_path: Path
) -> None:
    """When the run is known, after the first input, and on: each time it is resumed until then."""
    arguments, run = produce(saved(tmp_path, ROWS)), ""
    unnoted: set[str] = set()
    jobs = len(ROWS) // ROWS_PER_JOB
    for inputs in (0, 1, jobs // 3, jobs - 5):
        async with owner.running(*arguments, "--processes", "1") as process:
            assert process.stdout is not None
            run = run or (await process.stdout.readline()).decode().strip()
            await until(partial(owner.has_inputs, run, inputs), process)
        assert process.returncode == -signal.SIGKILL
        sent = await owner.drain()
        unnoted |= set(sent) - owner.enqueued(run)
        arguments = ("produce", "--resume", run)
    assert await owner.run(*arguments) == run
    sent = await owner.drain()
    manifest = await require_whole(owner, run)
    assert set(sent) == {entry.job for entry in manifest.jobs}
    assert {job for job, count in sent.items() if count > 1} <= unnoted
    assert await owner.count(blobnames.inputs(run)) == jobs
    assert await owner.run(*arguments) == run
    assert await owner.drain() == sent, "resuming a complete run sends nothing"

    out = tmp_path / "results"
    await owner.score()
    await owner.run("collect", run, "--out", str(out))
    require_scores(out)


def require_scores(out: Path) -> None:
    with (out / "predictions.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [int(line["row"]) for line in lines] == list(range(len(ROWS)))
    scores = np.array([[float(line[f"score_{k}"]) for k in range(3)] for line in lines])
    assert np.abs(scores - MODEL.scores(ROWS)).max() < ERROR


async def produced(owner: Owner, folder: Path) -> str:
    run = await owner.run(*produce(saved(folder, ROWS)))
    await owner.drain()
    return run


async def test_collect_is_killed_and_goes_on(owner: Owner, tmp_path: Path) -> None:
    run = await produced(owner, tmp_path)
    await owner.score()
    out = tmp_path / "results"
    parts = out / "parts" / run

    async def begun() -> bool:
        return parts.is_dir() and len(os.listdir(parts)) > 10  # noqa: PTH208 - it may be gone

    async with owner.running("collect", run, "--out", str(out)) as process:
        await until(begun, process)
    assert process.returncode == -signal.SIGKILL
    assert not (out / "predictions.csv").exists()
    kept = {path.name: path.stat().st_mtime_ns for path in parts.glob("*.scores")}
    assert kept
    await owner.run("collect", run, "--out", str(out))
    again = {path.name: path.stat().st_mtime_ns for path in parts.glob("*.scores")}
    assert kept.items() <= again.items(), "what was decrypted is kept"
    require_scores(out)
    assert not list(out.rglob("*.unfinished"))


async def test_collect_on_another_machine_takes_the_key_alone(owner: Owner, tmp_path: Path) -> None:
    run = await produced(owner, tmp_path)
    await owner.score()
    elsewhere = tmp_path / "elsewhere"
    out = tmp_path / "results"
    told = await owner.run("collect", run, "--out", str(out), home=elsewhere, code=1)
    assert f"no secret key {owner.key_id}" in told
    shutil.copytree(owner.home / "keys", elsewhere / "keys")
    await owner.run("collect", run, "--out", str(out), home=elsewhere)
    require_scores(out)
    assert Report.model_validate_json((out / "report.json").read_bytes()).accuracy is None


async def test_what_is_missing_is_named_and_an_error_budget_bears_it(
    owner: Owner, tmp_path: Path
) -> None:
    run = await produced(owner, tmp_path)
    owner.messages = [m for m in owner.messages if int(m.job) not in (3, 4, 10)]
    await owner.score()
    out = tmp_path / "results"
    collect = ("collect", run, "--out", str(out), "--deadline-s", "0")
    told = await owner.run(*collect, code=1)
    assert "12 of 240 rows have no score (no result yet: rows 12-19, 40-43)" in told
    await owner.run(*collect, "--error-budget", "0.05")
    assert (await owner.run(*collect, "--error-budget", "0.04", code=1)).startswith("error: 12 of")


async def test_a_data_set_that_changed_meanwhile_is_refused(owner: Owner, tmp_path: Path) -> None:
    rows = saved(tmp_path, ROWS)
    async with owner.running(*produce(rows)) as process:
        assert process.stdout is not None
        run = (await process.stdout.readline()).decode().strip()
        await until(partial(owner.has_inputs, run, 3), process)
    saved(tmp_path, ROWS[::-1].copy())
    told = await owner.run("produce", "--resume", run, code=1)
    assert f"the data set of run {run} has changed" in told
    saved(tmp_path, ROWS)
    await owner.run("produce", "--resume", run)
    await require_whole(owner, run)


async def test_a_full_queue_makes_produce_wait(owner: Owner, tmp_path: Path) -> None:
    arguments = (*produce(saved(tmp_path, ROWS)), "--max-backlog", "20")
    deepest = 0

    async def drained() -> bool:
        nonlocal deepest
        deepest = max(deepest, await owner.storage.queue.depth())
        if deepest == 20:
            await owner.drain()
        return False

    async with owner.running(*arguments) as process:
        assert process.stdout is not None
        run = (await process.stdout.readline()).decode().strip()
        await until(drained, process)
        assert process.returncode == 0
    assert deepest == 20
    sent = await owner.drain()
    assert sent.total() == len(ROWS) // ROWS_PER_JOB
    await require_whole(owner, run)


async def test_a_manifest_that_somebody_changed_is_refused_and_written_anew(
    owner: Owner, tmp_path: Path
) -> None:
    run = await produced(owner, tmp_path)
    await owner.score()
    name = blobnames.manifest(run)
    manifest = await owner.signer.read(owner.storage.store, run)
    shorter = manifest.model_copy(update={"jobs": manifest.jobs[:-1], "rows": 236})
    signed = await owner.storage.store.read(name, limit=1 << 20)
    altered = signed.replace(manifest.encode(), shorter.encode())
    await owner.storage.store.replace(name, altered, content_type="application/json")
    collect = ("collect", run, "--out", str(tmp_path / "results"))
    told = await owner.run(*collect, code=1)
    assert f"the manifest of run {run} is altered" in told
    assert f"blindscore produce --resume {run}" in told
    await owner.run("produce", "--resume", run)
    assert await owner.drain() == Counter(entry.job for entry in manifest.jobs)
    await owner.run(*collect)
    require_scores(tmp_path / "results")


async def test_a_run_that_was_cleaned_is_not_resumed(owner: Owner, tmp_path: Path) -> None:
    run = await produced(owner, tmp_path)
    await owner.run("clean", run, "--yes")
    assert "was it cleaned?" in await owner.run("produce", "--resume", run, code=1)
    with pytest.raises(BlobNotFound):
        await owner.storage.store.stat(blobnames.manifest(run))
