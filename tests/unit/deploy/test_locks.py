"""The locks belong to pyproject.toml: what it asks for is pinned, by hash, wherever it runs."""

from __future__ import annotations

import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[3]
EXTRAS = ("dev", "all", "producer", "worker", "score")
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
REMEDY = "run `make lock`"


@cache
def project() -> dict[str, Any]:
    return dict(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"])


def asked(extra: str) -> list[Requirement]:
    """The direct requirements of an extra, those of the extras it names included."""
    found = [Requirement(text) for text in project()["dependencies"]]
    for requirement in map(Requirement, project()["optional-dependencies"][extra]):
        if requirement.name == project()["name"]:
            found += [inner for name in sorted(requirement.extras) for inner in asked(name)]
        else:
            found.append(requirement)
    return found


@cache
def lines(extra: str) -> list[str]:
    """A lock's entries, each in one line with its hashes."""
    text = (ROOT / "requirements" / f"{extra}.txt").read_text().replace("\\\n", " ")
    return [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]


@cache
def pins(extra: str) -> list[Requirement]:
    return [Requirement(line.split("--hash")[0].strip()) for line in lines(extra)]


def pinned(extra: str, name: str, python: str) -> list[str]:
    """The versions that a lock gives for a package on Linux under a Python."""
    environment = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "sys_platform": "linux",
        "platform_machine": "x86_64",
        "platform_python_implementation": "CPython",
        "implementation_name": "cpython",
    }
    return [
        next(iter(pin.specifier)).version
        for pin in pins(extra)
        if canonicalize_name(pin.name) == canonicalize_name(name)
        and (pin.marker is None or pin.marker.evaluate(environment))
    ]


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("extra", EXTRAS)
def test_all_that_is_asked_for_is_pinned_once(extra: str, python: str) -> None:
    for requirement in asked(extra):
        versions = pinned(extra, requirement.name, python)
        assert len(versions) == 1, f"{extra}: {requirement} is not pinned; {REMEDY}"
        assert requirement.specifier.contains(versions[0]), f"{requirement}, {versions}; {REMEDY}"


@pytest.mark.parametrize("extra", EXTRAS)
def test_every_pin_has_hashes_and_no_host(extra: str) -> None:
    for line in lines(extra):
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", line), line
    text = (ROOT / "requirements" / f"{extra}.txt").read_text()
    assert "://" not in text
    assert "index-url" not in text


@pytest.mark.parametrize("extra", EXTRAS)
def test_what_is_tested_is_what_is_released(extra: str) -> None:
    assert set(lines(extra)) <= set(lines("dev")), REMEDY


def test_a_carrier_installs_nothing_that_computes() -> None:
    names = {canonicalize_name(pin.name) for pin in pins("worker")}
    assert not names & {"tenseal", "encrypted-inference", "numpy", "scikit-learn", "joblib"}
