"""Running blindscore's commands the way a user does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

DATA = Path(__file__).parents[1].parent / "shared" / "data"
MNIST = DATA / "mnist"
MNIST_MODEL = DATA / "sklearn_mnist_model.pkl"
MNIST_EXPECTED = DATA / "mnist_expected.npz"

CLEAN_ENVIRONMENT = {
    name: value for name, value in os.environ.items() if not name.startswith("BLINDSCORE_")
}


def blindscore(
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    timeout_s: float = 300.0,
    folder: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; standard output and error are kept."""
    return subprocess.run(
        [sys.executable, "-m", "blindscore", *arguments],
        env=CLEAN_ENVIRONMENT | dict(environment or {}),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def succeed(
    *arguments: str, environment: Mapping[str, str] | None = None, folder: Path | None = None
) -> str:
    """Run a command that must succeed; returns its standard output."""
    done = blindscore(*arguments, environment=environment, folder=folder)
    assert done.returncode == 0, f"{arguments}: {done.stdout}\n{done.stderr}"
    return done.stdout.strip()


def refuse(
    *arguments: str, environment: Mapping[str, str] | None = None, folder: Path | None = None
) -> str:
    """Run a command that must fail with one clear line and a remedy; returns standard error."""
    done = blindscore(*arguments, environment=environment, folder=folder)
    assert done.returncode not in (0, -9, -11), f"{arguments} succeeded: {done.stdout}"
    assert "Traceback" not in done.stderr + done.stdout, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    return done.stderr
