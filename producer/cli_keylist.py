"""`blindscore key list` and `show`: what is known of keys, without opening any."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from producer import keylife, keyview, options
from producer.keyrecord import KeyRecord
from producer.keys import KeyRing
from producer.keyview import KeyFacts
from shared import cli, telemetry
from shared.errors import SecretKeyError
from shared.messages import utc_now
from shared.ports import BlobInfo
from shared.settings import StorageSettings, storage_settings
from shared.storage import open_store

WIDE = 200
"""Columns of a table that no terminal limits."""

stdout = Console(width=None if sys.stdout.isatty() else WIDE, highlight=False)

Name = Annotated[str, typer.Argument(help="A key id; its beginning is enough.", metavar="KEY")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Local = Annotated[bool, typer.Option("--local", help="Don't ask the account what is published.")]


def list_keys(
    local: Local = False,
    json: Json = False,
    home: options.Home = None,
    account: cli.Account = cli.ACCOUNT_DEFAULT,
    container: cli.Container = cli.CONTAINER_DEFAULT,
    api_version: cli.ApiVersion = cli.API_VERSION_DEFAULT,
    log_level: cli.LogLevel = "warning",
) -> None:
    """List this machine's keys: how old, how protected, whether published, which runs use them.

    Example: `blindscore key list --local`
    """
    telemetry.configure(log_level)
    settings = (
        None
        if local
        else storage_settings(account=account, container=container, api_version=api_version)
    )
    folder = options.home_folder(home)
    found = sorted(_facts(KeyRing(folder).files.scan(), folder, settings), key=_age)
    if json:
        typer.echo(keyview.as_json([keyview.summary(facts) for facts in found]))
    elif found:
        stdout.print(keyview.as_table(found))
        for facts in found:
            if facts.problem:
                typer.echo(facts.problem, err=True)
    else:
        typer.echo("no keys; blindscore keygen makes one")


def show(
    name: Name,
    local: Local = False,
    home: options.Home = None,
    account: cli.Account = cli.ACCOUNT_DEFAULT,
    container: cli.Container = cli.CONTAINER_DEFAULT,
    api_version: cli.ApiVersion = cli.API_VERSION_DEFAULT,
    log_level: cli.LogLevel = "warning",
) -> None:
    """Print all that is public of a key, as JSON; its secret is not asked for.

    Example: `blindscore key show 3f9a`
    """
    telemetry.configure(log_level)
    settings = (
        None
        if local
        else storage_settings(account=account, container=container, api_version=api_version)
    )
    folder = options.home_folder(home)
    files = KeyRing(folder).files
    record = files.find(name)
    (facts,) = _facts({record.key_id: record}, folder, settings)
    typer.echo(keyview.as_json(keyview.whole(facts, files.path_of(record.key_id))))


def _facts(
    keys: Mapping[str, KeyRecord | SecretKeyError], home: Path, settings: StorageSettings | None
) -> list[KeyFacts]:
    """What is known of keys; without `settings`, on this machine alone."""
    blobs = cli.run(_published(settings)) if settings else {}
    uses, now = keylife.uses(home), utc_now()
    return [
        KeyFacts(
            key_id=key_id,
            record=found if isinstance(found, KeyRecord) else None,
            problem="" if isinstance(found, KeyRecord) else str(found),
            uses=tuple(uses[key_id]),
            expired=isinstance(found, KeyRecord) and found.has_expired(now),
            asked=settings is not None,
            blob=blobs.get(key_id),
        )
        for key_id, found in keys.items()
    ]


def _age(facts: KeyFacts) -> tuple[bool, datetime]:
    """Oldest first; at the end those that don't tell."""
    return (False, facts.record.created_at) if facts.record else (True, utc_now())


async def _published(settings: StorageSettings) -> dict[str, BlobInfo]:
    async with open_store(settings) as store:
        return await keylife.published(store)
