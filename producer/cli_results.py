"""The key owner's commands that look back: `collect`, `status` and `clean`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from producer import disk, options, output, show
from producer.clean import Removed, clean_key, clean_run
from producer.collect import Collector
from producer.datasets import Block, reopen
from producer.keypool import KeyPool
from producer.keys import CANARIES, SIGNING, KeyRing
from producer.progress import RowProgress
from producer.results import Collected
from producer.runs import RunFolder, RunRecord, known_runs
from producer.signing import ManifestSigner, read_unverified
from shared import blobnames, cli, telemetry
from shared.cli import option
from shared.errors import RunError, UsageError
from shared.linear import LinearModel
from shared.model import load_model
from shared.ports import BlobStore
from shared.settings import StorageSettings, storage_settings
from shared.storage import open_queue, open_storage, open_store

stdout = Console()
stderr = Console(stderr=True)

MAX_RESULT_MB = 1024


def collect(
    run: Annotated[str, typer.Argument(help="The run id that `produce` printed.")],
    out: Annotated[
        Path | None,
        option(
            "--out",
            "Folder for predictions.csv and report.json. Default: results/RUN.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        Path | None,
        option("--model", "The plaintext model, if you have it: its scores are compared."),
    ] = None,
    trust_pickle: Annotated[
        str,
        option("--trust-pickle", "SHA-256 of a pickled --model that you consent to load."),
    ] = "",
    dataset: Annotated[
        bool,
        typer.Option("--dataset/--no-dataset", help="Read the data set again, for its labels."),
    ] = True,
    deadline_s: Annotated[
        float, option("--deadline-s", "Report what is there after this many seconds.", min=0.0)
    ] = 3600.0,
    error_budget: Annotated[
        float,
        option("--error-budget", "Share of rows that may lack a score.", min=0.0, max=1.0),
    ] = 0.0,
    processes: options.Processes = -1,
    home: options.Home = None,
    account: cli.Account = cli.ACCOUNT_DEFAULT,
    container: cli.Container = cli.CONTAINER_DEFAULT,
    api_version: cli.ApiVersion = cli.API_VERSION_DEFAULT,
    log_level: cli.LogLevel = "warning",
) -> None:
    """Wait for a run's results, decrypt them, and report.

    Writes predictions.csv (row, label, prediction, scores) and report.json, and prints accuracy,
    confusion matrix, throughput and latency. Can be stopped and run again: what is decrypted is
    kept. Exits non-zero when more rows than `--error-budget` have no score.

    Example: `blindscore collect 20260131-120000-5f3a9c --model model.pkl`
    """
    telemetry.configure(log_level)
    settings = storage_settings(account=account, container=container, api_version=api_version)
    folder = RunFolder(options.home_folder(home), run)
    record = folder.read() if folder.exists() else None
    plaintext = load_model(model, trust_pickle=trust_pickle or None) if model else None
    target = out or Path("results") / run
    ring = KeyRing(options.home_folder(home))
    with _results_folder(target):
        collected = cli.run(_collect(run, target, settings, ring, deadline_s, processes))
        link, labels = _answers(record, plaintext, collected)
        report = output.write(
            collected,
            target,
            link=link,
            labels=labels,
            blocks=_blocks(record, collected) if dataset else None,
            model=plaintext,
        )
    show.show(report, stdout)
    stdout.print(f"written to {target}/", soft_wrap=True, highlight=False)
    if report.rows_unscored > error_budget * max(report.rows, 1):
        raise RunError(
            f"{report.rows_unscored:,} of {report.rows:,} rows have no score ({report.unscored})",
            remedy=f"report.json names them all; to wait longer: blindscore collect {run}",
        )
    if not collected.manifest.complete:
        raise RunError(
            f"run {run} is not fully produced",
            remedy=f"blindscore produce --resume {run}",
        )


@contextmanager
def _results_folder(target: Path) -> Iterator[None]:
    """A folder of results, for one collection at a time. Raises `RunError`."""
    busy = RunError(f"another collect is writing to {target}", remedy="wait for it, or use --out")
    try:
        (target / "parts").mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise disk.cannot_write(target, error) from error
    with disk.held(target / "parts" / "lock", busy):
        yield


async def _collect(
    run: str,
    folder: Path,
    settings: StorageSettings,
    ring: KeyRing,
    deadline_s: float,
    processes: int,
) -> Collected:
    async with open_store(settings) as store:
        manifest = await read_unverified(store, run)
        key_file = ring.load(manifest.key_id)
        secret = key_file.secret_bytes()
        workers = options.process_count(processes)
        with RowProgress("collecting", total=manifest.rows or None) as progress:
            async with KeyPool(key_file.scheme, secret, processes=workers) as pool:
                collector = Collector(
                    run=run,
                    store=store,
                    pool=pool,
                    signer=ManifestSigner(key_file.derive(SIGNING)),
                    canary_key=key_file.derive(CANARIES),
                    folder=folder,
                    max_result_bytes=MAX_RESULT_MB << 20,
                    in_flight=workers + 1,
                    on_progress=lambda c: progress.set(
                        c.rows_scored, total=c.manifest.rows if c.manifest.complete else None
                    ),
                )
                return await collector.collect(deadline_s=deadline_s)


def _answers(
    record: RunRecord | None, model: LinearModel | None, collected: Collected
) -> tuple[str, tuple[str, ...]]:
    """How scores become predictions: as the model says, else by how many scores a row has."""
    known = model or (record.offer if record else None)
    if known is not None:
        return known.link, known.labels
    classes = collected.classes
    return ("argmax", tuple(map(str, range(classes)))) if classes > 1 else ("identity", ())


def _blocks(record: RunRecord | None, collected: Collected) -> Iterator[Block] | None:
    """The rows again, in the run's own blocks; None where this machine doesn't know them."""
    if record is None or not collected.manifest.complete:
        return None
    return reopen(record.dataset).blocks(record.rows_per_job)


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
