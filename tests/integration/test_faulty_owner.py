"""The key owner's commands over a line to Azurite that breaks in every way."""

from __future__ import annotations

import asyncio
import csv
import hashlib
import io
import os
from collections.abc import AsyncIterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from blindscore import app
from deploy.local.azurite import Azurite
from producer.rows import Rows
from producer.runs import RunFolder
from score.schemes import ContainerEvaluator
from score.schemes.direct import DirectEvaluator
from score.schemes.packed import PackedEvaluator
from shared import blobnames
from shared.azure_sdk import ATTEMPTS
from shared.linear import LinearModel
from shared.messages import JobMessage
from shared.settings import CONNECTION_STRING_VARIABLE, StorageSettings
from shared.storage import Storage
from tests.faults import Fault, Faults, Kind, faulty_storage, give_up_sooner
from tests.scoring import respond
from tests.unit.producer.pipeline import ERROR, MODEL, data_set, result_info


@dataclass(frozen=True, eq=False)
class Work:
    """What is to be scored, and how."""

    rows: Rows
    rows_per_job: int
    model: LinearModel
    evaluator: ContainerEvaluator
    error: float
    processes: int = 0

    @property
    def jobs(self) -> int:
        return len(self.rows) // self.rows_per_job


WORK = Work(data_set(12), 4, MODEL, DirectEvaluator(MODEL), ERROR)
JOBS = WORK.jobs


def wide_work() -> Work:
    """Bodies of seven parts, encrypted in processes, which are uploaded as four blocks each."""
    random = np.random.default_rng(7)
    model = LinearModel(
        random.normal(size=(3, 1024)) / 32, random.normal(size=3), MODEL.labels, MODEL.link
    )
    evaluator = PackedEvaluator(model)
    offered = evaluator.describe()
    return Work(
        rows=random.uniform(-1, 1, size=(3 * 2048, 1024)),
        rows_per_job=2048,
        model=model,
        evaluator=evaluator,
        error=offered["presets"][offered["default"]]["error_bound"],
        processes=2,
    )


@dataclass(frozen=True)
class Owner:
    """A key owner's machine."""

    folder: Path
    settings: StorageSettings
    faults: Faults
    storage: Storage
    """Past the faults."""

    work: Work = WORK

    async def keygen(self) -> str:
        return await self._run("keygen", "--scheme", self.work.evaluator.name)

    async def produce(self) -> str:
        work = self.work
        np.save(self.folder / "rows.npy", work.rows)
        return await self._run(
            *("produce", "--dataset", str(self.folder / "rows.npy"), "--input-bound", "1"),
            *("--scheme", work.evaluator.name, "--rows-per-job", str(work.rows_per_job)),
            *("--processes", str(work.processes)),
        )

    async def score(self) -> int:
        """Be worker and endpoint for whatever is in the queue; how many messages there were."""
        messages: list[JobMessage] = []
        while deliveries := await self.storage.queue.receive(32, lease_s=60):
            messages += [JobMessage.decode(delivery.body) for delivery in deliveries]
        for message in {message.job: message for message in messages}.values():
            body = await self.storage.store.read(message.input, limit=1 << 24)
            await self.storage.store.create(
                message.output,
                respond(self.work.evaluator, body),
                content_type="x",
                metadata=result_info(message).to_metadata(),
            )
        return len(messages)

    async def collect(self, run: str) -> None:
        out = self.folder / "results"
        options = ("--out", str(out), "--deadline-s", "120")
        await self._run("collect", run, *options, "--processes", str(self.work.processes))
        with (out / "predictions.csv").open() as file:
            lines = list(csv.DictReader(file))
        assert [int(line["row"]) for line in lines] == list(range(len(self.work.rows)))
        scores = np.array([[float(line[f"score_{k}"]) for k in range(3)] for line in lines])
        error = np.abs(scores - self.work.model.scores(self.work.rows)).max()
        assert error < self.work.error

    async def inputs(self, run: str) -> dict[str, str]:
        """By job: the hash of its input, as the input itself has it."""
        found = {}
        async for blob in self.storage.store.list(blobnames.inputs(run)):
            body = await self.storage.store.read(blob.name, limit=1 << 24)
            found[blobnames.job_of(blob.name)] = hashlib.sha256(body).hexdigest()
        return found

    def encryptions(self, run: str) -> dict[str, list[str]]:
        """By job: the hashes of all encryptions that were noted."""
        with RunFolder(self.folder / "home", run).journal() as journal:
            return {
                job: [encryption.entry.sha256 for encryption in journal.encryptions(job)]
                for job in map(blobnames.job_id, range(self.work.jobs))
            }

    async def _run(self, *arguments: str) -> str:
        """Run a command, here but in a thread; what it printed to standard output."""
        environment = {
            "BLINDSCORE_HOME": str(self.folder / "home"),
            "BLINDSCORE_CONTAINER": self.settings.container,
            "BLINDSCORE_QUEUE": self.settings.queue,
        }
        out = io.StringIO()
        with (
            mock.patch.dict(os.environ, environment),
            redirect_stdout(out),
            redirect_stderr(io.StringIO()),
        ):
            await asyncio.to_thread(app, list(arguments), standalone_mode=False)
        return out.getvalue().strip()


