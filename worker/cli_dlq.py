"""`blindscore dlq`: what to do about jobs that could not succeed."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import typer
from rich.console import Console

from shared import cli, telemetry
from shared.errors import MessageError, UsageError
from shared.settings import StorageSettings, storage_settings
from shared.storage import open_poison_queue, open_storage
from worker import dlq_view
from worker.dlq import LEASE_S, DeadLetters, Letter, Selection, each, holding

WIDE = 200
"""Columns of a table that no terminal limits."""

stdout = Console(width=None if sys.stdout.isatty() else WIDE, highlight=False)

dlq = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Look after dead letters: messages of jobs that could not succeed.\n\n"
    "A worker puts such a message aside, in the queue NAME-poison, in an envelope that says why. "
    "`list` and `show` tell what happened. `replay` sends the messages again, once the cause is "
    "gone. `purge` gives them up.\n\n"
    "All of them hold the letters for as long as they look, so run one at a time.",
)

Names = Annotated[
    list[str] | None,
    typer.Argument(help="Letters by id (its beginning is enough) or as RUN/JOB.", metavar="ID"),
]
Run = Annotated[str, typer.Option("--run", help="Letters of this run.")]
Code = Annotated[str, typer.Option("--code", help="Letters with this reason code.")]
All = Annotated[bool, typer.Option("--all", help="All letters.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


@dlq.command("list")
def list_letters(
    run: Run = "",
    code: Code = "",
    json: Json = False,
    account: cli.Account = cli.ACCOUNT_DEFAULT,
    container: cli.Container = cli.CONTAINER_DEFAULT,
    queue: cli.Queue = cli.QUEUE_DEFAULT,
    api_version: cli.ApiVersion = cli.API_VERSION_DEFAULT,
    log_level: cli.LogLevel = "warning",
) -> None:
    """List dead letters: which jobs, why, when, after how many deliveries.

    Example: `blindscore dlq list --code feature_count`
    """
    telemetry.configure(log_level)
    settings = storage_settings(
        account=account, container=container, queue=queue, api_version=api_version
    )
    found, more = cli.run(_look(settings, Selection(run=run, code=code)))
    if json:
        typer.echo(dlq_view.as_json([dlq_view.summary(letter) for letter in found]))
    elif found:
        stdout.print(dlq_view.as_table(found))
    else:
        typer.echo("no dead letters")
    if more:
        typer.echo(
            f"about {more:,} more are out of reach: held by someone, or unreadable "
            f"(look again in {LEASE_S:g} s; see docs/dead-letters.md)",
            err=True,
        )


@dlq.command("show")
def show(
    name: Annotated[str, typer.Argument(help="An id (its beginning is enough) or RUN/JOB.")],
    account: cli.Account = cli.ACCOUNT_DEFAULT,
    container: cli.Container = cli.CONTAINER_DEFAULT,
    queue: cli.Queue = cli.QUEUE_DEFAULT,
    api_version: cli.ApiVersion = cli.API_VERSION_DEFAULT,
    log_level: cli.LogLevel = "warning",
) -> None:
    """Print whole envelopes and the messages in them, as JSON; secrets in them are left out.

    Example: `blindscore dlq show 20260131-120000-5f3a9c/000007`
    """
    telemetry.configure(log_level)
    settings = storage_settings(
        account=account, container=container, queue=queue, api_version=api_version
    )
    found, _ = cli.run(_look(settings, Selection((name,))))
    if not found:
        raise _nothing_fits()
    for letter in found:
        typer.echo(dlq_view.as_json(dlq_view.whole(letter)))


@dlq.command("replay")
def replay(
    names: Names = None,
    run: Run = "",
    code: Code = "",
    all_letters: All = False,
    account: cli.Account = cli.ACCOUNT_DEFAULT,
    container: cli.Container = cli.CONTAINER_DEFAULT,
    queue: cli.Queue = cli.QUEUE_DEFAULT,
    api_version: cli.ApiVersion = cli.API_VERSION_DEFAULT,
    log_level: cli.LogLevel = "warning",
) -> None:
    """Send the original messages again, with a clean record, and forget that they failed.

    Removes the failure record, so that the run waits for the job again; sends the message; removes
    the letter. Can be stopped at any point and run again: at worst a message is sent twice, which
    its worker notices.

    Examples: `blindscore dlq replay --code endpoint`, `blindscore dlq replay --all`
    """
    telemetry.configure(log_level)
    selection = _selection(names, run, code, all_letters=all_letters)
    settings = storage_settings(
        account=account, container=container, queue=queue, api_version=api_version
    )
    sent, unfit = cli.run(_replay(settings, selection))
    typer.echo(f"sent {sent:,} messages again")
    if unfit:
        raise MessageError(
            f"{unfit:,} dead letters don't hold a whole message, so they stay",
            remedy="blindscore dlq list tells which, blindscore dlq purge removes them",
        )


@dlq.command("purge")
def purge(
    names: Names = None,
    run: Run = "",
    code: Code = "",
    all_letters: All = False,
    yes: Yes = False,
    account: cli.Account = cli.ACCOUNT_DEFAULT,
    container: cli.Container = cli.CONTAINER_DEFAULT,
    queue: cli.Queue = cli.QUEUE_DEFAULT,
    api_version: cli.ApiVersion = cli.API_VERSION_DEFAULT,
    log_level: cli.LogLevel = "warning",
) -> None:
    """Remove dead letters for good. Failure records stay, so reports still name the jobs.

    Example: `blindscore dlq purge --run 20260131-120000-5f3a9c`
    """
    telemetry.configure(log_level)
    selection = _selection(names, run, code, all_letters=all_letters)
    settings = storage_settings(
        account=account, container=container, queue=queue, api_version=api_version
    )
    seen, _ = cli.run(_look(settings, selection))
    found = _required(seen, selection)
    if found and not yes:
        stdout.print(dlq_view.as_table(found))
        if not typer.confirm(f"Remove these {len(found):,} dead letters?", err=True):
            raise UsageError("nothing removed")
    removed = cli.run(_purge(settings, frozenset(letter.id for letter in found)))
    typer.echo(f"removed {removed:,} dead letters")


async def _look(settings: StorageSettings, selection: Selection) -> tuple[list[Letter], int]:
    """The letters that are meant, and about how many could not be looked at."""
    async with _held(settings) as letters:
        found = [letter for letter in await letters.take() if selection.takes(letter)]
        return found, await letters.out_of_reach()


async def _replay(settings: StorageSettings, selection: Selection) -> tuple[int, int]:
    """How many messages were sent, and how many letters can't be."""
    sent = unfit = 0
    async with open_storage(settings) as storage, _held(settings) as letters:

        async def send(letter: Letter) -> None:
            nonlocal sent, unfit
            try:
                done = await letters.replay(letter, jobs=storage.queue, store=storage.store)
            except MessageError:
                unfit += 1
            else:
                sent += done

        found = [letter for letter in await letters.take() if selection.takes(letter)]
        await each(_required(found, selection), send)
    return sent, unfit


