"""The entry script for Azure ML: `init()` and `run()`, as its server calls them."""

from __future__ import annotations

import base64
import json
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

import score.score as script
from score.settings import EngineOptions, KeyOptions
from shared.errors import BlindscoreError, ModelError, UsageError
from shared.linear import LinearModel
from shared.model import sha256_of
from shared.settings import StorageSettings
from tests.fakes import FakeStore
from tests.sdk_client import sdk_client
from tests.unit.score import toys

MODEL = LinearModel(np.array([[0.5, -1.0, 2.0, 0.25]]), np.array([0.125]))
ROW = np.array([0.1, 0.2, 0.3, 0.4])
KEY_ID = "s" * 32
SECRET = "c2VjcmV0c2VjcmV0"
CONNECTION_STRING = (
    f"AccountName=ours;AccountKey={SECRET};"
    "BlobEndpoint=http://127.0.0.1:9/ours;QueueEndpoint=http://127.0.0.1:9/ours"
)


class Keys(FakeStore):
    """Counts how often a key blob is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.opened = 0

    async def open(self, name: str) -> Any:
        self.opened += 1
        return await super().open(name)


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> Keys:
    """The account, whatever the credential."""
    store = Keys()

    @asynccontextmanager
    async def open_store(_: StorageSettings) -> AsyncIterator[FakeStore]:
        yield store

    monkeypatch.setattr(script, "open_store", open_store)
    return store


@pytest.fixture
def mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: Keys) -> Iterator[Path]:
    """A model folder as Azure ML mounts it, and a storage account."""
    for name in ("BLINDSCORE_MODEL", "BLINDSCORE_TRUST_PICKLE", "BLINDSCORE_ACCOUNT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AZUREML_MODEL_DIR", str(tmp_path))
    monkeypatch.setenv("BLINDSCORE_CONNECTION_STRING", CONNECTION_STRING)
    monkeypatch.setattr(script, "_service", None)
    yield tmp_path
    if script._service is not None:
        script._service.close()


def save_weights(path: Path, model: LinearModel = MODEL) -> None:
    path.parent.mkdir(exist_ok=True)
    np.savez(path, coef=model.weights, intercept=model.intercept)


@pytest.fixture
def toy_service(mounted: Path) -> None:
    storage = StorageSettings.model_validate({"connection_string": CONNECTION_STRING})
    script._service = script.Service(toys.MODEL, EngineOptions(), KeyOptions(), storage, toys.build)


def publish(keys: Keys, name: str, data: bytes) -> None:
    import asyncio

    asyncio.run(keys.replace(name, data, content_type="application/octet-stream"))


def request(ciphertexts: list[bytes], **fields: Any) -> str:
    texts = [base64.b64encode(ciphertext).decode() for ciphertext in ciphertexts]
    return json.dumps({"data": texts, "key_id": KEY_ID, "container": "blindscore", **fields})


def test_the_sdks_client_gets_its_scores(mounted: Path, keys: Keys) -> None:
    """The published client's request, with its `conn_str`: of the scorer's own account."""
    save_weights(mounted / "1" / "model.npz")
    client = sdk_client()
    publish(keys, KEY_ID, client.keys)
    script.init()
    for fields in ({}, {"conn_str": CONNECTION_STRING, "container": "theirs"}):
        (row,) = client.encrypt(ROW[None])
        results = script.run(request(row, **fields))
        scores = client.decrypt([[base64.b64decode(result) for result in results]])
        assert np.abs(scores - MODEL.scores(ROW[None])).max() < 1e-4


def test_keys_are_fetched_and_loaded_once(toy_service: None, keys: Keys) -> None:
    publish(keys, f"keys/{KEY_ID}", b"keys")
    results = [script.run(request([b"row"])) for _ in range(3)]
    assert [base64.b64decode(result) for (result,) in results] == [b"ROW by load 1"] * 3
    assert keys.opened == 1


@pytest.mark.parametrize(
    ("raw_data", "status", "code"),
    [
        ("", 400, "malformed"),
        ("{", 400, "malformed"),
        (request([b"row"], key_id="../x"), 400, "malformed"),
        (request([b"row"], container="others"), 403, "key_host_not_allowed"),
        (request([b"row"], conn_str="AccountName=e;AccountKey=x"), 403, "key_host_not_allowed"),
        (request([b"row"], key_id="u" * 32), 404, "key_unknown"),
        (request([toys.BAD]), 422, "bad_ciphertext"),
        (request([b"a", b"b"]), 422, "feature_count"),
    ],
)
def test_what_is_wrong_is_answered_as_a_problem(
    toy_service: None, keys: Keys, raw_data: str, status: int, code: str
) -> None:
    publish(keys, f"keys/{KEY_ID}", b"keys")
    problem = script.run(raw_data)
    assert (problem["status"], problem["code"]) == (status, code)
    assert script.run(request([b"row"])) == [base64.b64encode(b"ROW by load 1").decode()]


def test_under_azure_mls_server_a_problem_has_its_status(
    toy_service: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class AMLResponse:
        def __init__(self, message: bytes, status_code: int, headers: dict[str, str]) -> None:
            self.message, self.status_code, self.headers = message, status_code, headers

    module = ModuleType("aml_response")
    module.AMLResponse = AMLResponse  # type: ignore[attr-defined]
    for name in ("", ".api", ".api.aml_response"):
        monkeypatch.setitem(sys.modules, f"azureml_inference_server_http{name}", module)
    response = script.run("{")
    assert isinstance(response, AMLResponse)
    assert response.status_code == 400
    assert response.headers["Content-Type"] == "application/problem+json"
    assert json.loads(response.message)["code"] == "malformed"


def test_run_before_init(mounted: Path) -> None:
    with pytest.raises(BlindscoreError, match="init"):
        script.run(request([b"row"]))


def test_a_pickle_takes_consent(mounted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = mounted / "sklearn_mnist_model.pkl"
    joblib.dump(LinearRegression().fit(np.eye(4), np.arange(4)), path)
    with pytest.raises(ModelError, match=f"BLINDSCORE_TRUST_PICKLE={sha256_of(path)}"):
        script.init()
    monkeypatch.setenv("BLINDSCORE_TRUST_PICKLE", sha256_of(path))
    script.init()


def test_the_published_models_name_comes_first(mounted: Path) -> None:
    save_weights(mounted / "other.npz")
    (mounted / "sklearn_mnist_model.pkl").write_bytes(b"pickle")
    assert script._model_file() == mounted / "sklearn_mnist_model.pkl"


def test_a_model_can_be_named(mounted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLINDSCORE_MODEL", "/models/mine.npz")
    assert script._model_file() == Path("/models/mine.npz")


@pytest.mark.parametrize("names", [(), ("a.npz", "b.skops"), ("notes.txt",)])
def test_the_model_must_be_clear(mounted: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (mounted / name).write_bytes(b"")
    with pytest.raises(ModelError, match="model files"):
        script.init()


def test_no_model_folder(mounted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZUREML_MODEL_DIR")
    with pytest.raises(ModelError, match="AZUREML_MODEL_DIR"):
        script.init()


def test_no_storage(mounted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_weights(mounted / "model.npz")
    monkeypatch.delenv("BLINDSCORE_CONNECTION_STRING")
    with pytest.raises(UsageError, match="no storage account"):
        script.init()


@pytest.mark.parametrize("value", ["many", "-1", "nan", "inf"])
def test_an_option_that_is_no_number(
    mounted: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    save_weights(mounted / "model.npz")
    monkeypatch.setenv("BLINDSCORE_KEY_TTL_S", value)
    with pytest.raises(UsageError, match="BLINDSCORE_KEY_TTL_S"):
        script.init()


def test_closing_ends_the_thread(mounted: Path) -> None:
    save_weights(mounted / "model.npz")
    before = threading.active_count()
    script.init()
    script.init()  # the server may do so; the first service is closed
    assert threading.active_count() == before + 1
    assert script._service is not None
    script._service.close()
    assert threading.active_count() == before
