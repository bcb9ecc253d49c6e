"""The key owner's commands that send: `keygen` and `produce`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from producer import options
from producer.datasets import Dataset, open_dataset, reopen
from producer.keypool import KeyPool
from producer.keys import KeyFile, KeyRing
from producer.offer import Offer, fetch_offer
from producer.progress import RowProgress
from producer.runs import RunFolder, RunRecord
from producer.schemes import client_scheme
from producer.submit import Submission
from shared import blobnames, cli, telemetry
from shared.cli import option
from shared.messages import utc_now
from shared.settings import StorageSettings, storage_settings
from shared.storage import open_storage, open_store

stderr = Console(stderr=True)


def keygen(
    scheme: options.Scheme = "ei",
    home: options.Home = None,
    account: cli.Account = cli.ACCOUNT_DEFAULT,
    container: cli.Container = cli.CONTAINER_DEFAULT,
    api_version: cli.ApiVersion = cli.API_VERSION_DEFAULT,
    log_level: cli.LogLevel = "warning",
) -> None:
    """Make a secret key, and publish its evaluation keys under the key id.

    The secret stays on this machine, in a file that only you can read (`--home`). Whoever has it
    can decrypt; without it, results are lost. The key id is printed: scorers find the public
    evaluation keys by it.

    Example: `blindscore keygen --scheme ei`
    """
    telemetry.configure(log_level)
    settings = storage_settings(account=account, container=container, api_version=api_version)
    typer.echo(cli.run(_keygen(scheme, options.home_folder(home), settings)))


async def _keygen(scheme: str, home: Path, settings: StorageSettings) -> str:
    async with open_store(settings) as store:
        ring = KeyRing(home)
        key = await asyncio.to_thread(client_scheme(scheme).generate)
        path = ring.save(key)  # first: published keys without their secret would be no use
        try:
            await store.create(
                blobnames.key(key.key_id),
                await asyncio.to_thread(key.evaluation_keys),
                content_type="application/octet-stream",
                metadata={"scheme": key.scheme},
            )
        except BaseException:
            ring.discard(key.key_id)
            raise
    stderr.print(f"secret key in {path}", soft_wrap=True, highlight=False)
    return key.key_id


def produce(
    dataset: options.Dataset = "digits",
    data_dir: options.DataDir = None,
    split: options.Split = "test",
    labels: options.Labels = None,
    label_column: options.LabelColumn = "",
    scale: options.Scale = 1.0,
    limit: options.Limit = 0,
    scheme: options.Scheme = "ei",
    key: Annotated[
        str, option("--key", "Key id to encrypt under. Default: the scheme's newest key.")
    ] = "",
    endpoint: options.Endpoint = "",
    rows_per_job: Annotated[
        int, option("--rows-per-job", "Rows a job holds; 0: what suits the scheme.", min=0)
    ] = 0,
    input_bound: Annotated[
        float,
        option("--input-bound", "Largest |value| in the rows; 0: the data set's own.", min=0.0),
    ] = 0.0,
    resume: Annotated[
        str, option("--resume", "Continue an interrupted run: upload and enqueue what is missing.")
    ] = "",
    processes: options.Processes = -1,
    home: options.Home = None,
    account: cli.Account = cli.ACCOUNT_DEFAULT,
    container: cli.Container = cli.CONTAINER_DEFAULT,
    queue: cli.Queue = cli.QUEUE_DEFAULT,
    api_version: cli.ApiVersion = cli.API_VERSION_DEFAULT,
    log_level: cli.LogLevel = "warning",
) -> None:
    """Encrypt a data set block by block, and enqueue a job for each block.

    Prints the run id; give it to `blindscore collect`. Labels never leave this machine. Memory
    stays flat however large the data set is. An interrupted run goes on with `--resume RUN`.

    Example: `blindscore produce --dataset mnist --data-dir data/mnist --limit 50`
    """
    telemetry.configure(log_level)
    settings = storage_settings(
        account=account, container=container, queue=queue, api_version=api_version
    )
    ring = KeyRing(options.home_folder(home))
    if resume:
        folder = RunFolder(options.home_folder(home), resume)
        record = folder.read()
        source = reopen(record.dataset)
        key_file = ring.load(record.key_id)
    else:
        key_file = ring.load(key) if key else ring.newest(scheme)
        source = open_dataset(
            dataset,
            data_dir=data_dir,
            split=split,
            labels=labels,
            label_column=label_column or None,
            scale=scale,
            limit=limit or None,
        )
        offer = cli.run(_offer(endpoint, source, key_file.scheme)) if endpoint else None
        record = RunRecord(
            run=blobnames.new_run_id(),
            scheme=key_file.scheme,
            key_id=key_file.key_id,
            container=settings.container,
            dataset=source.spec,
            features=source.features,
            input_bound=input_bound or source.input_bound,
            rows_per_job=rows_per_job or client_scheme(key_file.scheme).default_rows_per_job,
            created_at=utc_now(),
            offer=offer,
        )
        folder = RunFolder(options.home_folder(home), record.run)
        folder.create(record)
    try:
        cli.run(_submit(record, folder, source, key_file, settings, processes))
    except BaseException:
        stderr.print(
            f"interrupted; continue with: blindscore produce --resume {record.run}",
            soft_wrap=True,
            highlight=False,
        )
        raise


async def _offer(endpoint: str, source: Dataset, scheme: str) -> Offer:
    offer = await fetch_offer(endpoint, token=options.endpoint_token())
    offer.require_features(source.features)
    offer.require_scheme(scheme)
    return offer


async def _submit(
    record: RunRecord,
    folder: RunFolder,
    source: Dataset,
    key_file: KeyFile,
    settings: StorageSettings,
    processes: int,
) -> None:
    secret = key_file.secret_bytes()
    workers = options.process_count(processes)
    if source.rows is not None and source.rows <= record.rows_per_job:
        workers = 0  # one job: starting a process would take longer
    with RowProgress("encrypting", total=source.rows) as progress:
        async with (
            open_storage(settings) as storage,
            KeyPool(record.scheme, secret, processes=workers) as pool,
        ):
            submission = Submission(
                record=record,
                folder=folder,
                content_type=client_scheme(record.scheme).content_type,
                pool=pool,
                store=storage.store,
                queue=storage.queue,
                in_flight=workers + 1,
                on_job=lambda entry: progress.add(entry.rows),
            )
            await submission.start()
            typer.echo(record.run)
            manifest = await submission.run(source.blocks(record.rows_per_job))
    stderr.print(
        f"{manifest.rows:,} rows in {len(manifest.jobs):,} jobs enqueued; "
        f"next: blindscore collect {record.run}",
        soft_wrap=True,
        highlight=False,
    )
