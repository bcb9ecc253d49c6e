"""What an endpoint offers is checked before anything is encrypted."""

from __future__ import annotations

import pytest

from producer.offer import Offer
from shared.errors import UsageError

OFFER = Offer(
    features=64,
    classes=10,
    fingerprint="f",
    schemes={"ei": {"input_bound": 256.0}, "direct": {"presets": {}}},
)


def test_rows_of_the_models_width_pass() -> None:
    OFFER.require_features(64)
    with pytest.raises(UsageError, match="30 features, the model takes 64"):
        OFFER.require_features(30)


def test_a_scheme_must_be_offered() -> None:
    OFFER.require_scheme("ei")
    with pytest.raises(UsageError, match="does not offer scheme packed"):
        OFFER.require_scheme("packed")


def test_values_that_could_overflow_a_score_are_refused() -> None:
    OFFER.require_input_bound("ei", 256.0)
    OFFER.require_input_bound("direct", 1e6)
    with pytest.raises(UsageError, match="up to 257, ei scores up to 256"):
        OFFER.require_input_bound("ei", 257.0)


def test_features_are_left_out_only_where_the_owner_says_so() -> None:
    announced = OFFER.model_copy(update={"schemes": {"packed": {"active_features": [0, 3]}}})
    assert announced.active_features("packed") == (0, 3)
    assert OFFER.active_features("ei") is None