async def _purge(settings: StorageSettings, ids: frozenset[str]) -> int:
    """Remove letters that have been seen; how many of them were still there."""
    removed = 0
    async with _held(settings) as letters:

        async def remove(letter: Letter) -> None:
            nonlocal removed
            done = await letters.purge(letter)
            removed += done

        await each([letter for letter in await letters.take() if letter.id in ids], remove)
    return removed


@asynccontextmanager
async def _held(settings: StorageSettings) -> AsyncIterator[DeadLetters]:
    async with (
        open_poison_queue(settings) as queue,
        holding(queue, settings.container) as letters,
    ):
        yield letters


def _selection(names: list[str] | None, run: str, code: str, *, all_letters: bool) -> Selection:
    """Raises `UsageError` unless it is clear which letters are meant."""
    some = bool(names or run or code)
    if some == all_letters:
        raise UsageError(
            "which dead letters?", remedy="name ids or RUN/JOB, or --run, --code, or else --all"
        )
    return Selection(tuple(names or ()), run, code)


def _required(found: list[Letter], selection: Selection) -> list[Letter]:
    """What was asked for by name must be there."""
    if not found and selection != Selection():
        raise _nothing_fits()
    return found


def _nothing_fits() -> UsageError:
    return UsageError("there is no such dead letter", remedy="blindscore dlq list")
