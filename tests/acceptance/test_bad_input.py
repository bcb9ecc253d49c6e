"""What cannot work says so in one clear line, with the remedy, and a non-zero exit."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import joblib
import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.svm import SVC

from shared.settings import CONNECTION_STRING_VARIABLE
from tests.commands import MNIST_MODEL, refuse

NOWHERE = {
    CONNECTION_STRING_VARIABLE: (
        "DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;"
        "AccountKey=Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==;"
        "BlobEndpoint=http://127.0.0.1:9/devstoreaccount1;"
        "QueueEndpoint=http://127.0.0.1:9/devstoreaccount1;"
    )
}


@pytest.mark.parametrize("command", [("keygen",), ("status",), ("collect", "some-run")])
def test_no_storage_account_named(command: tuple[str, ...], tmp_path: Path) -> None:
    told = refuse(*command, environment={"BLINDSCORE_HOME": str(tmp_path)})
    assert "no storage account" in told
    assert "BLINDSCORE_ACCOUNT" in told


def test_storage_that_does_not_answer(tmp_path: Path) -> None:
    told = refuse("keygen", environment=NOWHERE | {"BLINDSCORE_HOME": str(tmp_path)})
    assert "127.0.0.1:9" in told
    assert "AccountKey" not in told
    assert not list(tmp_path.rglob("*.key")), "a key that could not be published is not kept"


def test_a_missing_secret_key(tmp_path: Path) -> None:
    told = refuse("produce", environment=NOWHERE | {"BLINDSCORE_HOME": str(tmp_path)})
    assert "no secret key" in told
    assert "blindscore keygen" in told


def test_an_unknown_run(tmp_path: Path) -> None:
    environment = NOWHERE | {"BLINDSCORE_HOME": str(tmp_path)}
    told = refuse("produce", "--resume", "no-such-run", environment=environment)
    assert "unknown run no-such-run" in told


def test_an_unknown_scheme(tmp_path: Path) -> None:
    environment = NOWHERE | {"BLINDSCORE_HOME": str(tmp_path)}
    assert "unknown scheme 'rot13'" in refuse(
        "keygen", "--scheme", "rot13", environment=environment
    )


def test_an_endpoint_that_does_not_answer(tmp_path: Path) -> None:
    _fake_key(tmp_path)
    environment = NOWHERE | {"BLINDSCORE_HOME": str(tmp_path)}
    told = refuse("produce", "--endpoint", "http://127.0.0.1:9", environment=environment)
    assert "no endpoint at http://127.0.0.1:9" in told


def test_a_worker_without_its_endpoint(tmp_path: Path) -> None:
    told = refuse(
        "work", "--endpoint", "http://127.0.0.1:9", "--wait-endpoint-s", "0.2", environment=NOWHERE
    )
    assert "127.0.0.1:9" in told


@pytest.mark.parametrize("estimator", [RandomForestClassifier(n_estimators=2), SVC()])
def test_a_model_that_is_not_linear(estimator: object, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(20, 4))
    path = tmp_path / "model.pkl"
    joblib.dump(estimator.fit(rows, np.arange(20) % 2), path)  # type: ignore[attr-defined]
    consent = hashlib.sha256(path.read_bytes()).hexdigest()
    told = refuse("serve", "--model", str(path), "--trust-pickle", consent, environment=NOWHERE)
    assert type(estimator).__name__ in told


def test_a_pickle_without_consent(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    joblib.dump({"any": "thing"}, path)
    told = refuse("serve", "--model", str(path), environment=NOWHERE)
    assert "--trust-pickle" in told


def test_a_missing_model(tmp_path: Path) -> None:
    told = refuse("serve", "--model", str(tmp_path / "none.skops"), environment=NOWHERE)
    assert "none.skops" in told


def test_a_corrupt_idx_file(tmp_path: Path) -> None:
    (tmp_path / "home" / "keys").mkdir(parents=True)
    images = tmp_path / "t10k-images-idx3-ubyte.gz"
    images.write_bytes(gzip.compress(b"\x00\x00\x08\x03" + b"\x00" * 40))
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(
        gzip.compress(b"\x00\x00\x08\x01\x00\x00\x00\x01\x07")
    )
    _fake_key(tmp_path / "home")
    environment = NOWHERE | {"BLINDSCORE_HOME": str(tmp_path / "home")}
    data = ("--dataset", "mnist", "--data-dir", str(tmp_path))
    assert "t10k-images-idx3-ubyte.gz" in refuse("produce", *data, environment=environment)


def test_an_old_pickle_is_named_with_both_versions(mnist_consent: tuple[str, str]) -> None:
    """The published model was pickled by scikit-learn 0.22.1: a warning, then it goes on."""
    import sklearn

    told = refuse(
        "serve", "--model", str(MNIST_MODEL), *mnist_consent, "--port", "1", environment=NOWHERE
    )
    assert "0.22.1" in told
    assert sklearn.__version__ in told


def test_a_secret_key_that_others_can_read(tmp_path: Path) -> None:
    _fake_key(tmp_path).chmod(0o644)
    told = refuse("produce", environment=NOWHERE | {"BLINDSCORE_HOME": str(tmp_path)})
    assert "can be read by others" in told
    assert "chmod 600" in told


def _fake_key(home: Path) -> Path:
    (home / "keys").mkdir(parents=True, exist_ok=True)
    path = home / "keys" / ("k" * 32 + ".key")
    path.write_text(
        '{"version": 1, "scheme": "ei", "key_id": "' + "k" * 32 + '",'
        ' "created_at": "2026-01-01T00:00:00Z", "secret": "AAAA"}'
    )
    path.chmod(0o600)
    return path
