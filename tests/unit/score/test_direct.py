"""The `direct` scheme's scorer: right answers, nothing but scores in them, and no bad bytes in."""

from __future__ import annotations

import gzip
import json
import tracemalloc
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import joblib
import numpy as np
import pytest
import zstandard
from tenseal import sealapi

from producer.schemes.direct import SCHEME, DirectKey
from score.schemes.direct import DirectEvaluator
from score.schemes.direct_mask import Masks
from score.schemes.direct_plan import Plan, make_plan
from shared import bfv, direct, direct_scale, seal
from shared.coefficients import Words
from shared.container import Header
from shared.direct import Layout
from shared.errors import (
    BlindscoreError,
    BodyTooLarge,
    CiphertextError,
    EvaluationKeysError,
    FeatureCountError,
    MalformedRequest,
    ModelError,
)
from shared.linear import LinearModel
from shared.params import DIRECT_PRESETS
from shared.seal import HEADER, SealHeader
from tests.direct_products import begun, decrypted, frames, request, rounded
from tests.scoring import respond

DATA = Path(__file__).parents[3] / ".." / "shared" / "data"
N = 4096
FEATURES = 9
MODEL = LinearModel(np.random.default_rng(1).normal(size=(4, FEATURES)), np.arange(4.0))
ROWS = np.random.default_rng(2).uniform(-1, 1, size=(3, FEATURES))


@pytest.fixture(scope="module", params=sorted(DIRECT_PRESETS))
def key(request: pytest.FixtureRequest) -> DirectKey:
    return SCHEME.generate(request.param)


@pytest.fixture(scope="module")
def evaluator() -> DirectEvaluator:
    return DirectEvaluator(MODEL)


def scores(key: DirectKey, model: LinearModel, rows: np.ndarray) -> np.ndarray:
    return key.decrypt(respond(DirectEvaluator(model), request(key, rows)), rows=len(rows))


def bound(key: DirectKey, model: LinearModel, input_bound: float = 1.0) -> float:
    """The largest error of a score that is possible."""
    integers = direct_scale.quantise(
        model.weights, model.intercept, preset=key.preset, input_bound=input_bound
    )
    return integers.error_bound + integers.input_error_bound + 1e-12


def on_grid(key: DirectKey, rows: int, features: int) -> np.ndarray:
    levels = direct_scale.levels(key.preset, features)
    return np.random.default_rng(rows).integers(-levels, levels + 1, (rows, features)) / levels


# --- scores ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("classes", "features", "rows"),
    [
        (1, 1, 1),
        (1, 4, 30),
        (1, 30, 7),
        (3, 64, 65),
        (10, 64, 6),
        (10, 784, 1),
        (10, 784, 7),
        (2, 2049, 2),
        (3, 4096, 2),
        (2, 4097, 2),
        (2, 5000, 3),
        (1, 8193, 1),
        (700, 13, 2),
    ],
)
def test_scores_of_any_shape(key: DirectKey, classes: int, features: int, rows: int) -> None:
    rng = np.random.default_rng(features)
    model = LinearModel(rng.normal(size=(classes, features)), rng.normal(size=classes))
    x = on_grid(key, rows, features)
    error = np.abs(scores(key, model, x) - model.scores(x)).max()
    assert error <= bound(key, model)


@pytest.mark.parametrize(
    "model",
    [
        LinearModel(np.zeros((2, 5)), np.zeros(2)),
        LinearModel(np.zeros((2, 5)), np.array([0.0, 1e-9])[::-1] * 0),
        LinearModel(np.array([[0.0] * 5, [1.0] * 5]), np.array([3.0, -4.0])),
        LinearModel(np.array([[1e-9, 0, 0, 0, 2e-9]]), np.array([1e-9])),
        LinearModel(np.array([[1e9, 0, 0, 0, -2e9]]), np.array([5e9])),
        LinearModel(np.eye(5), -np.ones(5)),
    ],
)
def test_degenerate_models(key: DirectKey, model: LinearModel) -> None:
    x = on_grid(key, 3, 5)
    assert np.abs(scores(key, model, x) - model.scores(x)).max() <= bound(key, model)


