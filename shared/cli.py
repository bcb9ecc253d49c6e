"""What the subcommands have in common: options that are variables too, and one way to run."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Annotated, Any, TypeVar

import typer

from shared.settings import (
    BLOB_SAS_VARIABLE,
    CONNECTION_STRING_VARIABLE,
    DEFAULT_API_VERSION,
    DEFAULT_CONTAINER,
    DEFAULT_QUEUE,
    QUEUE_SAS_VARIABLE,
)

T = TypeVar("T")


def variable(flag: str) -> str:
    """The environment variable of a flag: `--lease-s` is `BLINDSCORE_LEASE_S`."""
    return "BLINDSCORE_" + flag.split("/", maxsplit=1)[0].lstrip("-").replace("-", "_").upper()


def option(flag: str, help_: str, **options: Any) -> Any:
    """A Typer option that can also be set by its `BLINDSCORE_*` variable."""
    return typer.Option(flag, help=help_, envvar=variable(flag), **options)


Account = Annotated[
    str,
    option(
        "--account",
        "Storage account: a name or a blob endpoint URL, reached with your own Azure identity. "
        f"For Azurite set {CONNECTION_STRING_VARIABLE} instead; without an identity, "
        f"{BLOB_SAS_VARIABLE} and {QUEUE_SAS_VARIABLE} too (variables only: they are secrets).",
        rich_help_panel="Storage",
    ),
]
Container = Annotated[
    str, option("--container", "Blob container of keys and runs.", rich_help_panel="Storage")
]
Queue = Annotated[
    str,
    option("--queue", "Job queue; dead letters go to NAME-poison.", rich_help_panel="Storage"),
]
ApiVersion = Annotated[
    str,
    option("--api-version", "Storage REST API version to speak.", rich_help_panel="Storage"),
]
LogLevel = Annotated[
    str, option("--log-level", "debug, info, warning or error.", rich_help_panel="Logging")
]

ACCOUNT_DEFAULT = ""
CONTAINER_DEFAULT = DEFAULT_CONTAINER
QUEUE_DEFAULT = DEFAULT_QUEUE
API_VERSION_DEFAULT = DEFAULT_API_VERSION


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a subcommand's coroutine to its end."""
    return asyncio.run(main)
