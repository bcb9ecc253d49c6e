"""The `ei` scheme's client side: both clients, what they refuse, and that no input can kill it."""

from __future__ import annotations

import base64
import copy
import gc
import json
import multiprocessing
import pickle
import random
import struct
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest

import producer.schemes.ei as module
from producer.schemes import Encoding, client_scheme
from producer.schemes.ei import REFERENCE, SCHEME, EiKey, NativeClient
from score.schemes.ei.native import NativeEvaluator
from shared import blobnames, ei, einative
from shared.errors import (
    BlindscoreError,
    CiphertextError,
    DatasetError,
    MalformedRequest,
    SecretKeyError,
)
from shared.linear import LinearModel

FEATURES = 5
MODEL = LinearModel(np.array([[1.0, -2.0, 3.0, 0.5, 0.0]]), np.array([0.25]))
ROWS = np.array([[0.1, 0.2, 0.3, 0.4, 0.5], [-1.0, 1.0, 0.0, 0.25, 0.75]])
ENCODING = Encoding(container="runs", features=FEATURES, input_bound=1.0)
ERROR = 1e-4  # of a score; what is measured is below 3e-6


@pytest.fixture(scope="module")
def key() -> EiKey:
    return SCHEME.generate()


@pytest.fixture(scope="module")
def answer(key: EiKey) -> list[list[str]]:
    """Encrypted scores of ROWS under MODEL."""
    evaluator = NativeEvaluator(MODEL)
    keys = evaluator.load_keys(key.evaluation_keys())
    batch = json.loads(b"".join(key.encrypt(ROWS, ENCODING)))["batch"]
    rows = [[base64.b64decode(text) for text in row] for row in batch]
    results = evaluator.evaluate(rows, keys)
    return [[base64.b64encode(result).decode() for result in row] for row in results]


def encode(answer: object) -> bytes:
    return json.dumps(answer).encode()


def test_it_is_the_scheme_called_ei() -> None:
    scheme = client_scheme("ei")
    assert scheme is SCHEME
    assert (scheme.name, scheme.content_type) == ("ei", "application/json")
    assert scheme.rows_per_job() == 16


def test_a_body_comes_a_row_at_a_time(key: EiKey) -> None:
    pieces = list(key.encrypt(ROWS, ENCODING))
    body = json.loads(b"".join(pieces))
    assert body.keys() == {"batch", "key_id", "container"}
    assert (body["key_id"], body["container"]) == (key.key_id, "runs")
    assert [len(row) for row in body["batch"]] == [1, 1]
    assert len(pieces) == 3
    for row in body["batch"]:
        ei.check_input(base64.b64decode(row[0]), what="it")


@pytest.mark.parametrize(("features", "ciphertexts"), [(1, 1), (4096, 1), (4097, 2), (8193, 3)])
def test_a_row_takes_a_ciphertext_for_every_4096_features(
    key: EiKey, features: int, ciphertexts: int
) -> None:
    encoding = Encoding(container="runs", features=features, input_bound=1.0)
    body = json.loads(b"".join(key.encrypt(np.ones((1, features)), encoding)))
    assert len(body["batch"][0]) == ciphertexts


def test_encryption_is_randomised(key: EiKey) -> None:
    first, second = (b"".join(key.encrypt(ROWS[:1], ENCODING)) for _ in range(2))
    assert first != second


def test_scores_come_back(key: EiKey, answer: list[list[str]]) -> None:
    scores = key.decrypt(encode(answer), rows=2)
    assert scores.shape == (2, 1)
    assert np.abs(scores - MODEL.scores(ROWS)).max() < ERROR


def test_a_single_rows_answer_may_be_a_flat_list(key: EiKey, answer: list[list[str]]) -> None:
    flat = key.decrypt(encode(answer[0]), rows=1)
    assert np.array_equal(flat, key.decrypt(encode(answer[:1]), rows=1))


def test_the_sdks_own_client_reads_what_ours_wrote_and_the_reverse(answer: list[list[str]]) -> None:
    """Both directions through both clients, under one secret."""
    ours = SCHEME.generate()
    theirs = REFERENCE.load(ours.export_secret())
    assert theirs.key_id == ours.key_id
    evaluator = NativeEvaluator(MODEL)
    for writer, reader in ((ours, theirs), (theirs, ours)):
        keys = evaluator.load_keys(writer.evaluation_keys())
        batch = json.loads(b"".join(writer.encrypt(ROWS, ENCODING)))["batch"]
        rows = [[base64.b64decode(text) for text in row] for row in batch]
        results = evaluator.evaluate(rows, keys)
        body = encode([[base64.b64encode(one).decode() for one in row] for row in results])
        assert np.abs(reader.decrypt(body, rows=2) - MODEL.scores(ROWS)).max() < ERROR
        assert np.array_equal(reader.decrypt(body, rows=2), writer.decrypt(body, rows=2))