def test_a_class_without_weights_among_full_products(key: DirectKey) -> None:
    """A product of zero weights alone, which SEAL would refuse to multiply by."""
    weights = np.random.default_rng(0).normal(size=(11, 2048))
    weights[2:4] = 0
    model = LinearModel(weights, np.arange(11.0))
    x = on_grid(key, 1, 2048)
    assert np.abs(scores(key, model, x) - model.scores(x)).max() <= bound(key, model)


def test_extreme_rows_do_not_overflow(key: DirectKey) -> None:
    """The rows that reach the largest and the smallest score of each class."""
    rng = np.random.default_rng(3)
    model = LinearModel(rng.normal(size=(5, 300)), rng.normal(size=5) * 100)
    x = np.concatenate([np.sign(model.weights), -np.sign(model.weights)])
    assert np.abs(scores(key, model, x) - model.scores(x)).max() <= bound(key, model)


def test_weights_that_all_round_up_do_not_overflow() -> None:
    """Exactly, these would just fit; rounded, no more."""
    model = LinearModel(np.full((1, 2000), 8421.5035), np.zeros(1))
    speed = SCHEME.generate("speed")
    x = np.ones((1, 2000))
    assert np.abs(scores(speed, model, x) - model.scores(x)).max() <= bound(speed, model)


def test_inputs_of_any_declared_size(key: DirectKey) -> None:
    for input_bound in (0.05, 16.0, 255.0, 1e6):
        x = on_grid(key, 4, FEATURES) * input_bound
        body = request(key, x, input_bound=input_bound)
        found = key.decrypt(respond(DirectEvaluator(MODEL), body), rows=4)
        assert np.abs(found - MODEL.scores(x)).max() <= bound(key, MODEL, input_bound)


def test_requests_of_several_keys_and_shapes_take_turns(evaluator: DirectEvaluator) -> None:
    keys = [SCHEME.generate(name) for name in [*DIRECT_PRESETS] * 2]
    for rows in (1, 500, 2):
        for one in keys:
            x = on_grid(one, rows, FEATURES)
            found = one.decrypt(respond(evaluator, request(one, x)), rows=rows)
            assert np.abs(found - MODEL.scores(x)).max() <= bound(one, MODEL)


def test_interleaved_requests_do_not_mix(key: DirectKey, evaluator: DirectEvaluator) -> None:
    bodies = [request(key, ROWS), request(SCHEME.generate(key.preset.name), ROWS)]
    (first, pieces), (second, others) = (begun(evaluator, body) for body in bodies)
    for piece, other in zip(pieces, others, strict=True):
        first.add(piece)
        second.add(other)
    header, results = first.finish()
    assert header.key_id == key.key_id
    assert len(list(results)) == header.frames


@pytest.mark.parametrize(("preset", "limit"), [("speed", 5e-4), ("precision", 5e-5)])
def test_a_thousand_mnist_images_one_a_request(preset: str, limit: float) -> None:
    if not (DATA / "mnist_expected.npz").exists():
        pytest.skip("the MNIST test images are not in ../shared/data")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = joblib.load(DATA / "sklearn_mnist_model.pkl")
    pixels = gzip.decompress((DATA / "mnist" / "t10k-images-idx3-ubyte.gz").read_bytes())[16:]
    rows = np.frombuffer(pixels, np.uint8).reshape(-1, 784)[:1000] / 255
    expected = np.load(DATA / "mnist_expected.npz")
    evaluator = DirectEvaluator(LinearModel(fitted.coef_, fitted.intercept_))
    key = SCHEME.generate(preset)
    found = np.empty((1000, 10))
    for index in range(1000):
        response = respond(evaluator, request(key, rows[index : index + 1]))
        assert len(response) < 80_000
        found[index] = key.decrypt(response, rows=1)[0]
    assert np.array_equal(found.argmax(axis=1), expected["predictions"][:1000].astype(int))
    assert np.abs(found - expected["scores"][:1000]).max() < limit


