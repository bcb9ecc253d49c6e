"""What the local stack gives to the programs that it starts."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy.local.stack import Stack

TELL = """
import json, os
from dotenv import find_dotenv, load_dotenv
load_dotenv(find_dotenv(usecwd=True))
print(json.dumps({name: os.environ.get(name) for name in ("BLINDSCORE_PASSPHRASE", "OTHER")}))
"""


@dataclass
class Telling(Stack):
    """Its programs tell their environment, after they have read `.env` as ours do."""

    def command(self, *arguments: str) -> tuple[list[str], dict[str, str]]:
        return [sys.executable, "-c", TELL], super().command(*arguments)[1]


@pytest.mark.parametrize("is_variable", [True, False])
def test_endpoint_and_worker_get_no_passphrase_of_the_key_owners(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_variable: bool
) -> None:
    """Neither the variable nor what `.env` says of it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("BLINDSCORE_PASSPHRASE=correct horse\nOTHER=said\n")
    monkeypatch.delenv("BLINDSCORE_PASSPHRASE", raising=False)
    if is_variable:
        monkeypatch.setenv("BLINDSCORE_PASSPHRASE", "correct horse")
    stack = Telling(tmp_path, tmp_path / "model.npz")
    with ExitStack() as exits:
        stack._start(exits, "serve")
        assert stack._processes["serve"].wait(60) == 0
    told = json.loads((tmp_path / "serve.log").read_text())
    assert told == {"BLINDSCORE_PASSPHRASE": "", "OTHER": "said"}
