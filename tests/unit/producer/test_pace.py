"""Results are seen soon, with few looks for each."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter

import pytest

from producer.pace import REST_S, SWEEP_S, Look, Pace

START_S = 1000.0


def collect(arrivals_s: list[float], *, until_s: float) -> tuple[list[float], Counter[Look]]:
    """How late each result is seen, and the looks until the last one is, or the end."""
    pace, now_s, seen = Pace(START_S), 0.0, 0
    late_s: list[float] = []
    looks: Counter[Look] = Counter()
    while now_s < until_s and (seen < len(arrivals_s) or not arrivals_s):
        look = pace.due(START_S + now_s)
        looks[look] += 1
        pace.looked(look, START_S + now_s)
        there = bisect_right(arrivals_s, now_s)
        late_s += [now_s - arrived_s for arrived_s in arrivals_s[seen:there]]
        news, seen = there > seen, there
        now_s += pace.pause_s(START_S + now_s, START_S + now_s, news=news)
    return late_s, looks


@pytest.mark.parametrize("interval_s", [0.9, 3.0, 7.0])
def test_results_that_come_regularly_take_a_few_looks_each(interval_s: float) -> None:
    arrivals_s = [interval_s * (i + 1) for i in range(40)]
    late_s, looks = collect(arrivals_s, until_s=1e6)
    assert len(late_s) == 40
    assert max(late_s) <= 0.5 * interval_s
    assert 2 * 40 <= looks.total() <= 6 * 40


def test_results_that_come_fast_are_taken_ten_times_a_second() -> None:
    late_s, looks = collect([0.02 * i for i in range(500)], until_s=1e6)
    assert max(late_s) == pytest.approx(0.1, abs=0.01)
    assert looks.total() == pytest.approx(111, abs=3)


def test_the_younger_a_run_the_sooner_its_results_are_seen() -> None:
    """Who waits for half a second in all doesn't wait a tenth more for a look."""
    for first_s in (0.1, 0.2, 0.4):
        late_s, looks = collect([first_s, first_s + 0.03], until_s=1e6)
        assert max(late_s) <= 0.07
        assert looks.total() <= 12


def test_the_first_results_after_a_long_wait_do_not_make_it_slow() -> None:
    """A worker comes up late, or comes back: what was waited tells nothing of what comes."""
    late_s, _ = collect([60.0 + 0.3 * i for i in range(40)], until_s=1e6)
    assert max(late_s) <= 2.0
    assert max(late_s[10:]) <= 0.2


def test_what_can_wait_is_looked_for_every_second_but_soon_in_a_short_run() -> None:
    assert collect([], until_s=1.0)[1][Look.REST] >= 3
    looks = collect([0.1 * i for i in range(1000)], until_s=100.0)[1]
    assert looks[Look.SWEEP] == pytest.approx(100 / SWEEP_S, abs=1)
    assert looks[Look.REST] + looks[Look.SWEEP] == pytest.approx(100 / REST_S, rel=0.15)


def test_what_was_not_answered_is_due_still() -> None:
    pace = Pace(START_S)
    assert [pace.due(START_S), pace.due(START_S + 1)] == [Look.SWEEP, Look.SWEEP]
    pace.looked(Look.SWEEP, START_S + 1)
    assert pace.due(START_S + 1.5) == Look.RESULTS
    assert pace.due(START_S + 2) == Look.REST
    pace.looked(Look.REST, START_S + 2)
    assert pace.due(START_S + 2.5) == Look.RESULTS
    assert pace.due(START_S + 1 + SWEEP_S) == Look.SWEEP


def test_a_long_look_is_part_of_the_pause() -> None:
    pace = Pace(START_S)
    pace.pause_s(START_S, START_S, news=True)
    assert pace.pause_s(START_S + 6, START_S + 7, news=True) == pytest.approx(0.5)
    assert pace.pause_s(START_S + 12, START_S + 15, news=True) == pytest.approx(0.1)