# --- what leaves -----------------------------------------------------------------------------


def test_a_result_is_the_scores_coefficients_and_the_second_polynomial(
    key: DirectKey, evaluator: DirectEvaluator
) -> None:
    header, results = frames(respond(evaluator, request(key, ROWS)))
    assert header.frames == len(results) == 1
    assert len(results[0]) == (3 * 4 + N) * key.preset.result_bytes


def whole_result(key: DirectKey, payload: bytes, wanted: np.ndarray) -> Words:
    """A result as a ciphertext, zero where nothing was sent; shape (2, N)."""
    words = bfv.unpack(bfv.ring(key.preset), payload, what="a result")
    polynomials = np.zeros((2, N), dtype=np.uint64)
    polynomials[0, wanted] = words[: len(wanted)]
    polynomials[1] = words[len(wanted) :]
    return polynomials


def test_no_coefficient_but_the_scores_depends_on_the_weights(key: DirectKey) -> None:
    """Every coefficient of many results is decrypted.

    The scores are always the same; all others are new in each result, uniform, and unrelated to
    the product of weights and row, whose coefficients they stand for.
    """
    model = LinearModel(np.random.default_rng(4).normal(size=(2, 784)), np.zeros(2))
    x = on_grid(key, 1, 784)
    evaluator = DirectEvaluator(model)
    integers = direct_scale.quantise(
        model.weights, model.intercept, preset=key.preset, input_bound=1.0
    )
    layout = Layout(N, 784)
    wanted = layout.wanted(1, 2).ravel()
    others = np.setdiff1d(np.arange(N), wanted)
    levels = direct_scale.levels(key.preset, 784)
    row = layout.row_polynomials(np.rint(x * levels).astype(np.int64))[0]
    weights = layout.weight_polynomials(integers.weights)[0]
    product = np.convolve(row[:784], weights[: 2 * 784])  # shorter than N: nothing wraps
    body = request(key, x)

    modulus = 1 << key.preset.plain_bits
    repeats = 12
    plains = np.empty((repeats, N), dtype=np.int64)
    for index in range(repeats):
        _, (payload,) = frames(respond(evaluator, body))
        plains[index] = decrypted(key, whole_result(key, payload, wanted))

    assert np.array_equal(plains[:, wanted], np.tile(product[wanted] % modulus, (repeats, 1)))
    hidden = plains[:, others]
    # The same request and model, yet no coefficient comes back: chance is 12·11/2·4094/2^33.
    assert sum(len(np.unique(column)) < repeats for column in hidden.T) <= 1
    # None is the product's: what an unmasked result would show is gone.
    true = np.zeros(N, dtype=np.int64)
    true[: len(product)] = product % modulus
    assert (hidden == true[others]).sum() <= 1
    # Uniform in 64 bins, and uncorrelated with the product: six standard deviations.
    samples = hidden.size
    counts = np.bincount((hidden.ravel() >> (key.preset.plain_bits - 6)), minlength=64)
    chi_square = ((counts - samples / 64) ** 2 / (samples / 64)).sum()
    assert chi_square < 63 + 6 * np.sqrt(2 * 63) + 36
    inside = others[others < len(product)]
    centred = np.where(plains > modulus // 2, plains - modulus, plains)[:, inside]
    correlation = np.corrcoef(centred.mean(axis=0), product[inside])[0, 1]
    assert abs(correlation) < 6 / np.sqrt(len(inside))


def test_the_second_polynomial_is_not_the_weights_times_the_rows(
    key: DirectKey, evaluator: DirectEvaluator
) -> None:
    """Whoever knew W·a would know W: a comes from the seed in the request."""
    body = request(key, ROWS)
    ring = bfv.ring(key.preset)
    (product,) = evaluator.plan(key.preset, 1.0, 3).products
    row = bfv.seeded(ring, ring.fresh, frames(body)[1][1], what="row")
    seal_evaluator = sealapi.Evaluator(ring.context)
    seal_evaluator.transform_to_ntt_inplace(row)
    seal_evaluator.multiply_plain_inplace(row, product.weights[0])
    seal_evaluator.transform_from_ntt_inplace(row)
    if ring.fresh != ring.result:
        seal_evaluator.mod_switch_to_next_inplace(row)
    bare = rounded(key, bfv.polynomials(ring, row))[1]
    seconds = []
    for _ in range(2):
        _, (payload,) = frames(respond(evaluator, body))
        seconds.append(whole_result(key, payload, product.wanted)[1])
    assert (seconds[0] == bare).sum() <= 1
    assert (seconds[0] == seconds[1]).sum() <= 1


def test_masks_are_encryptions_of_zero_and_never_the_same(key: DirectKey) -> None:
    ring = bfv.ring(key.preset)
    zero = frames(request(key, ROWS))[1][0]
    masks = Masks(ring, key.preset, zero)
    seal_evaluator = sealapi.Evaluator(ring.context)
    seen = []
    for mask in [*masks.fresh(9), *masks.fresh(2)]:
        seal_evaluator.transform_from_ntt_inplace(mask)
        seen.append(bfv.polynomials(ring, mask))
        assert not decrypted(key, rounded(key, seen[-1])).any()
        assert key._decryptor.invariant_noise_budget(mask) > 0
    for index, one in enumerate(seen):
        for other in seen[:index]:
            assert (one == other).sum() <= 1


def test_masks_of_many_products_leave_the_scores(key: DirectKey) -> None:
    rng = np.random.default_rng(7)
    model = LinearModel(rng.normal(size=(23, 1300)), rng.normal(size=23))
    x = on_grid(key, 2, 1300)
    assert np.abs(scores(key, model, x) - model.scores(x)).max() <= bound(key, model)


def test_blinding_polynomials_are_small_balanced_and_never_the_same() -> None:
    drawn = np.array([bfv.small_polynomial(N) for _ in range(50)])
    assert set(np.unique(drawn)) == {-1, 0, 1}
    for value, chance in ((-1, 0.25), (0, 0.5), (1, 0.25)):
        count = (drawn == value).sum()
        assert abs(count - drawn.size * chance) < 6 * np.sqrt(drawn.size * chance * (1 - chance))
    agreement = drawn @ drawn.T - np.diag((drawn**2).sum(axis=1))
    assert np.abs(agreement).max() < 7 * np.sqrt(N) / 2


def test_response_header_tells_only_the_order_of_the_weights(
    key: DirectKey, evaluator: DirectEvaluator
) -> None:
    header, _ = frames(respond(evaluator, request(key, ROWS)))
    close = LinearModel(MODEL.weights * 1.01, MODEL.intercept)
    assert header == frames(respond(DirectEvaluator(close), request(key, ROWS)))[0]
    assert header.parameters["classes"] == 4


# --- what is refused -------------------------------------------------------------------------


def first_row(body: bytes) -> bytes:
    return frames(body)[1][1]


def give(evaluator: DirectEvaluator, body: bytes, row: bytes) -> None:
    """A request with another ciphertext instead of its own."""
    evaluation, (zero, _) = begun(evaluator, body)
    evaluation.add(zero)
    evaluation.add(row)


def unpacked(data: bytes) -> bytes:
    return zstandard.decompress(data[HEADER.size :])


def uncompressed(body: bytes) -> bytes:
    return SealHeader(4, 3, 0, HEADER.size + len(body)).pack() + body


def zstd(body: bytes) -> bytes:
    packed = zstandard.compress(body)
    return SealHeader(4, 3, 2, HEADER.size + len(packed)).pack() + packed


def bomb() -> bytes:
    """A small stream of 64 MiB that doesn't say its size."""
    stream = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    packed = stream.compress(bytes(1 << 26)) + stream.flush()
    return SealHeader(4, 3, 2, HEADER.size + len(packed)).pack() + packed


def zlibbed(body: bytes) -> bytes:
    packed = zlib.compress(body)
    return SealHeader(4, 3, 1, HEADER.size + len(packed)).pack() + packed


def patched(data: bytes, offset: int, value: int) -> bytes:
    """An uncompressed copy with one byte of its body changed."""
    body = bytearray(unpacked(data))
    body[offset] = value
    return uncompressed(bytes(body))


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "short": lambda data: data[:15],
    "cut": lambda data: data[:-1],
    "longer": lambda data: data + b"\x00",
    "no magic": lambda data: b"\x00" * len(data),
    "another SEAL": lambda data: data[:3] + b"\x03" + data[4:],
    "unknown compression": lambda data: data[:5] + b"\x07" + data[6:],
    "zlib": lambda data: zlibbed(unpacked(data)),
    "not zstd": lambda data: data[:16] + b"\x00" * (len(data) - 16),
    "two frames": lambda data: (
        SealHeader(4, 3, 2, 2 * len(data) - 16).pack() + data[16:] + data[16:]
    ),
    "bomb": lambda data: bomb(),
    "announced bomb": lambda data: zstd(bytes(1 << 26)),
    "parms_id": lambda data: patched(data, 0, 0),
    "NTT form": lambda data: patched(data, 32, 1),
    "three polynomials": lambda data: patched(data, 33, 3),
    "degree": lambda data: patched(data, 42, 32),
    "scale": lambda data: patched(data, 60, 1),
    "array compressed": lambda data: patched(data, 73 + 5, 2),
    "array length": lambda data: patched(data, 73 + 16, 1),
    "coefficient beyond the prime": lambda data: patched(data, 73 + 24 + 7, 255),
    "generator": lambda data: patched(data, len(unpacked(data)) - 65, 9),
    "half": lambda data: uncompressed(unpacked(data)[:4000]),
    "twice": lambda data: uncompressed(unpacked(data) * 2),
}


