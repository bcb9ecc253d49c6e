"""What an endpoint says of itself in `GET /model`: the key owner asks before encrypting."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, Any

import aiohttp
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveInt,
    ValidationError,
)

from producer.bodysize import most_rows
from producer.schemes import SCHEME_NAMES
from shared.errors import EndpointError, UsageError
from shared.packed import MAX_WEIGHT_DIGITS

MAX_CLASSES = 10**9
"""More are no model's, but what to reckon with fails on."""
MAX_OFFER_BYTES = 4 * 1024 * 1024
TIMEOUT_S = 30.0


class PresetOffer(BaseModel):
    """What scores of one preset of `packed` are like."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)

    digits: Annotated[int, Field(ge=1, le=MAX_WEIGHT_DIGITS)]
    """Results a class."""
    error_bound: NonNegativeFloat
    """For inputs of at most 1."""


class Offer(BaseModel):
    """The part of `/model` that a key owner needs. Unknown fields are the endpoint's own."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    features: PositiveInt
    classes: Annotated[int, Field(ge=1, le=MAX_CLASSES)]
    labels: tuple[str, ...] = ()
    link: str = "identity"
    fingerprint: str
    schemes: dict[str, dict[str, Any]]
    max_body_bytes: PositiveInt | None = None
    """Of a request; None: not announced."""

    def require_features(self, features: int) -> None:
        """Raises `UsageError` when rows of `features` values can't be scored."""
        if features != self.features:
            raise UsageError(
                f"the data has {features} features, the model takes {self.features}",
                remedy="choose the data set the model was trained on",
            )

    def require_scheme(self, scheme: str) -> None:
        """Raises `UsageError` when the endpoint doesn't offer `scheme`."""
        if scheme not in self.schemes:
            ours = [name for name in SCHEME_NAMES if name in self.schemes]
            raise UsageError(
                f"the endpoint does not offer scheme {scheme}",
                remedy=f"--scheme {' or '.join(ours)}" if ours else "update the endpoint",
            )

    def require_input_bound(self, scheme: str, bound: float) -> None:
        """Raises `UsageError` when inputs up to `bound` could overflow the scheme's scores."""
        limit = self.schemes[scheme].get("input_bound")
        if isinstance(limit, int | float) and bound > limit:
            raise UsageError(
                f"the data has values up to {bound:g}, {scheme} scores up to {limit:g} here",
                remedy="scale the data, or choose another scheme",
            )

    def rows_per_job(self, scheme: str, wanted: int, *, default: int) -> int:
        """Rows in a job that the endpoint takes: as `wanted`; for 0 the default, or fewer.

        Raises `UsageError` when it doesn't take so many.
        """
        limit = self._most_rows(scheme)
        if limit is None:
            return wanted or default
        if max(wanted, 1) > limit:
            raise UsageError(
                f"the endpoint takes at most {limit:,} rows in a request of {scheme}, "
                f"not {max(wanted, 1):,}",
                remedy=f"--rows-per-job {limit}" if limit else "choose another scheme",
            )
        return wanted or min(default, limit)

    def _most_rows(self, scheme: str) -> int | None:
        announced = [self.schemes[scheme].get(name) for name in ("max_rows", "max_batch")]
        limits = [number for number in announced if isinstance(number, int) and number > 0]
        if self.max_body_bytes is not None:
            size = self.max_body_bytes
            limits.append(most_rows(scheme, features=self.features, body_bytes=size))
        return min(limits, default=None)

    def presets(self, scheme: str) -> dict[str, PresetOffer]:
        """What a preset means for this model, of those that the endpoint says enough of."""
        presets = {}
        for name, preset in self._presets(scheme).items():
            with suppress(ValidationError):
                presets[name] = PresetOffer.model_validate(preset)
        return presets

    def preset_names(self, scheme: str) -> frozenset[str]:
        """The presets that the endpoint scores; none if it doesn't say."""
        return frozenset(self._presets(scheme))

    def _presets(self, scheme: str) -> dict[str, Any]:
        announced = self.schemes[scheme].get("presets")
        return announced if isinstance(announced, dict) else {}

    def active_features(self, scheme: str) -> tuple[int, ...] | None:
        """The features that the model uses, where its owner announces them.

        Raises `EndpointError` for what can't be features.
        """
        active = self.schemes[scheme].get("active_features")
        if active is None:
            return None
        if not (isinstance(active, list) and all(type(feature) is int for feature in active)):
            raise EndpointError(
                f"what the endpoint announces as active features of {scheme} are no numbers",
                retryable=False,
                remedy="is this a blindscore endpoint?",
            )
        return tuple(active)


async def fetch_offer(endpoint: str, *, token: str = "") -> Offer:
    """Ask an endpoint for its model. Raises `EndpointError`."""
    url = f"{endpoint.rstrip('/')}/model"
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(url, headers=headers, allow_redirects=False) as answer,
        ):
            body = await answer.content.read(MAX_OFFER_BYTES)
            if answer.status != 200:
                raise EndpointError(
                    f"{url} answered {answer.status}",
                    retryable=False,
                    status=answer.status,
                    remedy="is this a blindscore endpoint? is BLINDSCORE_ENDPOINT_TOKEN right?",
                )
    except (TimeoutError, aiohttp.ClientError) as error:
        raise EndpointError(
            f"no endpoint at {endpoint}: {error or 'timeout'}",
            retryable=True,
            remedy="start one with `blindscore serve`, or check --endpoint",
        ) from error
    try:
        return Offer.model_validate_json(body)
    except ValidationError as error:
        raise EndpointError(f"{url} is not a blindscore model", retryable=False) from error
