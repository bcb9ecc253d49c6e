"""Hidden rows: an honest scorer never stumbles over them, a broken or cheating one does."""

from __future__ import annotations

from collections.abc import Callable
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from producer.canaries import Canaries, CanaryError, data_rows
from producer.rows import Rows, StoredRows
from producer.schemes import Encoding, Scores, client_scheme
from score.schemes import ContainerEvaluator
from score.schemes.direct import DirectEvaluator
from score.schemes.packed import PackedEvaluator
from shared.errors import UsageError
from shared.linear import LinearModel
from shared.params import DIRECT_PRESETS, PACKED_PRESETS
from tests.scoring import respond

KEY = b"k" * 32
RNG = np.random.default_rng(3)
WEIGHTS = RNG.normal(size=(10, 20))
INTERCEPT = RNG.normal(size=10)
NOISE = 1e-6
PIXELS = np.rint(RNG.uniform(0, 255, size=(9, 20))) / 255

Scorer = Callable[[Rows], Scores]


def honest(body: Rows) -> Scores:
    """A linear model with a scheme's error."""
    scores: Scores = body @ WEIGHTS.T + INTERCEPT
    return scores + RNG.uniform(-NOISE, NOISE, size=scores.shape)


def hidden(canaries: Canaries, rows: Rows, *, job: str, input_bound: float) -> Rows:
    return canaries.hide(StoredRows(rows), job=job, input_bound=input_bound).rows


def noticed(canaries: Canaries, rows: Rows, scorer: Scorer, job: str = "000000") -> bool:
    body = hidden(canaries, rows, job=job, input_bound=1.0)
    try:
        canaries.reveal(scorer(body), job=job)
    except CanaryError:
        return True
    return False


def share_noticed(copies: int, rows: int, scorer: Scorer, trials: int = 600) -> float:
    canaries = Canaries(KEY, "run-1", copies)
    data = RNG.uniform(-1, 1, size=(rows, 20))
    return sum(noticed(canaries, data, scorer, f"{t:06d}") for t in range(trials)) / trials


@settings(deadline=None, max_examples=150)
@given(
    rows=st.integers(1, 40),
    copies=st.integers(1, 12),
    bound=st.sampled_from([1e-3, 1.0, 0.7, 255.0]),
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(["random", "zeros", "the same", "pixels"]),
)
def test_an_honest_scorer_is_never_suspected_and_the_data_come_back(
    rows: int, copies: int, bound: float, seed: int, kind: str
) -> None:
    rng = np.random.default_rng(seed)
    data = {
        "random": rng.uniform(-bound, bound, size=(rows, 20)),
        "zeros": np.zeros((rows, 20)),
        "the same": np.tile(rng.uniform(-bound, bound, size=20), (rows, 1)),
        "pixels": np.rint(rng.uniform(0, 255, size=(rows, 20))) * bound / 255,
    }[kind]
    canaries = Canaries(KEY, "run-1", copies)
    body = hidden(canaries, data, job="000007", input_bound=bound)
    assert body.shape == (rows + copies + 1, 20)
    assert np.abs(body).max() <= bound
    scores = body @ WEIGHTS.T
    scores += rng.uniform(-1, 1, size=scores.shape) * 1e-6 * bound
    revealed = canaries.reveal(scores, job="000007")
    assert np.abs(revealed - data @ WEIGHTS.T).max() <= 2e-6 * bound


SCHEMES = [("packed", name) for name in PACKED_PRESETS] + [
    ("direct", name) for name in DIRECT_PRESETS
]


@pytest.mark.parametrize(("scheme", "preset"), SCHEMES)
@pytest.mark.parametrize("rows", [np.zeros((5, 20)), np.tile(PIXELS[:1], (5, 1)), PIXELS])
def test_no_schemes_own_error_looks_like_a_cheat(scheme: str, preset: str, rows: Rows) -> None:
    """One class, and rows all alike, are the hardest: there is little to tell scores apart by."""
    model = LinearModel(WEIGHTS[:1], INTERCEPT[:1])
    evaluator: ContainerEvaluator = (
        PackedEvaluator(model) if scheme == "packed" else DirectEvaluator(model)
    )
    key = client_scheme(scheme).generate(preset)
    canaries = Canaries(KEY, "run-1", 3)
    body = hidden(canaries, rows, job="000000", input_bound=1.0)
    request = b"".join(key.encrypt(body, Encoding("runs", 20, 1.0)))
    result = respond(evaluator, request)
    scores = canaries.reveal(key.decrypt(result, rows=len(body)), job="000000")
    assert np.abs(scores - model.scores(rows)).max() < 1e-3


def test_without_canaries_nothing_changes() -> None:
    rows = RNG.uniform(-1, 1, size=(4, 20))
    none = Canaries(KEY, "run-1", 0)
    assert none.hidden == 0
    stored = StoredRows(rows)
    assert none.hide(stored, job="000000", input_bound=1.0) is stored
    assert none.reveal(rows, job="000000") is rows


