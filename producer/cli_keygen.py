"""The key owner's command `keygen`, and the options that make other keys too."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from producer import options
from producer.choose import WITHOUT_EVALUATION_KEYS
from producer.keylife import MAX_DAYS, NewKey, choose_locker, lifetime_of, make_key
from producer.keyrecord import KeyRecord
from shared import cli, telemetry
from shared.cli import option
from shared.errors import UsageError
from shared.settings import storage_settings

stderr = Console(stderr=True, markup=False, emoji=False)
"""Paths are printed as they are, also with brackets and colons in them."""

ExpiresDays = Annotated[
    int,
    option(
        "--expires-days",
        "Days until nothing new is encrypted or scored under the key; 0: never. What was scored "
        "can still be collected.",
        min=0,
        max=MAX_DAYS,
    ),
]
Vault = Annotated[
    str,
    option(
        "--vault",
        "Keep the key that the secret is sealed under in this Azure Key Vault, by name or URL, "
        "with your own Azure identity. Needs `blindscore[vault]`.",
        rich_help_panel="Protection",
    ),
]
Passphrase = Annotated[
    bool,
    typer.Option(
        "--passphrase",
        help="Ask for a passphrase, and seal the secret under it.",
        rich_help_panel="Protection",
    ),
]
NewPassphraseFile = Annotated[
    Path | None,
    option(
        "--passphrase-file",
        "Seal the secret under the passphrase in this file. Without one, BLINDSCORE_PASSPHRASE is "
        "taken where it is set.",
        show_default=False,
        rich_help_panel="Protection",
    ),
]


def keygen(
    context: typer.Context,
    scheme: options.Scheme = options.AUTO,
    preset: Annotated[
        str,
        option("--preset", "Parameters, as `GET /model` lists them by scheme; none: its default."),
    ] = "",
    expires_days: ExpiresDays = 0,
    passphrase: Passphrase = False,
    passphrase_file: NewPassphraseFile = None,
    vault: Vault = "",
    home: options.Home = None,
    account: cli.Account = cli.ACCOUNT_DEFAULT,
    container: cli.Container = cli.CONTAINER_DEFAULT,
    api_version: cli.ApiVersion = cli.API_VERSION_DEFAULT,
    log_level: cli.LogLevel = "warning",
) -> None:
    """Make a secret key, and publish its evaluation keys under the key id.

    The secret stays on this machine, in a file that only you can read (`--home`). Whoever has it
    can decrypt; without it, results are lost. The key id is printed: scorers find the public
    evaluation keys by it. `auto` makes a key for each of our own schemes; `ei`, whose evaluation
    keys are 9 MB, is made on demand. `blindscore key` looks after keys.

    Example: `blindscore keygen --scheme ei --passphrase`
    """
    telemetry.configure(log_level)
    settings = storage_settings(account=account, container=container, api_version=api_version)
    if preset and scheme == options.AUTO:
        raise UsageError("a --preset goes with one scheme", remedy="name it with --scheme")
    for other in ("passphrase", "passphrase_file"):
        if options.only_flag(context, "vault", other) == other:
            vault = ""
    ring = options.key_ring(home, passphrase_file)
    locker = choose_locker(vault, ring.passphrases, ask=passphrase)
    lifetime = lifetime_of(expires_days)
    for name in WITHOUT_EVALUATION_KEYS if scheme == options.AUTO else (scheme,):
        tell(*make_key(NewKey(name, preset, locker, lifetime), ring, settings))


def tell(record: KeyRecord, path: Path) -> None:
    """Print the new key's id, for programs, and where its secret is, for people."""
    protection = {
        "none": "; nothing but its mode protects it, see `blindscore key protect`",
        "passphrase": ", under your passphrase",
        "vault": ", sealed under a key in your vault",
    }[record.protection]
    stderr.print(
        f"secret key for {record.scheme} in {path}{protection}", soft_wrap=True, highlight=False
    )
    typer.echo(record.key_id)
