"""Plans are right, by plain arithmetic on slots; and the cheapest is chosen."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from score.schemes.ei.arithmetic import Arithmetic, Slots
from score.schemes.ei.circuit import Circuit
from score.schemes.ei.plan import Grouping, Operations, Plan, parent, plans
from shared.ei import ROTATIONS, SLOTS
from shared.linear import LinearModel

MANY = 2**40  # bytes


@dataclass
class Plain:
    """Slots in the clear."""

    slots: Slots

    def is_zero(self) -> bool:
        return not self.slots.any()


class PlainArithmetic(Arithmetic):
    """The same operations in the clear: what a circuit computes, apart from how."""

    def __init__(self) -> None:
        self.rotations: list[int] = []

    def encode(self, slots: Slots, *, level: int, scale: float) -> Plain:
        return Plain(slots.copy())

    def multiply(self, ciphertext: Plain, plain: Plain) -> Plain:
        return Plain(ciphertext.slots * plain.slots)

    def add(self, total: Plain, ciphertext: Plain) -> None:
        total.slots += ciphertext.slots

    def add_plain(self, total: Plain, plain: Plain) -> None:
        total.slots += plain.slots

    def rotate(self, ciphertext: Plain, steps: int, keys: Any) -> Plain:
        self.rotations.append(steps)
        return Plain(np.roll(ciphertext.slots, -steps))

    def rescale(self, ciphertext: Plain, *, scale: float) -> None:
        pass


def model(classes: int, features: int) -> LinearModel:
    rng = np.random.default_rng(classes * 10_000 + features)
    return LinearModel(rng.normal(size=(classes, features)), rng.normal(size=classes))


def encrypted(rows: np.ndarray) -> list[list[Plain]]:
    parts = -(-rows.shape[1] // SLOTS)
    padded = np.zeros((len(rows), parts * SLOTS), dtype=np.complex128)
    padded[:, : rows.shape[1]] = rows
    return [[Plain(part.copy()) for part in row.reshape(parts, SLOTS)] for row in padded]


def all_plans(classes: int, features: int, *, level: int = 1) -> tuple[Plan, ...]:
    return plans(classes, features, level=level, max_rows=16, max_bytes=MANY)


def check(plan: Plan) -> PlainArithmetic:
    """Run a plan in the clear: every slot of every result must be a score, the first its own."""
    arithmetic = PlainArithmetic()
    scorer = model(plan.classes, plan.features)
    rows = np.random.default_rng(plan.rows).uniform(-1, 1, size=(plan.rows, plan.features))
    scores = scorer.scores(rows)
    expected = np.zeros(plan.period, dtype=np.complex128)
    seen = []
    for output in range(plan.outputs):
        for value in plan.values(output):
            unit = 1j if value.imaginary else 1
            expected[output] += unit * value.factor * scores[value.row, value.label]
            seen.append((value.row, value.label))
    assert sorted(seen) == list(product(range(plan.rows), range(plan.classes)))
    results = list(Circuit(plan, scorer, arithmetic).run(encrypted(rows), None))
    assert len(results) == plan.outputs
    for output, result in enumerate(results):
        everywhere = np.tile(np.roll(expected, -output), SLOTS // plan.period)
        np.testing.assert_allclose(result.slots, everywhere, atol=1e-9)
    return arithmetic


@pytest.mark.parametrize(
    ("classes", "features"),
    [(1, 2), (2, 2), (3, 1), (10, 64), (10, 784), (17, 784), (1, 4096), (3, 4097), (5, 9000)],
)
def test_the_cheapest_plans_leave_scores_and_nothing_else_in_the_slots(
    classes: int, features: int
) -> None:
    for plan in all_plans(classes, features):
        assert set(check(plan).rotations) <= set(ROTATIONS)


@st.composite
def any_plan(draw: st.DrawFn) -> Plan:
    """Not only a cheapest one."""
    features = draw(st.integers(2, 9000))
    classes = draw(st.integers(1, 40))
    paired = draw(st.booleans())
    room = max(1, SLOTS >> (features - 1).bit_length())
    blocks = draw(st.integers(1, min(room, 5)))
    values = blocks * (classes if paired else -(-classes // 2))
    least = (values - 1).bit_length()
    period = draw(st.integers(least, max(least, 7)))
    babies = draw(st.integers(0, period))
    return Plan(classes, features, 1, paired, blocks, 2**period, 2**babies)


@given(any_plan())
@settings(max_examples=25, deadline=None)
def test_any_plan_leaves_scores_and_nothing_else_in_the_slots(plan: Plan) -> None:
    check(plan)


def test_a_model_with_empty_diagonals_and_intercepts() -> None:
    weights = np.zeros((4, 100))
    weights[1, 3], weights[2, 99] = 2.0, -1.0
    scorer = LinearModel(weights, np.zeros(4))
    rows = np.random.default_rng(0).normal(size=(1, 100))
    plan = all_plans(4, 100)[0]
    results = list(Circuit(plan, scorer, PlainArithmetic()).run(encrypted(rows), None))
    slots = np.array([result.slots[0] for result in results])
    np.testing.assert_allclose(
        np.ravel(np.column_stack([slots.real, slots.imag])), scorer.scores(rows)[0], atol=1e-12
    )


def test_costs_are_those_of_key_switching() -> None:
    """Transforms in SEAL 4.1's `switch_key_inplace`, counted by hand."""
    costs = [Operations(rotations=Counter({level: 1})).cost() for level in (1, 2, 3)]
    assert costs == [6, 12, 20]


