"""Passphrases of key files: where they come from, and what a new one must be.

From a file, a variable or a terminal; never from an argument, which a process list would show.
"""

from __future__ import annotations

import getpass
import os
import sys
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from shared.errors import SecretKeyError, UsageError

PASSPHRASE_VARIABLE = "BLINDSCORE_PASSPHRASE"  # noqa: S105 - a variable's name
NEW_PASSPHRASE_VARIABLE = "BLINDSCORE_NEW_PASSPHRASE"  # noqa: S105 - a variable's name

MIN_CHARACTERS = 8
"""As NIST SP 800-63B asks of a secret that a person chooses."""
MAX_BYTES = 4096
TRIES = 3


@dataclass(frozen=True, slots=True)
class Passphrases:
    """One source of passphrases: the file if there is one, else the variable, else a terminal."""

    file: Path | None = None
    variable: str = PASSPHRASE_VARIABLE
    flag: str = "--passphrase-file"

    def given(self) -> SecretStr | None:
        """The passphrase of the file or the variable; None where neither is set.

        Raises `UsageError` for a file that can't be read, or an empty passphrase.
        """
        if self.file is not None:
            return _normal(_read(self.file), str(self.file))
        text = os.environ.get(self.variable, "")
        return _normal(text, self.variable) if text else None

    def known(self, key_id: str) -> Iterator[SecretStr]:
        """Passphrases to try for a key: the given one, or some that are asked for.

        Raises `SecretKeyError` where there is none and nobody to ask.
        """
        if given := self.given():
            yield given
            return
        if not _can_ask():
            raise SecretKeyError(
                f"key {key_id} is under a passphrase, and none was given", remedy=self._remedy()
            )
        for left in reversed(range(TRIES)):
            try:
                typed = _typed(f"Passphrase of key {key_id[:16]}…: ")
            except UsageError as error:
                sys.stderr.write(f"{error}\n")
                continue
            yield typed
            if left:
                sys.stderr.write("wrong passphrase\n")

    def new(self) -> SecretStr:
        """A passphrase for a new lock: the given one, or one that is asked for twice.

        Raises `UsageError` for a given one that is too short, after too many unfit ones that were
        typed, and where there is nobody to ask.
        """
        if given := self.given():
            return _strong(given)
        if not _can_ask():
            raise UsageError("no new passphrase was given", remedy=self._remedy())
        for _ in range(TRIES):
            try:
                chosen = _strong(_typed("New passphrase: "))
                if _typed("The same again: ") == chosen:
                    return chosen
                sys.stderr.write("these were two different ones\n")
            except UsageError as error:
                sys.stderr.write(f"{error}\n")
        raise UsageError(f"no new passphrase was chosen in {TRIES} tries")

    def _remedy(self) -> str:
        return f"set {self.variable}, or use {self.flag}, or run this on a terminal"


def _normal(text: str, source: str) -> SecretStr:
    """In Unicode's composed form: keyboards of different systems type the same letters apart."""
    if not text:
        raise UsageError(f"{source} is empty")
    try:
        text.encode()
    except UnicodeEncodeError:  # a variable's other bytes, which Python has as half characters
        raise UsageError(f"{source} is not UTF-8 text") from None
    return SecretStr(unicodedata.normalize("NFC", text))


def _strong(passphrase: SecretStr) -> SecretStr:
    if len(passphrase) < MIN_CHARACTERS:
        raise UsageError(
            f"a passphrase of {len(passphrase)} characters is soon guessed",
            remedy=f"at least {MIN_CHARACTERS}; better several words",
        )
    return passphrase


def _read(path: Path) -> str:
    """The file's text, without the line end that editors add."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"can't read the passphrase in {path}: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise UsageError(f"{path} has over {MAX_BYTES} bytes: it is no passphrase")
    try:
        return data.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise UsageError(f"the passphrase in {path} is not UTF-8 text") from None


def _can_ask() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def _typed(prompt: str) -> SecretStr:
    """What is answered. Raises `UsageError` for nothing, or what is no text."""
    try:
        text = _ask(prompt)
    except UnicodeDecodeError:
        raise UsageError("what was typed is no text in this terminal's encoding") from None
    return _normal(text, "the passphrase")


def _ask(prompt: str) -> str:
    """Ask on the terminal itself, without echo: standard output may be a pipe."""
    return getpass.getpass(prompt)
