"""Evaluates request bodies as they arrive, synchronously: one engine a process.

Every byte a caller sends is parsed here and nowhere else, so that it happens in a process that may
die. The engine never reaches out: it asks for keys by name, and whoever drives it fetches them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from score import evaluators
from score.answers import Answer
from score.block_request import BlockRequest
from score.ei_request import EiRequest
from score.evaluators import Evaluators
from score.loaded import LoadedKeyRing
from score.schemes import Json
from score.settings import EngineOptions
from shared.container import CONTENT_TYPE
from shared.errors import UnsupportedMediaType
from shared.linear import LinearModel

JSON_TYPE = "application/json"

Build = Callable[[LinearModel, EngineOptions], Evaluators]


class Evaluation(Protocol):
    """One request, fed piece by piece."""

    def feed(self, piece: bytes, *, last: bool) -> Answer:
        """Take the next piece of the body; `last` when nothing follows.

        Raises `MalformedRequest`, `BodyTooLarge`, `CiphertextError`, `FeatureCountError`,
        `UnsupportedMediaType`.
        """
        ...

    def use_keys(self, version: str, blob: bytes | None) -> Answer:
        """The answer to `NeedKeys` and `NeedBlob`.

        `version` names these keys in this version of their blob, the same in every request.
        `blob` may be missing at first: `NeedBlob` then asks for it, unless it is loaded already.
        Raises `EvaluationKeysError`, and what evaluating raises.
        """
        ...


class Engine:
    """The evaluators of one model, and the keys loaded for them."""

    def __init__(
        self, model: LinearModel, options: EngineOptions, build: Build = evaluators.build
    ) -> None:
        """Raises `ModelError` when the model can't be scored in the schemes asked for."""
        self._evaluators = build(model, options)
        self._options = options
        self._ring = LoadedKeyRing(options.loaded_keys_bytes)

    @property
    def refused(self) -> dict[str, str]:
        """Schemes that are not offered, and why."""
        return self._evaluators.refused

    def describe(self) -> dict[str, Json]:
        """Parameters of each scheme offered, for `/model`."""
        described: dict[str, Json] = {
            name: {**evaluator.describe(), "max_rows": self._options.max_rows}
            for name, evaluator in self._evaluators.blocks.items()
        }
        if self._evaluators.ei is not None:
            described["ei"] = {
                **self._evaluators.ei.describe(),
                "batch": True,
                "max_batch": self._options.max_batch,
            }
        return described

    def begin(self, content_type: str) -> Evaluation:
        """Start a request. Raises `UnsupportedMediaType`."""
        if content_type == JSON_TYPE and self._evaluators.ei is not None:
            return EiRequest(self._evaluators.ei, self._ring, self._options)
        if content_type == CONTENT_TYPE and self._evaluators.blocks:
            return BlockRequest(self._evaluators.blocks, self._ring, self._options)
        raise UnsupportedMediaType(f"this endpoint does not take {content_type or 'untyped bytes'}")
