"""Trains the seeds' model on scikit-learn's digits, with the interpreter that will load it.

    python train_digits.py FOLDER

writes `sklearn_mnist_model.pkl` (the name that the published score.py asks for) and
`digits.npz`: its weights and intercept, and rows and labels it was not trained on.
"""

from __future__ import annotations

import sys
from pathlib import Path

import joblib
import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

TRAINING_ROWS = 1500


def main(folder: Path) -> None:
    images, labels = load_digits(return_X_y=True)
    rows = images / 16.0
    model = LogisticRegression(max_iter=1000).fit(rows[:TRAINING_ROWS], labels[:TRAINING_ROWS])
    joblib.dump(model, folder / "sklearn_mnist_model.pkl")
    np.savez(
        folder / "digits.npz",
        weights=model.coef_,
        intercept=model.intercept_,
        rows=rows[TRAINING_ROWS:],
        labels=labels[TRAINING_ROWS:],
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
