"""The demo's model: scikit-learn's digits, trained here on the rows that are not scored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import skops.io
from sklearn.linear_model import LogisticRegression

from producer.datasets import open_dataset

ROWS_PER_BLOCK = 4096


def train_digits(folder: Path) -> Path:
    """Train once and keep: a LogisticRegression over the training split, saved without pickle."""
    path = folder / "digits.skops"
    if not path.exists():
        blocks = list(open_dataset("digits", split="train").blocks(ROWS_PER_BLOCK))
        rows = np.concatenate([block.rows for block in blocks])
        labels = np.concatenate([block.labels for block in blocks if block.labels is not None])
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".unfinished")
        skops.io.dump(LogisticRegression(max_iter=1000).fit(rows, labels), unfinished)
        unfinished.replace(path)
    return path
