"""What signals mean to an endpoint: end in order, end at once, read files again."""

from __future__ import annotations

import asyncio
import os
import signal


def stop_on_signals() -> asyncio.Event:
    """Set by the first SIGTERM or SIGINT; the second ends the process at once."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def on_signal(number: int) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    return stop


def note_hangups() -> asyncio.Event:
    """Set by SIGHUP from now on, which no longer ends the process; no loop has to run yet."""
    hangup = asyncio.Event()
    signal.signal(signal.SIGHUP, lambda *_: hangup.set())
    return hangup


def wake_on_hangup(hangup: asyncio.Event) -> None:
    """Have SIGHUP set it by way of the running loop, so that who waits for it wakes up."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hangup.set)
