"""Virtual environments for Azure ML's inference server, whose pins don't agree with ours.

Each is a folder in the project's root, made once (some seconds, needs a package registry) and
made anew when its requirements change.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SERVER = "azureml-inference-server-http==1.5.1"
_BUILD_S = 600.0


@dataclass(frozen=True, slots=True)
class Environment:
    """An environment in `folder` with these requirements, as pip takes them."""

    folder: Path
    requirements: tuple[str, ...]

    def python(self) -> Path:
        """Its interpreter; makes the environment first where that is needed.

        Raises `RuntimeError` when the packages can't be installed.
        """
        python = self.folder / "bin" / "python"
        stamp = self.folder / ".installed"
        with _lock():
            if not (stamp.exists() and stamp.read_text() == self._fingerprint()):
                self._build(python)
                stamp.write_text(self._fingerprint())
        return python

    def _fingerprint(self) -> str:
        project = (ROOT / "pyproject.toml").read_text()
        parts = (sys.version, sys.base_prefix, str(self.folder), *self.requirements, project)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def _build(self, python: Path) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self._run(sys.executable, "-m", "venv", "--without-pip", str(self.folder))
        # ours, which is here already; modules are compiled when they are used, which few are
        install = ("pip", "--python", str(python), "install", "--quiet", "--no-compile")
        self._run(sys.executable, "-m", *install, *self.requirements)
        # the SDK unpacks its native library when it is first imported
        self._run(str(python), "-W", "ignore", "-c", "import encrypted.inference.eiserver")

    def _run(self, *command: str) -> None:
        done = subprocess.run(
            command,
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_BUILD_S,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{self.folder.name} can't be made: {done.stderr[-1000:]}")


SEEDS = Environment(
    ROOT / ".interop-venv" / "seeds",
    (
        SERVER,
        "encrypted-inference==0.9",
        "joblib>=1.5",
        "scikit-learn>=1.7",
        "azure-storage-blob>=12.20,<=12.28",  # newer ones speak an API version Azurite doesn't
    ),
)
"""What the published score.py runs in."""

OURS = Environment(ROOT / ".interop-venv" / "ours", (SERVER, f"{ROOT}[score]"))
"""What `score/score.py` runs in under Azure ML's server: the project as it is published."""


def clean_environment() -> dict[str, str]:
    """Our environment variables, without those that would reach into another interpreter."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("BLINDSCORE_", "PYTHON", "VIRTUAL_ENV"))
    }


@contextmanager
def _lock() -> Iterator[None]:
    """One build at a time, between processes too."""
    folder = os.open(Path(__file__).parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)
