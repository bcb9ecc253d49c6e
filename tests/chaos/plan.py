"""What chaos is to do, and what has come of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from producer.datasets import open_dataset
from producer.rows import Rows
from shared.model import load_model
from tests.chaos.verdict import Verdict

BACKLOG = 60


@dataclass(frozen=True, slots=True)
class Plan:
    """How large, and how bad. Producer and collector are killed once in any case."""

    jobs: int
    rows_per_job: int = 3
    backlog: int = BACKLOG
    most_kills: int = 10_000
    """Of workers; without an end a slow machine would never be done."""
    kill_every_s: float = 1.0
    endpoint_restarts: int = 3
    storage_out_s: float = 0.0
    """How long storage is away in the middle of it."""
    seed: int = 1
    deadline_s: float = 900.0
    scheme: str = "direct"
    processes: int = 0
    """To encrypt and to decrypt in."""
    features_a_pixel: int = 1
    kill_halfway: bool = False
    """Whether the producer is killed when some, but not all blocks of an input are staged."""

    @property
    def rows(self) -> int:
        return self.jobs * self.rows_per_job

    def data(self) -> Rows:
        """The rows that are scored, shape (rows, 64 · features_a_pixel)."""
        return np.repeat(digits(self.rows), self.features_a_pixel, axis=1)

    def widen(self, model: Path, folder: Path) -> Path:
        """A model that gives `data` the scores that the model of the digits gives the digits."""
        if self.features_a_pixel == 1:
            return model
        narrow = load_model(model)
        path = folder / "wide.npz"
        np.savez(
            path,
            coef=np.repeat(narrow.weights / self.features_a_pixel, self.features_a_pixel, axis=1),
            intercept=narrow.intercept,
            labels=np.array(narrow.labels),
        )
        return path


def packed_plan(jobs: int, seed: int) -> Plan:
    """Bodies of 11 MB, encrypted in five parts, in processes, and staged as three blocks."""
    return Plan(
        jobs=jobs,
        rows_per_job=2048,
        backlog=jobs // 2,
        most_kills=12,
        kill_every_s=4.0,  # jobs take their time, and are to be done at last
        endpoint_restarts=1,
        seed=seed,
        scheme="packed",
        processes=2,
        features_a_pixel=12,
        kill_halfway=True,
    )


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
    half_uploads: int
    """Inputs that were staged in part when the producer was killed halfway, if it was."""
    collector_kills: int
    storage_outages: int
    seconds: float
    verdict: Verdict


def digits(rows: int) -> Rows:
    """The digits, again and again, shape (rows, 64)."""
    (block,) = open_dataset("digits", split="all").blocks(4096)
    return np.resize(block.rows, (rows, block.rows.shape[1]))
