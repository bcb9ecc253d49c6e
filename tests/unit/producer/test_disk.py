"""Files are whole or not there, and a lock is held by one at a time."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from producer import disk
from shared.errors import RunError

BUSY = RunError("busy")


def test_a_file_appears_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(b"old")
    old = path.stat().st_ino
    with disk.whole(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert path.stat().st_ino != old, "it was put in place in one step"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_could_not_be_finished_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(b"old")
    with pytest.raises(TypeError), disk.whole(path) as file:
        file.writelines([b"ne", 0])  # type: ignore[list-item]
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_lock_is_held_by_one_and_let_go_at_the_end(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with disk.held(lock, BUSY), pytest.raises(RunError, match="busy"), disk.held(lock, BUSY):
        pass
    with disk.held(tmp_path / "lock", BUSY):
        pass


def test_a_disk_that_takes_nothing_is_told(tmp_path: Path) -> None:
    nowhere = tmp_path / "no such folder" / "file"
    with pytest.raises(RunError, match=r"can't write .*no such folder"), disk.whole(nowhere):
        pass
    with pytest.raises(RunError, match=r"can't write .*no such folder"), disk.held(nowhere, BUSY):
        pass


HOLDER = """
import sys, time
from pathlib import Path
from producer import disk
from shared.errors import RunError
with disk.held(Path(sys.argv[1]), RunError("busy")):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_killed_process_lets_go_of_its_lock(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(lock)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    with holder.stdout:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunError, match="busy"), disk.held(lock, BUSY):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with disk.held(lock, BUSY):
        pass
