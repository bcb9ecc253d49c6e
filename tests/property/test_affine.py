"""Folding any affine pipeline into weights changes no score."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.feature_selection import VarianceThreshold
from sklearn.linear_model import LinearRegression, Ridge, RidgeClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    RobustScaler,
    StandardScaler,
)

from shared.affine import fold
from shared.errors import ModelError
from shared.predictions import label_texts

Array = npt.NDArray[np.float64]

flags = st.booleans()
steps = st.one_of(
    st.builds(StandardScaler, with_mean=flags, with_std=flags),
    st.builds(MinMaxScaler, feature_range=st.sampled_from([(0, 1), (-1, 3)])),
    st.builds(MaxAbsScaler),
    st.builds(RobustScaler, with_centering=flags, with_scaling=flags),
    st.builds(PCA, n_components=st.integers(2, 3), whiten=flags),
    st.builds(TruncatedSVD, n_components=st.just(2)),
    st.builds(VarianceThreshold),
    st.builds(FunctionTransformer),
    st.sampled_from([None, "passthrough"]),
)
finals = st.one_of(
    st.builds(RidgeClassifier, fit_intercept=flags),
    st.builds(Ridge, fit_intercept=flags),
    st.builds(LinearRegression, fit_intercept=flags),
)


@st.composite
def pipelines(draw: st.DrawFn) -> Any:
    """Steps that keep at least two columns, some nested, before a linear model."""
    parts: list[Any] = []
    columns = 5
    for step in draw(st.lists(steps, max_size=4)):
        parts.append(step if draw(flags) else make_pipeline(step))
        wanted = getattr(step, "n_components", None)
        if wanted is not None and wanted > columns:
            parts.pop()
        elif wanted is not None:
            columns = wanted
    return make_pipeline(*parts, draw(finals))


@st.composite
def rows(draw: st.DrawFn) -> Array:
    """Rows whose columns differ in place and spread, as measurements do."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    place = draw(st.lists(st.floats(-100, 100), min_size=5, max_size=5))
    spread = draw(st.lists(st.floats(0.01, 100), min_size=5, max_size=5))
    return np.asarray(rng.standard_normal((40, 5)) * spread + place)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(pipeline=pipelines(), rows=rows(), classes=st.integers(2, 4))
def test_folding_changes_no_score(pipeline: Pipeline, rows: Array, classes: int) -> None:
    target = np.arange(len(rows)) % classes
    pipeline.fit(rows, target)
    model = fold(pipeline)
    classifier = isinstance(pipeline[-1], RidgeClassifier)
    answer = pipeline.decision_function if classifier else pipeline.predict
    expected = answer(rows).reshape(len(rows), -1)
    terms = np.abs(rows) @ np.abs(model.weights).T + np.abs(model.intercept)
    assert (np.abs(model.scores(rows) - expected) <= 1e-9 * (1e-3 + terms)).all()
    if classifier:
        assert (model.predict(rows) == label_texts(pipeline.predict(rows))).all()


@settings(deadline=None, max_examples=40)
@given(
    data=st.data(),
    rows=rows(),
    change=st.sampled_from(["mean_", "scale_"]),
    factor=st.floats(1.001, 10) | st.floats(0.1, 0.999),
)
def test_a_step_folded_wrongly_is_refused(
    data: st.DataObject, rows: Array, change: str, factor: float
) -> None:
    """A step whose attributes don't say what it does: the comparison at the end finds it."""
    column = data.draw(st.integers(0, 4))

    class Shifty(StandardScaler):  # type: ignore[misc]
        def transform(self, X: Any, copy: Any = None) -> Any:  # noqa: N803 - scikit-learn's name
            honest = StandardScaler()
            honest.__dict__.update(self.__dict__)
            altered = getattr(self, change).copy()
            altered[column] = altered[column] * factor + (change == "mean_")
            setattr(honest, change, altered)
            return honest.transform(X)

    pipeline = make_pipeline(Shifty(), Ridge()).fit(rows, rows @ np.arange(1.0, 6.0))
    with pytest.raises(ModelError, match="does not answer with a linear function"):
        fold(pipeline)
