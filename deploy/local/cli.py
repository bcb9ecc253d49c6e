"""`demo` and `up`: the three parties and their storage on this machine."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

from rich.console import Console
from rich.table import Table

from deploy.local.models import train_digits
from deploy.local.stack import Stack
from producer import options
from producer.report import Report
from shared import telemetry
from shared.cli import option
from shared.errors import BlindscoreError, UsageError

console = Console(highlight=False, soft_wrap=True)

ROWS_SHOWN = {"ei": 50, "direct": 200, "packed": 0}
"""By scheme, slowest first; 0 is all rows."""

Model = Annotated[
    Path | None,
    option(
        "--model",
        "Model file to serve. Default: a LogisticRegression trained on digits here.",
        show_default=False,
    ),
]
TrustPickle = Annotated[
    str, option("--trust-pickle", "SHA-256 of a pickled --model that you consent to load.")
]


def demo(
    dataset: options.Dataset = "digits",
    data_dir: options.DataDir = None,
    limit: Annotated[
        int | None,
        option("--limit", "Rows for every scheme; 0: all. Default: what takes seconds.", min=0),
    ] = None,
    model: Model = None,
    trust_pickle: TrustPickle = "",
    scheme: Annotated[
        str, option("--scheme", "Only this scheme: ei, direct or packed. Default: one by one.")
    ] = "",
    out: Annotated[Path, option("--out", "Folder for reports and predictions.")] = Path(
        "results/demo"
    ),
) -> None:
    """Score images end to end on this machine, and report.

    Starts Azurite (a local Azure Storage), the endpoint with a model, and a worker; for each scheme
    makes a key, encrypts, enqueues, collects; stops everything again. The commands it runs are
    printed: they are the ones you would type.

    Example: `blindscore demo --dataset mnist --data-dir data/mnist --model mnist.skops`
    """
    telemetry.configure("warning")
    _unwind_on_signals()
    if model is None and dataset != "digits":
        raise UsageError(f"no model for data set {dataset}", remedy="name one with --model")
    if scheme and scheme not in ROWS_SHOWN:
        raise UsageError(f"unknown scheme {scheme!r}", remedy=f"one of {', '.join(ROWS_SHOWN)}")
    data = ["--dataset", dataset, *(["--data-dir", str(data_dir)] if data_dir else [])]
    with tempfile.TemporaryDirectory(prefix="blindscore-") as scratch:
        served = model or train_digits(Path(scratch))
        consent = ("--trust-pickle", trust_pickle) if trust_pickle else ()
        console.print("[dim]starting storage, endpoint and worker ...[/]")
        with Stack(Path(scratch), served, serve_options=consent) as stack:
            reports = []
            schemes = [scheme] if scheme else list(ROWS_SHOWN)
            for name in schemes:
                rows = ROWS_SHOWN[name] if limit is None else limit
                folder = out / name
                shutil.rmtree(folder, ignore_errors=True)
                _run_through(
                    stack,
                    produce=("--scheme", name, *data, "--limit", str(rows)),
                    collect=("--model", str(served), *consent, "--out", str(folder)),
                    quiet=name != schemes[-1],
                )
                reports.append(Report.model_validate_json((folder / "report.json").read_bytes()))
    console.print(_comparison(reports))


def up(
    model: Model = None,
    trust_pickle: TrustPickle = "",
    port: Annotated[int, option("--port", "The endpoint's port.")] = 8080,
    blob_port: Annotated[int, option("--blob-port", "Azurite's blob port.")] = 10000,
    queue_port: Annotated[int, option("--queue-port", "Azurite's queue port.")] = 10001,
    folder: Annotated[
        Path, option("--folder", "Where storage, keys, records and logs are kept.")
    ] = Path(".local"),
) -> None:
    """Start storage, endpoint and worker on this machine; Ctrl-C stops them.

    Prints the variables with which the other commands find them. What was stored is still there
    the next time.
    """
    telemetry.configure("warning")
    served = model or train_digits(folder)
    consent = ("--trust-pickle", trust_pickle) if trust_pickle else ()
    _unwind_on_signals()
    with Stack(
        folder.resolve(),
        served.resolve(),
        serve_options=consent,
        port=port,
        blob_port=blob_port,
        queue_port=queue_port,
        keep=True,
    ) as stack:
        console.print("up; in another terminal:\n")
        for name, value in stack.environment.items():
            console.print(f"export {name}='{value}'")
        console.print(f"\nlogs are in {folder}/; Ctrl-C stops everything")
        try:
            while True:
                time.sleep(1.0)
                stack.require_alive()
        except (KeyboardInterrupt, SystemExit):
            console.print("stopping ...")


def _unwind_on_signals() -> None:
    """Let SIGTERM and Ctrl-C unwind the program, so that everything started is stopped.

    Ctrl-C too is said explicitly: a shell starts its background jobs deaf to it.
    """

    def end(_signal: int, _frame: object) -> None:
        raise SystemExit(143)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _run_through(
    stack: Stack, *, produce: tuple[str, ...], collect: tuple[str, ...], quiet: bool
) -> None:
    """One run: key, jobs, report. Collecting begins while producing goes on."""
    _step(stack, "keygen", *produce[:2], quiet=True)
    argv, environment = _announce(stack, "produce", *produce)
    with subprocess.Popen(  # noqa: S603 - our own command
        argv, env=environment, stdout=subprocess.PIPE, text=True
    ) as producing:
        # its first line is the run id, which can be collected from then on
        run = producing.stdout.readline().strip() if producing.stdout else ""
        if run:
            _step(stack, "collect", run, *collect, quiet=quiet)
        if producing.wait() != 0 or not run:
            raise BlindscoreError("`blindscore produce` failed")


def _step(stack: Stack, *arguments: str, quiet: bool) -> None:
    argv, environment = _announce(stack, *arguments)
    done = subprocess.run(  # noqa: S603 - our own command
        argv, env=environment, check=False, stdout=subprocess.DEVNULL if quiet else None
    )
    if done.returncode != 0:
        raise BlindscoreError(
            f"`blindscore {arguments[0]}` failed; the worker's last lines:\n"
            f"{stack.log_tail('work')}"
        )


def _announce(stack: Stack, *arguments: str) -> tuple[list[str], dict[str, str]]:
    console.print(f"[bold]$ blindscore {' '.join(arguments)}[/]")
    sys.stdout.flush()
    return stack.command(*arguments)


def _comparison(reports: list[Report]) -> Table:
    table = Table(title="the schemes, end to end on this machine", title_justify="left")
    for heading in ("scheme", "rows", "rows/s", "accuracy", "as plaintext", "largest error"):
        table.add_column(heading, justify="left" if heading == "scheme" else "right")
    for report in reports:
        agreement = report.agreement
        table.add_row(
            report.scheme,
            f"{report.rows_scored:,}",
            f"{report.rows_per_s:,.1f}",
            f"{report.accuracy:.4f}" if report.accuracy is not None else "",
            f"{agreement.rows - agreement.mismatches:,}" if agreement else "",
            f"{agreement.max_error:.1e}" if agreement else "",
        )
    return table
