"""Each trap in docs/reliability.md names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
DOCUMENT = TESTS.parent / "docs" / "reliability.md"


def test_the_tests_of_known_traps_exist() -> None:
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", DOCUMENT.read_text())
    assert named
    for file, test in named:
        texts = [path.read_text() for path in TESTS.rglob(file)]
        assert any(f"def {test}(" in text for text in texts), f"{file}::{test}"


def test_the_files_that_handle_them_exist() -> None:
    named = set(re.findall(r"`(\w+/[\w/]+\.py)`", DOCUMENT.read_text()))
    assert named
    assert {file for file in named if not (TESTS.parent / file).is_file()} == set()
