"""`produce` before it produces: what it sets going, and for which work."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from pydantic import SecretStr

from deploy.local.azurite import Azurite
from producer import cli, cli_newrun, cli_production, keypool
from producer.datasets import Dataset, open_dataset
from producer.keys import KeyRing
from producer.schemes import client_scheme
from shared.errors import KeyUnknown, UsageError
from shared.settings import CONNECTION_STRING_VARIABLE, StorageSettings

STORAGE = Azurite(blob_port=1, queue_port=1).connection_string
LITTLE, MUCH = (50, 8), (3_000, 784)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was begun, in order."""
    begun: list[str] = []

    def begin(source: Dataset, wishes: cli_newrun.Wishes, means: cli_production.Means) -> None:
        begun.append(f"run in {wishes.scheme}")

    monkeypatch.setenv(CONNECTION_STRING_VARIABLE, STORAGE)
    monkeypatch.setattr(keypool, "start_ahead", lambda scheme: begun.append(f"ahead in {scheme}"))
    monkeypatch.setattr(cli_production, "begin", begin)
    return begun


def rows(folder: Path, shape: tuple[int, int]) -> str:
    np.save(folder / "rows.npy", np.zeros(shape, dtype=np.uint8))
    return str(folder / "rows.npy")


@pytest.mark.parametrize(
    ("shape", "scheme", "processes", "ahead"),
    [
        (MUCH, "packed", -1, ["ahead in packed"]),
        (MUCH, "direct", -1, ["ahead in direct"]),
        (MUCH, "auto", -1, ["ahead in packed"]),
        (MUCH, "packed", 0, []),
        (LITTLE, "packed", -1, []),
        (LITTLE, "direct", -1, []),
        (LITTLE, "auto", -1, []),
        (LITTLE, "auto", 2, ["ahead in packed"]),
    ],
)
def test_what_processes_need_is_set_going_before_the_run_where_they_are_needed(
    steps: list[str],
    tmp_path: Path,
    *,
    shape: tuple[int, int],
    scheme: str,
    processes: int,
    ahead: list[str],
) -> None:
    data = rows(tmp_path, shape)
    cli.produce(dataset=data, scheme=scheme, processes=processes, home=tmp_path)
    assert steps == [*ahead, f"run in {scheme}"]


def test_of_a_table_nobody_knows_how_many_rows_it_has(steps: list[str], tmp_path: Path) -> None:
    table = tmp_path / "rows.csv"
    table.write_text("1,2\n3,4\n")
    cli.produce(dataset=str(table), home=tmp_path)
    assert steps == ["ahead in packed", "run in auto"]


def test_all_that_is_wished_is_passed_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    begun: list[tuple[cli_newrun.Wishes, cli_production.Means]] = []
    monkeypatch.setenv(CONNECTION_STRING_VARIABLE, STORAGE)
    monkeypatch.setattr(
        cli_production, "begin", lambda _, wishes, means: begun.append((wishes, means))
    )
    wishes = cli_newrun.Wishes(
        scheme="packed",
        preset="compact",
        key="0123",
        endpoint="http://127.0.0.1:1",
        rows_per_job=7,
        input_bound=2.5,
        canaries=3,
    )
    cli.produce(
        dataset=rows(tmp_path, LITTLE),
        home=tmp_path,
        container="elsewhere",
        processes=0,
        max_backlog=11,
        **{field.name: getattr(wishes, field.name) for field in fields(wishes)},
    )
    [(told, means)] = begun
    assert told == wishes
    assert (means.home, means.processes, means.max_backlog) == (tmp_path, 0, 11)
    assert means.settings.container == "elsewhere"


IMPORTED = """
import sys
import producer.cli
from producer import keypool

def told(scheme):
    print({"azure", "aiohttp", "tenseal"} & set(sys.modules))
    raise SystemExit

keypool.start_ahead = told
producer.cli.produce(dataset=sys.argv[1], processes=1)
"""


def test_processes_import_theirs_before_the_command_imports_most_of_its_own(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED, rows(tmp_path, LITTLE)],
        env=os.environ | {CONNECTION_STRING_VARIABLE: STORAGE},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("shape", [LITTLE, MUCH])
def test_an_unknown_scheme_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int]
) -> None:
    monkeypatch.setenv(CONNECTION_STRING_VARIABLE, STORAGE)
    with pytest.raises(UsageError, match="unknown scheme 'rot13'"):
        cli.produce(dataset=rows(tmp_path, shape), scheme="rot13", home=tmp_path)


def test_the_bound_is_looked_for_once_there_is_a_key_that_scorers_can_find(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It takes reading all rows."""
    monkeypatch.setattr(cli_newrun, "require_key", _not_published)
    np.save(tmp_path / "rows.npy", np.array([[0.5], [np.nan]]))
    source = open_dataset(tmp_path / "rows.npy")
    wishes = cli_newrun.Wishes(scheme="direct")
    settings = StorageSettings(connection_string=SecretStr(STORAGE))
    ring = KeyRing(tmp_path)
    ring.save(client_scheme("direct").generate())
    with pytest.raises(KeyUnknown):
        cli_newrun.decide(source, wishes, ring, settings)


async def _not_published(key_id: str, _: StorageSettings) -> None:
    raise KeyUnknown(f"{key_id} is not published")
