"""Whether every row was scored exactly once, and right."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from producer.rows import Rows
from shared import blobnames
from shared.linear import LinearModel
from shared.storage import Storage, open_poison_queue
from tests.chaos.part import wait_until
from tests.chaos.system import System

TOLERANCE = 1e-4
SETTLED_S = 60.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """Counts of rows: without a score, with several, with another than the plaintext model's."""

    lost: int
    duplicated: int
    wrong: int


def judge(predictions: Path, model: LinearModel, rows: Rows) -> Verdict:
    """Read predictions.csv as a stranger would, and compare it with the model's own scores."""
    expected = model.scores(rows)
    seen: Counter[int] = Counter()
    wrong: set[int] = set()
    with predictions.open() as file:
        for line in csv.DictReader(file):
            texts = [line[f"score_{label}"] for label in model.labels]
            if not all(texts):
                continue
            row = int(line["row"])
            seen[row] += 1
            error = np.abs(np.array(texts, dtype=float) - expected[row]).max()
            right = model.labels[int(expected[row].argmax())]
            if error > TOLERANCE or line["prediction"] != right:
                wrong.add(row)
    return Verdict(
        lost=len(rows) - len(seen),
        duplicated=sum(1 for count in seen.values() if count > 1),
        wrong=len(wrong),
    )


def require_settled(system: System, run: str, jobs: int) -> None:
    """Nothing is left over: one input and one result a job, no failure, no message, no letter."""
    wait_until(lambda: system.ask(_messages) == 0, "an empty queue", within_s=SETTLED_S)

    async def count(storage: Storage) -> dict[str, int]:
        counts = {}
        for prefix in (blobnames.inputs(run), blobnames.outputs(run), blobnames.failures(run)):
            counts[prefix] = len([blob async for blob in storage.store.list(prefix)])
        async with open_poison_queue(system.settings) as letters:
            return counts | {"letters": await letters.depth()}

    assert list(system.ask(count).values()) == [jobs, jobs, 0, 0]


async def _messages(storage: Storage) -> int:
    return await storage.queue.depth()
