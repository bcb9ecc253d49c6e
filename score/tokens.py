"""Bearer tokens that the endpoint accepts: several at once, so that they can be rotated."""

from __future__ import annotations

import os
import re
from pathlib import Path

from shared.errors import UsageError

TOKENS_VARIABLE = "BLINDSCORE_TOKENS"
MIN_CHARS = 16

_TOKEN = re.compile(r"[\x21-\x7e]+")


def read_tokens(file: Path | None) -> tuple[str, ...]:
    """Tokens of the environment (comma separated) and of `file` (one a line).

    Raises `UsageError`, which says nothing of a token but its place.
    """
    found = [token.strip() for token in os.environ.get(TOKENS_VARIABLE, "").split(",")]
    places = [TOKENS_VARIABLE] * len(found)
    if file is not None:
        try:
            lines = file.read_text(encoding="ascii").splitlines()
        except (OSError, ValueError) as error:
            raise UsageError(f"--token-file {file} is unreadable") from error
        found += [line.strip() for line in lines]
        places += [f"{file}, line {number}" for number in range(1, len(lines) + 1)]
        if not any(line.strip() for line in lines):
            raise UsageError(f"--token-file {file} holds no token")
    for token, place in zip(found, places, strict=True):
        if token and (not _TOKEN.fullmatch(token) or len(token) < MIN_CHARS):
            raise UsageError(
                f"{place}: not a token of {MIN_CHARS} or more printable characters",
                remedy="make one with: openssl rand -hex 32",
            )
    return tuple(token for token in found if token)
