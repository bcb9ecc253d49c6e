"""The key owner's commands that look after runs in the account: `status` and `clean`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from producer import options
from producer.clean import Removed, clean_key, clean_run
from producer.runs import known_runs
from producer.signing import read_unverified
from shared import blobnames, cli, telemetry
from shared.cli import option
from shared.errors import RunError, UsageError
from shared.ports import BlobStore
from shared.settings import StorageSettings, storage_settings
from shared.storage import open_queue, open_storage, open_store

stdout = Console()


def status(
    run: Annotated[str, typer.Argument(help="A run id; without one, all runs.")] = "",
    home: options.Home = None,
    account: cli.Account = cli.ACCOUNT_DEFAULT,
    container: cli.Container = cli.CONTAINER_DEFAULT,
    queue: cli.Queue = cli.QUEUE_DEFAULT,
    api_version: cli.ApiVersion = cli.API_VERSION_DEFAULT,
    log_level: cli.LogLevel = "warning",
) -> None:
    """Show how far runs are: jobs enqueued, scored and failed, and the queue's depth."""
    telemetry.configure(log_level)
    settings = storage_settings(
        account=account, container=container, queue=queue, api_version=api_version
    )
    cli.run(_status(run, options.home_folder(home), settings))


async def _status(run: str, home: Path, settings: StorageSettings) -> None:
    table = Table("run", "scheme", "rows", "jobs", "scored", "failed", "produced")
    runs = [run] if run else [record.run for record in known_runs(home)]
    async with open_store(settings) as store:
        for name in runs:
            try:
                manifest = await read_unverified(store, name)
            except RunError:
                if run:
                    raise
                table.add_row(name, "", "", "", "", "", "not in the account")
                continue
            inputs, scored, failed = [
                str(await _count(store, prefix(name)))
                for prefix in (blobnames.inputs, blobnames.outputs, blobnames.failures)
            ]
            done = "complete" if manifest.complete else "unfinished"
            table.add_row(name, manifest.scheme, f"{manifest.rows:,}", inputs, scored, failed, done)
        stdout.print(table)
    if settings.has_sas_tokens:
        return  # who collects by a SAS needs no right to look at the queue
    async with open_queue(settings) as jobs:
        stdout.print(f"about {await jobs.depth():,} messages in {settings.queue}")


def clean(
    run: Annotated[str, typer.Argument(help="The run whose blobs and messages to remove.")] = "",
    key: Annotated[
        str, option("--key", "Remove this key's published evaluation keys instead.")
    ] = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    account: cli.Account = cli.ACCOUNT_DEFAULT,
    container: cli.Container = cli.CONTAINER_DEFAULT,
    queue: cli.Queue = cli.QUEUE_DEFAULT,
    api_version: cli.ApiVersion = cli.API_VERSION_DEFAULT,
    log_level: cli.LogLevel = "warning",
) -> None:
    """Remove what a run or a key left in the account.

    A run's inputs, results, failure records and unread messages; or a key's evaluation keys, after
    which no endpoint can score under it. Secret keys and reports on this machine stay.
    """
    telemetry.configure(log_level)
    if bool(run) == bool(key):
        raise UsageError("name either a run or a --key", remedy="blindscore clean RUN")
    if run and not blobnames.is_run_id(run):
        raise UsageError(f"{run!r} is not a run id")
    if key and not blobnames.is_key_id(key):
        raise UsageError(f"{key!r} is not a key id")
    settings = storage_settings(
        account=account, container=container, queue=queue, api_version=api_version
    )
    what = f"run {run}" if run else f"the evaluation keys of {key}"
    if not yes and not typer.confirm(f"Remove {what} from the account?", err=True):
        raise UsageError("nothing removed")
    removed = cli.run(_clean(run, key, settings))
    stdout.print(f"removed {removed.blobs:,} blobs and {removed.messages:,} messages")


async def _clean(run: str, key: str, settings: StorageSettings) -> Removed:
    async with open_storage(settings) as storage:
        if key:
            return await clean_key(key, storage.store)
        return await clean_run(run, storage.store, storage.queue)


async def _count(store: BlobStore, prefix: str) -> int:
    count = 0
    async for _ in store.list(prefix):
        count += 1
    return count
