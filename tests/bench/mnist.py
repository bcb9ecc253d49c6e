"""What is measured: the published model and MNIST's test images, or random ones of their shape."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import structlog

from producer.coding import choose_coding
from producer.datasets import open_dataset
from producer.offer import Offer
from score.schemes.packed import PackedEvaluator
from shared.linear import LinearModel
from shared.model import load_model
from shared.params import PACKED_DEFAULT, PACKED_PRESETS
from tests.commands import MNIST, MNIST_MODEL


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """A model and rows for it, shape (rows, 784), between 0 and 1."""

    name: str
    model: LinearModel
    rows: npt.NDArray[np.float64]


def task(count: int) -> Task:
    """The published model on its test images; without the files, a random one of its shape."""
    if MNIST.exists() and MNIST_MODEL.exists():
        return Task("MNIST, 10 x 784", published_model(), images(count))
    rng = np.random.default_rng(0)
    model = LinearModel(rng.normal(0, 0.5, size=(10, 784)), rng.normal(size=10))
    return Task("random, 10 x 784", model, rng.integers(0, 256, size=(count, 784)) / 255)


def published_model() -> LinearModel:
    """The model that the seeds score with."""
    with structlog.testing.capture_logs():  # it was pickled by an old scikit-learn
        return load_model(MNIST_MODEL, trust_pickle=consent())


def images(count: int) -> npt.NDArray[np.float64]:
    """The first of MNIST's 10,000 test images."""
    return next(open_dataset("mnist", data_dir=MNIST).blocks(count)).rows


def preset(model: LinearModel) -> str:
    """What `produce` chooses for many rows under a key of the default preset."""
    described = {PackedEvaluator.name: PackedEvaluator(model).describe()}
    offer = Offer(features=model.features, classes=model.classes, fingerprint="", schemes=described)
    rows = PACKED_PRESETS[PACKED_DEFAULT].ring.degree
    return choose_coding(PACKED_DEFAULT, offer, wanted="", rows=rows).preset


def consent() -> str:
    """To unpickle that model: its hash."""
    return hashlib.sha256(MNIST_MODEL.read_bytes()).hexdigest()
