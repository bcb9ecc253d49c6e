"""Production of a run, from its first row to its last job: a new one, or what is left of one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import typer
from rich.console import Console

from producer import cli_newrun, options
from producer.backlog import Backlog
from producer.canaries import Canaries
from producer.cli_newrun import Wishes
from producer.cost import is_worth_processes
from producer.datasets import Dataset, reopen
from producer.keypool import KeyPool
from producer.keys import CANARIES, ROWS, SIGNING, KeyFile, KeyRing, require_unexpired
from producer.progress import RowProgress
from producer.runs import RunFolder, RunRecord
from producer.schemes import Encoding, client_scheme
from producer.signing import ManifestSigner, complete_manifest
from producer.submit import Submission
from shared import cli
from shared.messages import Manifest
from shared.settings import StorageSettings
from shared.storage import open_storage, open_store

stderr = Console(stderr=True, markup=False, emoji=False)

BLOCKS_IN_PARTS = 3
"""One that is encrypted, one on its way, and one that is being read."""


@dataclass(frozen=True, slots=True)
class Means:
    """What a run is produced with."""

    ring: KeyRing
    home: Path
    settings: StorageSettings
    processes: int
    """-1: as many as suit the work."""
    max_backlog: int


def begin(source: Dataset, wishes: Wishes, means: Means) -> None:
    """Produce a new run; prints its id."""
    record, key_file = cli_newrun.decide(source, wishes, means.ring, means.settings)
    RunFolder(means.home, record.run).create(record)
    _go_on(record, source, key_file, means)


def resume(run: str, means: Means) -> None:
    """Produce what is missing of a run; prints its id."""
    record = RunFolder(means.home, run).read()
    key_file = means.ring.load(record.key_id)
    where = {"container": record.container, "queue": record.queue}
    means = replace(means, settings=means.settings.model_copy(update=where))
    if done := cli.run(_complete_manifest(record.run, key_file, means.settings)):
        typer.echo(record.run)
        _say(f"run {record.run} is complete already", done)
        return
    require_unexpired(key_file.record)
    cli.run(cli_newrun.require_key(key_file.key_id, means.settings))
    _go_on(record, reopen(record.dataset), key_file, means)


async def _complete_manifest(
    run: str, key_file: KeyFile, settings: StorageSettings
) -> Manifest | None:
    async with open_store(settings) as store:
        return await complete_manifest(store, run, ManifestSigner(key_file.derive(SIGNING)))


def _go_on(record: RunRecord, source: Dataset, key_file: KeyFile, means: Means) -> None:
    try:
        cli.run(_submit(record, source, key_file, means))
    except BaseException:
        stderr.print(
            f"interrupted; continue with: blindscore produce --resume {record.run}",
            soft_wrap=True,
            highlight=False,
        )
        raise


async def _submit(record: RunRecord, source: Dataset, key_file: KeyFile, means: Means) -> None:
    secret = key_file.secret_bytes()
    workers = options.process_count(means.processes)
    in_processes = is_worth_processes(
        means.processes, record.scheme, rows=source.rows, features=record.features
    )
    folder = RunFolder(means.home, record.run)
    with RowProgress("encrypting", total=source.rows) as progress, folder.journal() as journal:
        async with (
            open_storage(means.settings) as storage,
            KeyPool(record.scheme, secret, processes=workers if in_processes else 0) as pool,
        ):
            submission = Submission(
                record=record,
                journal=journal,
                content_type=client_scheme(record.scheme).content_type,
                pool=pool,
                signer=ManifestSigner(key_file.derive(SIGNING)),
                canaries=Canaries(key_file.derive(CANARIES), record.run, record.canaries),
                tag_key=key_file.derive(ROWS),
                store=storage.store,
                backlog=Backlog(
                    storage.queue,
                    limit=means.max_backlog,
                    on_wait=progress.waiting,
                    on_blind=lambda: stderr.print(
                        "no access to the queue's depth: going on without --max-backlog"
                    ),
                ),
                in_flight=_in_flight(record, workers),
                on_job=lambda entry: progress.add(entry.rows),
            )
            await submission.start()
            typer.echo(record.run)
            manifest = await submission.run(source.blocks(record.rows_per_job))
    _say("enqueued", manifest)


def _in_flight(record: RunRecord, workers: int) -> int:
    """Blocks that are encrypted or uploaded at once: no more than keep every process at work.

    All processes work on the parts of one block; each more would take its share of the memory and
    of the line, and on a thin line none would arrive in time.
    """
    whole = Encoding(record.container, record.features, record.input_bound)
    in_parts = len(client_scheme(record.scheme).split(whole)) > 1
    return min(workers + 1, BLOCKS_IN_PARTS) if in_parts else workers + 1


def _say(what: str, manifest: Manifest) -> None:
    stderr.print(
        f"{what}: {manifest.rows:,} rows in {len(manifest.jobs):,} jobs; "
        f"next: blindscore collect {manifest.run}",
        soft_wrap=True,
        highlight=False,
    )