def test_the_key_id_is_the_sdks_and_fits_a_blob_name() -> None:
    from encrypted.inference.eiclient import EILinearRegressionClient

    client = EILinearRegressionClient()
    key = SCHEME.load(base64.b64decode(client.secret_key()))
    assert key.key_id == client.key_id
    assert blobnames.is_key_id(key.key_id)


def test_an_exported_secret_loads_again(key: EiKey, answer: list[list[str]]) -> None:
    again = SCHEME.load(key.export_secret())
    assert again.key_id == key.key_id
    assert again.decrypt(encode(answer), rows=2).shape == (2, 1)
    assert SCHEME.generate().key_id != key.key_id


@pytest.mark.parametrize("size", [0, 32, 63, 65])
def test_a_secret_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(SecretKeyError, match="64 bytes"):
        SCHEME.load(bytes(size))


@pytest.mark.parametrize("duplicate", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_key_does_not_pickle_or_copy(key: EiKey, duplicate: Callable[[object], object]) -> None:
    with pytest.raises(TypeError, match="pickle"):
        duplicate(key)


@pytest.mark.parametrize("scheme", [SCHEME, REFERENCE])
def test_the_secret_shows_nowhere(
    scheme: module.EiScheme, capfd: pytest.CaptureFixture[str]
) -> None:
    key = scheme.generate()
    b"".join(key.encrypt(ROWS, ENCODING))
    secret = key.export_secret()
    seen = f"{key!r} {key} {vars(key)} " + "".join(capfd.readouterr())
    assert "redacted" in seen
    for form in (repr(secret)[2:-1], base64.b64encode(secret).decode(), secret.hex()):
        assert form not in seen


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        (np.zeros(FEATURES), "shape"),
        (np.zeros((0, FEATURES)), "shape"),
        (np.zeros((2, FEATURES + 1)), "6 features, the run has 5"),
        (np.array([[0.0] * 5, [0.0, 0.0, np.nan, 0.0, 0.0]]), "row 1 .* nan as feature 2"),
        (np.array([[0.0, np.inf, 0.0, 0.0, 0.0]]), "row 0 .* inf as feature 1"),
        (np.array([[0.0] * 5, [0.0] * 5, [0.0, 0.0, 0.0, 0.0, -1.5]]), "row 2 .* -1.5 .* 4"),
    ],
)
def test_rows_that_are_not_as_declared_are_refused(
    key: EiKey, rows: np.ndarray, complaint: str
) -> None:
    with pytest.raises(DatasetError, match=complaint):
        key.encrypt(rows, ENCODING)


def test_no_declared_bound_lets_a_row_reach_what_the_library_dies_of(key: EiKey) -> None:
    boundless = Encoding(container="runs", features=1, input_bound=float("inf"))
    with pytest.raises(DatasetError, match="beyond"):
        key.encrypt(np.array([[1e300]]), boundless)
    assert b"".join(key.encrypt(np.array([[2.0**40]]), boundless))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>busy</html>",
        b"\xff",
        b"[" * 100_000,
        b"null",
        b"{}",
        b"[]",
        b"[[], []]",
        b'["a", "b"]',
        b'[["a"]]',
        b'[["a"], ["a"], ["a"]]',
        b'[["a"], ["a", "a"]]',
        b'[["a"], "a"]',
        b"[[1], [2]]",
        '[["ä"], ["ä"]]'.encode(),
        b'[["a b="], ["AAAA"]]',
        b'[["A"], ["A"]]',
    ],
)
def test_an_answer_of_another_form_is_malformed(key: EiKey, body: bytes) -> None:
    with pytest.raises(MalformedRequest):
        key.decrypt(body, rows=2)


def test_a_flat_answer_is_for_a_single_row_only(key: EiKey, answer: list[list[str]]) -> None:
    with pytest.raises(MalformedRequest):
        key.decrypt(encode(answer[0] + answer[1]), rows=2)


def test_an_answer_that_is_no_ciphertext_names_row_and_result(
    key: EiKey, answer: list[list[str]]
) -> None:
    junk = base64.b64encode(bytes(1000)).decode()
    with pytest.raises(CiphertextError, match="result 1 of row 1 is not a SEAL object"):
        key.decrypt(encode([answer[0] * 2, [answer[1][0], junk]]), rows=2)


