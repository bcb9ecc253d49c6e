"""`make bench`: every benchmark in a process of its own, figures in build/bench.json.

    python -m tests.bench [ei] [direct] [packed] [crossing] [http] [pipeline] [growth]

Ratios come from one run of one benchmark; times of different runs don't compare. Those that run
the pipeline are started in no other way: processes that they start would import their main module.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

NAMES = ("ei", "direct", "packed", "crossing", "http", "pipeline", "growth")
OUTPUT = Path("build/bench.json")
_CHILD = (
    "import importlib, json, sys; "
    "figures = importlib.import_module(f'tests.bench.bench_{sys.argv[1]}').run(); "
    "open(sys.argv[2], 'w').write(json.dumps(figures))"
)


def main(names: list[str]) -> int:
    """Run the named benchmarks, or all; returns the number that failed."""
    unknown = set(names) - set(NAMES)
    if unknown:
        sys.stderr.write(f"unknown benchmark {', '.join(unknown)}; known: {', '.join(NAMES)}\n")
        return 2
    OUTPUT.parent.mkdir(exist_ok=True)
    # Of all, none of an earlier run may stay; of some, those of the others do.
    figures = json.loads(OUTPUT.read_text()) if names and OUTPUT.exists() else {}
    sys.stdout.write(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, ")
    sys.stdout.write(f"Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}\n")
    failed = 0
    for name in names or NAMES:
        sys.stdout.flush()
        part = OUTPUT.with_name(f"bench-{name}.json")
        done = subprocess.run([sys.executable, "-c", _CHILD, name, str(part)], check=False)
        if done.returncode == 0:
            figures |= json.loads(part.read_text())
            part.unlink()
        failed += done.returncode != 0
    OUTPUT.write_text(json.dumps(figures, indent=1, sort_keys=True) + "\n")
    sys.stdout.write(f"figures are in {OUTPUT}\n")
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
