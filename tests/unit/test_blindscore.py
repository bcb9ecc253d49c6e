"""The command itself: what it sets up for the subcommand that runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROBE = """
import gc, os, sys

def demo() -> None:
    print(gc.isenabled(), gc.get_freeze_count() > 10_000, os.environ["OPENBLAS_NUM_THREADS"])
"""

RUN = """
import sys
import blindscore

blindscore.COMMANDS["demo"] = (blindscore.HERE, "probe", "tells")
sys.argv[1:] = ["demo"]
blindscore.main()
"""


def told(folder: Path, **environment: str) -> list[str]:
    (folder / "probe.py").write_text(PROBE)
    inherited = {name: value for name, value in os.environ.items() if "THREADS" not in name}
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        env=inherited | {"PYTHONPATH": str(folder)} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


def test_garbage_is_collected_again_once_all_is_imported(tmp_path: Path) -> None:
    enabled, frozen, _ = told(tmp_path)
    assert (enabled, frozen) == ("True", "True")


def test_blas_has_one_thread_unless_somebody_wants_more(tmp_path: Path) -> None:
    assert told(tmp_path)[2] == "1"
    assert told(tmp_path, OPENBLAS_NUM_THREADS="3")[2] == "3"
