"""The verdict sees what it is there to see."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shared.linear import LinearModel
from tests.chaos.soak import Growth, Outcome
from tests.chaos.verdict import Verdict, judge

MODEL = LinearModel(np.eye(2), np.zeros(2), labels=("a", "b"), link="argmax")
ROWS = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.5]])
RIGHT = ["0,a,1.0,0.0", "1,b,0.0,1.0", "2,a,1.0,0.5"]
FLAT = Growth(
    samples=9, resident_mb=80, grown_mb=1, files=20, more_files=3, threads=7, more_threads=0
)


@pytest.mark.parametrize(
    ("lines", "verdict"),
    [
        (RIGHT, Verdict(lost=0, duplicated=0, wrong=0)),
        (RIGHT[:2], Verdict(lost=1, duplicated=0, wrong=0)),
        ([*RIGHT[:2], "2,,,"], Verdict(lost=1, duplicated=0, wrong=0)),
        ([*RIGHT, RIGHT[0]], Verdict(lost=0, duplicated=1, wrong=0)),
        ([*RIGHT[:2], "2,a,1.0,0.501"], Verdict(lost=0, duplicated=0, wrong=1)),
        ([*RIGHT[:2], "2,b,1.0,0.5"], Verdict(lost=0, duplicated=0, wrong=1)),
    ],
)
def test_what_is_lost_doubled_or_wrong_is_counted(
    lines: list[str], verdict: Verdict, tmp_path: Path
) -> None:
    file = tmp_path / "predictions.csv"
    file.write_text("\n".join(["row,prediction,score_a,score_b", *lines]) + "\n")
    assert judge(file, MODEL, ROWS) == verdict


@pytest.mark.parametrize("what", ["grown_mb", "more_files", "more_threads"])
def test_what_grows_is_named(what: str) -> None:
    grown = Growth(**{name: getattr(FLAT, name) for name in Growth.__slots__} | {what: 100})
    verdict = Verdict(lost=0, duplicated=0, wrong=0)
    Outcome(1, 1.0, 1.0, verdict, {"work-0": FLAT}).require_flat()
    with pytest.raises(AssertionError, match="work-0"):
        Outcome(1, 1.0, 1.0, verdict, {"work-0": grown}).require_flat()
