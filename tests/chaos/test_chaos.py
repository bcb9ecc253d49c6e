"""The short version of `make chaos`."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.local.models import train_digits
from tests.chaos.killing import KILLS_AT_LEAST, KILLS_AT_WORK, chaos
from tests.chaos.plan import Plan
from tests.chaos.soak import soak
from tests.chaos.verdict import Verdict

FLAWLESS = Verdict(lost=0, duplicated=0, wrong=0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_digits(tmp_path_factory.mktemp("model"))


def test_whatever_is_killed_every_row_is_scored_exactly_once(model: Path, tmp_path: Path) -> None:
    plan = Plan(jobs=60, backlog=40, most_kills=5, endpoint_restarts=1, deadline_s=300)
    outcome = chaos(tmp_path, model, plan)
    assert outcome.verdict == FLAWLESS
    assert outcome.kills >= KILLS_AT_LEAST
    assert outcome.kills_at_work >= KILLS_AT_WORK
    assert (outcome.producer_kills, outcome.collector_kills, outcome.endpoint_restarts) == (1, 1, 1)


def test_storage_may_go_away_and_come_back(model: Path, tmp_path: Path) -> None:
    plan = Plan(
        jobs=60,
        backlog=30,
        most_kills=0,
        endpoint_restarts=0,
        storage_out_s=5.0,
        deadline_s=300,
    )
    outcome = chaos(tmp_path, model, plan)
    assert outcome.verdict == FLAWLESS
    assert outcome.storage_outages == 1


def test_many_small_jobs_leave_nothing_behind(model: Path, tmp_path: Path) -> None:
    outcome = soak(tmp_path, model, 400)
    assert outcome.verdict == FLAWLESS
    outcome.require_flat()
