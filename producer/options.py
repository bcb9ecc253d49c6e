"""Options that several of the key owner's commands take."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from producer.keyphrase import Passphrases
from producer.keys import KeyRing, default_home
from shared.cli import option
from shared.errors import UsageError

TOKEN_VARIABLE = "BLINDSCORE_ENDPOINT_TOKEN"  # noqa: S105 - a variable's name

AUTO = "auto"
"""The --scheme that leaves it to us."""

Home = Annotated[
    Path | None,
    option(
        "--home",
        "Folder of secret keys and run records. Default: blindscore in your data folder.",
        show_default=False,
    ),
]
PassphraseFile = Annotated[
    Path | None,
    option(
        "--passphrase-file",
        "File with the passphrase of your keys. Default: the variable BLINDSCORE_PASSPHRASE, else "
        "you are asked.",
        show_default=False,
    ),
]
Scheme = Annotated[
    str,
    option(
        "--scheme",
        "How rows become ciphertexts: `direct` (few rows, lowest latency), `packed` (thousands of "
        "rows share each ciphertext), `ei` (Microsoft's encrypted-inference 0.9), or `auto`.",
    ),
]
Round = Annotated[
    int | None,
    option(
        "--round",
        "To pass results on: scores of this many decimals, and nothing made from finer ones. The "
        "error of a score depends on the secret key; decimals that would tell of it are refused.",
        rich_help_panel="Passing results on",
        metavar="DIGITS",
        min=-15,
        show_default=False,
    ),
]
LabelsOnly = Annotated[
    bool,
    option(
        "--labels-only",
        "To pass results on: predictions without their scores. It tells less than any --round.",
        rich_help_panel="Passing results on",
    ),
]
Processes = Annotated[
    int,
    option(
        "--processes",
        "Processes to encrypt or decrypt in; 0 works in this one. "
        "Default: one a core, or none for little work (except to decrypt `ei`).",
        min=-1,
        show_default=False,
    ),
]
Endpoint = Annotated[
    str,
    option(
        "--endpoint",
        "URL of the scoring endpoint. Given, its model is asked for first, so that a wrong "
        f"feature count is found before anything is encrypted. Its token: {TOKEN_VARIABLE}.",
    ),
]
Dataset = Annotated[
    str,
    option(
        "--dataset",
        "`digits` (built in), `mnist` (needs --data-dir), or a .npy, .npz or .csv file.",
        rich_help_panel="Data",
    ),
]
DataDir = Annotated[
    Path | None,
    option(
        "--data-dir",
        "Folder of the MNIST idx files; missing ones are downloaded into it.",
        rich_help_panel="Data",
    ),
]
Split = Annotated[
    str,
    option(
        "--split",
        "Which part of a built-in data set: test, train or all.",
        rich_help_panel="Data",
    ),
]
Labels = Annotated[
    Path | None,
    option("--labels", "A separate file of labels.", rich_help_panel="Data"),
]
LabelColumn = Annotated[
    str,
    option(
        "--label-column",
        "Name or index of a .csv file's column of labels.",
        rich_help_panel="Data",
    ),
]
Scale = Annotated[
    float,
    option("--scale", "Divide every value by this (255 for 8-bit pixels).", rich_help_panel="Data"),
]
Limit = Annotated[
    int,
    option("--limit", "Only the first rows; 0: all.", min=0, rich_help_panel="Data"),
]


def home_folder(home: Path | None) -> Path:
    return home or default_home()


def key_ring(home: Path | None, passphrase_file: Path | None) -> KeyRing:
    """The secret keys, and where passphrases for them come from."""
    return KeyRing(home_folder(home), Passphrases(passphrase_file))


def only_flag(context: typer.Context, *names: str) -> str | None:
    """Which of these parameters, of which one at most makes sense, is on the command line.

    It then goes before what variables say of the others. Raises `UsageError` for two.
    """
    given = [
        name
        for name in names
        if (source := context.get_parameter_source(name)) and source.name == "COMMANDLINE"
    ]
    if len(given) > 1:
        one, other = (f"--{name.replace('_', '-')}" for name in given[:2])
        raise UsageError(f"{one} and {other} contradict each other", remedy="choose one of them")
    return given[0] if given else None


def process_count(processes: int) -> int:
    return processes if processes >= 0 else os.cpu_count() or 1


def endpoint_token() -> str:
    """A secret: from the environment alone."""
    return os.environ.get(TOKEN_VARIABLE, "")