def test_the_chosen_plan_is_the_cheapest_of_all() -> None:
    chosen = all_plans(10, 784)
    single = chosen[0]
    for period, babies in product((2**i for i in range(3, 13)), (2**i for i in range(13))):
        if babies <= period:
            rival = Plan(10, 784, 1, False, 1, period, babies)
            assert single.operations().cost() <= rival.operations().cost()
    assert (single.period, single.babies, len(single.folds)) == (8, 2, 9)
    assert sum(single.operations().rotations.values()) == 17


def test_sharing_rotations_pays() -> None:
    chosen = all_plans(10, 784)
    costs = {plan.rows: plan.operations().cost() / plan.rows for plan in chosen}
    assert costs[4] < 0.65 * costs[1]
    assert costs[8] < 0.55 * costs[1]


@pytest.mark.parametrize(("classes", "features"), [(10, 784), (1, 30), (3, 4097), (1000, 20_000)])
def test_groups_add_up_and_no_other_division_is_cheaper(classes: int, features: int) -> None:
    chosen = all_plans(classes, features)
    grouping = Grouping(chosen)
    assert grouping.groups(0) == ()
    best = {0: 0.0}
    for rows in range(1, 41):
        groups = grouping.groups(rows)
        assert sum(plan.rows for plan in groups) == rows
        best[rows] = min(
            best[rows - plan.rows] + plan.operations().cost()
            for plan in chosen
            if plan.rows <= rows
        )
        assert sum(plan.operations().cost() for plan in groups) == pytest.approx(best[rows])


def test_plans_for_several_rows_are_bounded_in_rows_and_memory() -> None:
    chosen = plans(10, 784, level=1, max_rows=6, max_bytes=40 * 2 * 8192 * 8)
    assert [plan.rows for plan in chosen] == [1, 2, 3, 4, 6]
    assert all(plan.nbytes <= 40 * 2 * 8192 * 8 for plan in chosen)
    large = plans(1000, 20_000, level=1, max_rows=16, max_bytes=2**20)
    assert [plan.rows for plan in large] == [1]
    assert large[0].nbytes == 5 * 512 * 2 * 8192 * 8


def test_every_value_is_one_rotation_from_an_earlier_one() -> None:
    for output in range(1, 1000):
        source, step = parent(output)
        assert 0 <= source < output
        assert source + step == output
        assert step in ROTATIONS
