"""From scores to predictions: pure functions that model owners and key owners share."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from shared.errors import ModelError

LINKS = ("argmax", "sign", "identity")
"""How scores become predictions: the label of the best score (one score a class), the second label
where the only score is positive (binary), or the scores themselves (regression)."""

Predictions = npt.NDArray[np.str_] | npt.NDArray[np.float64]

_INTEGRAL = re.compile(r"([+-]?[0-9]+)\.0*")


def predict(scores: npt.NDArray[np.float64], link: str, labels: Sequence[str]) -> Predictions:
    """Predictions for scores of shape (rows, classes).

    Labels of shape (rows,) under `argmax` and `sign`; the values under `identity`, of shape (rows,)
    for one column and (rows, columns) for more. Ties go to the first class, and a score of zero to
    the first of two, as in scikit-learn. Raises `ModelError` when scores and link don't fit.
    """
    check_link(link, labels, classes=scores.shape[1])
    if link == "identity":
        return scores[:, 0] if scores.shape[1] == 1 else scores
    best = scores.argmax(axis=1) if link == "argmax" else (scores[:, 0] > 0).astype(np.intp)
    names: npt.NDArray[np.str_] = np.asarray(labels, dtype=np.str_)
    return names.take(best)


def check_link(link: str, labels: Sequence[str], *, classes: int) -> None:
    """Refuse a link that can't turn `classes` scores a row into `labels`. Raises `ModelError`."""
    if link not in LINKS:
        raise ModelError(f"unknown link {link!r}", remedy=f"one of {', '.join(LINKS)}")
    expected = {"argmax": classes, "sign": 2, "identity": 0}[link]
    if link == "sign" and classes != 1:
        raise ModelError(f"link 'sign' takes one score a row, not {classes}")
    if len(labels) != expected:
        raise ModelError(
            f"{len(labels)} labels with link {link!r} and {classes} scores a row: not {expected}"
        )
    if len(set(labels)) != len(labels):
        raise ModelError(f"the labels {', '.join(labels)} are not distinct")


def label_text(label: object) -> str:
    """A label as text, the same for data sets and models: 3, 3.0, "3" and b"3.0" are all "3"."""
    text = label.decode(errors="backslashreplace") if isinstance(label, bytes) else str(label)
    integral = _INTEGRAL.fullmatch(text)
    return integral[1] if integral else text


def label_texts(labels: npt.NDArray[np.generic] | Iterable[object]) -> npt.NDArray[np.str_]:
    """Labels as an array of text, see `label_text`."""
    values = labels.tolist() if isinstance(labels, np.ndarray) else labels
    return np.array([label_text(value) for value in values], dtype=np.str_)