@pytest.fixture
async def owner(
    azurite: Azurite,
    storage: Storage,
    storage_settings: StorageSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Owner]:
    monkeypatch.setattr("shared.telemetry.configure", lambda _: None)  # it is for a whole process
    for name in [name for name in os.environ if name.startswith("BLINDSCORE_")]:
        monkeypatch.delenv(name)
    async with faulty_storage(azurite) as line:
        monkeypatch.setenv(CONNECTION_STRING_VARIABLE, line.connection_string)
        yield Owner(tmp_path, storage_settings, line.faults, storage)


WRITES = [("PUT", "/keys/"), ("PUT", "/in/000000"), ("POST", "/messages")]
READS_AND_REPLACES = [
    ("PUT", "/manifest.json"),
    ("GET", "comp=metadata"),
    ("GET", "/manifest.json"),
    ("GET", "comp=list"),
    ("GET", "/out/000001"),
]


@pytest.mark.parametrize(
    "kind",
    ["lost request", "lost answer", "first byte", "late answer", "busy", "failing", "bad gateway"],
)
async def test_every_call_may_fail_once(
    owner: Owner, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What may be done twice need not be tried with answers that are waited for, too."""
    calls = WRITES if kind == "late answer" else WRITES + READS_AND_REPLACES
    if kind == "late answer":
        give_up_sooner(monkeypatch)
    owner.faults.plan(*(Fault(kind, method, where) for method, where in calls))
    await owner.keygen()
    run = await owner.produce()
    sent = await owner.score()
    if kind in {"lost answer", "first byte", "late answer"}:
        assert sent > JOBS, "a doubled send"
    else:
        assert sent == JOBS
    await owner.collect(run)
    assert owner.faults.pending == []


async def test_a_key_whose_upload_is_confirmed_late_is_kept(owner: Owner) -> None:
    """The second try is told that the blob exists. It is ours: the secret must not be dropped."""
    owner.faults.plan(Fault("lost answer", "PUT", "/keys/"))
    key_id = await owner.keygen()
    assert owner.faults.pending == []
    await owner.storage.store.stat(blobnames.key(key_id))
    run = await owner.produce()
    await owner.score()
    await owner.collect(run)


async def test_storage_that_is_out_for_longer_than_a_call_is_patient_is_waited_for(
    owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.azure_sdk.FIRST_PAUSE_S", 0.01)
    await owner.keygen()
    owner.faults.plan(
        Fault("lost request", "PUT", "/in/000001", times=7),
        Fault("busy", "POST", "/messages", times=7),
        Fault("busy", "GET", "/out/000001", times=7),
    )
    run = await owner.produce()
    assert await owner.score() == JOBS
    await owner.collect(run)
    assert owner.faults.pending == []


async def test_an_upload_that_is_never_confirmed_is_recognised_by_its_hash(
    owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However patient, the producer is told in the end that there is such a blob."""
    monkeypatch.setattr("shared.azure_sdk.FIRST_PAUSE_S", 0.01)
    await owner.keygen()
    owner.faults.plan(Fault("lost answer", "PUT", "/in/000001", times=ATTEMPTS))
    run = await owner.produce()
    assert await owner.score() == JOBS
    await owner.collect(run)
    assert owner.faults.pending == []


async def test_bodies_in_parts_whose_upload_fails_halfway_are_encrypted_anew(
    owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle; when all is staged but the end; and when nobody is told that it is a blob."""
    monkeypatch.setattr("shared.azure_sdk.FIRST_PAUSE_S", 0.01)
    owner = replace(owner, work=wide_work())
    await owner.keygen()
    owner.faults.plan(
        Fault("lost request", "PUT", "/in/000000?comp=block&", after=1, times=ATTEMPTS),
        Fault("lost request", "PUT", "/in/000001?comp=block&", after=3, times=ATTEMPTS),
        Fault("lost answer", "PUT", "/in/000002?comp=blocklist", times=ATTEMPTS),
    )
    run = await owner.produce()
    assert owner.faults.pending == []
    staged = [
        owner.faults.asked("PUT", f"/in/{job}?comp=block&")
        for job in ("000000", "000001", "000002")
    ]
    assert staged == [1 + ATTEMPTS + 4, 3 + ATTEMPTS + 4, 4 + 4]
    noted = owner.encryptions(run)
    first, again, counts = noted["000002"]
    assert (len(noted["000000"]), len(noted["000001"]), counts) == (1, 2, first)
    assert again != first
    assert await owner.inputs(run) == {job: hashes[-1] for job, hashes in noted.items()}
    assert await owner.score() == owner.work.jobs
    await owner.collect(run)
