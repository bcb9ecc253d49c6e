"""The key owner's command `produce`: rows become ciphertexts and jobs."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from producer import coding, options
from producer.backlog import DEFAULT_LIMIT, Backlog
from producer.canaries import Canaries, data_rows
from producer.choose import AUTO, choose, is_little, offered_schemes
from producer.datasets import Dataset, open_dataset, reopen
from producer.keylife import require_published
from producer.keypool import KeyPool
from producer.keys import CANARIES, ROWS, SIGNING, KeyFile, require_unexpired
from producer.offer import Offer, fetch_offer
from producer.progress import RowProgress
from producer.runs import RunFolder, RunRecord
from producer.schemes import Encoding, client_scheme
from producer.signing import ManifestSigner, complete_manifest
from producer.submit import Submission
from shared import blobnames, cli, packed, telemetry
from shared.cli import option
from shared.errors import UsageError
from shared.messages import Manifest, utc_now
from shared.settings import StorageSettings, storage_settings
from shared.storage import open_storage, open_store

stderr = Console(stderr=True, markup=False, emoji=False)

TYPICAL_CLASSES = 10
"""Taken where no endpoint was asked."""
BLOCKS_IN_PARTS = 3
"""One that is encrypted, one on its way, and one that is being read."""


def produce(
    dataset: options.Dataset = "digits",
    data_dir: options.DataDir = None,
    split: options.Split = "test",
    labels: options.Labels = None,
    label_column: options.LabelColumn = "",
    scale: options.Scale = 1.0,
    limit: options.Limit = 0,
    scheme: options.Scheme = AUTO,
    preset: Annotated[
        str,
        option(
            "--preset",
            "Of `packed`: how values are coded, among the presets that the key serves; none: what "
            "is least work, given --endpoint.",
        ),
    ] = "",
    key: Annotated[
        str,
        option(
            "--key",
            "Key id to encrypt under; its beginning is enough. Default: the scheme's newest key "
            "that has not expired.",
        ),
    ] = "",
    endpoint: options.Endpoint = "",
    rows_per_job: Annotated[
        int, option("--rows-per-job", "Rows a job holds; 0: what suits the scheme.", min=0)
    ] = 0,
    input_bound: Annotated[
        float,
        option("--input-bound", "Largest |value| in the rows; 0: the data set's own.", min=0.0),
    ] = 0.0,
    canaries: Annotated[
        int,
        option(
            "--canaries",
            "Copies of rows to hide in each job, and one row more: `collect` then notices a "
            "scorer that is broken or cheats. They count towards --rows-per-job.",
            min=0,
        ),
    ] = 0,
    max_backlog: Annotated[
        int,
        option(
            "--max-backlog",
            "Wait while this many jobs are in the queue, until a quarter is done; 0: don't look.",
            min=0,
        ),
    ] = DEFAULT_LIMIT,
    resume: Annotated[
        str,
        option(
            "--resume",
            "Continue an interrupted run: upload and enqueue what is missing. Data and key are "
            "the run's own.",
        ),
    ] = "",
    processes: options.Processes = -1,
    home: options.Home = None,
    passphrase_file: options.PassphraseFile = None,
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
    ring = options.key_ring(home, passphrase_file)
    if resume:
        folder = RunFolder(options.home_folder(home), resume)
        record = folder.read()
        key_file = ring.load(record.key_id)
        settings = settings.model_copy(
            update={"container": record.container, "queue": record.queue}
        )
        if done := cli.run(_complete_manifest(record.run, key_file, settings)):
            typer.echo(record.run)
            _say(f"run {record.run} is complete already", done)
            return
        require_unexpired(key_file.record)
        cli.run(_require_published(key_file.key_id, settings))
        source = reopen(record.dataset)
    else:
        source = open_dataset(
            dataset,
            data_dir=data_dir,
            split=split,
            labels=labels,
            label_column=label_column or None,
            scale=scale,
            limit=limit or None,
        )
        offer = cli.run(_offer(endpoint, source)) if endpoint else None
        key_file = (
            ring.load(ring.files.resolve(key), to_encrypt=True)
            if key
            else ring.newest(_scheme(scheme, preset, source, offer))
        )
        default = client_scheme(key_file.scheme).rows_per_job(key_file.preset)
        cli.run(_require_published(key_file.key_id, settings))
        if offer is not None:
            offer.require_scheme(key_file.scheme)
            offer.require_input_bound(key_file.scheme, input_bound or source.input_bound)
            rows_per_job = offer.rows_per_job(key_file.scheme, rows_per_job, default=default)
        rows_per_job = data_rows(rows_per_job or default, canaries)
        record = RunRecord(
            run=blobnames.new_run_id(),
            scheme=key_file.scheme,
            key_id=key_file.key_id,
            container=settings.container,
            queue=settings.queue,
            dataset=source.spec,
            features=source.features,
            input_bound=input_bound or source.input_bound,
            preset=_preset(preset, key_file, offer, source, rows_per_job),
            rows_per_job=rows_per_job,
            canaries=canaries,
            created_at=utc_now(),
            offer=offer,
        )
        folder = RunFolder(options.home_folder(home), record.run)
        folder.create(record)
    try:
        cli.run(_submit(record, folder, source, key_file, settings, processes, max_backlog))
    except BaseException:
        stderr.print(
            f"interrupted; continue with: blindscore produce --resume {record.run}",
            soft_wrap=True,
            highlight=False,
        )
        raise


async def _offer(endpoint: str, source: Dataset) -> Offer:
    offer = await fetch_offer(endpoint, token=options.endpoint_token())
    offer.require_features(source.features)
    return offer


def _scheme(scheme: str, preset: str, source: Dataset, offer: Offer | None) -> str:
    if scheme != AUTO:
        return scheme
    if preset:
        return packed.SCHEME
    choice = choose(
        rows=source.rows,
        features=source.features,
        classes=offer.classes if offer else TYPICAL_CLASSES,
        offered=offered_schemes(offer),
    )
    stderr.print(f"scheme {choice.scheme}: {choice.reason}", soft_wrap=True, highlight=False)
    return choice.scheme


def _preset(
    wanted: str, key_file: KeyFile, offer: Offer | None, source: Dataset, rows_per_job: int
) -> str:
    """How the values of a run are coded. Raises `UsageError`."""
    if key_file.scheme != packed.SCHEME:
        if wanted:
            raise UsageError(
                f"--preset is for runs in packed, the key is for {key_file.scheme}",
                remedy="its preset was chosen with keygen",
            )
        return ""
    rows = rows_per_job if source.rows is None else min(rows_per_job, source.rows)
    chosen = coding.choose_coding(key_file.preset, offer, wanted=wanted, rows=rows)
    if chosen.reason:
        stderr.print(f"preset {chosen.preset}: {chosen.reason}", soft_wrap=True, highlight=False)
    return chosen.preset


async def _require_published(key_id: str, settings: StorageSettings) -> None:
    async with open_store(settings) as store:
        await require_published(store, key_id)


async def _complete_manifest(
    run: str, key_file: KeyFile, settings: StorageSettings
) -> Manifest | None:
    async with open_store(settings) as store:
        return await complete_manifest(store, run, ManifestSigner(key_file.derive(SIGNING)))


async def _submit(
    record: RunRecord,
    folder: RunFolder,
    source: Dataset,
    key_file: KeyFile,
    settings: StorageSettings,
    processes: int,
    max_backlog: int,
) -> None:
    secret = key_file.secret_bytes()
    workers = options.process_count(processes)
    little = is_little(record.scheme, rows=source.rows, features=record.features)
    with RowProgress("encrypting", total=source.rows) as progress, folder.journal() as journal:
        async with (
            open_storage(settings) as storage,
            KeyPool(
                record.scheme, secret, processes=0 if little and processes < 0 else workers
            ) as pool,
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
                    limit=max_backlog,
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
