"""The SDK's library and its own server class as evaluators: right answers, and nothing else in."""

from __future__ import annotations

import base64
import gc
import json
import multiprocessing
import random
import re
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest

from producer.schemes import Encoding
from producer.schemes.ei import SCHEME, EiKey
from score.schemes.ei.native import NativeEvaluator, encodable
from score.schemes.ei.sdk import SdkEvaluator
from shared import ei, einative
from shared.errors import (
    BlindscoreError,
    CiphertextError,
    EvaluationKeysError,
    FeatureCountError,
    ModelError,
)
from shared.linear import LinearModel

ERROR = 1e-4  # of a score; what is measured is below 3e-6
EVALUATORS: list[Callable[[LinearModel], NativeEvaluator]] = [NativeEvaluator, SdkEvaluator]


@pytest.fixture(scope="module")
def key() -> EiKey:
    return SCHEME.generate()


@pytest.fixture(scope="module")
def blob(key: EiKey) -> bytes:
    return key.evaluation_keys()


def model(classes: int, features: int) -> LinearModel:
    rng = np.random.default_rng(classes * 10_000 + features)
    return LinearModel(rng.normal(size=(classes, features)), rng.normal(size=classes) * 5)


def data(rows: int, features: int) -> np.ndarray:
    return np.random.default_rng(features).uniform(-1, 1, size=(rows, features))


def encrypted(key: EiKey, rows: np.ndarray) -> list[list[bytes]]:
    encoding = Encoding(container="runs", features=rows.shape[1], input_bound=1.0)
    body = json.loads(b"".join(key.encrypt(rows, encoding)))
    return [[base64.b64decode(text) for text in row] for row in body["batch"]]


def decrypted(key: EiKey, results: list[list[bytes]]) -> np.ndarray:
    texts = [[base64.b64encode(result).decode() for result in row] for row in results]
    return key.decrypt(json.dumps(texts).encode(), rows=len(texts))


@pytest.mark.parametrize(("classes", "features"), [(1, 4), (2, 30), (10, 64), (10, 784), (2, 5000)])
def test_native_scores_are_the_models(key: EiKey, blob: bytes, classes: int, features: int) -> None:
    evaluator = NativeEvaluator(model(classes, features))
    rows = data(1, features)
    results = evaluator.evaluate(encrypted(key, rows), evaluator.load_keys(blob))
    assert np.abs(decrypted(key, results) - model(classes, features).scores(rows)).max() < ERROR


@pytest.mark.parametrize(("classes", "features"), [(1, 30), (2, 5000)])
def test_the_sdks_server_scores_the_same(
    key: EiKey, blob: bytes, classes: int, features: int
) -> None:
    evaluator = SdkEvaluator(model(classes, features))
    rows = data(1, features)
    results = evaluator.evaluate(encrypted(key, rows), evaluator.load_keys(blob))
    assert np.abs(decrypted(key, results) - model(classes, features).scores(rows)).max() < ERROR


def test_rows_are_answered_in_order(key: EiKey, blob: bytes) -> None:
    evaluator = NativeEvaluator(model(1, 4))
    rows = data(3, 4)
    results = evaluator.evaluate(encrypted(key, rows), evaluator.load_keys(blob))
    assert np.abs(decrypted(key, results) - model(1, 4).scores(rows)).max() < ERROR


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        (NativeEvaluator, 0.0),
        (NativeEvaluator, 1e-20),
        (NativeEvaluator, 1e-9),
        (SdkEvaluator, 0.0),
    ],
)
def test_a_class_of_no_weight_scores_its_intercept(
    key: EiKey, blob: bytes, kind: Callable[[LinearModel], NativeEvaluator], size: float
) -> None:
    """The library ends the process when all of a class's weights encode to zero."""
    flat = LinearModel(np.array([[size, 0.0, 0.0]]), np.array([-7.5]))
    evaluator = kind(flat)
    results = evaluator.evaluate(encrypted(key, np.ones((1, 3))), evaluator.load_keys(blob))
    assert abs(decrypted(key, results)[0, 0] + 7.5) < ERROR


def test_weights_that_encode_are_left_alone() -> None:
    weights = np.zeros((3, 5000))
    weights[0, 4999] = 1e-8  # in the second block only
    weights[1, :] = 2.0**-32  # small, but of a sufficient norm
    assert np.array_equal(encodable(weights)[:2], weights[:2])
    assert np.flatnonzero(encodable(weights)[2]).tolist() == [0]


@pytest.mark.parametrize("kind", EVALUATORS)
@pytest.mark.parametrize(("weight", "intercept"), [(2.0**41, 0.0), (-(2.0**41), 0.0), (1.0, 1e18)])
def test_a_model_that_the_library_dies_of_is_refused(
    kind: Callable[[LinearModel], NativeEvaluator], weight: float, intercept: float
) -> None:
    with pytest.raises(ModelError, match=re.escape("up to 2^40")):
        kind(LinearModel(np.array([[weight, 1.0]]), np.array([intercept])))


