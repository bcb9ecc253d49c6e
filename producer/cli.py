"""The key owner's command `produce`: rows become ciphertexts and jobs.

What it does is in `producer.cli_production`, which is imported when it is known what to do.
"""

from __future__ import annotations

from typing import Annotated

from producer import keypool, options
from producer.backlog import DEFAULT_LIMIT
from producer.cost import is_worth_processes
from producer.datasets import Dataset, open_dataset
from producer.options import AUTO
from producer.schemes import SCHEME_NAMES, module_of
from shared import cli, packed, telemetry
from shared.cli import option
from shared.settings import storage_settings


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
    source = None
    if not resume:
        if scheme != AUTO:
            module_of(scheme)  # raises for one that nobody knows
        source = open_dataset(
            dataset,
            data_dir=data_dir,
            split=split,
            labels=labels,
            label_column=label_column or None,
            scale=scale,
            limit=limit or None,
        )
        if _wants_processes(processes, scheme, source):
            keypool.start_ahead(scheme if scheme != AUTO else packed.SCHEME)
    # Which takes as long as processes take to import theirs
    from producer import cli_newrun, cli_production  # noqa: PLC0415

    means = cli_production.Means(
        ring=ring,
        home=options.home_folder(home),
        settings=settings,
        processes=processes,
        max_backlog=max_backlog,
    )
    if source is None:
        cli_production.resume(resume, means)
        return
    wishes = cli_newrun.Wishes(
        scheme=scheme,
        preset=preset,
        key=key,
        endpoint=endpoint,
        rows_per_job=rows_per_job,
        input_bound=input_bound,
        canaries=canaries,
    )
    cli_production.begin(source, wishes, means)


def _wants_processes(processes: int, scheme: str, source: Dataset) -> bool:
    """Whether it is clear already that rows will be encrypted in processes."""
    return all(
        is_worth_processes(processes, name, rows=source.rows, features=source.features)
        for name in (SCHEME_NAMES if scheme == AUTO else (scheme,))
    )
