"""One command of ours as a process that may be killed, and started again."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil

from deploy.local.process import stop_process
from tests.commands import CLEAN_ENVIRONMENT

TICK_S = 0.05
STOP_S = 30.0
LOG_TAIL_LINES = 20


class Part:
    """One command of ours, started as often as is wanted."""

    def __init__(
        self, folder: Path, environment: Mapping[str, str], name: str, *arguments: str
    ) -> None:
        self.name = name
        self.arguments = arguments
        self.log = folder / f"{name}.log"
        self._environment = CLEAN_ENVIRONMENT | dict(environment)
        self._process: subprocess.Popen[bytes] | None = None
        self._earlier_lives = 0

    @property
    def output(self) -> str:
        """What it has printed to standard output in this life."""
        return self.log.with_suffix(".out").read_text()

    def events(self) -> Counter[str]:
        """What it has logged in this life, a JSON object a line, by the name of the event."""
        lines = self.log.read_bytes()[self._earlier_lives :].splitlines(keepends=True)
        whole = [line for line in lines if line.startswith(b"{") and line.endswith(b"}\n")]
        return Counter(json.loads(line)["event"] for line in whole)

    @property
    def code(self) -> int | None:
        """Its exit code; None while it runs, and before."""
        return None if self._process is None else self._process.poll()

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def process(self) -> psutil.Process:
        """Of a part that was started. Raises `psutil.Error` when it is gone."""
        assert self._process is not None
        return psutil.Process(self._process.pid)

    def start(self, *arguments: str) -> None:
        """Start it (again); `arguments` in place of the usual ones."""
        command = [sys.executable, "-m", "blindscore", *(arguments or self.arguments)]
        with self.log.open("ab") as log, self.log.with_suffix(".out").open("wb") as out:
            self._earlier_lives = self.log.stat().st_size
            self._process = subprocess.Popen(
                command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for whoever started the chaos
            )

    def tell(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal that ends it, and wait for its end."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(STOP_S)

    def stop(self) -> None:
        """End it, even if it is halted."""
        if self._process is not None:
            self.tell(signal.SIGCONT)
            stop_process(self._process, within_s=STOP_S)

    def require_code(self, *codes: int | None) -> None:
        """Fail unless it runs (None) or has ended in a way that is expected."""
        if self.code not in codes:
            tail = self.log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
            raise AssertionError(f"{self.name} ended with {self.code}:\n" + "\n".join(tail))


def wait_until(condition: Callable[[], bool], what: str, *, within_s: float) -> None:
    """Look again and again; raises AssertionError at the deadline."""
    give_up_at = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > give_up_at:
            raise AssertionError(f"{what}: not within {within_s:.0f} s")
        time.sleep(TICK_S)
