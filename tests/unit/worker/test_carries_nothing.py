"""The carrier loads no library that could read what it carries."""

from __future__ import annotations

import subprocess
import sys

FORBIDDEN = ("tenseal", "encrypted", "sklearn", "numpy", "scipy", "joblib", "producer", "score")

SCRIPT = """
import importlib, pkgutil, sys
import worker, worker.cli
for module in pkgutil.iter_modules(worker.__path__):
    importlib.import_module(f"worker.{module.name}")
print(*sys.modules)
"""


def test_no_he_library_no_model_and_no_other_party_is_loaded() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=60
    )
    modules = set(done.stdout.split())
    assert "worker.cli" in modules
    assert {name.partition(".")[0] for name in modules}.isdisjoint(FORBIDDEN)
    assert modules.isdisjoint({"shared.seal", "shared.container", "shared.params", "shared.ei"})
