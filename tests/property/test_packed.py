"""No score of `packed` is ever further from the model's than the bound that was computed for it."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from producer.schemes import Encoding
from producer.schemes.packed import SCHEME, PackedKey
from score.schemes.packed import PackedEvaluator
from score.schemes.packed_plan import MAX_RELATIVE_ERROR, make_plan, result_noise
from shared import packed
from shared.container import Header
from shared.errors import ModelError
from shared.linear import LinearModel
from shared.params import PACKED_PRESETS, PackedPreset
from tests.scoring import respond

presets = st.sampled_from(sorted(PACKED_PRESETS.values(), key=lambda preset: preset.ring.degree))
bounds = st.floats(2.0**-100, 2.0**100, allow_subnormal=False)


@cache
def key_of(preset: str) -> PackedKey:
    return SCHEME.generate(preset)


@st.composite
def models(draw: st.DrawFn, *, input_bound: float) -> LinearModel:
    """Weights over many orders of magnitude, with zeros, and intercepts to match the inputs."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 40)))
    spread = draw(st.sampled_from([0.0, 1.0, 6.0]))
    unit = 10.0 ** draw(st.integers(-20, 20))
    weights = rng.normal(0, 1, shape) * 10.0 ** rng.uniform(-spread, 0, shape) * unit
    weights[rng.random(shape) < draw(st.sampled_from([0.0, 0.3]))] = 0
    intercept = rng.normal(0, draw(st.sampled_from([0.0, 1.0, 100.0])), shape[0])
    return LinearModel(weights, intercept * unit * input_bound)


def exact_scores(model: LinearModel, rows: np.ndarray) -> np.ndarray:
    """Scores rounded once, unlike those of a product of matrices."""
    return np.array(
        [
            [math.fsum([*(row * weights).tolist(), b]) for weights, b in zip(*pair, strict=True)]
            for row in rows
            for pair in [(model.weights, model.intercept.tolist())]
        ]
    )


@given(st.data(), presets, bounds)
@settings(deadline=None, max_examples=40)
def test_the_error_stays_within_its_bound(
    data: st.DataObject, preset: PackedPreset, input_bound: float
) -> None:
    model = data.draw(models(input_bound=input_bound))
    try:
        plan = make_plan(model.weights, model.intercept, preset=preset, input_bound=input_bound)
        evaluator = PackedEvaluator(model)
    except ModelError:
        assume(False)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    degree = preset.ring.degree
    count = data.draw(st.sampled_from([1, 2, 50, degree // 5, degree // 2, degree]))
    rows = rng.uniform(-1, 1, (count, model.features))
    rows[: count // 2] = np.sign(rows[: count // 2])  # where sums are largest
    rows[0] = np.sign(model.weights[0])
    rows *= input_bound
    key = key_of(preset.name)
    body = b"".join(key.encrypt(rows, Encoding("container", model.features, input_bound)))
    scores = key.decrypt(respond(evaluator, body), rows=count)
    checked = slice(0, 60)
    error = np.abs(scores[checked] - exact_scores(model, rows[checked])).max()
    assert error <= plan.error_bound
    if plan.spread:
        assert plan.error_bound <= MAX_RELATIVE_ERROR * plan.spread


@given(st.data(), presets, bounds)
@settings(deadline=None, max_examples=100)
def test_no_plan_can_overflow(
    data: st.DataObject, preset: PackedPreset, input_bound: float
) -> None:
    model = data.draw(models(input_bound=input_bound))
    try:
        plan = make_plan(model.weights, model.intercept, preset=preset, input_bound=input_bound)
    except ModelError:
        assume(False)
    largest = math.floor(math.ldexp(input_bound, plan.scale_bits) + 0.5)
    largest += math.ceil(packed.input_noise(preset))
    for weights, intercept in zip(plan.weights.tolist(), plan.intercept.tolist(), strict=True):
        reach = sum(abs(weight) for weight in weights) * largest + abs(intercept)
        assert 2 * (reach + math.ceil(result_noise(preset))) < preset.prime


@pytest.mark.parametrize("preset", PACKED_PRESETS.values(), ids=lambda preset: preset.name)
def test_a_plan_goes_to_the_limit_and_not_beyond(preset: PackedPreset) -> None:
    """One weight: the largest with which all that a result is off by still fits, and one more."""
    limit = preset.prime / 2 * (1 - 2.0**-40) - result_noise(preset)
    largest = math.floor(limit / (2.0**preset.data_bits + 0.5 + packed.input_noise(preset)))
    for weight, weight_bits in ((largest, 0), (largest + 1, -1)):
        plan = make_plan(np.array([[float(weight)]]), np.zeros(1), preset=preset, input_bound=1.0)
        assert plan.weight_bits == weight_bits


@given(presets, st.floats(packed.MIN_INPUT_BOUND, packed.MAX_INPUT_BOUND))
@settings(deadline=None)
def test_inputs_fill_their_bits(preset: PackedPreset, input_bound: float) -> None:
    largest = math.ldexp(input_bound, packed.scale_bits(preset, input_bound))
    assert 2.0 ** (preset.data_bits - 1) < largest <= 2.0**preset.data_bits


@given(st.integers(1, 300), st.data())
@settings(deadline=None)
def test_active_features_are_read_as_written(features: int, data: st.DataObject) -> None:
    active = sorted(data.draw(st.sets(st.integers(0, features - 1))))
    header = Header(
        scheme="packed",
        parameters={"active": packed.write_active(active, features)},
        rows=1,
        features=features,
        key_id="0" * 64,
        frames=1,
    )
    assert list(packed.read_active(header)) == active


@given(presets, st.integers(1, 50), st.integers(0, 2**32))
@settings(deadline=None)
def test_frames_are_read_as_written(preset: PackedPreset, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    words = rng.integers(0, preset.prime, count, dtype=np.uint64)
    words[0] = preset.prime - 1
    frame = packed.write_features(preset, rng.bytes(packed.SEED_BYTES), words)
    assert len(frame) == packed.SEED_BYTES + count * preset.input_bytes
    read_seed, read_words = packed.read_features(preset, frame, count)
    assert read_seed == frame[: packed.SEED_BYTES]
    half_step = 1 << (preset.input_dropped_bits - 1)
    assert np.abs((read_words - words).astype(np.int64)).max() <= half_step
    assert read_words.max() < preset.prime


@given(presets, st.integers(0, 2**32))
@settings(deadline=None, max_examples=20)
def test_the_encryption_of_zero_is_read_exactly_as_written(preset: PackedPreset, seed: int) -> None:
    rng = np.random.default_rng(seed)
    words = rng.integers(0, preset.prime, preset.ring.degree, dtype=np.uint64)
    words[0] = preset.prime - 1
    frame = packed.write_zero(preset, rng.bytes(packed.SEED_BYTES), words)
    assert len(frame) == packed.max_frame_bytes(preset)
    read_seed, read_words = packed.read_zero(preset, frame)
    assert (read_seed, read_words.tolist()) == (frame[: packed.SEED_BYTES], words.tolist())