@pytest.mark.parametrize("name", sorted(DAMAGES))
def test_damaged_ciphertexts_are_refused(
    key: DirectKey, evaluator: DirectEvaluator, name: str
) -> None:
    body = request(key, ROWS)
    with pytest.raises(CiphertextError, match="ciphertext 0"):
        give(evaluator, body, DAMAGES[name](first_row(body)))
    with pytest.raises(CiphertextError, match="encryption of zero"):
        begun(evaluator, body)[0].add(DAMAGES[name](frames(body)[1][0]))
    assert key.decrypt(respond(evaluator, body), rows=3).shape == (3, 4)


def test_what_a_ciphertext_claims_to_be_is_not_allocated(
    key: DirectKey, evaluator: DirectEvaluator
) -> None:
    body = request(key, ROWS)
    for data in (bomb(), zstd(bytes(1 << 26))):
        assert len(data) < evaluator.max_frame_bytes
        evaluation, _ = begun(evaluator, body)
        tracemalloc.start()
        with pytest.raises(CiphertextError):
            evaluation.add(data)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 1 << 20


def test_other_seal_objects_are_refused(key: DirectKey, evaluator: DirectEvaluator) -> None:
    body = request(key, ROWS)
    ring = bfv.ring(key.preset)
    whole = sealapi.Ciphertext()
    key._encryptor.encrypt_zero_symmetric(whole)
    public = sealapi.PublicKey()
    sealapi.KeyGenerator(ring.context).create_public_key(public)
    (other,) = [name for name in DIRECT_PRESETS if name != key.preset.name]
    foreign = first_row(request(SCHEME.generate(other), ROWS))
    plain = seal.save(bfv.plaintext(ring, np.arange(N)))
    for row in (seal.save(whole), seal.save(public), foreign, plain):
        with pytest.raises(CiphertextError):
            give(evaluator, body, row)


