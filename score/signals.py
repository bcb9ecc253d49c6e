"""What signals mean to an endpoint: end in order, end at once, read files again."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable


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


def on_hangup(renew: Callable[[], None]) -> None:
    """Call `renew` at each SIGHUP."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, renew)
