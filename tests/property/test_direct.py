"""The `direct` scheme over random models: no collision, no overflow, errors as bounded."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from producer.schemes import Encoding
from producer.schemes.direct import SCHEME, DirectKey, quantise_rows
from score.schemes.direct import DirectEvaluator
from shared import direct_scale
from shared.direct import Integers, Layout
from shared.direct_scale import Quantised
from shared.errors import ModelError
from shared.linear import LinearModel
from shared.params import DIRECT_PRESETS, DirectPreset
from tests.direct_products import request, whole_products
from tests.scoring import respond

PRESETS = list(DIRECT_PRESETS.values())
KINDS = ("normal", "heavy", "sparse", "equal", "signs")


def random_model(kind: str, *, classes: int, features: int, size: float, seed: int) -> LinearModel:
    rng = np.random.default_rng(seed)
    shape = (classes, features)
    weights = rng.normal(size=shape)
    if kind == "heavy":
        weights = weights / np.abs(rng.normal(size=shape))
    elif kind == "sparse":
        weights *= rng.random(shape) < 0.05
    elif kind == "equal":
        weights[:] = weights[0, 0]
    elif kind == "signs":
        weights = np.sign(weights)
    weights *= size * rng.uniform(0.1, 1, size=(classes, 1))
    return LinearModel(weights, rng.normal(size=classes) * np.abs(weights).sum(axis=1).max())


def quantised(model: LinearModel, preset: DirectPreset, input_bound: float) -> Quantised:
    return direct_scale.quantise(
        model.weights, model.intercept, preset=preset, input_bound=input_bound
    )


def negacyclic(a: Integers, b: Integers) -> list[int]:
    """a·b modulo X^N + 1, in Python's integers."""
    full = np.convolve(a.astype(object), b.astype(object))
    low, high = full[: len(a)], full[len(a) :]
    return [int(x) - int(y) for x, y in zip(low, [*high, 0], strict=True)]


