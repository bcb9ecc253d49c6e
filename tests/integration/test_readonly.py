"""The endpoint as nobody, where nothing can be written: not the working directory, a home or
`/tmp`, not the packages it consists of."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from azure.storage.blob import ContainerClient

from deploy.local.azurite import Azurite
from producer.schemes import Encoding, client_scheme
from shared import blobnames
from shared.settings import CONNECTION_STRING_VARIABLE, DEFAULT_API_VERSION
from tests.commands import CLEAN_ENVIRONMENT
from tests.integration.endpoints import MODEL, Running, saved, serving

CONTAINER = f"readonly-{secrets.token_hex(6)}"
CONFINE = Path(__file__).with_name("readonly.sh")
ROW = np.array([[0.1, 0.2, 0.3, 0.4]])
SCHEMES = ("ei", "direct", "packed")


@pytest.fixture(scope="module")
def confined(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """What to put before a command; the model is then `/srv/model.npz`."""
    folder = tmp_path_factory.mktemp("public")
    folder.chmod(0o755)
    saved(folder).chmod(0o644)
    confine = ("bash", str(CONFINE), str(folder))
    if os.geteuid() != 0:
        pytest.skip("only root can take the right to write from a process")
    tried = subprocess.run(
        [*confine, "rw", "test", "!", "-w", "/tmp"], capture_output=True, text=True, check=False
    )
    if tried.returncode != 0:
        pytest.skip(f"this machine gives no mount namespace: {tried.stderr}")
    return confine


@pytest.fixture(scope="module")
def endpoint(
    azurite: Azurite, confined: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    with serving(
        tmp_path_factory.mktemp("logs"),
        azurite,
        CONTAINER,
        "--processes=1",
        model=Path("/srv/model.npz"),
        before=(*confined, "rw"),
        HOME=str(Path.home()),
        TMPDIR="/nowhere",
    ) as running:
        yield running


def test_it_can_write_nowhere(endpoint: Running) -> None:
    """The test is about what it says: the process is nobody's, and its file system read-only."""
    pids = [endpoint.process.pid]
    status = Path(f"/proc/{pids[0]}/status").read_text()
    assert "\nUid:\t65534\t65534\t65534\t65534\n" in status
    assert "\nGroups:\t \n" in status
    mounts = Path(f"/proc/{pids[0]}/mounts").read_text().splitlines()
    writable = {mount.split()[1] for mount in mounts if mount.split()[3].split(",")[0] == "rw"}
    kernel = ("/proc", "/sys", "/dev")
    assert {place for place in writable if not place.startswith(kernel)} == set()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_row_is_scored(endpoint: Running, azurite: Azurite, scheme: str) -> None:
    key = client_scheme(scheme).generate()
    encoding = Encoding(CONTAINER, features=MODEL.features, input_bound=1.0)
    with ContainerClient.from_connection_string(
        azurite.connection_string, CONTAINER, api_version=DEFAULT_API_VERSION
    ) as blobs:
        if not blobs.exists():
            blobs.create_container()
        blobs.upload_blob(blobnames.key(key.key_id), key.evaluation_keys())
    body = b"".join(key.encrypt(ROW, encoding))
    status, _, result = endpoint.post(body, client_scheme(scheme).content_type)
    assert status == 200, result
    errors = key.decrypt(result, rows=len(ROW)) - MODEL.scores(ROW)
    assert np.abs(errors).max() < 1e-3


def test_without_even_shared_memory_it_says_what_it_needs(
    azurite: Azurite, confined: tuple[str, ...]
) -> None:
    done = subprocess.run(
        [
            *(*confined, "ro", sys.executable, "-m", "blindscore"),
            *("serve", "--model", "/srv/model.npz", "--port", "0"),
        ],
        env=CLEAN_ENVIRONMENT | {CONNECTION_STRING_VARIABLE: azurite.connection_string},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "error: no folder for temporary files is writable\n  try: mount" in done.stderr