def test_it_describes_itself_in_json() -> None:
    described = NativeEvaluator(model(2, 5000)).describe()
    assert json.loads(json.dumps(described)) == {
        "evaluator": "native",
        "degree": 8192,
        "prime_bits": [60, 40, 40, 60],
        "scale_bits": 40,
        "ciphertexts_per_row": 2,
    }
    assert SdkEvaluator(model(2, 5)).describe()["evaluator"] == "sdk"


def test_loaded_keys_tell_their_size(blob: bytes) -> None:
    keys = NativeEvaluator(model(1, 4)).load_keys(blob)
    assert len(blob) < keys.nbytes <= ei.MAX_KEYS_BYTES


@pytest.mark.parametrize("size", [0, 15, 16, 1000])
def test_a_truncated_key_blob_is_refused(blob: bytes, size: int) -> None:
    with pytest.raises(EvaluationKeysError):
        NativeEvaluator(model(1, 4)).load_keys(blob[:size])


def test_keys_of_another_evaluator_are_refused(key: EiKey) -> None:
    class Foreign:
        nbytes = 1

    with pytest.raises(EvaluationKeysError, match="another evaluator"):
        NativeEvaluator(model(1, 4)).evaluate(encrypted(key, data(1, 4)), Foreign())


@pytest.mark.parametrize("kind", EVALUATORS)
def test_the_wrong_number_of_ciphertexts_is_a_wrong_feature_count(
    key: EiKey, blob: bytes, kind: Callable[[LinearModel], NativeEvaluator]
) -> None:
    evaluator = kind(model(1, 5000))
    keys = evaluator.load_keys(blob)
    good = encrypted(key, data(1, 5000))[0]
    for row in ([], good[:1], [*good, good[0]]):
        with pytest.raises(
            FeatureCountError, match=r"row 1 has \d ciphertexts; 5000 features take 2"
        ):
            evaluator.evaluate([good, row], keys)


def test_a_ciphertext_that_is_none_is_named(key: EiKey, blob: bytes) -> None:
    evaluator = NativeEvaluator(model(1, 5000))
    good = encrypted(key, data(1, 5000))[0]
    with pytest.raises(CiphertextError, match="ciphertext 1 of row 1"):
        evaluator.evaluate([good, [good[0], b"junk"]], evaluator.load_keys(blob))


def test_a_result_can_not_be_scored_again(key: EiKey, blob: bytes) -> None:
    """Its level is spent: the library ends the process on it."""
    evaluator = NativeEvaluator(model(1, 4))
    keys = evaluator.load_keys(blob)
    results = evaluator.evaluate(encrypted(key, data(1, 4)), keys)
    with pytest.raises(CiphertextError):
        evaluator.evaluate(results, keys)


def test_threads_score_at_once(key: EiKey, blob: bytes) -> None:
    evaluator = NativeEvaluator(model(1, 30))
    keys = evaluator.load_keys(blob)
    rows = data(4, 30)
    batches = [[row] for row in encrypted(key, rows)]
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(evaluator.evaluate, batch, keys) for batch in batches]
    scores = decrypted(key, [future.result()[0] for future in futures])
    assert np.abs(scores - model(1, 30).scores(rows)).max() < ERROR


def test_the_native_server_is_destroyed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    destroyed: list[int | None] = []
    monkeypatch.setattr(
        einative.library, "DestroySEALServerInstance", lambda handle: destroyed.append(handle.value)
    )
    evaluator = NativeEvaluator(model(1, 4))
    assert evaluator._server() is evaluator._server()
    handle = evaluator._server()._handle.value
    del evaluator
    gc.collect()
    assert destroyed.count(handle) == 1


def _fuzz(row: list[bytes], blob: bytes, seed: int, rounds: int) -> dict[str, int]:
    """Score changed ciphertexts and load changed keys. In a process that may die."""
    rng = random.Random(seed)
    evaluator = NativeEvaluator(model(1, 4))
    keys = evaluator.load_keys(blob)
    plain_row = ei.check_input(row[0], what="it").data
    plain_blob = ei.check_evaluation_keys(blob)
    outcomes: dict[str, int] = {}
    for turn in range(rounds):
        of_keys = turn % 2 == 0
        changed = bytearray((plain_blob if of_keys else plain_row) if turn % 4 < 2 else row[0])
        reach = 200 if turn % 3 else len(changed)
        for _ in range(rng.randint(1, 3)):
            changed[rng.randrange(reach)] ^= 1 << rng.randrange(8)
        try:
            if of_keys:
                evaluator.evaluate([row], evaluator.load_keys(bytes(changed)))
            else:
                evaluator.evaluate([[bytes(changed)]], keys)
            outcome = "scored"
        except BlindscoreError as error:
            outcome = error.code
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    return outcomes


def test_no_damaged_request_kills_the_process(key: EiKey, blob: bytes) -> None:
    """The native library ends the process on what it can't load: it must never see such."""
    row = encrypted(key, data(1, 4))[0]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        outcomes = pool.submit(_fuzz, row, blob, 3, 120).result(timeout=120)
    assert sum(outcomes.values()) == 120
    assert outcomes.keys() <= {"bad_ciphertext", "bad_keys", "scored"}
    assert min(outcomes["bad_ciphertext"], outcomes["bad_keys"]) > 30