def test_an_oversized_result_is_not_even_decoded(key: EiKey) -> None:
    with pytest.raises(CiphertextError, match="over"):
        key.decrypt(encode([["!" * 2 * ei.MAX_RESULT_BYTES]]), rows=1)


def test_another_keys_results_do_not_decrypt_to_the_scores(answer: list[list[str]]) -> None:
    scores = SCHEME.generate().decrypt(encode(answer), rows=2)
    assert np.abs(scores - MODEL.scores(ROWS)).min() > 1.0


def test_a_native_error_is_translated(answer: list[list[str]]) -> None:
    class Failing(NativeClient):
        def encrypt(self, row: module.Row) -> list[str]:
            del row
            einative.call("EncryptList", self._handle, 0, None, 0, None, None)
            return []

        def decrypt(self, result: bytes) -> float:
            del result
            einative.call("DecryptResult", self._handle, 0, None, None)
            return 0.0

    key = EiKey(SCHEME.generate().export_secret(), client=Failing)
    with pytest.raises(DatasetError, match=r"row 0 .* EncryptList failed with 0x8"):
        b"".join(key.encrypt(ROWS, ENCODING))
    with pytest.raises(
        CiphertextError, match=r"result 0 of row 0 .* DecryptResult failed with 0x8"
    ):
        key.decrypt(encode(answer), rows=2)


def test_threads_get_the_right_scores_from_clients_of_their_own(answer: list[list[str]]) -> None:
    users: dict[int, set[int]] = {}

    class Watched(NativeClient):
        def encrypt(self, row: module.Row) -> list[str]:
            users.setdefault(id(self), set()).add(threading.get_ident())
            return super().encrypt(row)

    key = EiKey(SCHEME.generate().export_secret(), client=Watched)
    barrier = threading.Barrier(4)

    def work() -> int:
        barrier.wait(timeout=30)
        return sum(len(b"".join(key.encrypt(ROWS, ENCODING))) for _ in range(5))

    with ThreadPoolExecutor(4) as pool:
        sizes = [future.result() for future in [pool.submit(work) for _ in range(4)]]
    assert all(sizes)
    assert len(users) == 4
    assert all(len(threads) == 1 for threads in users.values())


def test_threads_decrypt_the_same_scores(key: EiKey, answer: list[list[str]]) -> None:
    body = encode(answer)
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(key.decrypt, body, rows=2) for _ in range(40)]
    alone = key.decrypt(body, rows=2)
    assert all(np.array_equal(future.result(), alone) for future in futures)


def test_a_native_instance_is_destroyed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    destroyed: list[int | None] = []
    monkeypatch.setattr(
        einative.library, "DestroySEALClientInstance", lambda handle: destroyed.append(handle.value)
    )
    client = NativeClient(None)
    handle = client._handle.value
    del client
    gc.collect()
    assert destroyed == [handle]


def _fuzz(secret: bytes, result: bytes, seed: int, rounds: int) -> dict[str, int]:
    """Decrypt changed results; how often each outcome came. In a process that may die."""
    rng = random.Random(seed)
    key = SCHEME.load(secret)
    plain = ei.check_result(result, what="it").data
    outcomes: dict[str, int] = {}
    for turn in range(rounds):
        source = plain if turn % 2 else result
        changed = bytearray(source)
        reach = 130 if turn % 3 else len(changed)
        for _ in range(rng.randint(1, 4)):
            changed[rng.randrange(reach)] ^= 1 << rng.randrange(8)
        if turn % 5 == 0:
            changed = changed[: rng.randrange(len(changed))]
        if turn % 7 == 0 and len(changed) > 16:
            changed[8:16] = struct.pack("<Q", len(changed))
        body = json.dumps([base64.b64encode(bytes(changed)).decode()]).encode()
        try:
            key.decrypt(body, rows=1)
            outcome = "a number"
        except BlindscoreError as error:
            outcome = error.code
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    return outcomes


def test_no_damaged_result_kills_the_process(key: EiKey, answer: list[list[str]]) -> None:
    """The native library ends the process on what it can't load: it must never see such."""
    result = base64.b64decode(answer[0][0])
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        outcomes = pool.submit(_fuzz, key.export_secret(), result, 7, 400).result(timeout=120)
    assert sum(outcomes.values()) == 400
    assert outcomes["bad_ciphertext"] > 200
    assert outcomes.keys() <= {"bad_ciphertext", "malformed", "a number"}
