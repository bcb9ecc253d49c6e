"""Few rows go direct, many go packed, and the endpoint has the last word."""

from __future__ import annotations

import pytest

from producer.choose import choose, direct_cost_ms, is_little, packed_cost_ms
from shared.errors import UsageError

ALL = frozenset({"ei", "direct", "packed"})


def test_one_row_goes_direct_and_many_go_packed() -> None:
    assert choose(rows=1, features=784, classes=10, offered=ALL).scheme == "direct"
    assert choose(rows=10_000, features=784, classes=10, offered=ALL).scheme == "packed"
    assert choose(rows=None, features=784, classes=10, offered=ALL).scheme == "packed"


@pytest.mark.parametrize("features", [2, 64, 784, 5000])
def test_there_is_one_crossing(features: int) -> None:
    """Up to some number of rows direct costs less; beyond it, packed does, for good."""
    picks = [
        choose(rows=rows, features=features, classes=10, offered=ALL).scheme
        for rows in range(1, 4096, 16)
    ]
    assert picks == sorted(picks)
    assert picks[0] == "direct" or packed_cost_ms(1, features, 10) < direct_cost_ms(1, features, 10)


def test_the_endpoint_decides_what_there_is() -> None:
    def pick(*offered: str) -> str:
        return choose(rows=1, features=4, classes=1, offered=frozenset(offered)).scheme

    assert pick("packed", "ei") == "packed"
    assert pick("direct") == "direct"
    assert pick("ei") == "ei"
    with pytest.raises(UsageError, match="no scheme that we know"):
        pick("rot13")


def test_the_choice_says_why() -> None:
    assert "5 rows" in choose(rows=5, features=64, classes=10, offered=ALL).reason


@pytest.mark.parametrize(
    ("scheme", "features", "little", "much"),
    [("direct", 64, 500, 2000), ("packed", 64, 40_000, 80_000), ("ei", 784, 20, 50)],
)
def test_little_work_is_done_before_processes_have_started(
    scheme: str, features: int, little: int, much: int
) -> None:
    assert is_little(scheme, rows=little, features=features)
    assert not is_little(scheme, rows=much, features=features)
    assert not is_little(scheme, rows=None, features=features)
    assert not is_little(scheme, rows=little, features=100 * features * 784)
