"""Where processes come from: not from the working directory, and deaf to Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

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

SIGNALLED = """
import multiprocessing, signal, sys
from multiprocessing import forkserver as interpreter
from shared import forkserver

if __name__ == "__main__":
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["shared.azure_blob"])
    forkserver.ensure_running()
    print(signal.pthread_sigmask(signal.SIG_BLOCK, ()), flush=True)
    print(interpreter._forkserver._forkserver_pid, flush=True)
    sys.stdin.readline()
    process = context.Process(target=print, args=("here",))
    process.start()
    process.join()
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


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGHUP])
def test_a_terminals_signals_are_not_for_it(tmp_path: Path, sent: signal.Signals) -> None:
    """They go to every process of the group, as early as it may be."""
    script = tmp_path / "signalled.py"
    script.write_text(SIGNALLED)
    with subprocess.Popen(
        [sys.executable, str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "set()\n", "the program itself hears them"
        os.kill(int(program.stdout.readline()), sent)
        said, complaints = program.communicate("go on\n", timeout=WITHIN_S)
    assert (said, complaints) == ("here\n", "")
