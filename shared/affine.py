"""Scikit-learn estimators as one matrix: a linear model, and the affine steps before it.

A step z = A·x + c in front of scores W·z + b gives the scores (W·A)·x + (W·c + b), so the steps
are folded into the weights from the last to the first. What came out is compared with the
estimator's own answers before anyone gets it: a silent error of folding is impossible.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.base import is_classifier, is_regressor
from sklearn.pipeline import Pipeline
from sklearn.svm import SVC, NuSVC

from shared.affine_steps import ACCEPTED, Scoring, before, title
from shared.errors import ModelError
from shared.linear import Array, LinearModel
from shared.predictions import label_texts

LINEAR_MODULES = ("sklearn.linear_model.", "sklearn.svm.", "sklearn.discriminant_analysis")
TOLERANCE = 1e-8
"""Of a score's terms; rounding in the estimator and in the folding stays far below it."""


def fold(estimator: Any, *, notes: tuple[str, ...] = ()) -> LinearModel:
    """A fitted estimator or Pipeline as a `LinearModel`.

    Raises `ModelError`, naming the step, when it is not linear, not fitted, or not what it seems.
    """
    try:
        *steps, (name, final) = _steps("", estimator)
        # Old pickles and missing column names make scikit-learn warn; the comparison decides.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scoring = _scoring(name, final)
            for step, transformer in reversed(steps):
                scoring = before(step, transformer, scoring)
            link, labels = _answers(final, scoring)
            model = LinearModel(*scoring, labels=labels, link=link, notes=notes)
            _compare(model, estimator)
    except ModelError:
        raise
    except Exception as error:  # a restored estimator may lack or raise anything
        first_line = str(error).partition("\n")[0]
        raise ModelError(
            f"{type(estimator).__name__} can't be evaluated: {type(error).__name__}: {first_line}",
            remedy="fit and save it again with the scikit-learn installed here",
        ) from error
    return model


def _steps(name: str, estimator: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(estimator, Pipeline):
        yield name, estimator
        return
    for step, part in estimator.steps:
        yield from _steps(step, part)


def _scoring(name: str, final: Any) -> Scoring:
    """The weights of the linear model at the end. Raises `ModelError` for any other."""
    kind = type(final)
    ours = any(base.__module__.startswith(LINEAR_MODULES) for base in kind.__mro__)
    if not ours or not (is_classifier(final) or is_regressor(final)):
        raise ModelError(f"{title(name, final)} is not a linear model", remedy=ACCEPTED)
    if isinstance(final, SVC | NuSVC) and len(final.classes_) > 2:
        raise ModelError(
            f"{title(name, final)} decides between pairs of its {len(final.classes_)} classes",
            remedy="LinearSVC has one score a class",
        )
    if not (hasattr(final, "coef_") and hasattr(final, "intercept_")):
        raise ModelError(
            f"{title(name, final)} has no coef_ and intercept_: not fitted, or not linear",
            remedy=ACCEPTED,
        )
    coef = final.coef_.toarray() if hasattr(final.coef_, "toarray") else final.coef_
    weights = np.atleast_2d(np.asarray(coef, dtype=np.float64))
    intercept = np.atleast_1d(np.asarray(final.intercept_, dtype=np.float64))
    # A scalar 0.0 is what fit_intercept=False leaves, however many rows the weights have.
    return weights, np.broadcast_to(intercept, weights.shape[:1]).copy()


def _answers(final: Any, scoring: Scoring) -> tuple[str, tuple[str, ...]]:
    """Link and labels of the model at the end."""
    if is_regressor(final):
        return "identity", ()
    labels = tuple(label_texts(np.asarray(final.classes_)))
    return ("sign" if scoring[0].shape[0] == 1 else "argmax"), tuple(map(str, labels))


def _compare(model: LinearModel, estimator: Any) -> None:
    """Refuse a folding that does not answer as the estimator does, on rows near and far."""
    near = np.random.default_rng(0).standard_normal((16, model.features))
    rows = np.concatenate([near, 100.0 * near])
    scores = model.scores(rows)
    answer = estimator.predict if model.link == "identity" else estimator.decision_function
    expected = np.asarray(answer(rows), dtype=np.float64).reshape(len(rows), -1)
    terms = np.abs(rows) @ np.abs(model.weights).T + np.abs(model.intercept)
    allowed = TOLERANCE * np.maximum(terms, np.finfo(np.float64).tiny)
    if expected.shape != scores.shape or not (np.abs(scores - expected) <= allowed).all():
        raise ModelError(
            f"{type(estimator).__name__} does not answer with a linear function of its rows",
            remedy=ACCEPTED,
        )
    if model.link != "identity":
        _compare_labels(model, estimator, rows, scores, float(allowed.max()))


def _compare_labels(
    model: LinearModel, estimator: Any, rows: Array, scores: Array, tie: float
) -> None:
    predicted = np.asarray(estimator.predict(rows))
    if predicted.ndim != 1:
        raise ModelError(
            f"{type(estimator).__name__} gives several labels a row", remedy="one label a row"
        )
    rivals = np.column_stack([scores, np.zeros(len(rows))]) if model.link == "sign" else scores
    best = np.sort(rivals)
    clear = best[:, -1] - best[:, -2] > tie
    if (model.predict(rows) != label_texts(predicted))[clear].any():
        raise ModelError(
            f"{type(estimator).__name__} does not predict the class of its best score",
            remedy=ACCEPTED,
        )
