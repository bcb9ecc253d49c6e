"""Everything that takes minutes: chaos, an outage of storage, a soak. Figures in build/chaos.json.

    python -m tests.chaos.run [--jobs 500] [--packed-jobs 16] [--soak-jobs 10000] [--outage-s 20]
                              [--seed N]

Ends with 0 if every row of every run was scored exactly once, and right. The seed is for the choice
of workers to kill; it is printed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console

from deploy.local.models import train_digits
from tests.chaos import killing, soak
from tests.chaos.plan import BACKLOG, Plan, packed_plan

console = Console()

FIGURES = Path("build") / "chaos.json"


def main() -> int:
    """Run all of it; returns the exit code."""
    parser = argparse.ArgumentParser(description="Kill everything, again and again.")
    parser.add_argument("--jobs", type=int, default=500)
    parser.add_argument("--packed-jobs", type=int, default=16)
    parser.add_argument("--soak-jobs", type=int, default=10_000)
    parser.add_argument("--outage-s", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything is stopped
    folder = Path(tempfile.mkdtemp(prefix="blindscore-chaos-"))
    console.print(f"seed {options.seed}; logs in {folder} as long as this runs, or if it fails")
    model = train_digits(folder / "model")

    backlog = min(BACKLOG, options.jobs // 4)
    plan = Plan(jobs=options.jobs, backlog=backlog, seed=options.seed)
    figures = _flat(killing.chaos(folder / "chaos", model, plan))
    _tell("chaos", figures)
    packed = packed_plan(options.packed_jobs, options.seed)
    figures["packed"] = _flat(killing.chaos(folder / "packed", model, packed))
    _tell("packed", figures["packed"])
    calm = Plan(
        jobs=options.jobs // 2,
        backlog=backlog,
        most_kills=0,
        endpoint_restarts=0,
        storage_out_s=options.outage_s,
    )
    figures["outage"] = _flat(killing.chaos(folder / "outage", model, calm))
    _tell("outage", figures["outage"])
    soaked = soak.soak(folder / "soak", model, options.soak_jobs)
    figures["soak"] = _flat(soaked)
    _tell("soak", figures["soak"])

    FIGURES.parent.mkdir(exist_ok=True)
    FIGURES.write_text(json.dumps({"seed": options.seed, **figures}, indent=1) + "\n")
    console.print(f"written to {FIGURES}")
    soaked.require_flat()
    shutil.rmtree(folder)
    runs = (figures, figures["packed"], figures["outage"], figures["soak"])
    return int(any(run[count] for run in runs for count in ("lost", "duplicated", "wrong")))


def _flat(outcome: Any) -> dict[str, Any]:
    """An outcome's figures, the verdict among them."""
    figures: dict[str, Any] = dataclasses.asdict(outcome)
    verdict: dict[str, int] = figures.pop("verdict")
    return figures | verdict


def _tell(name: str, figures: dict[str, Any]) -> None:
    """One line of counts, and one for each part of something."""
    parts = {key: value for key, value in figures.items() if isinstance(value, dict)}
    counts = ", ".join(f"{key} {figures[key]}" for key in figures if key not in parts)
    console.print(f"[bold]{name}[/]: {counts}", soft_wrap=True, highlight=False)
    for part in parts.values():
        for key, value in part.items():
            _tell(f"  {key}", value)


if __name__ == "__main__":
    sys.exit(main())
