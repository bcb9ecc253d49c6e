"""The scorer can't take, hold or make a secret key: there is no code in it that could."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest

from tests.unit.score.secretless import seal_names, suspects


@pytest.fixture(scope="module")
def scorer() -> dict[str, Any]:
    """What is in a process that has imported all of the scorer."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.unit.score.secretless"],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def test_all_of_it_was_looked_at(scorer: dict[str, Any]) -> None:
    evaluators = {"direct", "packed", "ei.evaluator", "ei.native", "ei.sdk"}
    expected = {f"score.schemes.{name}" for name in evaluators}
    assert expected | {"score.cli", "score.score", "shared.seal", "shared.ei"} <= set(
        scorer["ours"]
    )
    assert {"tenseal", "encrypted.inference.eiserver"} <= set(scorer["modules"])


def test_no_module_of_another_party_is_loaded(scorer: dict[str, Any]) -> None:
    parties = {name.partition(".")[0] for name in scorer["modules"]}
    assert parties.isdisjoint({"producer", "worker", "deploy"})
    assert "encrypted.inference.eiclient" not in scorer["modules"]


def test_nothing_in_it_takes_or_holds_a_secret_key(scorer: dict[str, Any]) -> None:
    assert scorer["suspects"] == []


def test_no_source_names_what_works_with_a_secret_key(scorer: dict[str, Any]) -> None:
    assert scorer["seal_names"] == {}


# --- the search finds something where there is something -----------------------------------------


def decrypt(secret_key: bytes) -> None: ...
def make() -> SecretKey: ...  # type: ignore[name-defined]  # noqa: F821
def quietly() -> None:
    my_secret = b""
    del my_secret


@dataclass
class Client:
    client_secret: bytes

    def save(self, *, secret: bool) -> None: ...


def test_what_takes_holds_or_makes_one_is_found() -> None:
    module = ModuleType(__name__)
    for thing in (decrypt, make, quietly, Client):
        setattr(module, thing.__name__, thing)
    found = {suspect.removeprefix(f"{__name__}.") for suspect in suspects(module)}
    assert found == {
        "decrypt: secret_key",
        "make: return",
        "quietly: my_secret",
        "Client: client_secret",
        "Client.__init__: client_secret",
    }


@pytest.mark.parametrize(
    "source",
    [
        "sealapi.SecretKey()",
        "from tenseal.sealapi import KeyGenerator",
        "import tenseal.sealapi.Decryptor as d",
        "getattr(sealapi, 'Decryptor')",
    ],
)
def test_names_are_found_in_a_source(source: str) -> None:
    assert len(seal_names(source)) == 1
    assert seal_names(f'"""{source}"""') == set()
