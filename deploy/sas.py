"""`blindscore sas`: the account owner gives each party the narrowest tokens it can work with."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from shared import cli, telemetry
from shared.azure_account import queue_url
from shared.azure_policy import remove_policy, store_policy
from shared.azure_sas import GRANTS, Grant, Tokens, Validity, open_signer, sign
from shared.cli import option
from shared.errors import UsageError
from shared.settings import (
    BLOB_SAS_VARIABLE,
    CONNECTION_STRING_VARIABLE,
    POISON_SAS_VARIABLE,
    QUEUE_SAS_VARIABLE,
    StorageSettings,
    storage_settings,
)

_WORDS = {
    "r": "read",
    "c": "create",
    "w": "overwrite",
    "d": "delete",
    "l": "list",
    "a": "add",
    "u": "update",
    "p": "process",
}


def sas(  # noqa: PLR0917 - Typer makes an option of each parameter
    party: Annotated[
        str, option("--party", f"Who the tokens are for: {', '.join(GRANTS)}.", show_default=False)
    ] = "",
    hours: Annotated[
        float,
        option("--hours", "How long they are good for. Signed by an identity: 167 at most."),
    ] = 24.0,
    policy: Annotated[
        str,
        option(
            "--policy",
            "Keep what they allow in the account, under this name, so that it can be taken back. "
            "For tokens signed with an account key.",
        ),
    ] = "",
    revoke: Annotated[
        str,
        typer.Option("--revoke", help="Take the policy of this name back, and do nothing else."),
    ] = "",
    account: cli.Account = cli.ACCOUNT_DEFAULT,
    container: cli.Container = cli.CONTAINER_DEFAULT,
    queue: cli.Queue = cli.QUEUE_DEFAULT,
    api_version: cli.ApiVersion = cli.API_VERSION_DEFAULT,
    log_level: cli.LogLevel = "warning",
) -> None:
    """Print the storage tokens (SAS) that one party needs, as `export` lines.

    For a party that has no Azure identity of its own: whoever has the tokens has their rights, so
    hand them over as you would a password. Signed by your identity (`--account`), or by the
    account key in the connection string. What each party gets, and why: docs/storage-access.md.

    Example: `blindscore sas --party worker --hours 12 --account mystorage`
    """
    telemetry.configure(log_level)
    settings = storage_settings(
        account=account, container=container, queue=queue, api_version=api_version
    )
    if revoke:
        cli.run(remove_policy(settings, revoke))
        typer.echo(f"policy {revoke} is gone; Azure takes up to 30 s to notice", err=True)
        return
    if party not in GRANTS:
        raise UsageError(
            f"{party!r} is not a party" if party else "whose tokens?",
            remedy=f"--party {', '.join(GRANTS)}",
        )
    if not 0 < hours < 24 * 3660:
        raise UsageError(f"--hours {hours:g}: tokens need a time to live")
    grant, validity = GRANTS[party], Validity.of(hours)
    tokens, whole = cli.run(_tokens(grant, settings, validity, policy))
    typer.echo(_summary(party, grant, settings, validity, whole_container=whole), err=True)
    for name, value in (_where(settings) | _secrets(tokens)).items():
        typer.echo(f"export {name}={shlex.quote(value)}")


async def _tokens(
    grant: Grant, settings: StorageSettings, validity: Validity, policy: str
) -> tuple[Tokens, bool]:
    """The tokens, and whether those for blobs are good for the whole container."""
    signer = await open_signer(settings, validity)
    tokens = sign(grant, settings, signer, validity, policy=policy)
    if policy:
        await store_policy(settings, policy, grant, validity)
    return tokens, not (signer.is_delegated and grant.folder)


def _where(settings: StorageSettings) -> dict[str, str]:
    """How the party finds the account: by its URL, else by a string that holds no credential."""
    names = {"BLINDSCORE_CONTAINER": settings.container, "BLINDSCORE_QUEUE": settings.queue}
    connection = settings.connection
    if connection is None:
        return {"BLINDSCORE_ACCOUNT": settings.account} | names
    blobs, queues = connection.blob_endpoint, connection.queue_endpoint
    if not connection.is_local and _is_account(blobs, queues):
        return {"BLINDSCORE_ACCOUNT": blobs} | names
    return {CONNECTION_STRING_VARIABLE: f"BlobEndpoint={blobs};QueueEndpoint={queues}"} | names


def _is_account(blobs: str, queues: str) -> bool:
    try:
        return queue_url(blobs) == queues
    except UsageError:
        return False


def _secrets(tokens: Tokens) -> dict[str, str]:
    found = {
        BLOB_SAS_VARIABLE: tokens.blob.get_secret_value(),
        QUEUE_SAS_VARIABLE: tokens.queue.get_secret_value(),
        POISON_SAS_VARIABLE: tokens.poison.get_secret_value(),
    }
    return {name: value for name, value in found.items() if value}


def _summary(
    party: str,
    grant: Grant,
    settings: StorageSettings,
    validity: Validity,
    *,
    whole_container: bool,
) -> str:
    place = settings.container if whole_container else f"{settings.container}/{grant.folder}"
    rights = [f"blobs in {place}: {_words(grant.blobs)}"]
    if grant.queue:
        rights.append(f"{settings.queue}: {_words(grant.queue)}")
    if grant.poison:
        rights.append(f"{settings.poison_queue}: {_words(grant.poison)}")
    return f"# {party}, until {validity.expiry:%Y-%m-%d %H:%M} UTC. {'; '.join(rights)}"


def _words(letters: str) -> str:
    return ", ".join(_WORDS[letter] for letter in letters)
