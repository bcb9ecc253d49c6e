"""`demo` and `up`: one command, and nothing left running."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import psutil
import pytest

from deploy.local.ports import free_port
from tests.commands import CLEAN_ENVIRONMENT, succeed

WITHIN_S = 120


def start(*arguments: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "blindscore", *arguments],
        cwd=folder,
        env=CLEAN_ENVIRONMENT | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def read_until(process: subprocess.Popen[str], pattern: str) -> str:
    """Output up to the first line that matches."""
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if re.search(pattern, line):
            return seen
    pytest.fail(f"ended without {pattern!r}:\n{seen}")


def descendants(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def test_demo_reports_and_stops_everything(tmp_path: Path) -> None:
    shown = succeed("demo", "--limit", "20", "--out", "results", folder=tmp_path)
    assert re.search(r"same prediction as plaintext\s+20 of 20", shown)
    for scheme in ("ei", "direct", "packed"):
        assert re.search(rf"│ {scheme} +│ +20 │", shown)
        assert (tmp_path / "results" / scheme / "report.json").is_file()


def test_ctrl_c_in_the_demo_leaves_nothing_running(tmp_path: Path) -> None:
    process = start("demo", folder=tmp_path)
    read_until(process, r"\$ blindscore produce")
    running = descendants(process)
    assert running
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=WITHIN_S)
    assert process.returncode != 0
    _, alive = psutil.wait_procs(running, timeout=WITHIN_S)
    assert alive == []


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_up_serves_until_it_is_told_to_stop(tmp_path: Path, ending: signal.Signals) -> None:
    port, blob, queue = free_port(), free_port(), free_port()
    ports = ("--port", str(port), "--blob-port", str(blob), "--queue-port", str(queue))
    process = start("up", *ports, folder=tmp_path)
    shown = read_until(process, "Ctrl-C stops everything")
    assert f"export BLINDSCORE_ENDPOINT='http://127.0.0.1:{port}'" in shown
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as answer:
        assert answer.read() == b"Healthy"
    running = descendants(process)
    process.send_signal(ending)
    process.communicate(timeout=WITHIN_S)
    _, alive = psutil.wait_procs(running, timeout=WITHIN_S)
    assert alive == []
