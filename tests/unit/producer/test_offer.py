"""What an endpoint offers is checked before anything is encrypted."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from producer.offer import Offer
from producer.schemes import SCHEME_NAMES, Encoding, client_scheme
from shared.errors import EndpointError, UsageError

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


@pytest.mark.parametrize("active", [5, "0, 3", ["x"], [[1]], [float("inf")], [1.5], [True]])
def test_announced_features_that_are_no_numbers_are_refused(active: object) -> None:
    announced = OFFER.model_copy(update={"schemes": {"packed": {"active_features": active}}})
    with pytest.raises(EndpointError, match="active features of packed"):
        announced.active_features("packed")


def test_a_model_of_more_classes_than_can_be_reckoned_with_is_refused() -> None:
    with pytest.raises(ValidationError):
        Offer.model_validate_json(f'{{"features": 1, "classes": 1{400 * "0"}}}')


LIMITED = OFFER.model_copy(
    update={"schemes": {"ei": {"max_batch": 8}, "packed": {"max_rows": 3000}, "direct": {}}}
)


@pytest.mark.parametrize(("scheme", "limit"), [("ei", 8), ("packed", 3000)])
def test_jobs_have_no_more_rows_than_the_endpoint_takes(scheme: str, limit: int) -> None:
    assert LIMITED.rows_per_job(scheme, 0, default=4096) == limit
    assert LIMITED.rows_per_job(scheme, 0, default=5) == 5
    assert LIMITED.rows_per_job(scheme, limit, default=4096) == limit
    with pytest.raises(UsageError, match=f"at most {limit:,} rows in a request of {scheme}"):
        LIMITED.rows_per_job(scheme, limit + 1, default=16)


def test_an_endpoint_that_announces_no_limit_is_taken_at_its_word() -> None:
    assert LIMITED.rows_per_job("direct", 10**6, default=16) == 10**6
    assert LIMITED.rows_per_job("direct", 0, default=16) == 16


@pytest.mark.parametrize(
    ("scheme", "preset"), [*((name, "") for name in SCHEME_NAMES), ("packed", "n8192")]
)
def test_jobs_fit_the_endpoints_request_size(scheme: str, preset: str) -> None:
    """The largest job that is let through, really encrypted, is no larger than was announced."""
    features, size = 64, 1_000_000
    offer = OFFER.model_copy(update={"schemes": {scheme: {}}, "max_body_bytes": size})
    most = offer.rows_per_job(scheme, 0, default=1_000_000)
    assert most >= 3
    with pytest.raises(UsageError, match="at most"):
        offer.rows_per_job(scheme, most + 1, default=16)
    rows = np.random.default_rng(1).uniform(-1, 1, (most, features))
    encoding = Encoding(container="runs", features=features, input_bound=1.0)
    body = b"".join(client_scheme(scheme).generate(preset).encrypt(rows, encoding))
    assert len(body) <= size


def test_an_endpoint_whose_requests_hold_no_row_is_refused() -> None:
    small = LIMITED.model_copy(update={"max_body_bytes": 10_000})
    with pytest.raises(UsageError, match=r"at most 0 rows .*choose another scheme"):
        small.rows_per_job("ei", 0, default=16)
