"""Values are sent in few bytes where that is less work, and as their owner wants in any case."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from producer.coding import choose_coding
from producer.offer import Offer
from score.schemes.packed import PackedEvaluator
from shared.errors import UsageError
from shared.linear import LinearModel

GOOD = {"digits": 1, "error_bound": 1.0}


def offer(features: int = 784, classes: int = 10, **packed: Any) -> Offer:
    """What an endpoint says of a model of that shape."""
    weights = np.random.default_rng(0).normal(size=(classes, features))
    described = PackedEvaluator(LinearModel(weights, np.zeros(classes))).describe()
    return Offer(
        features=features,
        classes=classes,
        fingerprint="f",
        schemes={"packed": {**described, **packed}},
    )


def chosen(own: str, offered: Offer | None, *, wanted: str = "", rows: int = 4096) -> str:
    return choose_coding(own, offered, wanted=wanted, rows=rows).preset


@pytest.mark.parametrize("own", ["n4096", "compact"])
@pytest.mark.parametrize(
    ("features", "classes", "rows", "preset"),
    [
        (784, 10, 4096, "compact"),
        (784, 10, 128, "n4096"),
        (64, 10, 4096, "n4096"),
        (64, 1, 4096, "compact"),
        (784, 100, 4096, "n4096"),
        (20_000, 10, 1000, "compact"),
        (30, 2, 1, "n4096"),
    ],
)
def test_many_bytes_are_saved_at_the_price_of_few_results(
    own: str, features: int, classes: int, rows: int, preset: str
) -> None:
    assert chosen(own, offer(features, classes), rows=rows) == preset


def test_no_run_becomes_much_coarser_than_its_key_says() -> None:
    for bound, preset in ((16.0, "compact"), (16.1, "n4096")):
        presets = {"n4096": GOOD, "compact": {**GOOD, "error_bound": bound}}
        assert chosen("n4096", offer(presets=presets)) == preset
        assert chosen("compact", offer(presets=presets)) == "compact"


@pytest.mark.parametrize(
    ("features", "classes", "fine", "coarse", "preset"),
    [(2000, 40, 1, 3, "n4096"), (50_000, 100, 2, 5, "n4096"), (50_000, 100, 2, 4, "compact")],
)
def test_the_product_costs_by_its_rows(
    features: int, classes: int, fine: int, coarse: int, preset: str
) -> None:
    """Two for each result of n4096, one for each of compact: as the scorer is measured."""
    presets = {"n4096": {**GOOD, "digits": fine}, "compact": {**GOOD, "digits": coarse}}
    offered = offer(4, 1, presets=presets)
    offered = offered.model_copy(update={"features": features, "classes": classes})
    assert chosen("n4096", offered) == preset


def test_a_change_is_explained() -> None:
    coding = choose_coding("n4096", offer(), wanted="", rows=4096)
    assert coding.reason == "29% fewer bytes to send than in n4096"
    coding = choose_coding("compact", offer(64), wanted="", rows=4096)
    assert coding.reason.startswith("fewer results")
    assert not choose_coding("n4096", offer(64), wanted="", rows=4096).reason


def test_features_that_are_not_sent_save_no_bytes() -> None:
    assert chosen("n4096", offer(active_features=list(range(100)))) == "n4096"


def test_what_the_user_wants_is_done() -> None:
    assert chosen("n4096", offer(), wanted="n4096") == "n4096"
    assert chosen("n4096", offer(64), wanted="compact") == "compact"
    assert chosen("n4096", None, wanted="compact") == "compact"


@pytest.mark.parametrize("own", ["n8192", "n2048"])
def test_a_ring_of_one_preset_leaves_no_choice(own: str) -> None:
    assert chosen(own, offer()) == own


@pytest.mark.parametrize("wanted", ["n8192", "speed", "x"])
def test_a_preset_that_the_key_does_not_serve_is_refused(wanted: str) -> None:
    with pytest.raises(UsageError, match=f"a key of preset n4096 doesn't serve preset '{wanted}'"):
        chosen("n4096", offer(), wanted=wanted)


def test_a_preset_that_the_endpoint_does_not_score_is_refused() -> None:
    """Before rows are encrypted; and what it says of itself is not repeated to a terminal."""
    coarse = offer(presets={"n4096": GOOD, "n8192": GOOD, "\x1b[2J": GOOD})
    with pytest.raises(UsageError, match="doesn't score preset compact") as refused:
        chosen("n4096", coarse, wanted="compact")
    assert refused.value.remedy == "--preset n4096"
    assert chosen("n4096", coarse) == "n4096"
    with pytest.raises(UsageError, match="doesn't score preset n2048"):
        chosen("n2048", coarse)


def test_of_what_the_key_serves_a_run_takes_what_the_endpoint_scores() -> None:
    coding = choose_coding("compact", offer(presets={"n4096": GOOD}), wanted="", rows=4096)
    assert (coding.preset, coding.reason) == ("n4096", "fewer results than in compact")
    assert chosen("compact", offer(presets={"n4096": {}})) == "n4096"


def test_a_key_of_a_preset_that_is_not_known_here_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown preset 'n512' of packed"):
        chosen("n512", offer())


def test_an_endpoint_that_needs_no_features_breaks_nothing() -> None:
    presets = {"n4096": {**GOOD, "digits": 2}, "compact": GOOD}
    nothing = offer(active_features=[], presets=presets)
    assert chosen("n4096", nothing) == "compact"


@pytest.mark.parametrize(
    "presets",
    [
        {},
        [],
        None,
        {"n4096": {}, "compact": GOOD},
        {"n4096": GOOD, "speed": GOOD},
        *(
            {"n4096": GOOD, "compact": bad}
            for bad in (
                {**GOOD, "digits": 9},
                {**GOOD, "digits": 10**400},
                1,
                {"digits": 1},
                {**GOOD, "digits": None},
                {**GOOD, "digits": "1"},
                {**GOOD, "digits": 0},
                {**GOOD, "error_bound": None},
                {**GOOD, "error_bound": float("nan")},
                {**GOOD, "error_bound": 17.0},
            )
        ),
    ],
)
def test_without_knowing_what_it_costs_nothing_is_changed(presets: object) -> None:
    assert chosen("n4096", offer(presets=presets)) == "n4096"
    assert chosen("n4096", None) == "n4096"
