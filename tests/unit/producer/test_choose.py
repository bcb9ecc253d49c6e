"""Few rows go direct, many go packed, and the endpoint has the last word."""

from __future__ import annotations

import pytest

from producer.choose import choose
from producer.cost import direct_cost_ms, is_little, packed_cost_ms
from shared.errors import UsageError

ALL = frozenset({"ei", "direct", "packed"})


def test_one_row_goes_direct_and_many_go_packed() -> None:
    assert choose(rows=1, features=784, classes=10, offered=ALL).scheme == "direct"
    assert choose(rows=10_000, features=784, classes=10, offered=ALL).scheme == "packed"
    assert choose(rows=None, features=784, classes=10, offered=ALL).scheme == "packed"


@pytest.mark.parametrize(
    ("rows", "features", "classes", "ms"),
    [
        (4096, 784, 10, 785 * 0.75 + 784 * 0.03 + 10 * 2.2),
        (2049, 784, 10, 785 * 0.75 + 784 * 0.03 + 10 * 2.2),
        (2048, 784, 10, 393 * 0.75 + 784 * 0.03 + 10 * 2.2),
        (100, 784, 10, (1 + 4 * 4 + 4) * 0.75 + 784 * 0.03 + 10 * 2.2),
        (1, 30, 1, 2 * 0.75 + 30 * 0.03 + 2.2),
        (0, 30, 1, 0),
    ],
)
def test_packed_costs_by_ciphertext_feature_and_class(
    rows: int, features: int, classes: int, ms: float
) -> None:
    """However few rows there are; features of few share a ciphertext, 160 at most."""
    assert packed_cost_ms(rows, features, classes) == pytest.approx(ms)
    more = packed_cost_ms(4096 + rows, features, classes)
    assert more == pytest.approx(ms + packed_cost_ms(4096, features, classes))


@pytest.mark.parametrize(("features", "classes"), [(784, 10), (64, 10), (30, 1)])
def test_a_hundred_rows_go_packed_and_ten_do_not(features: int, classes: int) -> None:
    def pick(rows: int) -> str:
        return choose(rows=rows, features=features, classes=classes, offered=ALL).scheme

    assert (pick(10), pick(100)) == ("direct", "packed")


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
