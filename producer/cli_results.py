"""The key owner's command `collect`: results become scores, and a report."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from producer import disclosure, options, output, resultfolder, show
from producer.collect import Collector
from producer.datasets import Block, reopen
from producer.disclosure import Disclosure
from producer.keypool import KeyPool
from producer.keys import CANARIES, SIGNING, KeyFile
from producer.progress import RowProgress
from producer.results import Collected
from producer.runs import RunFolder, RunRecord
from producer.signing import ManifestSigner, read_unverified
from shared import cli, telemetry
from shared.cli import option
from shared.errors import RunError, UsageError
from shared.linear import LinearModel
from shared.messages import utc_now
from shared.model import load_model
from shared.settings import StorageSettings, storage_settings
from shared.storage import open_store

stdout = Console()

MAX_RESULT_MB = 1024


def collect(
    run: Annotated[str, typer.Argument(help="The run id that `produce` printed.")],
    out: Annotated[
        Path | None,
        option(
            "--out",
            "Folder for predictions.csv and report.json. Default: results/RUN, or what is to be "
            "passed on: results/RUN-public.",
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
    digits: options.Round = None,
    labels_only: options.LabelsOnly = False,
    processes: options.Processes = -1,
    home: options.Home = None,
    passphrase_file: options.PassphraseFile = None,
    account: cli.Account = cli.ACCOUNT_DEFAULT,
    container: cli.Container = cli.CONTAINER_DEFAULT,
    api_version: cli.ApiVersion = cli.API_VERSION_DEFAULT,
    log_level: cli.LogLevel = "warning",
) -> None:
    """Wait for a run's results, decrypt them, and report.

    Writes predictions.csv (row, label, prediction, scores) and report.json, and prints accuracy,
    confusion matrix, throughput and latency. Can be stopped and run again: what is decrypted is
    kept. Exits non-zero when more rows than `--error-budget` have no score.

    With `--round` or `--labels-only`, what is written may be passed on: nothing in it is made from
    finer scores, which are kept in `--home` instead.

    Example: `blindscore collect 20260131-120000-5f3a9c --model model.pkl`
    """
    telemetry.configure(log_level)
    settings = storage_settings(account=account, container=container, api_version=api_version)
    folder = RunFolder(options.home_folder(home), run)
    record = folder.find()
    plaintext = load_model(model, trust_pickle=trust_pickle or None) if model else None
    is_public = labels_only or digits is not None
    if labels_only and digits is not None:
        raise UsageError("--labels-only leaves no scores to --round", remedy="choose one of them")
    if labels_only and (known := plaintext or (record.offer if record else None)):
        disclosure.labels_only(known.link)  # before anything is waited for
    target = out or Path("results") / (f"{run}-public" if is_public else run)
    scores_folder = resultfolder.make_public(target, folder) if is_public else target
    key_id = record.key_id if record else cli.run(_key_id(run, settings))
    key_file = options.key_ring(home, passphrase_file).load(key_id)  # may ask: before any loop runs
    with resultfolder.held(scores_folder):
        collected = cli.run(_collect(run, scores_folder, settings, key_file, deadline_s, processes))
        link, labels = _answers(record, plaintext, collected)
        report = output.write(
            collected,
            target,
            link=link,
            labels=labels,
            blocks=_blocks(record, collected) if dataset else None,
            model=plaintext,
            disclosure=_disclosure(digits, labels_only, link, collected, key_file, record),
        )
    show.show(report, stdout)
    stdout.print(
        f"written to {target}/", soft_wrap=True, highlight=False, markup=False, emoji=False
    )
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
    if record is not None and not report.rows_unscored:
        folder.mark_collected(utc_now())


def _disclosure(
    digits: int | None,
    labels_only: bool,
    link: str,
    collected: Collected,
    key_file: KeyFile,
    record: RunRecord | None,
) -> Disclosure:
    """What is told of the scores. Raises `UsageError`."""
    if labels_only:
        return disclosure.labels_only(link)
    if digits is None:
        return disclosure.EVERYTHING
    error = disclosure.key_dependent_error(
        key_file.scheme,
        key_file.key().evaluation_keys,
        largest=collected.largest_score(),
        input_bound=record.input_bound if record else None,
        preset=record.preset if record else None,
    )
    return disclosure.rounded(digits, error)


async def _key_id(run: str, settings: StorageSettings) -> str:
    """Under which key a run is, as the account says of one that this machine doesn't know."""
    async with open_store(settings) as store:
        return (await read_unverified(store, run)).key_id


async def _collect(
    run: str,
    folder: Path,
    settings: StorageSettings,
    key_file: KeyFile,
    deadline_s: float,
    processes: int,
) -> Collected:
    async with open_store(settings) as store:
        manifest = await read_unverified(store, run)
        secret = key_file.secret_bytes()
        workers = options.process_count(processes)
        with RowProgress("collecting", total=manifest.rows or None) as progress:
            async with KeyPool(
                key_file.scheme, secret, processes=workers, when_worth_it=True
            ) as pool:
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
