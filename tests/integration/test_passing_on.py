"""`collect --round` and `--labels-only`: what lies in the folder that is passed on."""

from __future__ import annotations

import asyncio
import csv
import io
import os
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from producer.cli import produce
from producer.cli_results import collect
from producer.keys import KeyRing
from producer.rows import Rows
from producer.schemes import client_scheme
from score.schemes.direct import DirectEvaluator
from score.schemes.packed import PackedEvaluator
from shared import blobnames
from shared.errors import RunError, UsageError
from shared.messages import JobMessage
from shared.settings import CONNECTION_STRING_VARIABLE, StorageSettings
from shared.storage import Storage
from tests.scoring import respond
from tests.unit.producer.pipeline import MODEL, data_set, result_info

ROWS, ROWS_PER_JOB = data_set(12), 4


@dataclass(frozen=True)
class Owner:
    """A key owner whose runs are scored by `score`."""

    folder: Path
    settings: StorageSettings
    storage: Storage

    @property
    def home(self) -> Path:
        return self.folder / "home"

    async def produce(self, scheme: str) -> str:
        container, queue = self.settings.container, self.settings.queue
        np.save(self.folder / "rows.npy", ROWS)
        key = client_scheme(scheme).generate()
        KeyRing(self.home).save(key)
        await self.storage.store.create(
            blobnames.key(key.key_id), key.evaluation_keys(), content_type="x"
        )
        return await _output(
            lambda: produce(
                dataset=str(self.folder / "rows.npy"),
                scheme=scheme,
                input_bound=1.0,
                rows_per_job=ROWS_PER_JOB,
                home=self.home,
                container=container,
                queue=queue,
                processes=0,
            )
        )

    async def score(self, jobs: int) -> None:
        """Be worker and endpoint for so many messages."""
        for delivery in await self.storage.queue.receive(jobs, lease_s=60):
            message = JobMessage.decode(delivery.body)
            evaluator = {"direct": DirectEvaluator, "packed": PackedEvaluator}[message.scheme]
            body = await self.storage.store.read(message.input, limit=1 << 24)
            await self.storage.store.create(
                message.output,
                respond(evaluator(MODEL), body),
                content_type="x",
                metadata=result_info(message).to_metadata(),
            )

    async def collect(self, run: str, out: str, **told: int | bool) -> str:
        return await _output(
            lambda: collect(
                run,
                out=self.folder / out,
                processes=0,
                deadline_s=0.0,
                home=self.home,
                container=self.settings.container,
                **told,  # type: ignore[arg-type]
            )
        )

    def table(self, out: str) -> list[list[str]]:
        with (self.folder / out / "predictions.csv").open(newline="") as file:
            return list(csv.reader(file))


async def _output(command: Callable[[], None]) -> str:
    """Run a command in a thread; what it printed to standard output."""
    out = io.StringIO()
    with redirect_stdout(out), redirect_stderr(io.StringIO()):
        await asyncio.to_thread(command)
    return out.getvalue().strip()


@pytest.fixture
def owner(
    storage: Storage,
    storage_settings: StorageSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Owner:
    monkeypatch.setattr("shared.telemetry.configure", lambda _: None)  # it is for a whole process
    for name in [name for name in os.environ if name.startswith("BLINDSCORE_")]:
        monkeypatch.delenv(name)
    secret = storage_settings.connection_string.get_secret_value()
    monkeypatch.setenv(CONNECTION_STRING_VARIABLE, secret)
    return Owner(tmp_path, storage_settings, storage)


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def decimals(scores: Rows, digits: int) -> list[list[str]]:
    return [[f"{score:.{digits}f}" for score in row] for row in np.round(scores, digits) + 0.0]


def scores(table: Sequence[Sequence[str]]) -> list[list[str]]:
    return [list(line[2:]) for line in table[1:]]


async def test_a_public_folder_holds_rounded_scores_and_nothing_else(owner: Owner) -> None:
    run = await owner.produce("packed")
    await owner.score(3)
    odd = "public[/:key:]"  # as markup it would be an error
    assert f"written to {owner.folder / odd}/" in await owner.collect(run, odd, digits=2)
    assert files(owner.folder / odd) == ["predictions.csv", "report.json"]
    assert scores(owner.table(odd)) == decimals(MODEL.scores(ROWS), 2)


async def test_a_collect_that_was_cut_short_goes_on(owner: Owner) -> None:
    run = await owner.produce("packed")
    await owner.score(1)
    with pytest.raises(RunError, match="8 of 12 rows have no score"):
        await owner.collect(run, "public", digits=1)
    assert len(owner.table("public")) == 1 + ROWS_PER_JOB
    await owner.score(2)
    await owner.collect(run, "public", digits=1)
    assert scores(owner.table("public")) == decimals(MODEL.scores(ROWS), 1)
    assert files(owner.folder / "public") == ["predictions.csv", "report.json"]


async def test_finer_decimals_are_refused_unless_the_scheme_is_exact(owner: Owner) -> None:
    run = await owner.produce("packed")
    await owner.score(3)
    with pytest.raises(UsageError, match="9 decimals would tell of it"):
        await owner.collect(run, "public", digits=9)
    assert files(owner.folder / "public") == []
    exact = await owner.produce("direct")
    await owner.score(3)
    await owner.collect(exact, "exact", digits=9)
    assert scores(owner.table("exact"))[0][0].count(".") == 1
    assert len(scores(owner.table("exact"))[0][0].split(".")[1]) == 9


async def test_a_folder_of_exact_scores_is_not_passed_on(owner: Owner) -> None:
    run = await owner.produce("direct")
    await owner.score(3)
    await owner.collect(run, "results")
    with pytest.raises(RunError, match="exact scores of an earlier collect"):
        await owner.collect(run, "results", digits=2)
    assert len(scores(owner.table("results"))[0][0]) > 8


async def test_labels_only(owner: Owner) -> None:
    run = await owner.produce("packed")
    await owner.score(3)
    await owner.collect(run, "public", labels_only=True)
    table = owner.table("public")
    assert table[0] == ["row", "prediction"]
    assert [line[1] for line in table[1:]] == MODEL.predict(ROWS).tolist()


async def test_one_option_or_the_other(owner: Owner) -> None:
    with pytest.raises(UsageError, match="choose one"):
        await owner.collect("r", "public", labels_only=True, digits=2)
