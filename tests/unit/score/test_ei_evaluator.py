"""Our evaluator answers the SDK's unmodified client as the SDK's own server does."""

from __future__ import annotations

import tracemalloc
import warnings
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from score.schemes import LoadedKeys
from score.schemes.ei.arithmetic import Arithmetic
from score.schemes.ei.evaluator import GROUP_BYTES, SealEiEvaluator, max_score
from score.schemes.ei.plan import Operations
from score.schemes.ei.sdk import SdkEvaluator
from shared import ei
from shared.errors import CiphertextError, EvaluationKeysError, FeatureCountError, ModelError
from shared.linear import LinearModel
from shared.seal import COMPRESSION_ZLIB, HEADER, SealHeader
from tests.sdk_client import SdkClient, sdk_client

DATA = Path(__file__).parents[3] / ".." / "shared" / "data"
ERROR = 1e-5


class CountingArithmetic(Arithmetic):
    """SEAL's operations, counted."""

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        self.count = Operations()

    def multiply(self, ciphertext: Any, plain: Any) -> Any:
        self.count.products[ciphertext.coeff_modulus_size()] += 1
        return super().multiply(ciphertext, plain)

    def rotate(self, ciphertext: Any, steps: int, keys: Any) -> Any:
        self.count.rotations[ciphertext.coeff_modulus_size()] += 1
        return super().rotate(ciphertext, steps, keys)

    def rescale(self, ciphertext: Any, *, scale: float) -> None:
        self.count.rescales[ciphertext.coeff_modulus_size()] += 1
        super().rescale(ciphertext, scale=scale)


def model(classes: int, features: int) -> LinearModel:
    rng = np.random.default_rng(classes * 10_000 + features)
    return LinearModel(rng.normal(size=(classes, features)), rng.normal(size=classes) * 5)


def data(rows: int, features: int) -> np.ndarray:
    return np.random.default_rng(features).uniform(-1, 1, size=(rows, features))


@pytest.fixture(scope="module")
def small() -> SealEiEvaluator:
    return SealEiEvaluator(model(3, 30))


@pytest.fixture(scope="module")
def keys(small: SealEiEvaluator) -> LoadedKeys:
    return small.load_keys(sdk_client().keys)


@pytest.fixture(scope="module")
def row() -> list[bytes]:
    return sdk_client().encrypt(data(1, 30))[0]


def scores(evaluator: SealEiEvaluator, rows: np.ndarray) -> np.ndarray:
    loaded = evaluator.load_keys(sdk_client().keys)
    return sdk_client().decrypt(evaluator.evaluate(sdk_client().encrypt(rows), loaded))


@pytest.fixture(scope="module")
def published() -> LinearModel:
    if not DATA.exists():
        pytest.skip("the published model is not beside the checkout")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = joblib.load(DATA / "sklearn_mnist_model.pkl")
    return LinearModel(fitted.coef_, fitted.intercept_)


@pytest.mark.parametrize("count", [1, 9])
def test_the_published_model_on_mnist(published: LinearModel, count: int) -> None:
    """Nine rows take groups of several plans."""
    with np.load(DATA / "mnist_expected.npz") as expected:
        wanted = expected["scores"][:count]
    pixels = np.frombuffer(
        zlib.decompress(
            (DATA / "mnist" / "t10k-images-idx3-ubyte.gz").read_bytes(), zlib.MAX_WBITS | 16
        ),
        dtype=np.uint8,
        offset=16,
    )
    rows = pixels.reshape(-1, 784)[:count] / 255
    evaluator = SealEiEvaluator(published)
    found = scores(evaluator, rows)
    assert np.abs(found - wanted).max() < ERROR
    np.testing.assert_array_equal(found.argmax(axis=1), wanted.argmax(axis=1))


