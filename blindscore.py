"""The command line: maps each subcommand to a package's cli module, imported only when it is used.

So a machine that only carries (`pip install blindscore[worker]`) never imports the other parties.
"""

from __future__ import annotations

import gc
import os
import sys
from importlib import import_module
from typing import Any

import typer
from dotenv import find_dotenv, load_dotenv
from typer.core import TyperGroup

from shared.errors import BlindscoreError

KEY_OWNER, CARRIER, MODEL_OWNER, ACCOUNT_OWNER, HERE = (
    "Key owner",
    "Carrier",
    "Model owner",
    "Account owner",
    "All of it on this machine",
)

COMMANDS: dict[str, tuple[str, str, str]] = {
    "demo": (HERE, "deploy.local.cli", "Score images end to end on this machine, and report."),
    "up": (HERE, "deploy.local.cli", "Start storage, endpoint and worker here; Ctrl-C stops them."),
    "keygen": (KEY_OWNER, "producer.cli_keygen", "Make a secret key, publish what is public."),
    "key": (KEY_OWNER, "producer.cli_key", "List, show, rotate, forget or protect secret keys."),
    "produce": (KEY_OWNER, "producer.cli", "Encrypt a data set and enqueue it; prints the run id."),
    "collect": (KEY_OWNER, "producer.cli_results", "Wait for results, decrypt them and report."),
    "status": (KEY_OWNER, "producer.cli_runs", "Show how far runs are."),
    "clean": (KEY_OWNER, "producer.cli_runs", "Remove what a run or a key left in the account."),
    "work": (CARRIER, "worker.cli", "Carry jobs from the queue to the endpoint and back."),
    "dlq": (CARRIER, "worker.cli_dlq", "List, show, replay or purge dead letters."),
    "serve": (MODEL_OWNER, "score.cli", "Serve a model to encrypted rows."),
    "sas": (ACCOUNT_OWNER, "deploy.sas", "Print the narrow storage tokens that one party needs."),
}

EXTRAS = {"producer": "producer", "worker": "worker", "score": "score", "deploy": "all"}


class LazyGroup(TyperGroup):
    """Lists commands from `COMMANDS`; imports the one that runs."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Put the real command in place of its stub, then resolve as usual."""
        if args and args[0] in COMMANDS:
            self.add_command(_command(args[0]), args[0])
        return super().resolve_command(ctx, args)


def _command(name: str) -> Any:
    _, module, _ = COMMANDS[name]
    try:
        found = getattr(import_module(module), name)
    except ImportError as error:
        package = module.split(".", maxsplit=1)[0]
        raise BlindscoreError(
            f"`{name}` needs a package that is not installed: {error.name or error}",
            remedy=f"pip install 'blindscore[{EXTRAS[package]}]'",
        ) from error
    if not gc.isenabled():  # see main
        gc.freeze()
        gc.enable()
    if isinstance(found, typer.Typer):  # with subcommands of its own
        return typer.main.get_command(found)
    single = typer.Typer(add_completion=False, rich_markup_mode="markdown")
    single.command(name)(found)
    return typer.main.get_command(single)


app = typer.Typer(
    name="blindscore",
    cls=LazyGroup,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Encrypted batch scoring: a linear model scores rows it never sees.\n\n"
    "Every option is also a `BLINDSCORE_*` variable (`--lease-s` is `BLINDSCORE_LEASE_S`); "
    "a `.env` file in this folder or above is read.",
)


@app.callback()
def _root() -> None:
    """Exists so that the application is a group however few commands there are."""


def _stub() -> None:
    """Never runs: `LazyGroup` replaces it."""


for _name, (_panel, _, _help) in COMMANDS.items():
    app.command(_name, help=_help, rich_help_panel=_panel)(_stub)


def main() -> None:
    """Run the `blindscore` command; an error of ours is one line and a non-zero exit."""
    gc.disable()  # until all is imported: looking for garbage among it takes a third of the time
    load_dotenv(find_dotenv(usecwd=True))
    # Processes use the cores here; threads of numpy's BLAS would only wait for each other, busily.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        app()
    except BlindscoreError as error:
        sys.stderr.write(f"error: {error.message}\n")
        if error.remedy:
            sys.stderr.write(f"  try: {error.remedy}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
