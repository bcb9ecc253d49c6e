"""The emulator as a child process: what it keeps, and when it ends."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from pydantic import SecretStr

from deploy.local import install
from deploy.local.azurite import Azurite
from shared.errors import StorageUnavailable
from shared.settings import StorageSettings
from shared.storage import ensure_storage, open_storage

DEADLINE_S = 20.0
ROOT = Path(__file__).parents[2]

PARENT = """
import sys
from deploy.local.azurite import Azurite
with Azurite() as azurite:
    print(azurite.pid, flush=True)
    sys.stdin.read()
"""


def _settings(azurite: Azurite) -> StorageSettings:
    return StorageSettings(connection_string=SecretStr(azurite.connection_string))


async def test_a_stop_loses_nothing_and_a_start_serves_on_the_same_ports(tmp_path: Path) -> None:
    azurite = Azurite(tmp_path / "data")
    with azurite:
        before = azurite.connection_string
        await ensure_storage(_settings(azurite))
        async with open_storage(_settings(azurite)) as storage:
            await storage.store.create("blob", b"kept" * 500_000, content_type="text/plain")
            await storage.queue.send(b"job")
    assert azurite.pid is None
    with azurite:
        assert azurite.connection_string == before
        async with open_storage(_settings(azurite)) as storage:
            assert await storage.store.read("blob", limit=2_000_000) == b"kept" * 500_000
            assert [d.body for d in await storage.queue.receive(1, lease_s=60)] == [b"job"]


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, None])
def test_it_ends_with_the_program_that_started_it(
    azurite: Azurite, end: signal.Signals | None
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    ) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        server = psutil.Process(int(parent.stdout.readline()))
        assert os.getsid(server.pid) != os.getsid(parent.pid)  # out of reach of Ctrl-C
        if end is None:
            parent.stdin.close()
        else:
            parent.send_signal(end)
        parent.wait(DEADLINE_S)
    deadline = time.monotonic() + DEADLINE_S
    while server.is_running() and server.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "Azurite outlived its parent"
        time.sleep(0.05)


def test_it_reports_nothing_to_anybody(azurite: Azurite) -> None:
    assert azurite.pid is not None
    assert "--disableTelemetry" in psutil.Process(azurite.pid).cmdline()


def test_ports_in_use_are_reported(azurite: Azurite) -> None:
    second = Azurite(blob_port=azurite.blob_port, queue_port=azurite.queue_port)
    with pytest.raises(StorageUnavailable, match=f"port {azurite.blob_port} is in use"):
        second.start()
    assert second.pid is None
    assert azurite.pid is not None


def test_an_installation_that_is_there_is_left_alone(azurite: Azurite) -> None:
    before = (install.MODULES / ".installed").stat()
    started = time.monotonic()
    install.install()
    assert time.monotonic() - started < 0.1
    assert (install.MODULES / ".installed").stat() == before


def test_the_lock_file_names_no_registry() -> None:
    lock = (install.HERE / "package-lock.json").read_text()
    assert '"resolved"' not in lock
    assert "registry" not in lock


def test_an_unreachable_registry_is_named_with_a_remedy(tmp_path: Path) -> None:
    shutil.copytree(
        ROOT / "deploy", tmp_path / "deploy", ignore=shutil.ignore_patterns("node_modules")
    )
    nowhere = {
        "npm_config_registry": "http://127.0.0.1:1/",
        "npm_config_fetch_retries": "0",
        "npm_config_cache": str(tmp_path / "cache"),
    }
    done = subprocess.run(
        [sys.executable, "-m", "deploy.local.install"],
        cwd=tmp_path,
        env=os.environ | nowhere,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "registry can't be reached" in done.stderr
    assert "python -m deploy.local.install" in done.stderr
    assert not (tmp_path / "deploy" / "local" / "node_modules" / ".installed").exists()