def test_the_sdks_server_scores_the_same() -> None:
    """On the same ciphertexts; its own error is the larger."""
    rows = sdk_client().encrypt(data(1, 30))
    ours, theirs = SealEiEvaluator(model(2, 30)), SdkEvaluator(model(2, 30))
    blob = sdk_client().keys
    found = sdk_client().decrypt(ours.evaluate(rows, ours.load_keys(blob)))
    wanted = sdk_client().decrypt(theirs.evaluate(rows, theirs.load_keys(blob)))
    assert np.abs(found - wanted).max() < ERROR


@pytest.mark.parametrize(
    ("classes", "features", "count"), [(10, 784, 1), (10, 784, 8), (3, 30, 2), (2, 5000, 1)]
)
def test_a_plan_costs_what_it_says(classes: int, features: int, count: int) -> None:
    evaluator = SealEiEvaluator(model(classes, features), arithmetic=CountingArithmetic)
    counting = evaluator._do
    assert isinstance(counting, CountingArithmetic)
    rows = [sdk_client().encrypt(data(1, features))[0]] * count
    evaluator.evaluate(rows, evaluator.load_keys(sdk_client().keys))
    total = Operations()
    for plan in evaluator._grouping.groups(count):
        planned = plan.operations()
        total.rotations.update(planned.rotations)
        total.products.update(planned.products)
        total.rescales.update(planned.rescales)
    assert counting.count.cost() == pytest.approx(total.cost())
    for found, wanted in zip(_counters(counting.count), _counters(total), strict=True):
        assert found == +wanted


def _counters(operations: Operations) -> tuple[Counter[int], ...]:
    return operations.rotations, operations.products, operations.rescales


def test_scores_too_large_for_one_prime_go_out_under_two() -> None:
    """To within the noise that the client encrypted with: 2^-32 of a weight."""
    large = LinearModel(model(2, 20).weights * 1e6, model(2, 20).intercept)
    evaluator = SealEiEvaluator(large)
    assert evaluator.describe()["result_primes"] == 2
    rows = data(3, 20) * 100
    wanted = large.scores(rows)
    assert np.abs(wanted).max() > max_score(1)
    found = scores(evaluator, rows)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=0.02)


def test_large_weights_do_not_magnify_the_noise_of_rotating_the_input() -> None:
    """Which is 7e-7 in slot 0 for each rotation, were the input not multiplied beforehand."""
    heavy = LinearModel(np.array([[300.0, -200.0], [0.0, 500.0]]), np.zeros(2))
    evaluator = SealEiEvaluator(heavy)
    assert evaluator.describe()["result_primes"] == 1
    rows = data(6, 2)
    assert np.abs(scores(evaluator, rows) - heavy.scores(rows)).max() < ERROR


def test_scores_that_nothing_holds_are_refused() -> None:
    with pytest.raises(ModelError, match="scale the model's weights down"):
        SealEiEvaluator(LinearModel(np.full((1, 4), 1e20), np.zeros(1)))


def test_a_model_of_zeros_scores_its_intercepts() -> None:
    constant = LinearModel(np.zeros((3, 10)), np.array([1.0, -2.0, 0.0]))
    found = scores(SealEiEvaluator(constant), data(2, 10))
    np.testing.assert_allclose(found, [constant.intercept] * 2, atol=ERROR)


def test_a_result_is_at_most_six_tenths_of_the_sdks(
    small: SealEiEvaluator, keys: LoadedKeys, row: list[bytes]
) -> None:
    ((result, *_),) = small.evaluate([row], keys)
    assert len(result) == ei.object_bytes(1, seeded=False) == 131_177
    assert len(result) < 0.6 * 230_000  # two primes of 60 and 40 bits, zlib-compressed


def test_no_rows_no_scores(small: SealEiEvaluator, keys: LoadedKeys) -> None:
    assert small.evaluate([], keys) == []


def test_plans_for_groups_are_encoded_when_first_used_and_bounded(
    keys: LoadedKeys, row: list[bytes]
) -> None:
    evaluator = SealEiEvaluator(model(3, 30))
    assert len(evaluator._circuits) == 1
    evaluator.evaluate([row] * 13, keys)
    assert len(evaluator._circuits) > 1
    assert all(plan.nbytes <= GROUP_BYTES for plan in evaluator._circuits)


