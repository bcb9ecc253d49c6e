"""`blindscore key`: what to do with keys once they are made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from producer import keylife, keyseal, options
from producer.clean import clean_key
from producer.cli_keygen import Vault, tell
from producer.cli_keylist import Name, list_keys, show
from producer.keyfolder import KeyFolder
from producer.keylife import Waiting
from producer.keyphrase import NEW_PASSPHRASE_VARIABLE, Passphrases
from producer.keys import KeyRing, Locker
from shared import blobnames, cli, telemetry
from shared.cli import option
from shared.errors import SecretKeyError, UsageError
from shared.settings import StorageSettings, storage_settings
from shared.storage import open_store

key = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Look after secret keys: `list` and `show` them, `protect` their files, `rotate` them, "
    "and `forget` those that are done with. `blindscore keygen` makes them.\n\n"
    "Keys are named by id; its beginning is enough. Each of these can be stopped and run again.",
)
key.command("list")(list_keys)
key.command("show")(show)

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")]


@key.command("rotate")
def rotate(
    name: Name,
    expires_days: Annotated[
        int | None,
        option(
            "--expires-days",
            "Days until nothing new is encrypted or scored under the new key; 0: never. Default: "
            "as many as the old one had.",
            min=0,
            max=keylife.MAX_DAYS,
            show_default=False,
        ),
    ] = None,
    passphrase_file: options.PassphraseFile = None,
    home: options.Home = None,
    account: cli.Account = cli.ACCOUNT_DEFAULT,
    container: cli.Container = cli.CONTAINER_DEFAULT,
    api_version: cli.ApiVersion = cli.API_VERSION_DEFAULT,
    log_level: cli.LogLevel = "warning",
) -> None:
    """Make a new key like an old one, for `produce` to use from now on; prints its id.

    Same scheme, preset, lifetime and protection. The old key stays, so that its runs can still be
    scored and collected; `forget` it once they are. Each call makes another key.

    Example: `blindscore key rotate 3f9a`
    """
    telemetry.configure(log_level)
    settings = storage_settings(account=account, container=container, api_version=api_version)
    ring = options.key_ring(home, passphrase_file)
    old = ring.files.find(name)
    runs = [
        use.record.run
        for use in keylife.uses(options.home_folder(home))[old.key_id]
        if use.collected_at is None
    ]
    tell(*keylife.make_key(keylife.successor(old, ring, days=expires_days), ring, settings))
    what = f"once {', '.join(runs)} are collected" if runs else "no run waits for it"
    _say(f"the old key stays; {what}: blindscore key forget {old.key_id}")


@key.command("protect")
def protect(
    context: typer.Context,
    name: Name,
    remove: Annotated[
        bool, typer.Option("--remove", help="Keep the secret in plain from now on.")
    ] = False,
    vault: Vault = "",
    new_passphrase_file: Annotated[
        Path | None,
        option(
            "--new-passphrase-file",
            f"File with the new passphrase. Default: the variable {NEW_PASSPHRASE_VARIABLE}, else "
            "you are asked twice.",
            show_default=False,
        ),
    ] = None,
    passphrase_file: options.PassphraseFile = None,
    home: options.Home = None,
    log_level: cli.LogLevel = "warning",
) -> None:
    """Seal a key's secret under a new passphrase, or under a key in a vault, or not at all.

    The file is replaced as a whole: interrupted, the old one stays. Copies and backups of the old
    file stay as they were; if one may have been read, `rotate` the key. For a file that was in
    plain, the new passphrase may also be given as `--passphrase-file` or BLINDSCORE_PASSPHRASE.

    Example: `blindscore key protect 3f9a`
    """
    telemetry.configure(log_level)
    ring = options.key_ring(home, passphrase_file)
    record = ring.files.find(name)
    way = options.only_flag(context, "vault", "remove", "new_passphrase_file")
    if way is None and record.lock is None:
        way = options.only_flag(context, "passphrase_file")  # it is the new one, nothing to open
    if way not in {None, "vault"}:
        vault = ""
    new = Passphrases(new_passphrase_file, NEW_PASSPHRASE_VARIABLE, "--new-passphrase-file")
    if record.lock is None and new.given() is None and ring.passphrases.given() is not None:
        new = ring.passphrases
    opened = ring.open(record)
    try:
        locker: Locker = keyseal.unlocked if remove else keylife.choose_locker(vault, new, ask=True)
        relocked = opened.relock(locker)
    finally:
        opened.wipe()
    ring.files.replace(relocked, record)
    typer.echo(f"key {record.key_id}: protection {record.protection} → {relocked.protection}")


@key.command("forget")
def forget(
    name: Name,
    secret: Annotated[
        bool,
        typer.Option("--secret", help="Delete the secret too: its results are then lost for good."),
    ] = False,
    yes: Yes = False,
    home: options.Home = None,
    account: cli.Account = cli.ACCOUNT_DEFAULT,
    container: cli.Container = cli.CONTAINER_DEFAULT,
    api_version: cli.ApiVersion = cli.API_VERSION_DEFAULT,
    log_level: cli.LogLevel = "warning",
) -> None:
    """Take a key's evaluation keys out of the account, so that nothing is scored under it any more.

    Scorers answer 404 `key_unknown` within their `--key-ttl-s` (30 s). The secret stays, so that
    what was scored can be collected, unless `--secret` says otherwise.

    Example: `blindscore key forget 3f9a --secret`
    """
    telemetry.configure(log_level)
    settings = storage_settings(account=account, container=container, api_version=api_version)
    folder = options.home_folder(home)
    files = KeyRing(folder).files
    key_id = _forgettable(files, name)
    if secret:
        files.require_removable(key_id)
    for each in cli.run(_not_collected(folder, key_id, settings)):
        place = f" ({each.place})" if each.place else ""
        _say(f"run {each.run} under this key is not collected yet{place}")
    question = (
        f"Delete the secret of key {key_id}? What is not collected is lost for good."
        if secret
        else f"Stop scoring under key {key_id}?"
    )
    if not yes and not typer.confirm(question, err=True):
        raise UsageError("nothing removed")
    said = "its evaluation keys are" if cli.run(_unpublish(key_id, settings)) else "nothing was"
    typer.echo(f"key {key_id}: {said} taken out of the account")
    if secret:
        typer.echo("its secret is deleted" if files.remove(key_id) else "its secret was not here")


def _forgettable(files: KeyFolder, name: str) -> str:
    """The key id that is meant: one of this machine's, or any that is whole."""
    try:
        return files.resolve(name)
    except SecretKeyError:
        if blobnames.is_key_id(name):
            return name
        raise


async def _unpublish(key_id: str, settings: StorageSettings) -> bool:
    async with open_store(settings) as store:
        return bool((await clean_key(key_id, store)).blobs)


async def _not_collected(home: Path, key_id: str, settings: StorageSettings) -> list[Waiting]:
    async with open_store(settings) as store:
        return await keylife.not_collected(store, settings.container, home, key_id)


def _say(text: str) -> None:
    typer.echo(text, err=True)
