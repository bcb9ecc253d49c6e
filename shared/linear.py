"""The one thing a scorer computes: scores = x · weightsᵀ + intercept."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from shared.errors import ModelError
from shared.predictions import Predictions, check_link, predict

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class LinearModel:
    """Weights in the clear, as the model owner holds them.

    `weights` has shape (classes, features), `intercept` (classes,); a binary model or a regressor
    has one row.
    """

    weights: Array
    intercept: Array
    labels: tuple[str, ...] = ()
    """Class labels: one a row of weights under `argmax`, two under `sign`, none under `identity`.
    A classifier without any gets "0", "1" and so on."""
    link: str = "identity"
    """How scores become predictions: see `shared.predictions.LINKS`."""
    notes: tuple[str, ...] = ()
    """What its user should know of how it was loaded, a line each; already logged."""
    fingerprint: str = field(init=False)

    def __post_init__(self) -> None:
        weights = np.ascontiguousarray(self.weights, dtype=np.float64)
        intercept = np.ascontiguousarray(self.intercept, dtype=np.float64)
        if weights.ndim != 2 or 0 in weights.shape:
            raise ModelError(f"weights have shape {weights.shape}; (classes, features) is needed")
        if intercept.shape != (weights.shape[0],):
            raise ModelError(f"{intercept.size} intercepts for {weights.shape[0]} rows of weights")
        if not (np.isfinite(weights).all() and np.isfinite(intercept).all()):
            raise ModelError("the model has weights that are not finite numbers")
        labels = tuple(self.labels) or _default_labels(self.link, weights.shape[0])
        check_link(self.link, labels, classes=weights.shape[0])
        object.__setattr__(self, "weights", weights)
        object.__setattr__(self, "intercept", intercept)
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "fingerprint", _fingerprint(weights, intercept))

    @property
    def classes(self) -> int:
        """Number of scores a row gets."""
        return int(self.weights.shape[0])

    @property
    def features(self) -> int:
        return int(self.weights.shape[1])

    def scores(self, rows: Array) -> Array:
        """Plaintext scores, shape (rows, classes)."""
        return rows @ self.weights.T + self.intercept

    def predict(self, rows: Array) -> Predictions:
        """Plaintext predictions, see `shared.predictions.predict`."""
        return predict(self.scores(rows), self.link, self.labels)


def _default_labels(link: str, classes: int) -> tuple[str, ...]:
    count = {"argmax": classes, "sign": 2}.get(link, 0)
    return tuple(str(index) for index in range(count))


def _fingerprint(weights: Array, intercept: Array) -> str:
    """SHA-256 over the canonical weights: shape, then little-endian float64, row by row."""
    digest = hashlib.sha256(f"linear/1 {weights.shape[0]}x{weights.shape[1]}\n".encode())
    digest.update(weights.astype("<f8").tobytes())
    digest.update(intercept.astype("<f8").tobytes())
    return digest.hexdigest()