def test_random_damage_is_refused_or_decrypts_to_something(
    key: DirectKey, evaluator: DirectEvaluator
) -> None:
    """Ciphertexts have no integrity; what must not happen is anything but these two."""
    body = request(key, ROWS)
    row = first_row(body)
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        damaged = bytearray(row)
        for offset in rng.integers(0, 200, size=rng.integers(1, 4)):
            damaged[offset] = rng.integers(0, 256)
        try:
            give(evaluator, body, bytes(damaged))
        except CiphertextError:
            refused += 1
    assert refused > 75


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"features": FEATURES + 1}, FeatureCountError),
        ({"frames": 1}, MalformedRequest),
        ({"frames": 3}, MalformedRequest),
        ({"rows": 4000}, MalformedRequest),
        ({"rows": 2**60}, MalformedRequest),
        ({"parameters": {}}, CiphertextError),
        ({"parameters": {"preset": "other"}}, CiphertextError),
    ],
)
def test_headers_that_promise_something_else_are_refused(
    key: DirectKey,
    evaluator: DirectEvaluator,
    fields: dict[str, object],
    error: type[BlindscoreError],
) -> None:
    header, _ = frames(request(key, ROWS))
    with pytest.raises(error):
        evaluator.begin(Header.model_validate({**header.model_dump(), **fields}))


