"""The interpreter that processes are forked from: fresh, with their code imported once.

Of the memory of the program that starts it nothing is in it (`multiprocessing`, "forkserver").
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from multiprocessing import forkserver, resource_tracker
from threading import Lock

EXISTS = "forkserver" in multiprocessing.get_all_start_methods()

_SAFE_PATH = "PYTHONSAFEPATH"
_OURS_TO_HANDLE = {signal.SIGINT, signal.SIGHUP}
_starting = Lock()


def ensure_running() -> None:
    """Start it, unless it runs already; blocks for some milliseconds. Raises `OSError`.

    Its first imports come before it knows this program's `sys.path`: a `shared.py` or `score.py`
    in the working directory must not be taken for ours. And Ctrl-C, or a terminal that is closed,
    is this program's to handle: neither reaches it or what is forked from it.
    """
    resource_tracker.ensure_running()  # first: starting that one unblocks the signal
    with _starting:
        before = os.environ.get(_SAFE_PATH)
        os.environ[_SAFE_PATH] = "1"
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _OURS_TO_HANDLE)
        try:
            forkserver.ensure_running()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            if before is None:
                del os.environ[_SAFE_PATH]
            else:
                os.environ[_SAFE_PATH] = before
