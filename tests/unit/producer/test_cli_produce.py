"""`produce` before it produces: what it sets going, and for which work."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deploy.local.azurite import Azurite
from producer import cli, cli_newrun, cli_production, keypool
from producer.datasets import Dataset
from shared.errors import UsageError
from shared.settings import CONNECTION_STRING_VARIABLE

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


def test_an_unknown_scheme_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CONNECTION_STRING_VARIABLE, STORAGE)
    with pytest.raises(UsageError, match="rot13"):
        cli.produce(dataset=rows(tmp_path, MUCH), scheme="rot13", home=tmp_path)
