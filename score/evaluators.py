"""The evaluators of the offered schemes, by name; their libraries are imported only when used."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from score.schemes import ContainerEvaluator, EiEvaluator
from score.settings import SCHEMES, EngineOptions
from shared.errors import ModelError
from shared.linear import LinearModel

EI_CLASSES = {
    "seal": ("score.schemes.ei.evaluator", "SealEiEvaluator"),
    "native": ("score.schemes.ei.native", "NativeEvaluator"),
    "sdk": ("score.schemes.ei.sdk", "SdkEvaluator"),
}
DIRECT_CLASS = ("score.schemes.direct", "DirectEvaluator")
PACKED_CLASS = ("score.schemes.packed", "PackedEvaluator")


@dataclass(frozen=True, slots=True)
class Evaluators:
    """What an engine evaluates with. `refused` says why a scheme is not offered."""

    ei: EiEvaluator | None = None
    blocks: dict[str, ContainerEvaluator] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


def build(model: LinearModel, options: EngineOptions) -> Evaluators:
    """Make the evaluators of `options.schemes`, or all that the model allows.

    Raises `ModelError` when a scheme asked for by name can't score this model, or none can.
    """
    ei: EiEvaluator | None = None
    blocks: dict[str, ContainerEvaluator] = {}
    refused: dict[str, str] = {}
    for scheme in options.schemes or SCHEMES:
        try:
            match scheme:
                case "ei":
                    ei = _ei(model, options)
                case "direct":
                    blocks[scheme] = _class(DIRECT_CLASS)(model)
                case "packed":
                    announce = options.announce_zero_features
                    packed = _class(PACKED_CLASS)
                    blocks[scheme] = packed(model, announce_zero_features=announce)
        except ModelError as error:
            if options.schemes:
                raise
            refused[scheme] = str(error)
    if ei is None and not blocks:
        raise ModelError("no scheme can score this model: " + "; ".join(refused.values()))
    return Evaluators(ei, blocks, refused)


def _ei(model: LinearModel, options: EngineOptions) -> Any:
    cls = _class(EI_CLASSES[options.ei_evaluator])
    # The SDK's own circuit leaves room for scores of any size that is of use.
    bounded = options.ei_evaluator == "seal"
    return cls(model, input_bound=options.ei_input_bound) if bounded else cls(model)


def _class(where: tuple[str, str]) -> Any:
    """A class by module and name. Raises `ModelError` where its libraries are missing."""
    module, name = where
    try:
        return getattr(import_module(module), name)
    except ImportError as error:
        raise ModelError(
            f"{name} needs a package that is not installed: {error.name or error}",
            remedy="pip install 'blindscore[score]'",
        ) from error
