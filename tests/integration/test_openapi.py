"""The endpoint keeps what `/openapi.json` promises, whatever it is sent.

`make fuzz` looks for longer: FUZZ_S=600 python -m pytest tests/integration/test_openapi.py
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from azure.storage.blob import ContainerClient

from deploy.local.azurite import Azurite
from deploy.local.models import train_digits
from producer.datasets import open_dataset
from producer.schemes import Encoding, client_scheme
from shared import blobnames
from shared.settings import DEFAULT_API_VERSION
from tests.commands import CLEAN_ENVIRONMENT
from tests.integration.endpoints import Running, serving

ROOT = Path(__file__).parents[2]
CONTAINER = f"openapi-{secrets.token_hex(6)}"
KEY_ID = "f" * 32
TOKEN = "a-token-for-schemathesis"
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "missing_required_header",
    "unsupported_method",
    "allow_header_conformance",
    "ignored_auth",
)
"""All but those of resources, of which there are none, and `positive_data_acceptance`: no schema
tells a ciphertext from other bytes."""
FUZZ_S = int(os.environ.get("FUZZ_S", "0"))
BOUNDED = ("run", "--phases=examples,coverage,fuzzing", "--max-examples=50", "--seed=1")
"""The same requests in each run."""
UNBOUNDED = ("run", "--phases=coverage,fuzzing", "--max-examples=1000000", f"--max-time={FUZZ_S}")


@pytest.fixture(scope="module")
def endpoint(azurite: Azurite, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("openapi")
    with serving(
        folder,
        azurite,
        CONTAINER,
        model=train_digits(folder),
        BLINDSCORE_TOKENS=TOKEN,
    ) as running:
        yield running


@pytest.fixture(scope="module")
def bodies(azurite: Azurite, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of sound bodies, whose keys are published."""
    folder = tmp_path_factory.mktemp("bodies")
    rows = next(iter(open_dataset("digits", split="test").blocks(2))).rows
    with ContainerClient.from_connection_string(
        azurite.connection_string, CONTAINER, api_version=DEFAULT_API_VERSION
    ) as blobs:
        blobs.create_container()
        for scheme in ("packed", "direct"):
            key = client_scheme(scheme).generate()
            encoding = Encoding(CONTAINER, features=rows.shape[1], input_bound=16.0)
            (folder / scheme).write_bytes(b"".join(key.encrypt(rows, encoding)))
            blobs.upload_blob(blobnames.key(key.key_id), key.evaluation_keys())
        ei = client_scheme("ei").generate()
        blobs.upload_blob(blobnames.key(KEY_ID), ei.evaluation_keys())
    return folder


def test_schemathesis_finds_nothing(endpoint: Running, bodies: Path, tmp_path: Path) -> None:
    looking = BOUNDED if not FUZZ_S else UNBOUNDED
    done = subprocess.run(
        [
            *(sys.executable, "-W", "ignore", "-m", "schemathesis.cli", "--no-color", *looking),
            *(f"--checks={','.join(CHECKS)}", f"--header=Authorization: Bearer {TOKEN}"),
            *("--generation-database=none", "--request-timeout=60", "--warnings=off"),
            f"{endpoint.url}/openapi.json",
        ],
        cwd=tmp_path,
        env=CLEAN_ENVIRONMENT
        | {
            "PYTHONPATH": str(ROOT),
            "SCHEMATHESIS_HOOKS": "tests.fuzz.endpoint_hooks",
            "FUZZ_KEY_ID": KEY_ID,
            "FUZZ_CONTAINER": CONTAINER,
            "FUZZ_SOUND_BODIES": str(bodies),
        },
        capture_output=True,
        text=True,
        timeout=FUZZ_S + 600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(endpoint.get("/model", Authorization=f"Bearer {TOKEN}"))["features"] == 64
