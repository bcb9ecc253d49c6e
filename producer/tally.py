"""What is counted over the rows of a run: right and wrong predictions, errors of scores."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from producer.schemes import Scores
from shared.errors import RunError
from shared.predictions import Predictions, predict

Labels = npt.NDArray[np.str_]
"""Shape (rows,); as text, see `shared.predictions.label_text`."""


class Agreement(BaseModel):
    """Encrypted against plaintext scores."""

    rows: int
    mismatches: int
    """Rows whose prediction differs."""
    max_error: float
    """Largest |encrypted − plaintext| score."""


class Confusion(BaseModel):
    """`counts[a][p]` rows of actual label a were predicted p."""

    labels: list[str]
    counts: list[list[int]]


@dataclass(slots=True)
class Tally:
    """Accumulates block by block, so that it takes no more memory for more rows."""

    link: str
    labels: tuple[str, ...]
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    """How often each (actual, predicted) pair came up."""
    squared_error: float = 0.0
    targets: int = 0
    compared: int = 0
    mismatches: int = 0
    max_error: float = 0.0
    undecided: int = 0
    """Scores that an error may have rounded the other way, see `producer.disclosure`."""

    def add_labels(self, predictions: Predictions, actual: Labels) -> None:
        """Compare predictions with what the data set says."""
        if self.link != "identity":
            self.outcomes.update(zip(actual.tolist(), predictions.tolist(), strict=True))
        elif predictions.ndim == 1 and (targets := _numbers(actual)) is not None:
            difference = predictions.astype(np.float64) - targets
            self.squared_error += float(np.square(difference).sum())
            self.targets += difference.size

    def add_plaintext(self, scores: Scores, expected: Scores) -> None:
        """Compare scores with a plaintext model's. Raises `RunError` when it has others."""
        if scores.shape != expected.shape:
            raise RunError(
                f"the plaintext model gives {expected.shape[1]} scores a row, "
                f"the run has {scores.shape[1]}",
                remedy="is this the model that was scored?",
            )
        self.compared += scores.shape[0]
        self.max_error = max(self.max_error, float(np.abs(scores - expected).max()))
        if self.link != "identity":
            ours = predict(scores, self.link, self.labels)
            theirs = predict(expected, self.link, self.labels)
            self.mismatches += int((ours != theirs).sum())

    def accuracy(self) -> float | None:
        """Share of right predictions; None without labels."""
        total = self.outcomes.total()
        right = sum(count for (actual, guess), count in self.outcomes.items() if actual == guess)
        return right / total if total else None

    def confusion(self) -> Confusion | None:
        """None without labels."""
        if not self.outcomes:
            return None
        seen = {label for pair in self.outcomes for label in pair}
        names = [*self.labels, *sorted(seen - set(self.labels))]
        return Confusion(
            labels=names, counts=[[self.outcomes[actual, p] for p in names] for actual in names]
        )

    def root_mean_square_error(self) -> float | None:
        """Of a regressor's predictions; None without targets."""
        return float(np.sqrt(self.squared_error / self.targets)) if self.targets else None

    def agreement(self) -> Agreement | None:
        """None when there was nothing to compare with."""
        if not self.compared:
            return None
        return Agreement(rows=self.compared, mismatches=self.mismatches, max_error=self.max_error)


def _numbers(labels: Labels) -> npt.NDArray[np.float64] | None:
    """Labels as a regressor's targets; None when they name classes."""
    try:
        return labels.astype(np.float64)
    except ValueError:
        return None
