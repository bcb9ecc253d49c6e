"""The affine steps of a Pipeline, folded into the weights that come after them.

Formulas: the `transform` methods documented in scikit-learn's reference of each class.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.decomposition import PCA, IncrementalPCA, TruncatedSVD
from sklearn.feature_selection import SelectorMixin
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    RobustScaler,
    StandardScaler,
)

from shared.errors import ModelError
from shared.linear import Array

ACCEPTED = (
    "accepted: scikit-learn's linear classifiers and regressors, alone or in a Pipeline after "
    "StandardScaler, MinMaxScaler, MaxAbsScaler, RobustScaler, PCA, TruncatedSVD or a selector"
)

Scoring = tuple[Array, Array]
"""Weights (classes, columns) and intercept (classes,) over the output of some step."""


def title(name: str, step: object) -> str:
    """A step as an error names it; what is not in a Pipeline has no name."""
    kind = type(step).__name__
    return f"step {name!r} ({kind})" if name else kind


def before(name: str, step: Any, scoring: Scoring) -> Scoring:
    """`scoring` over the input of a step instead of its output. Raises `ModelError`."""
    if step is None or step == "passthrough":
        return scoring
    pull = next((pull for kind, pull in _AFFINE if isinstance(step, kind)), None)
    if pull is None:
        raise ModelError(f"{title(name, step)} is not affine", remedy=ACCEPTED)
    if getattr(step, "clip", False):
        raise ModelError(
            f"{title(name, step)} clips its values, which is not affine",
            remedy="fit it again with clip=False",
        )
    if isinstance(step, FunctionTransformer) and step.func is not None:
        raise ModelError(
            f"{title(name, step)} applies a function that can't be folded",
            remedy=ACCEPTED,
        )
    return pull(step, scoring)


def _before_shift_and_scale(shift: Any, scale: Any, scoring: Scoring) -> Scoring:
    """Before z = (x - shift) / scale, either of which may be None."""
    weights, intercept = scoring
    if scale is not None:
        weights = weights / np.asarray(scale, dtype=np.float64)
    if shift is not None:
        intercept = intercept - weights @ np.asarray(shift, dtype=np.float64)
    return weights, intercept


def _before_standard(step: StandardScaler, scoring: Scoring) -> Scoring:
    shift = step.mean_ if step.with_mean else None
    return _before_shift_and_scale(shift, step.scale_ if step.with_std else None, scoring)


def _before_robust(step: RobustScaler, scoring: Scoring) -> Scoring:
    shift = step.center_ if step.with_centering else None
    return _before_shift_and_scale(shift, step.scale_ if step.with_scaling else None, scoring)


def _before_max_abs(step: MaxAbsScaler, scoring: Scoring) -> Scoring:
    return _before_shift_and_scale(None, step.scale_, scoring)


def _before_min_max(step: MinMaxScaler, scoring: Scoring) -> Scoring:
    """Before z = x * scale_ + min_ (scikit-learn's scale_ multiplies here)."""
    weights, intercept = scoring
    return weights * step.scale_, intercept + weights @ step.min_


def _before_pca(step: PCA | IncrementalPCA, scoring: Scoring) -> Scoring:
    weights, intercept = scoring
    if step.whiten:
        spread = np.sqrt(step.explained_variance_)
        # scikit-learn's own floor, for components without variance
        weights = weights / np.maximum(spread, np.finfo(spread.dtype).eps)
    weights = weights @ np.asarray(step.components_, dtype=np.float64)
    return _before_shift_and_scale(step.mean_, None, (weights, intercept))


def _before_svd(step: TruncatedSVD, scoring: Scoring) -> Scoring:
    weights, intercept = scoring
    return weights @ np.asarray(step.components_, dtype=np.float64), intercept


def _before_selection(step: Any, scoring: Scoring) -> Scoring:
    """Columns that are not selected weigh nothing."""
    weights, intercept = scoring
    kept = np.asarray(step.get_support(), dtype=bool)
    spread = np.zeros((weights.shape[0], kept.size))
    spread[:, kept] = weights
    return spread, intercept


def _before_nothing(step: Any, scoring: Scoring) -> Scoring:  # noqa: ARG001 - as the others
    return scoring


_AFFINE: tuple[tuple[Any, Callable[[Any, Scoring], Scoring]], ...] = (
    (StandardScaler, _before_standard),
    (MinMaxScaler, _before_min_max),
    (MaxAbsScaler, _before_max_abs),
    (RobustScaler, _before_robust),
    (PCA, _before_pca),
    (IncrementalPCA, _before_pca),
    (TruncatedSVD, _before_svd),
    (SelectorMixin, _before_selection),
    (FunctionTransformer, _before_nothing),
)
