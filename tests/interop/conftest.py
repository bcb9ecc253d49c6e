"""The seeds' system on this machine.

`seeds_server`, once a session, is the published score.py in Azure ML's inference server:

    seeds_server.url         POST requests here
    seeds_server.model       LinearModel: what it serves, 10 classes of 64 features
    seeds_server.rows        shape (297, 64), values 0 to 1; `.labels` (297,): rows to score
    seeds_server.model_dir   holds `sklearn_mnist_model.pkl`

It takes a good second for each class of each row, and one request at a time.

`seeds_client(url)` is the published client, keys uploaded to a fresh container in Azurite; use it
on any endpoint that speaks the seeds' format:

    scores = seeds_client(seeds_server.url).predict(seeds_server.rows[0])

`interop_python` is the interpreter of the environment that has Azure ML's server.
"""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from deploy.local.azurite import Azurite
from shared.linear import LinearModel
from tests.interop.environment import SEEDS, clean_environment
from tests.interop.inference_server import InferenceServer
from tests.interop.seeds.client import SeedsClient

HERE = Path(__file__).parent
SEEDS_SCORE = HERE / "seeds" / "score.py"

NewSeedsClient = Callable[..., SeedsClient]


@dataclass(frozen=True, slots=True)
class SeedsModel:
    """The model file that the published score.py loads, and what is in it."""

    model_dir: Path
    model: LinearModel
    rows: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SeedsServer(SeedsModel):
    """The published score.py, running."""

    url: str
    server: InferenceServer


@pytest.fixture(scope="session")
def interop_python() -> Path:
    """Python with Azure ML's inference server and the seeds' requirements."""
    return SEEDS.python()


@pytest.fixture(scope="session")
def seeds_model(interop_python: Path, tmp_path_factory: pytest.TempPathFactory) -> SeedsModel:
    """A LogisticRegression on digits, pickled by the interpreter that will load it."""
    folder = tmp_path_factory.mktemp("seeds-model")
    subprocess.run(
        [str(interop_python), str(HERE / "train_digits.py"), str(folder)],
        env=clean_environment(),
        check=True,
        timeout=120,
    )
    with np.load(folder / "digits.npz") as saved:
        model = LinearModel(saved["weights"], saved["intercept"], link="argmax")
        return SeedsModel(folder, model, saved["rows"], saved["labels"])


@pytest.fixture(scope="session")
def seeds_server(interop_python: Path, seeds_model: SeedsModel) -> Iterator[SeedsServer]:
    """The published score.py, served until the session ends."""
    with InferenceServer(interop_python, SEEDS_SCORE, seeds_model.model_dir) as server:
        yield SeedsServer(
            seeds_model.model_dir,
            seeds_model.model,
            seeds_model.rows,
            seeds_model.labels,
            server.url,
            server,
        )


@pytest.fixture
def seeds_client(azurite: Azurite) -> NewSeedsClient:
    """Makes published clients: `seeds_client(url, prefix="")`, see `SeedsClient.upload_keys`."""

    def new(url: str, *, prefix: str = "", container: str = "") -> SeedsClient:
        client = SeedsClient(
            azurite.connection_string, container or f"seeds-{secrets.token_hex(6)}", url
        )
        client.upload_keys(prefix)
        return client

    return new