@pytest.mark.parametrize("count", [0, 2])
def test_the_wrong_number_of_ciphertexts(
    small: SealEiEvaluator, keys: LoadedKeys, row: list[bytes], count: int
) -> None:
    with pytest.raises(FeatureCountError, match=f"row 1 has {count} ciphertexts; 30 features"):
        small.evaluate([row, row * count], keys)


def test_keys_of_another_evaluator(small: SealEiEvaluator, row: list[bytes]) -> None:
    theirs = SdkEvaluator(model(3, 30)).load_keys(sdk_client().keys)
    with pytest.raises(EvaluationKeysError, match="another evaluator"):
        small.evaluate([row], theirs)


def test_keys_of_another_client_give_what_it_cannot_read(
    small: SealEiEvaluator, keys: LoadedKeys
) -> None:
    stranger = SdkClient()
    rows = data(1, 30)
    results = small.evaluate(stranger.encrypt(rows), keys)
    wanted = model(3, 30).scores(rows)
    for reader in (stranger, sdk_client()):
        assert np.abs(reader.decrypt(results) - wanted).min() > 1


def bomb() -> bytes:
    squeezed = zlib.compress(b"\0" * 100_000_000)
    size = HEADER.size + len(squeezed)
    return SealHeader(3, 5, COMPRESSION_ZLIB, size).pack() + squeezed


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: b"", id="empty"),
        pytest.param(lambda data: b"not a ciphertext at all", id="text"),
        pytest.param(lambda data: data[:-1], id="last byte missing"),
        pytest.param(lambda data: data + b"\0", id="a byte too many"),
        pytest.param(lambda data: data[:3] + b"\4\1" + data[5:], id="SEAL 4"),
        pytest.param(lambda data: bomb(), id="bomb"),
        pytest.param(lambda data: sdk_result(), id="a result, not an input"),
    ],
)
def test_damaged_ciphertexts_are_refused_in_bounded_memory(
    small: SealEiEvaluator, keys: LoadedKeys, row: list[bytes], damage: Any
) -> None:
    hostile = damage(row[0])
    tracemalloc.start()
    try:
        with pytest.raises(CiphertextError, match="ciphertext 0 of row 1"):
            small.evaluate([row, [hostile]], keys)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10 * ei.MAX_INPUT_BYTES


def sdk_result() -> bytes:
    evaluator = SealEiEvaluator(model(1, 2))
    loaded = evaluator.load_keys(sdk_client().keys)
    ((result,),) = evaluator.evaluate(sdk_client().encrypt(data(1, 2)), loaded)
    return result


@given(
    offset=st.one_of(st.integers(0, 200), st.integers(0, 196_000)),
    flip=st.integers(1, 255),
    cut=st.one_of(st.none(), st.integers(0, 196_000)),
)
@settings(max_examples=40, deadline=None)
def test_flipped_and_cut_ciphertexts_are_refused_or_scored(
    small: SealEiEvaluator,
    keys: LoadedKeys,
    row: list[bytes],
    *,
    offset: int,
    flip: int,
    cut: int | None,
) -> None:
    """Uncompressed, so that each may hit a header, a count, a residue or the seed."""
    damaged = bytearray(ei.check_input(row[0], what="it").data)
    damaged[offset] ^= flip
    try:
        ((*results,),) = small.evaluate([[bytes(damaged[:cut])]], keys)
    except CiphertextError:
        return
    assert cut is None
    assert [len(result) for result in results] == [131_177] * 3


def test_describe(small: SealEiEvaluator) -> None:
    described = small.describe()
    assert described["evaluator"] == "seal"
    assert described["slots"] == 4096
    assert described["ciphertexts_per_row"] == 1
    assert described["result_primes"] == 1
    assert described["prime_bits"] == [60, 40, 40, 60]
