"""The whole system on this machine, once for the tests of a module."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local.models import train_digits
from deploy.local.stack import Stack
from tests.commands import MNIST_MODEL


@pytest.fixture(scope="session")
def digits_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's model."""
    return train_digits(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def digits_stack(digits_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Storage, endpoint and worker, serving the digits model."""
    with Stack(tmp_path_factory.mktemp("digits"), digits_model) as stack:
        yield stack


@pytest.fixture(scope="session")
def mnist_consent() -> tuple[str, str]:
    """The option with which the published, pickled model is loaded."""
    if not MNIST_MODEL.exists():
        pytest.skip("the published MNIST model is not beside the checkout (../shared/data)")
    return "--trust-pickle", hashlib.sha256(MNIST_MODEL.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def mnist_stack(
    mnist_consent: tuple[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """Storage, endpoint and worker, serving the published MNIST model."""
    folder = tmp_path_factory.mktemp("mnist")
    with Stack(folder, MNIST_MODEL, serve_options=mnist_consent) as stack:
        yield stack