@pytest.mark.parametrize(
    "parameters",
    [
        {"degree": 8192},
        {"prime_bits": (60, 60)},
        {"plain_bits": 20},
        {"surplus": 1},
        {"input_bound": 0.0},
        {"input_bound": float("nan")},
        {"input_bound": 1e300},
        {"input_bound": "1"},
        {"classes": 4},
    ],
)
def test_parameters_that_are_not_the_presets_are_refused(
    key: DirectKey, evaluator: DirectEvaluator, parameters: dict[str, object]
) -> None:
    header, _ = frames(request(key, ROWS))
    changed = header.model_copy(update={"parameters": {**header.parameters, **parameters}})
    with pytest.raises(CiphertextError):
        evaluator.begin(changed)


def test_a_bound_that_costs_the_precision_is_refused(key: DirectKey) -> None:
    """Small inputs leave an intercept that takes all the room."""
    model = LinearModel(MODEL.weights, MODEL.intercept + 30)
    body = request(key, ROWS * 1e-12, input_bound=1e-12)
    with pytest.raises(CiphertextError, match="1e-12"):
        begun(DirectEvaluator(model), body)


def test_a_response_beyond_the_limit_is_refused(
    key: DirectKey, evaluator: DirectEvaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("score.schemes.direct.MAX_RESPONSE_BYTES", 120_000)
    begun(evaluator, request(key, np.zeros((400, FEATURES))))
    with pytest.raises(BodyTooLarge, match="fewer rows"):
        begun(evaluator, request(key, np.zeros((500, FEATURES))))


def test_an_unfinished_request_has_no_response(key: DirectKey, evaluator: DirectEvaluator) -> None:
    evaluation, (zero, _) = begun(evaluator, request(key, ROWS))
    evaluation.add(zero)
    with pytest.raises(MalformedRequest, match="1 of 2"):
        evaluation.finish()


def test_another_encryption_of_zero_replaces_the_kept_one(
    key: DirectKey, evaluator: DirectEvaluator
) -> None:
    """A key's zero is used again for the very same bytes only."""
    again = SCHEME.load(key.export_secret())
    for one in (key, again, key):
        found = one.decrypt(respond(evaluator, request(one, ROWS)), rows=3)
        assert np.abs(found - MODEL.scores(ROWS)).max() <= bound(key, MODEL)
    damaged = frames(request(key, ROWS))[1][0][:-1]
    with pytest.raises(CiphertextError):
        begun(evaluator, request(key, ROWS))[0].add(damaged)


@pytest.mark.parametrize(
    "model",
    [
        LinearModel(np.full((1, 3), 1e-9), np.array([1e9])),
        LinearModel(np.full((1, 3), 1e200), np.array([0.0])),
        LinearModel(np.full((1, 3), 1e-200), np.array([0.0])),
        LinearModel(np.full((2, 3), 1e308), np.array([1e308, 0.0])),
    ],
)
def test_models_beyond_what_can_be_scored_are_refused(model: LinearModel) -> None:
    with pytest.raises(ModelError):
        DirectEvaluator(model)


# --- keys and what is announced --------------------------------------------------------------


def test_key_blobs_are_checked(key: DirectKey, evaluator: DirectEvaluator) -> None:
    blob = key.evaluation_keys()
    evaluator.check_keys(blob)
    record = json.loads(blob)
    bad = [
        b"",
        b"null",
        b"[" * 100_000,
        blob + b" ",
        bytes(5000),
        json.dumps(record).encode(),
        direct.key_blob(key.preset, b"tag").replace(b"direct", b"packed"),
        blob.replace(b"4096", b"2048"),
        json.dumps({**record, "preset": ["speed"]}).encode(),
    ]
    for data in bad:
        with pytest.raises(EvaluationKeysError):
            evaluator.check_keys(data)


def test_a_preset_that_cannot_score_the_model_is_not_offered() -> None:
    """An intercept far beyond the weights' reach takes the room that `speed` has."""
    model = LinearModel(np.random.default_rng(0).normal(size=(1, 500)), np.array([1e5]))
    evaluator = DirectEvaluator(model)
    assert list(evaluator.describe()["presets"]) == ["precision"]
    speed = SCHEME.generate("speed")
    with pytest.raises(EvaluationKeysError, match="not offered"):
        evaluator.check_keys(speed.evaluation_keys())
    with pytest.raises(CiphertextError, match="not offered"):
        begun(evaluator, request(speed, np.zeros((1, 500))))


def test_description_is_json_with_the_bounds(evaluator: DirectEvaluator) -> None:
    described = json.loads(json.dumps(evaluator.describe()))
    assert described["default"] in described["presets"]
    assert set(described["presets"]) == set(DIRECT_PRESETS)
    for preset in described["presets"].values():
        assert 0 < preset["error_bound"] < 2**-12 * np.abs(MODEL.weights).sum()
        assert 0 < preset["noise"] < 1
        assert preset["rows_per_ciphertext"] == N // FEATURES
    errors = [described["presets"][name]["error_bound"] for name in ("precision", "speed")]
    assert errors[0] < errors[1]


def test_largest_frame_admits_requests_and_little_more(
    key: DirectKey, evaluator: DirectEvaluator
) -> None:
    sizes = [len(payload) for payload in frames(request(key, ROWS))[1]]
    assert max(sizes) <= evaluator.max_frame_bytes <= 70_000


def test_parts_that_cancel_are_the_senders_fault(key: DirectKey) -> None:
    """The same ciphertext for both parts of a row, under weights that are opposite there."""
    half = np.random.default_rng(8).normal(size=(1, N))
    opposite = LinearModel(np.hstack([half, -half]), np.zeros(1))
    evaluator = DirectEvaluator(opposite)
    evaluation, payloads = begun(evaluator, request(key, on_grid(key, 1, 2 * N)))
    evaluation.add(payloads[0])
    evaluation.add(payloads[1])
    with pytest.raises(CiphertextError, match="can't be scored"):
        evaluation.add(payloads[1])


def test_a_plan_larger_than_the_cache_is_made_once(
    key: DirectKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def counting(ring: bfv.Ring, quantised: direct_scale.Quantised, group: int) -> Plan:
        made.append(group)
        return make_plan(ring, quantised, group)

    monkeypatch.setattr("score.schemes.direct.PLAN_CACHE_BYTES", 1)
    monkeypatch.setattr("score.schemes.direct.make_plan", counting)
    evaluator = DirectEvaluator(LinearModel(np.ones((3, N + 1)), np.zeros(3)))
    for _ in range(2):
        respond(evaluator, request(key, on_grid(key, 3, N + 1)))
    assert made == [1]
