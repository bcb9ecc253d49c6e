"""Where processes come from: not from the working directory, and deaf to Ctrl-C."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

WITHIN_S = 60

STARTING = """
import multiprocessing, os
from shared import forkserver

def told():
    import shared
    print(shared.__file__, flush=True)

if __name__ == "__main__":
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["shared.errors"])
    forkserver.ensure_running()
    process = context.Process(target=told)
    process.start()
    process.join()
    print(process.exitcode, os.environ.get("PYTHONSAFEPATH", "unset"))
"""

INTERRUPTED = """
import multiprocessing, signal, time
from shared import forkserver

if __name__ == "__main__":
    multiprocessing.get_context("forkserver").set_forkserver_preload(["shared.azure_blob"])
    forkserver.ensure_running()
    print(signal.pthread_sigmask(signal.SIG_BLOCK, ()), flush=True)
    signal.pause()
"""


@pytest.fixture
def strange_folder(tmp_path: Path) -> Path:
    """A working directory with a file that has the name of a package of ours."""
    folder = tmp_path / "strange"
    folder.mkdir()
    (folder / "shared.py").write_text("from pathlib import Path; Path('ran').touch()\n")
    return folder


def test_a_file_of_the_working_directory_is_not_taken_for_ours(
    tmp_path: Path, strange_folder: Path
) -> None:
    script = tmp_path / "starting.py"
    script.write_text(STARTING)
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=strange_folder,
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=True,
    )
    assert not (strange_folder / "ran").exists()
    assert str(strange_folder) not in done.stdout
    assert done.stdout.splitlines()[-1] == "0 unset", done.stderr


def test_ctrl_c_leaves_no_traceback_while_it_starts(tmp_path: Path) -> None:
    """Terminals send it to every process of the group, as early as it may be."""
    script = tmp_path / "interrupted.py"
    script.write_text(INTERRUPTED)
    program = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert program.stdout is not None
    assert program.stdout.readline() == "set()\n", "the program itself hears it"
    children = psutil.Process(program.pid).children()
    for child in children:
        child.send_signal(signal.SIGINT)
    program.kill()
    _, said = program.communicate(timeout=WITHIN_S)
    _, alive = psutil.wait_procs(children, timeout=WITHIN_S)
    assert children
    assert alive == []
    assert said == ""
