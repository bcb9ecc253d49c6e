"""The evaluator and the SDK's own `EIServer`, on the same ciphertexts, give the same scores.

The SDK takes a second a class, so models are small here; the MNIST model has its ten classes.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from score.schemes.ei.evaluator import SealEiEvaluator
from score.schemes.ei.sdk import SdkEvaluator
from shared.linear import LinearModel
from shared.model import load_model, sha256_of
from tests.commands import MNIST, MNIST_MODEL
from tests.sdk_client import sdk_client

FIRST_PIXEL = 16
"""Bytes before the pixels of an idx file of images."""


def both(model: LinearModel, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the SDK's client decrypts of our answer and of the SDK's, to one request."""
    client = sdk_client()
    ciphertexts = client.encrypt(rows)
    ours, theirs = (
        client.decrypt(evaluator.evaluate(ciphertexts, evaluator.load_keys(client.keys)))
        for evaluator in (SealEiEvaluator(model), SdkEvaluator(model))
    )
    return ours, theirs


@given(
    classes=st.integers(1, 2),
    features=st.integers(2, 1000),
    size=st.sampled_from([1e-2, 1.0, 30.0]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=4, deadline=None)
def test_random_models(*, classes: int, features: int, size: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    model = LinearModel(
        rng.normal(size=(classes, features)) * size, rng.normal(size=classes) * size
    )
    rows = rng.uniform(-1, 1, size=(1, features))
    ours, theirs = both(model, rows)
    assert ours.shape == theirs.shape == (1, classes)
    assert np.abs(ours - theirs).max() < 2e-5
    assert np.abs(ours - model.scores(rows)).max() < 1e-5


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.InconsistentVersionWarning")
def test_an_mnist_image_with_the_published_model() -> None:
    if not MNIST_MODEL.exists():
        pytest.skip("the published model and the MNIST files are not beside this checkout")
    model = load_model(MNIST_MODEL, trust_pickle=sha256_of(MNIST_MODEL))
    with gzip.open(Path(MNIST) / "t10k-images-idx3-ubyte.gz") as file:
        pixels = file.read(FIRST_PIXEL + model.features)[FIRST_PIXEL:]
    image = np.frombuffer(pixels, dtype=np.uint8)[None] / 255.0
    ours, theirs = both(model, image)
    assert np.abs(ours - theirs).max() < 2e-5
    assert np.abs(ours - model.scores(image)).max() < 1e-5
