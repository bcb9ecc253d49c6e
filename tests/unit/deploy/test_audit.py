"""An audit that asked nobody is not a clean one."""

from __future__ import annotations

import pytest

from deploy.audit import Advisory, Answer, Package, judge

CLEAN = Package(name="aiohttp", version="3.14.5")
BAD = Package(
    name="pillow",
    version="1.0",
    vulns=[Advisory(id="PYSEC-1", fix_versions=["1.1"], aliases=["CVE-1", "GHSA-1"])],
)
UNKNOWN = Package(name="ghost", skip_reason="Dependency not found on PyPI")


def test_nothing_audited_is_no_verdict() -> None:
    assert judge(Answer(dependencies=[UNKNOWN, UNKNOWN]), "pypi") is None
    assert judge(Answer(dependencies=[]), "pypi") is None


def test_all_known_and_no_finding_is_clean() -> None:
    verdict = judge(Answer(dependencies=[CLEAN]), "pypi")
    assert verdict is not None
    assert verdict.code == 0
    assert verdict.lines == ("audited by pypi: 1; open findings: 0; not audited: 0",)


def test_a_finding_fails_and_names_its_fix() -> None:
    verdict = judge(Answer(dependencies=[CLEAN, BAD]), "osv")
    assert verdict is not None
    assert verdict.code == 1
    assert verdict.lines[0] == "pillow 1.0: PYSEC-1 (fixed in 1.1)"


@pytest.mark.parametrize("name", ["PYSEC-1", "CVE-1", "GHSA-1"])
def test_a_finding_may_be_explained_under_any_of_its_names(name: str) -> None:
    verdict = judge(Answer(dependencies=[BAD]), "pypi", {name: "we read no images"})
    assert verdict is not None
    assert verdict.code == 0
    assert "we read no images" in verdict.lines[0]


def test_a_package_that_was_skipped_fails_by_name() -> None:
    verdict = judge(Answer(dependencies=[CLEAN, UNKNOWN]), "pypi")
    assert verdict is not None
    assert verdict.code == 1
    assert "ghost" in verdict.lines[0]
