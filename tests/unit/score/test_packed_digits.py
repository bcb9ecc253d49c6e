"""Weights in digits are the weights, none of them takes more room than there is, or wastes much."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from score.schemes.packed_digits import Room, finest, split
from score.schemes.packed_plan import make_plan, result_noise
from shared import packed
from shared.errors import ModelError
from shared.params import PACKED_PRESETS

ROOM = Room(reach=2.0**40, limit=2.0**59, scale_bits=40)
COMPACT = PACKED_PRESETS["compact"]


@given(
    st.lists(st.floats(-(2.0**200), 2.0**200), min_size=1, max_size=20),
    st.integers(1, 5),
    st.integers(1, 40),
)
@settings(deadline=None)
def test_digits_are_whole_numbers_that_make_up_the_number(
    values: list[float], count: int, bits: int
) -> None:
    numbers = np.rint(np.array(values))
    digits = split(numbers, count, bits)
    assert np.abs(digits[:-1]).max(initial=0) <= 2.0 ** (bits - 1)
    for number, column in zip(numbers.tolist(), digits.T.tolist(), strict=True):
        assert all(digit.is_integer() for digit in column)
        assert sum(int(digit) << bits * place for place, digit in enumerate(column)) == int(number)


@given(
    st.integers(0, 2**32),
    st.integers(1, 3),
    st.integers(1, 3000),
    st.sampled_from([0.0, 1.0, 9.0]),
    st.sampled_from([0.0, 1.0, 1e5]),
)
@settings(deadline=None, max_examples=50)
def test_every_digit_fits_and_the_highest_fills_the_room(
    seed: int, classes: int, features: int, spread: float, constant: float
) -> None:
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(classes, features)) * 10.0 ** rng.uniform(
        -spread, 0, (classes, features)
    )
    intercept = rng.normal(size=classes) * constant
    for count in (1, 2, 3, 4):
        found = finest(weights, intercept, ROOM, count)
        assert found is not None
        assert found.weights.shape == (count, classes, features)
        taken = np.abs(found.weights).sum(axis=2) * ROOM.reach + np.abs(found.intercept)
        assert taken.max() < ROOM.limit
        assert taken[-1].max() > ROOM.limit / 5
        whole = np.tensordot(found.places, found.weights, 1)
        assert (whole == np.rint(np.ldexp(weights, found.weight_bits))).all()
        constants = found.places @ found.intercept
        assert (constants == np.rint(np.ldexp(intercept, 40 + found.weight_bits))).all()


def test_digits_are_not_all_taken_for_the_largest_they_may_be() -> None:
    """Of 700 weights they could sum to more than 2^19 with 11 bits, and don't: they are random."""
    weights = np.random.default_rng(0).normal(size=(10, 700))
    found = finest(weights, np.zeros(10), ROOM, 2)
    assert found is not None
    assert found.digit_bits == 11
    assert np.abs(found.weights[0]).max() * 700 > 2**19


def test_digits_that_are_all_the_largest_fit_as_well() -> None:
    """After the first, which alone is in the highest digit, all weights are half of a base."""
    for bits in (9, 10, 11, 12):
        weights = np.full((1, 700), 0.5 - 2.0**-bits)
        weights[0, 0] = 2.0**18
        found = finest(weights, np.zeros(1), ROOM, 2)
        assert found is not None
        assert (np.abs(found.weights).sum(axis=2) * ROOM.reach).max() < ROOM.limit


def test_zero_weights_take_one_digit() -> None:
    plan = make_plan(np.zeros((2, 5)), np.zeros(2), preset=COMPACT, input_bound=1.0)
    assert (plan.digits, plan.weights.shape) == (1, (2, 5))


@pytest.mark.parametrize(
    ("preset", "features", "digits"),
    [("n4096", 800, 1), ("n4096", 10_000, 2), ("compact", 64, 2), ("compact", 10_000, 3)],
)
def test_more_digits_are_taken_only_where_fewer_are_coarse(
    preset: str, features: int, digits: int
) -> None:
    weights = np.random.default_rng(0).normal(size=(3, features))
    plan = make_plan(weights, np.zeros(3), preset=PACKED_PRESETS[preset], input_bound=1.0)
    assert plan.digits == digits
    assert len(plan.weights) == len(plan.intercept) == 3 * digits
    assert plan.error_bound < 2.0**-18 * plan.spread


@pytest.mark.parametrize(("preset", "features"), [("compact", 5000), ("n8192", 10_000)])
def test_the_error_bound_counts_every_digit(preset: str, features: int) -> None:
    rng = np.random.default_rng(1)
    weights, intercept = rng.normal(size=(2, features)), rng.normal(size=2)
    chosen = PACKED_PRESETS[preset]
    plan = make_plan(weights, intercept, preset=chosen, input_bound=0.7)
    assert plan.digits > 1
    unit = 2.0 ** -(plan.scale_bits + plan.weight_bits)
    errors = []
    for k in range(2):
        own = slice(k * plan.digits, (k + 1) * plan.digits)
        digits, constants = plan.weights[own].astype(object), plan.intercept[own].astype(object)
        places = [2 ** (plan.digit_bits * place) for place in range(plan.digits)]
        whole = sum(place * digit for place, digit in zip(places, digits, strict=True))
        rounded = np.abs(weights[k] - whole.astype(float) * 2.0**-plan.weight_bits).sum() * 0.7
        constant = sum(place * int(c) for place, c in zip(places, constants, strict=True))
        noise = sum(
            place * (int(np.abs(digit).sum()) * (0.5 + packed.input_noise(chosen)) + results)
            for place, digit in zip(places, digits, strict=True)
            for results in [result_noise(chosen)]
        )
        errors.append(rounded + abs(intercept[k] - constant * unit) + noise * unit)
    assert plan.error_bound == pytest.approx(max(errors), rel=1e-6)


def test_digits_that_would_add_much_noise_are_refused() -> None:
    """Where most weights are a one above lower digits that are all negative."""
    weights = np.full((2, 200_000), 0.7512)
    with pytest.raises(ModelError, match="200000 features are too many for preset compact"):
        make_plan(weights, np.zeros(2), preset=COMPACT, input_bound=1.0)
    plan = make_plan(weights, np.zeros(2), preset=PACKED_PRESETS["n4096"], input_bound=1.0)
    assert plan.error_bound < 1e-7 * plan.spread


def test_a_model_with_too_many_features_for_any_precision_is_refused() -> None:
    weights = np.full((1, 2**19), 1.0)
    weights[0, ::2] = 0.3
    with pytest.raises(ModelError, match="could be off by"):
        make_plan(weights, np.zeros(1), preset=COMPACT, input_bound=1.0)


def test_no_plan_has_parameters_that_responses_may_not_have() -> None:
    """The smallest and the largest of everything."""
    for preset in PACKED_PRESETS.values():
        for weight in (2.0**-400, 2.0**400):
            for input_bound in (packed.MIN_INPUT_BOUND, 1.0, packed.MAX_INPUT_BOUND):
                weights = np.array([[weight, weight / 3]])
                try:
                    plan = make_plan(weights, np.zeros(1), preset=preset, input_bound=input_bound)
                except ModelError:
                    continue
                assert abs(plan.weight_bits) <= packed.MAX_WEIGHT_BITS
                assert plan.digits <= packed.MAX_WEIGHT_DIGITS
                assert plan.digit_bits * (plan.digits - 1) <= packed.MAX_DIGITS_BITS