@given(
    degree=st.sampled_from([8, 16, 32]),
    features=st.integers(1, 70),
    rows=st.integers(1, 40),
    classes=st.integers(1, 12),
    seed=st.integers(0, 2**32 - 1),
)
@example(degree=16, features=16, rows=3, classes=2, seed=0)
@example(degree=16, features=17, rows=3, classes=2, seed=0)
@example(degree=16, features=5, rows=7, classes=4, seed=0)
@example(degree=8, features=1, rows=20, classes=9, seed=0)
@settings(deadline=None, max_examples=60)
def test_the_wanted_coefficients_of_products_are_the_scores(
    *, degree: int, features: int, rows: int, classes: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x = rng.integers(-9, 10, size=(rows, features))
    w = rng.integers(-9, 10, size=(classes, features))
    layout = Layout(degree, features)
    scores = np.zeros((rows, classes), dtype=np.int64)
    first = 0
    groups = layout.groups(rows)
    assert len(groups) == layout.group_count(rows)
    for group in groups:
        parts = layout.row_polynomials(x[first : first + group])
        products = list(layout.classes_of(group, classes))
        assert len(products) == layout.products(group, classes)
        for which in products:
            weights = layout.weight_polynomials(w[which])
            sums = np.sum([negacyclic(*pair) for pair in zip(parts, weights, strict=True)], axis=0)
            wanted = layout.wanted(group, which.stop - which.start)
            scores[first : first + group, which] = sums[wanted]
        first += group
    assert np.array_equal(scores, x @ w.T)


@given(
    preset=st.sampled_from(PRESETS),
    kind=st.sampled_from(KINDS),
    classes=st.integers(1, 12),
    features=st.integers(1, 3000),
    size=st.sampled_from([1e-12, 1e-3, 1.0, 1e9]),
    input_bound=st.sampled_from([1e-6, 0.3, 1.0, 255.0, 1e12]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(deadline=None, max_examples=150)
def test_no_row_within_its_bound_can_overflow_or_exceed_the_error_bound(
    *,
    preset: DirectPreset,
    kind: str,
    classes: int,
    features: int,
    size: float,
    input_bound: float,
    seed: int,
) -> None:
    model = random_model(kind, classes=classes, features=features, size=size, seed=seed)
    try:
        integers = quantised(model, preset, input_bound)
    except ModelError:
        assume(False)
    rng = np.random.default_rng(seed)
    levels = direct_scale.levels(preset, features)
    worst = np.sign(integers.weights) * levels  # each class's largest score, and its smallest
    rows = np.concatenate([worst, -worst, rng.integers(-levels, levels + 1, size=(3, features))])
    scores = rows @ integers.weights.T + integers.intercept
    assert np.abs(scores).max() < 2 ** (preset.plain_bits - 1)

    true = model.scores(rows * (input_bound / levels))
    slack = 1e-12 * np.abs(true).max()  # of floating point, in the comparison
    assert np.abs(scores / integers.scale - true).max() <= integers.error_bound + slack
    assert integers.error_bound <= 2**-12 * np.abs(model.weights).sum(axis=1).max() * input_bound

    raw = rng.uniform(-input_bound, input_bound, size=(3, features))
    if levels >= 2**11:
        encoding = Encoding(container="runs", features=features, input_bound=input_bound)
        scores = quantise_rows(raw, encoding, preset) @ integers.weights.T + integers.intercept
        error = np.abs(scores / integers.scale - model.scores(raw)).max()
        assert error <= integers.error_bound + integers.input_error_bound + slack


@given(
    preset=st.sampled_from(PRESETS),
    kind=st.sampled_from(KINDS),
    classes=st.integers(1, 5),
    features=st.integers(1, 800),
    seed=st.integers(0, 2**32 - 1),
)
@settings(deadline=None, max_examples=60)
def test_the_scale_is_the_finest_power_of_two_that_fits(
    *, preset: DirectPreset, kind: str, classes: int, features: int, seed: int
) -> None:
    model = random_model(kind, classes=classes, features=features, size=1.0, seed=seed)
    try:
        integers = quantised(model, preset, 1.0)
    except ModelError:
        assume(False)
    assume(integers.weights.any())
    finer = np.rint(np.ldexp(model.weights, integers.weight_bits + 1))
    constants = np.abs(model.intercept) * 2 * integers.scale
    levels = direct_scale.levels(preset, features)
    reach = (levels * np.abs(finer).sum(axis=1) + constants).max()
    slots = Layout(preset.ring.degree, features).classes_per_product(1)
    noise = direct_scale.noise_bound(finer, preset=preset, classes_per_product=slots)
    overflows = reach >= 2 ** (preset.plain_bits - 1) - 1
    assert overflows or noise >= direct_scale.noise_limit(preset)


@pytest.fixture(scope="module")
def keys() -> dict[str, DirectKey]:
    return {preset.name: SCHEME.generate(preset.name) for preset in PRESETS}


@given(
    name=st.sampled_from(sorted(DIRECT_PRESETS)),
    kind=st.sampled_from(KINDS),
    classes=st.integers(1, 12),
    features=st.integers(1, 900),
    rows=st.integers(1, 6),
    input_bound=st.sampled_from([0.01, 1.0, 255.0]),
    seed=st.integers(0, 2**32 - 1),
)
@example(name="precision", kind="normal", classes=3, features=9000, rows=2, input_bound=1.0, seed=0)
@example(name="speed", kind="signs", classes=1, features=1, rows=5000, input_bound=1.0, seed=0)
@example(name="speed", kind="normal", classes=5, features=784, rows=6, input_bound=1.0, seed=1)
@settings(deadline=None, max_examples=25)
def test_decrypted_scores_are_within_the_error_bound(
    keys: dict[str, DirectKey],
    *,
    name: str,
    kind: str,
    classes: int,
    features: int,
    rows: int,
    input_bound: float,
    seed: int,
) -> None:
    model = random_model(kind, classes=classes, features=features, size=1.0, seed=seed)
    key = keys[name]
    try:
        integers = quantised(model, key.preset, input_bound)
        evaluator = DirectEvaluator(model)
    except ModelError:
        assume(False)
    levels = direct_scale.levels(key.preset, features)
    grid = np.random.default_rng(seed).integers(-levels, levels + 1, size=(rows, features))
    x = (grid * (input_bound / levels)).astype(np.float64)
    body = respond(evaluator, request(key, x, input_bound=input_bound))
    scores = key.decrypt(body, rows=rows)
    true = model.scores(x)
    assert scores.shape == (rows, classes)
    assert np.abs(scores - true).max() <= integers.error_bound + 1e-12 * np.abs(true).max()


@given(
    name=st.sampled_from(sorted(DIRECT_PRESETS)),
    kind=st.sampled_from(KINDS),
    classes=st.integers(1, 12),
    features=st.integers(1, 5000),
    seed=st.integers(0, 2**32 - 1),
)
@example(name="speed", kind="normal", classes=5, features=784, seed=0)
@example(name="precision", kind="normal", classes=5, features=784, seed=0)
@settings(deadline=None, max_examples=25)
def test_noise_measured_by_seal_is_below_the_bound(
    keys: dict[str, DirectKey], *, name: str, kind: str, classes: int, features: int, seed: int
) -> None:
    """SEAL measures the noise of all coefficients, so this takes whole products."""
    model = random_model(kind, classes=classes, features=features, size=1.0, seed=seed)
    key = keys[name]
    try:
        integers = quantised(model, key.preset, 1.0)
        evaluator = DirectEvaluator(model)
    except ModelError:
        assume(False)
    x = np.random.default_rng(seed).choice([-1.0, 0.0, 1.0], size=(1, features))
    for product in whole_products(key, evaluator, x):
        budget = key._decryptor.invariant_noise_budget(product)
        assert budget > 0
        assert 2.0 ** -(budget + 1) <= integers.noise < 1
