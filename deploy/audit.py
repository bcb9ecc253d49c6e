"""Looks pinned packages up among the known vulnerabilities, and says plainly when it could not.

    python -m deploy.audit requirements/dev.txt

pip-audit counts what its service doesn't know as skipped, and succeeds even if that is all of it.
Here only a look-up that was answered counts, and every finding needs a fix or an explanation.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import BaseModel, ValidationError

SERVICES = ("pypi", "osv")
"""Asked in this order until one answers."""
SERVICE_S = 600.0

EXPLAINED: Mapping[str, str] = {}
"""Findings that don't concern us: advisory id → why."""


class Advisory(BaseModel):
    id: str
    fix_versions: list[str] = []
    aliases: list[str] = []


class Package(BaseModel):
    """One package in pip-audit's answer; without a version it was skipped."""

    name: str
    version: str = ""
    vulns: list[Advisory] = []
    skip_reason: str = ""


class Answer(BaseModel):
    """pip-audit's JSON."""

    dependencies: list[Package]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an audit comes to: lines to print, and the exit code."""

    lines: tuple[str, ...]
    code: int


def judge(answer: Answer, service: str, explained: Mapping[str, str] = EXPLAINED) -> Verdict | None:
    """The verdict on an answer; None when nothing in it was audited. Pure."""
    audited = [package for package in answer.dependencies if not package.skip_reason]
    skipped = sorted({p.name for p in answer.dependencies if p.skip_reason})
    if not audited:
        return None
    lines, open_findings = [], 0
    for package in audited:
        for advisory in package.vulns:
            names = {advisory.id, *advisory.aliases}
            why = next((explained[name] for name in sorted(names) if name in explained), "")
            open_findings += not why
            fix = f"fixed in {', '.join(advisory.fix_versions)}" if advisory.fix_versions else ""
            said = why or fix or "no fix yet"
            lines.append(f"{package.name} {package.version}: {advisory.id} ({said})")
    if skipped:
        lines.append(f"not known to {service}, so not audited: {', '.join(skipped)}")
    lines.append(
        f"audited by {service}: {len(audited)}; open findings: {open_findings}; "
        f"not audited: {len(skipped)}"
    )
    return Verdict(tuple(lines), int(bool(open_findings or skipped)))


def audit(requirements: str) -> Verdict:
    """Ask the services in turn about a file of pinned requirements."""
    silent = []
    for service in SERVICES:
        answer = _ask(service, requirements)
        verdict = judge(answer, service) if answer else None
        if verdict:
            return verdict
        silent.append(f"{service} {'knows none of the packages' if answer else 'does not answer'}")
    return Verdict(
        (
            f"error: nothing was audited: {'; '.join(silent)}",
            "  try: run it where the vulnerability services can be reached",
        ),
        2,
    )


def _ask(service: str, requirements: str) -> Answer | None:
    """pip-audit's answer; None when it has none."""
    done = subprocess.run(  # noqa: S603 - our own tool
        [
            *(sys.executable, "-m", "pip_audit", "--vulnerability-service", service),
            *("--requirement", requirements, "--require-hashes", "--disable-pip"),
            *("--format", "json", "--progress-spinner", "off"),
        ],
        capture_output=True,
        text=True,
        timeout=SERVICE_S,
        check=False,
    )
    try:
        return Answer.model_validate(json.loads(done.stdout))
    except (ValueError, ValidationError):
        return None


def main() -> int:
    """Audit the file that is named, and print the verdict."""
    verdict = audit(sys.argv[1])
    sys.stdout.write("\n".join(verdict.lines) + "\n")
    return verdict.code


if __name__ == "__main__":
    sys.exit(main())
