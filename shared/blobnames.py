"""Where things are in the one container, and what a name may look like.

keys/{key_id} · runs/{run}/manifest.json · runs/{run}/in/{job} · runs/{run}/out/{job}
· runs/{run}/failed/{job}.json · runs/{run}/attempts/{job}/{message}/…
"""

from __future__ import annotations

import re
import secrets
from datetime import UTC, datetime
from typing import Annotated

from pydantic import StringConstraints

RUN_PATTERN = r"^[a-z0-9][a-z0-9-]{0,62}$"
JOB_PATTERN = r"^[0-9]{6,12}$"
KEY_ID_PATTERN = r"^[a-z0-9]{16,64}$"
CONTAINER_PATTERN = r"^[a-z0-9](?!.*--)[a-z0-9-]{1,61}[a-z0-9]$"
SHA256_PATTERN = r"^[0-9a-f]{64}$"

EXPIRES_AT = "expires_at"
"""In the metadata of a key blob whose key expires: when, in ISO 8601 and UTC. Nothing that arrives
later is scored under it; what was scored can still be collected."""

RunId = Annotated[str, StringConstraints(pattern=RUN_PATTERN)]
JobId = Annotated[str, StringConstraints(pattern=JOB_PATTERN)]
KeyId = Annotated[str, StringConstraints(pattern=KEY_ID_PATTERN)]
Sha256 = Annotated[str, StringConstraints(pattern=SHA256_PATTERN)]


def new_run_id(now: datetime | None = None) -> str:
    """A run id that sorts by time and does not collide: `20260131-120000-5f3a9c`."""
    return f"{(now or datetime.now(UTC)):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def job_id(index: int) -> str:
    """The id of the `index`-th block of a run; ids sort like their rows."""
    return f"{index:06d}"


def key(key_id: str) -> str:
    return f"keys/{key_id}"


def run_prefix(run: str) -> str:
    return f"runs/{run}/"


def manifest(run: str) -> str:
    return f"runs/{run}/manifest.json"


def inputs(run: str) -> str:
    return f"runs/{run}/in/"


def outputs(run: str) -> str:
    return f"runs/{run}/out/"


def failures(run: str) -> str:
    return f"runs/{run}/failed/"


def input_blob(run: str, job: str) -> str:
    return f"{inputs(run)}{job}"


def output_blob(run: str, job: str) -> str:
    return f"{outputs(run)}{job}"


def failure_blob(run: str, job: str) -> str:
    return f"{failures(run)}{job}.json"


def attempts(run: str, job: str, message: str) -> str:
    """Where workers note what they did with one queue message, once it comes back."""
    return f"runs/{run}/attempts/{job}/{message}/"


def job_of(blob_name: str) -> str:
    """The job id that an input, output or failure blob belongs to."""
    return blob_name.rsplit("/", 1)[-1].removesuffix(".json")


def is_key_id(text: str) -> bool:
    return re.fullmatch(KEY_ID_PATTERN, text) is not None


def is_container(text: str) -> bool:
    """Azure's container naming rules (3 to 63 characters, no double hyphen)."""
    return re.fullmatch(CONTAINER_PATTERN, text) is not None


def is_run_id(text: str) -> bool:
    return re.fullmatch(RUN_PATTERN, text) is not None
