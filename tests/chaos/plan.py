"""What chaos is to do, and what has come of it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from producer.datasets import open_dataset
from producer.schemes import Rows
from tests.chaos.verdict import Verdict

BACKLOG = 60


@dataclass(frozen=True, slots=True)
class Plan:
    """How large, and how bad. Producer and collector are killed once in any case."""

    jobs: int
    rows_per_job: int = 3
    backlog: int = BACKLOG
    most_kills: int = 10_000
    """Of workers, one a second; without an end a slow machine would never be done."""
    endpoint_restarts: int = 3
    storage_out_s: float = 0.0
    """How long storage is away in the middle of it."""
    seed: int = 1
    deadline_s: float = 900.0

    @property
    def rows(self) -> int:
        return self.jobs * self.rows_per_job


@dataclass(frozen=True, slots=True)
class Outcome:
    """What happened, and what it did to the rows."""

    jobs: int
    rows: int
    kills: int
    kills_at_work: int
    """Kills of workers that had jobs in hand."""
    endpoint_restarts: int
    producer_kills: int
    collector_kills: int
    storage_outages: int
    seconds: float
    verdict: Verdict


def digits(rows: int) -> Rows:
    """The rows that are scored."""
    blocks = open_dataset("digits", split="all", limit=rows).blocks(4096)
    return np.concatenate(list(itertools.chain(block.rows for block in blocks)))
