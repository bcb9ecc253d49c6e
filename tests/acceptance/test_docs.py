"""What the README tells users to type works as it is written."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.local.stack import Stack
from tests.commands import CLEAN_ENVIRONMENT

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
STARTS_THE_STACK = "blindscore up"


def shell_blocks(document: Path) -> list[str]:
    """The fenced `sh` blocks, in order."""
    return re.findall(r"^```sh\n(.*?)^```", document.read_text(), re.DOTALL | re.MULTILINE)


def test_the_readme_step_by_step(digits_stack: Stack, tmp_path: Path) -> None:
    """Every block between `blindscore up` and the next heading, in one shell, in order."""
    section = (ROOT / "README.md").read_text().split("## Step by step")[1].split("\n## ")[0]
    blocks = re.findall(r"^```sh\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    assert blocks[0].strip() == STARTS_THE_STACK
    script = "\n".join(["set -euo pipefail", *blocks[1:]])
    tools = Path(sys.executable).parent
    environment = CLEAN_ENVIRONMENT | digits_stack.environment
    environment["PATH"] = f"{tools}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "results" / "by-hand" / "report.json").is_file()
    assert (tmp_path / "results" / "rows" / "predictions.csv").is_file()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_make_targets_that_are_named_exist(document: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for block in shell_blocks(document):
        named = set(re.findall(r"^make ([a-z]+)", block, re.MULTILINE))
        assert named <= targets, f"{document.name} names make targets that do not exist"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
        assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_every_setting_of_the_readme_is_an_option_or_a_variable() -> None:
    """The settings table names nothing that no command knows."""
    table = (ROOT / "README.md").read_text().split("## Settings")[1].split("\n## ")[0]
    flags = set(re.findall(r"`(--[a-z-]+)", table))
    variables = set(re.findall(r"`(BLINDSCORE_[A-Z_]+)`", table)) - {"BLINDSCORE_ROWS_PER_JOB"}
    sources = "\n".join(
        path.read_text()
        for package in ("producer", "worker", "score", "shared", "deploy")
        for path in (ROOT / package).rglob("*.py")
    )
    assert {flag for flag in flags if f'"{flag}' not in sources} == set()
    assert {name for name in variables if f'"{name}"' not in sources} == set()
