"""Over random models: what the SDK's client decrypts are the model's scores."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from score.schemes import LoadedKeys
from score.schemes.ei.evaluator import SealEiEvaluator
from shared.linear import LinearModel
from tests.sdk_client import sdk_client


@pytest.fixture(scope="module")
def keys() -> LoadedKeys:
    """For all models: the SDK has one set of parameters."""
    return SealEiEvaluator(LinearModel(np.ones((1, 2)), np.zeros(1))).load_keys(sdk_client().keys)


@given(
    classes=st.integers(1, 6),
    features=st.integers(2, 1500),
    rows=st.integers(1, 4),
    size=st.sampled_from([1e-3, 1.0, 30.0]),
    seed=st.integers(0, 2**32 - 1),
)
@example(classes=1, features=2, rows=1, size=1.0, seed=0)
@example(classes=1, features=2, rows=16, size=1.0, seed=0)
@example(classes=17, features=784, rows=1, size=1.0, seed=0)
@example(classes=3, features=5000, rows=3, size=1.0, seed=0)
@example(classes=2, features=4096, rows=1, size=1.0, seed=0)
@settings(max_examples=6, deadline=None)
def test_scores_are_the_models(
    keys: LoadedKeys, *, classes: int, features: int, rows: int, size: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(classes, features)) * size
    weights[rng.random(weights.shape) < 0.1] = 0.0
    model = LinearModel(weights, rng.normal(size=classes) * size)
    data = rng.uniform(-1, 1, size=(rows, features))
    found = sdk_client().decrypt(SealEiEvaluator(model).evaluate(sdk_client().encrypt(data), keys))
    assert found.shape == (rows, classes)
    assert np.abs(found - model.scores(data)).max() < 1e-5
