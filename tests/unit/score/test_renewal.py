"""Files that SIGHUP has read again: what changes, what doesn't, and what waits meanwhile."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from threading import Timer

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from structlog.testing import capture_logs

from score import renewal
from score.callers import Callers
from score.renewal import renewing
from score.settings import (
    EndpointOptions,
    EngineOptions,
    KeyOptions,
    PoolOptions,
    ServerOptions,
    TlsFiles,
)
from score.signals import note_hangups, wake_on_hangup
from score.tls import ServerTls
from shared.errors import Unauthorized
from tests.certificates import Authority
from tests.unit.score.served import STORAGE, TOKENS, WITHIN_S, until

OPTIONS = ServerOptions(
    engine=EngineOptions(),
    pool=PoolOptions(processes=1),
    keys=KeyOptions(),
    endpoint=EndpointOptions(),
    storage=STORAGE,
    fixed_tokens=TOKENS[:1],
)


def accepted(callers: Callers) -> set[str]:
    """Those of `TOKENS` that are good for something."""
    found = set()
    for token in TOKENS:
        headers = {"Authorization": f"Bearer {token}"}
        request = make_mocked_request("POST", "/score", headers=headers)
        assert isinstance(request, web.Request)
        try:
            callers.identify(request)
        except Unauthorized:
            continue
        found.add(token)
    return found


@pytest.fixture
def files(tmp_path: Path) -> TlsFiles:
    return TlsFiles(*Authority(tmp_path).issue("endpoint"))


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    return tmp_path / "tokens"


def write(path: Path, text: str) -> None:
    """In place of whatever is there."""
    path.unlink(missing_ok=True)
    path.write_text(text)


async def test_what_is_read_is_used_and_what_can_not_be_changes_nothing(
    files: TlsFiles, token_file: Path
) -> None:
    write(token_file, TOKENS[1])
    hangup, callers, tls = asyncio.Event(), Callers(TOKENS[:1]), ServerTls(files)
    options = replace(OPTIONS, tls=files, token_file=token_file)
    with capture_logs() as logs:
        async with renewing(hangup, callers, tls, options):
            hangup.set()
            await until(lambda: len(logs) == 2)
            assert accepted(callers) == set(TOKENS)
            assert (current := tls.current) is not tls.context

            write(token_file, "")  # would open the endpoint to everybody
            write(files.key, "half of a key")
            hangup.set()
            await until(lambda: len(logs) == 4)
            assert accepted(callers) == set(TOKENS)
            assert tls.current is current
    told = [(line["event"], line["what"]) for line in logs]
    assert told == [
        *(("read again", what) for what in ("tokens", "certificate")),
        *(("what a file holds now is not used", what) for what in ("tokens", "certificate")),
    ]


async def test_a_file_that_hangs_holds_up_nobody_and_is_given_up(
    token_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renewal, "READ_WITHIN_S", 0.05)
    os.mkfifo(token_file)
    os.link(token_file, tmp_path / "pipe")
    # Were it read on the loop, this would find an empty file in the end.
    wake = Timer(WITHIN_S / 2, _end_reading, [tmp_path / "pipe"])
    wake.start()
    hangup, callers = asyncio.Event(), Callers(TOKENS[:1])
    with capture_logs() as logs:
        async with renewing(hangup, callers, None, replace(OPTIONS, token_file=token_file)):
            hangup.set()
            await until(lambda: bool(logs))
            assert logs[0]["reason"] == "its file was not read within 0.05 s"
            wake.cancel()
            wake.join()
            _end_reading(tmp_path / "pipe")
            write(token_file, TOKENS[1])
            monkeypatch.undo()
            hangup.set()
            await until(lambda: accepted(callers) == set(TOKENS))


def _end_reading(pipe: Path) -> None:
    """Whoever reads from the pipe finds its end."""
    os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))


GIVE_UP = """
import asyncio, pathlib, sys
from score import renewal
renewal.READ_WITHIN_S = 0.05
asyncio.run(renewal._read_again("pipe", pathlib.Path(sys.argv[1]).read_text))
"""


def test_the_end_does_not_wait_for_a_file_that_hangs(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    command = [sys.executable, "-c", GIVE_UP, str(tmp_path / "pipe")]
    subprocess.run(command, check=True, timeout=WITHIN_S)


def test_a_hangup_is_noted_before_there_is_a_loop_and_wakes_who_waits() -> None:
    before = signal.getsignal(signal.SIGHUP)
    try:
        hangup = note_hangups()
        signal.raise_signal(signal.SIGHUP)
        assert hangup.is_set()

        async def wait() -> None:
            wake_on_hangup(hangup)
            assert hangup.is_set()
            hangup.clear()
            waiting = asyncio.create_task(hangup.wait())
            await asyncio.sleep(0)
            signal.raise_signal(signal.SIGHUP)
            await asyncio.wait_for(waiting, WITHIN_S)

        asyncio.run(wait())
    finally:
        signal.signal(signal.SIGHUP, before)
