"""Looks for anything in a program that could take, hold or make a secret key.

As a program it imports all that the scorer consists of, with the evaluators of all schemes built,
and prints what it found as JSON: `python -m tests.unit.score.secretless`.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import pkgutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

OURS = ("score", "shared", "producer", "worker")
SEAL_NAMES = {"SecretKey", "Decryptor", "KeyGenerator", "EILinearRegressionClient"}
"""SEAL's classes that a secret key is needed for, and the SDK's that has one."""
HARMLESS = {"bool", "SecretStr"}
"""A switch, and pydantic's wrapper of storage credentials, are no keys."""


def suspects(module: ModuleType) -> list[str]:
    """Parameters, fields and annotations of a module that speak of a secret key."""
    found = []
    for owner, name, annotation in _declared(module):
        text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
        if "SecretKey" in text or ("secret" in name.lower() and text not in HARMLESS):
            found.append(f"{module.__name__}.{owner}: {name}")
    return found


def seal_names(source: str) -> set[str]:
    """Which of `SEAL_NAMES` a source uses, by whatever way: as a name, attribute or text."""
    used: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.alias(name=name):
                used.add(name.rpartition(".")[2])
            case ast.Constant(value=str(text)):
                used.add(text)
            case ast.arg(arg=name) | ast.keyword(arg=str(name)):
                used.add(name)
    return used & SEAL_NAMES


def _declared(module: ModuleType) -> Iterator[tuple[str, str, Any]]:
    """Owner, name and annotation of all parameters and fields that a module defines."""
    for name, value in vars(module).items():
        if getattr(value, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(value):
            yield from _parameters(name, value)
        elif inspect.isclass(value):
            for field, annotation in inspect.get_annotations(value).items():
                yield name, field, annotation
            for method, member in vars(value).items():
                function = inspect.unwrap(getattr(member, "__func__", member))
                if isinstance(function, property):
                    yield name, method, None
                elif inspect.isfunction(function):
                    yield from _parameters(f"{name}.{method}", function)


def _parameters(owner: str, function: Any) -> Iterator[tuple[str, str, Any]]:
    yield owner, "return", function.__annotations__.get("return")
    parameters = inspect.signature(function).parameters
    for parameter in parameters.values():
        yield owner, parameter.name, parameter.annotation
    variables = set(function.__code__.co_varnames) - parameters.keys()
    yield from ((owner, name, None) for name in variables)


def _import_the_scorer() -> None:
    score = importlib.import_module("score")
    for found in pkgutil.walk_packages(score.__path__, "score."):
        importlib.import_module(found.name)
    evaluators = importlib.import_module("score.evaluators")
    settings = importlib.import_module("score.settings")
    linear = importlib.import_module("shared.linear")
    model = linear.LinearModel(np.ones((2, 4)), np.zeros(2))
    for evaluator in settings.EI_EVALUATORS:
        built = evaluators.build(model, settings.EngineOptions(ei_evaluator=evaluator))
        assert built.refused == {}


def main() -> None:
    """Print the modules that are loaded, and what is wrong with ours."""
    _import_the_scorer()
    ours = {
        name: module
        for name, module in sorted(sys.modules.items())
        if name.partition(".")[0] in OURS and module.__file__ is not None
    }
    sources = {name: Path(str(module.__file__)).read_text() for name, module in ours.items()}
    report = {
        "modules": sorted(sys.modules),
        "ours": list(ours),
        "suspects": [suspect for module in ours.values() for suspect in suspects(module)],
        "seal_names": {
            name: sorted(used) for name in sources if (used := seal_names(sources[name]))
        },
    }
    print(json.dumps(report))  # noqa: T201 - it is what this program is for


if __name__ == "__main__":
    main()