def test_a_zeroed_row_is_noticed_when_it_is_a_copy_or_has_one() -> None:
    rows, copies = 13, 3
    body_rows = rows + copies + 1

    def zero_one(body: Rows) -> Scores:
        scores = honest(body)
        scores[RNG.integers(body_rows)] = 0.0
        return scores

    assert share_noticed(copies, rows, zero_one) == pytest.approx(2 * copies / body_rows, abs=0.07)


def test_two_swapped_rows_are_noticed_when_one_is_a_copy_or_has_one() -> None:
    rows, copies = 13, 3
    body_rows = rows + copies + 1
    unmarked = comb(body_rows - 2 * copies, 2)
    expected = 1 - (unmarked + copies) / comb(body_rows, 2)

    def swap_two(body: Rows) -> Scores:
        scores = honest(body)
        first, second = RNG.choice(body_rows, size=2, replace=False)
        scores[[first, second]] = scores[[second, first]]
        return scores

    assert share_noticed(copies, rows, swap_two) == pytest.approx(expected, abs=0.07)


def test_many_jobs_make_careless_scoring_certain_to_be_noticed() -> None:
    """One row in ten wrong, 8 copies a job, 20 jobs: 1 - 0.9^(2·8·20)."""

    def skip_a_tenth(body: Rows) -> Scores:
        scores = honest(body)
        scores[RNG.random(len(body)) < 0.1] = 0.0
        return scores

    assert share_noticed(8, 100, skip_a_tenth, trials=20) > 0.5


@pytest.mark.parametrize("rows", [1, 2, 30])
@pytest.mark.parametrize("value", [0.0, 17.3])
def test_constant_scores_are_always_noticed(rows: int, value: float) -> None:
    assert share_noticed(1, rows, lambda body: np.full((len(body), 10), value), 50) == 1.0


def test_constant_scores_with_a_schemes_noise_are_noticed() -> None:
    def constant(body: Rows) -> Scores:
        return INTERCEPT + RNG.uniform(-NOISE, NOISE, size=(len(body), 10))

    assert share_noticed(2, 30, constant, 100) > 0.98


def test_the_first_rows_scores_for_all_are_noticed() -> None:
    assert share_noticed(2, 30, lambda body: np.tile(honest(body[:1]), (len(body), 1)), 50) == 1.0


def test_a_scorer_cannot_widen_the_tolerance_with_a_few_wild_answers() -> None:
    def wild(body: Rows) -> Scores:
        scores = RNG.uniform(-10, 10, size=(len(body), 10))
        scores[RNG.integers(len(body), size=3)] = 1e12
        return scores

    assert share_noticed(2, 30, wild, 200) > 0.8  # 3 of 33 rows: they may hit the contrast


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_that_are_no_numbers_are_noticed(value: float) -> None:
    assert noticed(
        Canaries(KEY, "run-1", 2),
        RNG.uniform(-1, 1, size=(5, 20)),
        lambda body: np.full((len(body), 10), value),
    )


def test_another_jobs_scores_are_noticed() -> None:
    canaries = Canaries(KEY, "run-1", 2)
    first, second = RNG.uniform(-1, 1, size=(2, 30, 20))
    scores = honest(hidden(canaries, first, job="000000", input_bound=1.0))
    hidden(canaries, second, job="000001", input_bound=1.0)
    with pytest.raises(CanaryError, match="hidden copies"):
        canaries.reveal(scores, job="000001")


def test_places_differ_by_key_run_and_job_and_stay_the_same_otherwise() -> None:
    rows = RNG.uniform(-1, 1, size=(50, 20))

    def body(key: bytes, run: str, job: str) -> bytes:
        return hidden(Canaries(key, run, 4), rows, job=job, input_bound=1.0).tobytes()

    told = [
        body(KEY, "run-1", "000000"),
        body(b"other", "run-1", "000000"),
        body(KEY, "run-2", "000000"),
        body(KEY, "run-1", "000001"),
    ]
    assert len({*told}) == 4
    assert body(KEY, "run-1", "000000") == told[0]


def test_copies_are_of_different_rows_anywhere_in_the_block() -> None:
    rows = np.arange(30.0)[:, None] / 30
    seen = np.zeros(34, dtype=int)
    for job in range(200):
        body = hidden(Canaries(KEY, "run-1", 3), rows, job=f"{job:06d}", input_bound=1.0)[:, 0]
        values, counts = np.unique(body, return_counts=True)
        assert sorted(counts)[-4:] == [1, 2, 2, 2]
        seen[np.isin(body, values[counts == 2])] += 1
    assert seen.min() > 0


def test_the_places_of_a_known_key_never_change() -> None:
    """Or a run could not be collected by a later version."""
    rows = np.arange(1, 9.0)[:, None] / 8
    body = hidden(
        Canaries(bytes(32), "20260101-120000-abcdef", 2), rows, job="000003", input_bound=1.0
    )
    assert (body[:, 0] * 8).round(3).tolist() == [
        1.0,
        2.0,
        1.0,
        3.0,
        4.0,
        5.0,
        5.0,
        6.0,
        -4.235,
        7.0,
        8.0,
    ]


def test_rows_that_leave_no_room_are_refused() -> None:
    assert data_rows(16, 0) == 16
    assert data_rows(16, 14) == 1
    with pytest.raises(UsageError, match="15 canaries"):
        data_rows(16, 15)
