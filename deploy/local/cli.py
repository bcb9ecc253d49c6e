"""`demo` and `up`: the three parties and their storage on this machine."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

from rich.console import Console

from deploy.local.models import train_digits
from deploy.local.stack import Stack
from producer import options
from shared import telemetry
from shared.cli import option
from shared.errors import BlindscoreError, UsageError

console = Console(highlight=False, soft_wrap=True)

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
    limit: options.Limit = 50,
    model: Model = None,
    trust_pickle: TrustPickle = "",
    scheme: options.Scheme = "ei",
    out: Annotated[Path, option("--out", "Folder for predictions.csv and report.json.")] = Path(
        "results/demo"
    ),
) -> None:
    """Score images end to end on this machine, and report.

    Starts Azurite (a local Azure Storage), the endpoint with a model, and a worker; makes a key,
    encrypts, enqueues, collects; stops everything again. The commands it runs are printed: they
    are the ones you would type.

    Example: `blindscore demo --dataset mnist --data-dir data/mnist --model mnist.skops`
    """
    telemetry.configure("warning")
    _end_on_sigterm()
    if model is None and dataset != "digits":
        raise UsageError(f"no model for data set {dataset}", remedy="name one with --model")
    data = ["--dataset", dataset, "--limit", str(limit)]
    data += ["--data-dir", str(data_dir)] if data_dir else []
    with tempfile.TemporaryDirectory(prefix="blindscore-") as scratch:
        served = model or train_digits(Path(scratch))
        consent = ["--trust-pickle", trust_pickle] if trust_pickle else []
        console.print("[dim]starting storage, endpoint and worker ...[/]")
        with Stack(Path(scratch), served, serve_options=tuple(consent)) as stack:
            _step(stack, "keygen", "--scheme", scheme)
            produce, run = _produce(stack, "--scheme", scheme, *data)
            try:
                _step(stack, "collect", run, "--model", str(served), *consent, "--out", str(out))
            finally:
                if produce.wait() != 0:
                    raise BlindscoreError("produce failed")


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
    _end_on_sigterm()
    with Stack(
        folder.resolve(),
        served.resolve(),
        serve_options=consent,
        port=port,
        blob_port=blob_port,
        queue_port=queue_port,
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


def _end_on_sigterm() -> None:
    """Let a SIGTERM unwind the program, so that everything started is stopped."""

    def end(_signal: int, _frame: object) -> None:
        raise SystemExit(143)

    signal.signal(signal.SIGTERM, end)


def _step(stack: Stack, *arguments: str) -> None:
    argv, environment = _announce(stack, *arguments)
    code = subprocess.run(argv, env=environment, check=False).returncode  # noqa: S603
    if code != 0:
        raise BlindscoreError(
            f"`blindscore {arguments[0]}` failed; the worker's last lines:\n"
            f"{stack.log_tail('work')}"
        )


def _produce(stack: Stack, *arguments: str) -> tuple[subprocess.Popen[str], str]:
    """Start `produce`; its first line is the run id, which can be collected from then on."""
    argv, environment = _announce(stack, "produce", *arguments)
    process = subprocess.Popen(  # noqa: S603 - our own command
        argv, env=environment, stdout=subprocess.PIPE, text=True
    )
    run = process.stdout.readline().strip() if process.stdout else ""
    if not run:
        process.wait()
        raise BlindscoreError("produce failed")
    return process, run


def _announce(stack: Stack, *arguments: str) -> tuple[list[str], dict[str, str]]:
    console.print(f"[bold]$ blindscore {' '.join(arguments)}[/]")
    sys.stdout.flush()
    return stack.command(*arguments)
