"""Stopping what we started."""

from __future__ import annotations

import subprocess


def stop_process(process: subprocess.Popen[bytes], *, within_s: float) -> None:
    """Ask a process to end, and end it when it does not."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(within_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
