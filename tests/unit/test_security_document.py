"""SECURITY.md keeps to the facts: the tests it names exist, its parameters are the real ones."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from shared import ei
from shared.params import (
    DIRECT_PRESETS,
    MAX_MODULUS_BITS_2024,
    MAX_MODULUS_BITS_SEAL,
    PACKED_PRESETS,
    RingParameters,
    check_security,
)

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "SECURITY.md").read_text()
NAMED = sorted(set(re.findall(r"tests/[\w/]+\.py(?:::\w+)*", TEXT)))
RINGS = {
    "`ei`": RingParameters(ei.DEGREE, ei.PRIME_BITS),
    **{f"`direct`, `{name}`": preset.ring for name, preset in DIRECT_PRESETS.items()},
    **{f"`packed`, `{name}`": preset.ring for name, preset in PACKED_PRESETS.items()},
}


def names_in(file: Path) -> set[str]:
    """The functions of a file, as `name` or `Class::name`."""
    body = ast.parse(file.read_text()).body
    classes = [node for node in body if isinstance(node, ast.ClassDef)]
    inner = {f"{node.name}::{name}" for node in classes for name in _functions(node.body)}
    return inner | _functions(body)


def _functions(nodes: list[ast.stmt]) -> set[str]:
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize("named", NAMED)
def test_each_test_that_is_named_exists(named: str) -> None:
    path, _, test = named.partition("::")
    if named != "tests/unit/test_security_document.py":  # the document names this file itself
        assert test.split("::")[-1].startswith("test_"), "name a test, not a file"
        assert test in names_in(ROOT / path)


def test_every_row_of_its_threat_tables_names_a_test() -> None:
    section = TEXT.split("## What stops whom")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")]
    rows = [line for line in rows if not line.startswith("| attacker |")]
    assert len(rows) > 25
    assert [
        line for line in rows if not re.search(r"`tests/\S+::test_\w+` *(, .*)?\|$", line)
    ] == []


def test_links_within_it_lead_somewhere() -> None:
    headings = re.findall(r"^#+ (.*)$", TEXT, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    targets = re.findall(r"\]\(#([^)]+)\)", TEXT)
    targets += re.findall(r"\]\(SECURITY\.md#([^)]+)\)", (ROOT / "README.md").read_text())
    assert targets
    assert set(targets) <= anchors


@pytest.mark.parametrize("name", RINGS)
def test_every_ring_is_below_both_limits(name: str) -> None:
    ring = RINGS[name]
    check_security(ring, strict=True)
    check_security(ring, strict=False)


@pytest.mark.parametrize("name", RINGS)
def test_its_table_of_parameters_is_the_real_one(name: str) -> None:
    (row,) = (line for line in TEXT.splitlines() if line.startswith(f"| {name} |"))
    ring = RINGS[name]
    assert [cell.strip() for cell in row.strip("|").split("|")] == [
        name,
        str(ring.degree),
        ", ".join(map(str, ring.prime_bits)),
        str(ring.modulus_bits),
        str(MAX_MODULUS_BITS_SEAL[ring.degree]),
        str(MAX_MODULUS_BITS_2024[ring.degree]),
    ]
