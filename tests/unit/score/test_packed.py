"""The scorer of `packed`: right scores, what it refuses, and what its results give away."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from producer.schemes import Encoding
from producer.schemes.packed import SCHEME, PackedKey
from score.lru import ByteLru
from score.schemes import BlockEvaluation, ContainerEvaluator
from score.schemes.packed import PackedEvaluation, PackedEvaluator
from score.schemes.packed_plan import make_plan
from shared import bfv, container, packed
from shared.container import Header
from shared.errors import (
    BodyTooLarge,
    CiphertextError,
    EvaluationKeysError,
    FeatureCountError,
    MalformedRequest,
    ModelError,
)
from shared.linear import LinearModel
from shared.params import PACKED_PRESETS

DATA = Path(__file__).parents[3] / ".." / "shared" / "data"
PRESET = PACKED_PRESETS["n2048"]
FEATURES = 10
UNUSED = (2, 7)
ALONE = PRESET.ring.degree // 2 + 1
"""So many rows that a ciphertext holds no more than one feature of them."""


def make_model(classes: int = 3, seed: int = 0) -> LinearModel:
    rng = np.random.default_rng(seed)
    weights = rng.normal(0, 2, (classes, FEATURES))
    weights[:, UNUSED] = 0
    return LinearModel(weights, rng.normal(0, 5, classes))


@pytest.fixture(scope="module")
def key() -> PackedKey:
    return SCHEME.generate(PRESET.name)


@pytest.fixture(scope="module")
def model() -> LinearModel:
    return make_model()


@pytest.fixture(scope="module")
def evaluator(model: LinearModel) -> PackedEvaluator:
    return PackedEvaluator(model)


def request(
    key: PackedKey, rows: np.ndarray, *, bound: float = 1.0, active: Sequence[int] | None = None
) -> tuple[Header, list[bytes]]:
    encoding = Encoding(
        "container", rows.shape[1], bound, active=None if active is None else tuple(active)
    )
    body = b"".join(key.encrypt(rows, encoding))
    return container.read(body, max_frame_bytes=packed.max_frame_bytes(key.preset))


def answer(evaluator: PackedEvaluator, header: Header, payloads: Sequence[bytes]) -> bytes:
    evaluation = evaluator.begin(header)
    for payload in payloads:
        evaluation.add(payload)
    return b"".join(container.write(*evaluation.finish()))


def random_rows(count: int, bound: float = 1.0, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-bound, bound, (count, FEATURES))


def bound_of(evaluator: PackedEvaluator, preset: str = PRESET.name) -> float:
    bound = evaluator.describe()["presets"][preset]["error_bound"]
    assert isinstance(bound, float)
    return bound


@pytest.mark.parametrize("count", [1, 7, 227, 228, 500, 1024, ALONE, 2047, 2048])
def test_scores_are_the_models(
    key: PackedKey, evaluator: PackedEvaluator, model: LinearModel, count: int
) -> None:
    rows = random_rows(count)
    scores = key.decrypt(answer(evaluator, *request(key, rows)), rows=count)
    assert scores.shape == (count, 3)
    assert np.abs(scores - model.scores(rows)).max() <= bound_of(evaluator) < 1e-4


@pytest.mark.parametrize("preset", sorted(set(PACKED_PRESETS) - {PRESET.name}))
def test_scores_are_the_models_under_each_preset(
    evaluator: PackedEvaluator, model: LinearModel, preset: str
) -> None:
    key, rows = SCHEME.generate(preset), random_rows(9)
    scores = key.decrypt(answer(evaluator, *request(key, rows)), rows=9)
    assert np.abs(scores - model.scores(rows)).max() <= bound_of(evaluator, preset) < 1e-2


def test_is_a_container_evaluator(key: PackedKey, evaluator: PackedEvaluator) -> None:
    as_declared: ContainerEvaluator = evaluator
    evaluation: BlockEvaluation = as_declared.begin(request(key, random_rows(1))[0])
    assert isinstance(evaluation, PackedEvaluation)


def test_a_class_without_weights_still_gives_its_intercept(key: PackedKey) -> None:
    model = LinearModel(np.array([[0.0, 0.0], [1.0, 0.0]]), np.array([4.25, -1.0]))
    rows = np.array([[0.5, 0.25], [-0.75, 1.0]])
    body = answer(PackedEvaluator(model), *request(key, rows))
    assert np.abs(key.decrypt(body, rows=2) - model.scores(rows)).max() < 1e-4


def test_a_model_of_nothing_but_intercepts(key: PackedKey) -> None:
    model = LinearModel(np.zeros((2, 3)), np.array([7.0, 0.0]))
    body = answer(PackedEvaluator(model), *request(key, np.ones((2, 3)), active=[]))
    assert np.abs(key.decrypt(body, rows=2) - [7.0, 0.0]).max() < 1e-4


def test_unused_features_are_not_expanded(
    key: PackedKey, evaluator: PackedEvaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    expanded = []
    expand = PackedEvaluation._expand

    def counting(self: PackedEvaluation, seed: bytes) -> Any:
        expanded.append(seed)
        return expand(self, seed)

    monkeypatch.setattr(PackedEvaluation, "_expand", counting)
    header, payloads = request(key, random_rows(ALONE))
    answer(evaluator, header, payloads)
    used = [payload[:64] for at, payload in enumerate(payloads) if at - 1 not in UNUSED]
    assert expanded == used


@pytest.mark.parametrize(
    ("count", "frames"), [(6, 2), (600, 1 + 3), (ALONE, 1 + FEATURES - len(UNUSED))]
)
def test_unused_features_need_not_be_sent(
    key: PackedKey, model: LinearModel, count: int, frames: int
) -> None:
    evaluator = PackedEvaluator(model, announce_zero_features=True)
    active = evaluator.describe()["active_features"]
    assert active == sorted(set(range(FEATURES)) - set(UNUSED))
    rows = random_rows(count)
    header, payloads = request(key, rows, active=active)
    assert len(payloads) == frames
    scores = key.decrypt(answer(evaluator, header, payloads), rows=count)
    assert np.abs(scores - model.scores(rows)).max() <= bound_of(evaluator)


def test_which_features_are_used_is_announced_only_if_allowed(evaluator: PackedEvaluator) -> None:
    assert "active_features" not in evaluator.describe()


def test_leaving_out_a_used_feature_is_refused(key: PackedKey, evaluator: PackedEvaluator) -> None:
    header, _ = request(key, random_rows(1), active=[0, 1, 3])
    with pytest.raises(FeatureCountError, match="leaves out"):
        evaluator.begin(header)


def test_the_description_is_json(evaluator: PackedEvaluator) -> None:
    described = json.loads(json.dumps(evaluator.describe(), allow_nan=False))
    assert described["default"] == "n4096"
    assert described["presets"]["n4096"]["prime_bits"] == [60]


def changed(header: Header, **changes: Any) -> Header:
    parameters = {**header.parameters, **changes.pop("parameters", {})}
    return header.model_copy(update={"parameters": parameters, **changes})


@pytest.mark.parametrize(
    ("changes", "error", "reason"),
    [
        ({"parameters": {"preset": "n1024"}}, CiphertextError, "no preset"),
        (
            {"parameters": {"preset": "n4096"}},
            CiphertextError,
            "degree, input_dropped_bits, primes, scale_bits",
        ),
        ({"parameters": {"degree": 4096}}, CiphertextError, "degree"),
        ({"parameters": {"primes": (PRESET.prime - 4096,)}}, CiphertextError, "primes"),
        ({"parameters": {"primes": (PRESET.prime, 97)}}, CiphertextError, "primes"),
        ({"parameters": {"scale_bits": 30}}, CiphertextError, "scale_bits"),
        ({"parameters": {"input_dropped_bits": 0}}, CiphertextError, "input_dropped_bits"),
        ({"parameters": {"input_bound": 0.0}}, CiphertextError, "input bound"),
        ({"parameters": {"input_bound": float("nan")}}, CiphertextError, "input bound"),
        ({"parameters": {"input_bound": -1.0}}, CiphertextError, "input bound"),
        ({"parameters": {"input_bound": 1e300}}, CiphertextError, "input bound"),
        ({"parameters": {"input_bound": 2.0}}, CiphertextError, "scale_bits"),
        ({"parameters": {"surprise": 1}}, CiphertextError, "surprise"),
        ({"parameters": {"weight_bits": 1}}, CiphertextError, "weight_bits"),
        ({"parameters": {"active": "zz"}}, CiphertextError, "hexadecimal"),
        ({"parameters": {"active": "ff"}}, CiphertextError, "active features"),
        ({"parameters": {"active": "ffff"}}, CiphertextError, "active features"),
        ({"parameters": {"active": 5}}, CiphertextError, "hexadecimal|active features"),
        ({"parameters": {"active": "ff01"}}, MalformedRequest, "9 features of 1025 rows make 10"),
        ({"rows": 2049}, CiphertextError, "2049 rows"),
        ({"rows": ALONE - 1}, MalformedRequest, "make 6 frames, the container has 11"),
        ({"features": 9, "frames": 10}, FeatureCountError, "9 features, the model takes 10"),
        ({"features": 10**9}, FeatureCountError, "takes 10"),
        ({"frames": 10}, MalformedRequest, "11 frames"),
        ({"frames": 12}, MalformedRequest, "11 frames"),
    ],
)
def test_headers_that_do_not_fit_are_refused(
    key: PackedKey,
    evaluator: PackedEvaluator,
    changes: dict[str, Any],
    error: type[Exception],
    reason: str,
) -> None:
    header, _ = request(key, random_rows(ALONE))
    with pytest.raises(error, match=reason):
        evaluator.begin(changed(header, **changes))


@pytest.mark.parametrize(
    "damage",
    [
        lambda payload: b"",
        lambda payload: payload[:64],
        lambda payload: payload[:-1],
        lambda payload: payload + b"\x00",
        lambda payload: payload + payload,
        lambda payload: payload[:-7] + b"\xff" * 7,
        lambda payload: b"\x5e\xa1" * 100,
    ],
)
@pytest.mark.parametrize("at", [0, 1, FEATURES])
def test_frames_that_are_no_ciphertexts_are_refused(
    key: PackedKey, evaluator: PackedEvaluator, damage: Callable[[bytes], bytes], at: int
) -> None:
    header, payloads = request(key, random_rows(ALONE))
    evaluation = evaluator.begin(header)
    for payload in payloads[:at]:
        evaluation.add(payload)
    with pytest.raises(CiphertextError):
        evaluation.add(damage(payloads[at]))


@pytest.mark.parametrize(("at", "features"), [(1, 5), (1, 7), (2, 3), (2, 6)])
def test_a_shared_ciphertext_of_another_size_is_refused(
    key: PackedKey, evaluator: PackedEvaluator, at: int, features: int
) -> None:
    """Ten features of 300 rows are six in one and four in another, and nothing makes up for it."""
    header, payloads = request(key, random_rows(300))
    evaluation = evaluator.begin(header)
    for payload in payloads[:at]:
        evaluation.add(payload)
    with pytest.raises(CiphertextError, match="bytes"):
        evaluation.add((payloads[1] * 2)[: 64 + 6 * 300 * features])
    for payload in payloads[at + 1 :]:
        with suppress(CiphertextError):
            evaluation.add(payload)
    with pytest.raises(MalformedRequest, match="of 2 ciphertexts came"):
        evaluation.finish()


@pytest.mark.parametrize("count", [1, 31, 100, 700, ALONE])
def test_sums_are_those_of_polynomials(key: PackedKey, count: int) -> None:
    """To the last bit: of each feature's factor times its ciphertext times the power of X that
    brings its rows to coefficient 0, where X^N is -1."""
    rng = np.random.default_rng(8)
    model = LinearModel(rng.normal(0, 1, (2, 40)), np.zeros(2))
    header, payloads = request(key, rng.uniform(-1, 1, (count, 40)))
    evaluation = PackedEvaluator(model).begin(header)
    for payload in payloads:
        evaluation.add(payload)
    expected = np.zeros((2, count + PRESET.ring.degree), dtype=object)
    together = min(PRESET.ring.degree // count, 40)
    for number, payload in enumerate(payloads[1:]):
        group = range(40)[number * together :][:together]
        seed, first = packed.read_features(PRESET, payload, len(group) * count)
        second = evaluation._expand(seed).astype(object)
        for at, feature in enumerate(group):
            start = at * count
            moved = [*first[start:][:count].astype(object), *second[start:], *-second[:start]]
            factors = evaluation._plan.weights[:, feature].astype(object)
            expected += np.outer(factors, np.array(moved, dtype=object))
    assert (evaluation._sums.total() == expected % PRESET.prime).all()


@pytest.mark.parametrize("count", [0, 1, FEATURES])
def test_missing_frames_make_no_response(
    key: PackedKey, evaluator: PackedEvaluator, count: int
) -> None:
    header, payloads = request(key, random_rows(ALONE))
    evaluation = evaluator.begin(header)
    for payload in payloads[:count]:
        evaluation.add(payload)
    with pytest.raises(MalformedRequest):
        evaluation.finish()


def test_a_frame_too_many_is_refused(key: PackedKey, evaluator: PackedEvaluator) -> None:
    header, payloads = request(key, random_rows(ALONE))
    evaluation = evaluator.begin(header)
    for payload in payloads:
        evaluation.add(payload)
    with pytest.raises(MalformedRequest):
        evaluation.add(payloads[-1])


def test_a_key_is_of_use_where_any_preset_that_it_serves_is_offered() -> None:
    """Of so many weights, `compact` would need more digits than there may be."""
    wide = PackedEvaluator(LinearModel(np.full((1, 2**19), 0.7), np.zeros(1)))
    assert set(wide.describe()["presets"]) == {"n4096", "n8192", "n2048"}
    for preset in ("n4096", "compact"):
        wide.check_keys(SCHEME.generate(preset).evaluation_keys())


def test_digits_count_towards_the_size_of_a_response(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = np.random.default_rng(0).normal(size=(3, 50))
    evaluator = PackedEvaluator(LinearModel(weights, np.zeros(3)))
    header, _ = request(SCHEME.generate("compact"), np.zeros((7, 50)))
    size = (4096 + 7) * 5 * 3 * 2
    monkeypatch.setattr("score.schemes.packed.MAX_RESPONSE_BYTES", size)
    evaluator.begin(header)
    monkeypatch.setattr("score.schemes.packed.MAX_RESPONSE_BYTES", size - 1)
    with pytest.raises(BodyTooLarge):
        evaluator.begin(header)


def test_keys_of_others_are_refused(key: PackedKey, evaluator: PackedEvaluator) -> None:
    evaluator.check_keys(key.evaluation_keys())
    with pytest.raises(EvaluationKeysError):
        evaluator.check_keys(b'{"scheme": "direct"}')


def test_an_input_bound_that_would_lose_precision_is_refused(key: PackedKey) -> None:
    """An intercept that is huge beside all that inputs can add takes the bits of the weights."""
    evaluator = PackedEvaluator(LinearModel(np.ones((1, 3)), np.array([1e7])))
    assert evaluator.describe()["presets"][PRESET.name]["error_bound"] is None
    header, _ = request(key, np.zeros((1, 3)))
    with pytest.raises(CiphertextError, match="could be off by"):
        evaluator.begin(header)
    header, payloads = request(key, np.full((1, 3), 1e6), bound=1e7)
    scores = key.decrypt(answer(evaluator, header, payloads), rows=1)
    plan = make_plan(np.ones((1, 3)), np.array([1e7]), preset=PRESET, input_bound=1e7)
    assert abs(scores[0, 0] - 1.3e7) <= plan.error_bound < 200


@pytest.mark.parametrize("weight", [1e-300, 1e300])
def test_weights_beyond_scaling_are_refused(weight: float) -> None:
    with pytest.raises(ModelError, match="scale"):
        PackedEvaluator(LinearModel(np.full((1, 20), weight), np.zeros(1)))


def test_results_do_not_tell_a_carrier_the_weights(
    key: PackedKey, evaluator: PackedEvaluator
) -> None:
    """Unmasked, the second polynomial would be the weights times what the seeds give to everyone.

    Then all of its coefficients would follow from the request; masked, none does, and no two
    answers to one request are alike.
    """
    header, payloads = request(key, random_rows(2))
    evaluation = evaluator.begin(header)
    for payload in payloads:
        evaluation.add(payload)
    unmasked = evaluation._sums.total()[:, header.rows :]
    dropped = np.uint64(PRESET.dropped_bits)
    answers = []
    for _ in range(2):
        _, results = evaluator_answer(evaluator, header, payloads)
        words = np.stack([bfv.unpack(bfv.ring(PRESET), result, what="x") for result in results])
        answers.append(words[:, header.rows :] >> dropped)
    assert (answers[0] == unmasked >> dropped).mean() < 0.01
    assert (answers[0] == answers[1]).mean() < 0.01
    difference = (answers[0].astype(np.int64) - answers[1].astype(np.int64)) / float(
        PRESET.prime >> PRESET.dropped_bits
    )
    assert 0.3 < np.abs(difference).mean() < 0.37  # of two uniform numbers: 1/3


def evaluator_answer(
    evaluator: PackedEvaluator, header: Header, payloads: Sequence[bytes]
) -> tuple[Header, list[bytes]]:
    body = answer(evaluator, header, payloads)
    return container.read(body, max_frame_bytes=(header.rows + PRESET.ring.degree) * 5)


@pytest.mark.parametrize(
    ("preset", "bound", "largest"), [("n4096", 1.1e-4, 1e-5), ("compact", 2.7e-4, 5e-5)]
)
def test_mnist_scores_as_in_the_clear(preset: str, bound: float, largest: float) -> None:
    images = DATA / "mnist" / "t10k-images-idx3-ubyte.gz"
    expected = DATA / "mnist_expected.npz"
    weights = DATA / "sklearn_mnist_model.pkl"
    if not (images.exists() and expected.exists() and weights.exists()):
        pytest.skip(f"needs the MNIST files in {DATA}")
    import joblib

    published = joblib.load(weights)
    model = LinearModel(published.coef_, published.intercept_)
    with gzip.open(images) as file:
        pixels = np.frombuffer(file.read(), dtype=np.uint8, offset=16)
    rows = pixels.reshape(-1, 784)[:4096] / 255.0
    scores_in_clear = np.load(expected)["scores"][:4096]
    key, evaluator = SCHEME.generate(preset), PackedEvaluator(model)
    scores = key.decrypt(answer(evaluator, *request(key, rows)), rows=4096)
    error = float(np.abs(scores - scores_in_clear).max())
    assert error <= bound_of(evaluator, preset) < bound
    assert error < largest
    assert np.array_equal(scores.argmax(axis=1), scores_in_clear.argmax(axis=1))


def test_plans_of_many_bounds_take_no_more_memory_than_they_may(
    evaluator: PackedEvaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests choose the bound, and a plan of a small model is mostly Python's own overhead."""
    limit = 500_000
    monkeypatch.setattr(evaluator, "_plans", ByteLru(limit))
    tracemalloc.start()
    try:
        for step in range(2000):
            evaluator._plan(PRESET, 1.0 + step / 2000)
        assert tracemalloc.get_traced_memory()[0] < limit
    finally:
        tracemalloc.stop()


def test_a_senders_own_names_are_not_repeated_at_length(
    key: PackedKey, evaluator: PackedEvaluator
) -> None:
    header, _ = request(key, random_rows(1))
    parameters = {**header.parameters, "n" * 100_000: 1, "degree": 5}
    with pytest.raises(CiphertextError, match=r"degree, n+$") as caught:
        evaluator.begin(header.model_copy(update={"parameters": parameters}))
    assert len(str(caught.value)) < 300
