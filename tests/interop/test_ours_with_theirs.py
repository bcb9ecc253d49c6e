"""Each of our programs against the seeds' counterpart, with the unmodified packages."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from deploy.local.azurite import Azurite
from deploy.local.process import stop_process
from deploy.local.stack import Stack
from producer.report import Report
from shared.model import sha256_of
from shared.settings import StorageSettings
from shared.storage import ensure_storage
from tests.commands import CLEAN_ENVIRONMENT, succeed
from tests.interop.conftest import NewSeedsClient, SeedsModel, SeedsServer
from tests.interop.environment import OURS, ROOT
from tests.interop.inference_server import InferenceServer

ERROR = 1e-4
MODEL_FILE = "sklearn_mnist_model.pkl"


@pytest.fixture
def endpoint(
    seeds_model: SeedsModel, storage_settings: StorageSettings, tmp_path: Path
) -> Iterator[Stack]:
    """Our endpoint (and worker), serving the seeds' model file."""
    model = seeds_model.model_dir / MODEL_FILE
    consent = ("--trust-pickle", sha256_of(model))
    with Stack(tmp_path, model, serve_options=consent, settings=storage_settings) as stack:
        yield stack


def test_the_published_client_gets_its_prediction_from_our_endpoint(
    endpoint: Stack, seeds_model: SeedsModel, seeds_client: NewSeedsClient
) -> None:
    client = seeds_client(f"{endpoint.endpoint}/score")
    for row in seeds_model.rows[:3]:
        scores = client.predict(row)
        assert np.abs(scores - seeds_model.model.scores(row)).max() < ERROR


def test_our_worker_gets_right_answers_from_the_published_score_py(
    seeds_server: SeedsServer, storage_settings: StorageSettings, tmp_path: Path
) -> None:
    """Rows → jobs → the seeds' score.py in Azure ML's server → report, two rows in one job."""
    asyncio.run(ensure_storage(storage_settings))
    connection_string = storage_settings.connection_string.get_secret_value()
    environment = {
        "BLINDSCORE_CONNECTION_STRING": connection_string,
        "BLINDSCORE_CONTAINER": storage_settings.container,
        "BLINDSCORE_QUEUE": storage_settings.queue,
        "BLINDSCORE_HOME": str(tmp_path / "home"),
    }
    np.save(tmp_path / "rows.npy", seeds_server.rows[:2])
    model = seeds_server.model_dir / MODEL_FILE
    succeed("keygen", "--scheme", "ei", environment=environment)
    data = ("--dataset", str(tmp_path / "rows.npy"), "--scheme", "ei")
    run = succeed("produce", *data, environment=environment)
    worker = subprocess.Popen(
        [
            *(sys.executable, "-m", "blindscore", "work", "--lease-s", "6"),
            *("--endpoint", seeds_server.url, "--endpoint-format", "seeds"),
        ],
        env=CLEAN_ENVIRONMENT | environment | {"BLINDSCORE_ENDPOINT_CONN_STR": connection_string},
    )
    try:
        succeed(
            *("collect", run, "--out", str(tmp_path / "out"), "--deadline-s", "200"),
            *("--model", str(model), "--trust-pickle", sha256_of(model)),
            environment=environment,
        )
    finally:
        stop_process(worker, within_s=30)
    report = Report.model_validate_json((tmp_path / "out" / "report.json").read_bytes())
    assert report.agreement is not None
    assert (report.agreement.rows, report.agreement.mismatches) == (2, 0)
    assert report.agreement.max_error < ERROR
    assert worker.returncode == 0


def test_the_published_client_gets_its_prediction_from_our_score_py(
    seeds_model: SeedsModel, seeds_client: NewSeedsClient, azurite: Azurite
) -> None:
    """`score/score.py` in Azure ML's server, keys cached between its calls."""
    environment = {
        "BLINDSCORE_CONNECTION_STRING": azurite.connection_string,
        "BLINDSCORE_TRUST_PICKLE": sha256_of(seeds_model.model_dir / MODEL_FILE),
    }
    script = ROOT / "score" / "score.py"
    with InferenceServer(
        OURS.python(), script, seeds_model.model_dir, environment=environment
    ) as server:
        client = seeds_client(server.url)
        for row in seeds_model.rows[:2]:
            scores = client.predict(row)
            assert np.abs(scores - seeds_model.model.scores(row)).max() < ERROR
