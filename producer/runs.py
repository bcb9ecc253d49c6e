"""What the key owner keeps of each run, on its own disk: nothing here goes to the account.

runs/{run}/run.json      which data, which key, which model was offered
runs/{run}/enqueued      a line per job whose message was sent, so that a resumed run sends
                         only what is missing
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    PositiveFloat,
    PositiveInt,
    ValidationError,
)

from producer.offer import Offer
from shared import blobnames
from shared.blobnames import KeyId, RunId
from shared.errors import RunError
from shared.messages import ContainerName, SchemeName


class RunRecord(BaseModel):
    """How a run was made; enough to continue it, and to read its data set again for the report."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    run: RunId
    scheme: SchemeName
    key_id: KeyId
    container: ContainerName
    dataset: dict[str, Any]
    """The data set's own record, see `producer.datasets.reopen`."""
    features: PositiveInt
    input_bound: PositiveFloat
    rows_per_job: PositiveInt
    created_at: AwareDatetime
    offer: Offer | None = None
    """The endpoint's model at the time, when an endpoint was named."""


class RunFolder:
    """One run's folder below the key owner's home."""

    def __init__(self, home: Path, run: str) -> None:
        if not blobnames.is_run_id(run):
            raise RunError(f"{run!r} is not a run id", remedy="blindscore status lists the runs")
        self.run = run
        self.path = home / "runs" / run

    def create(self, record: RunRecord) -> None:
        """Write the record of a new run. Raises `RunError`."""
        try:
            self.path.mkdir(parents=True, mode=0o700)
            (self.path / "run.json").write_text(record.model_dump_json(indent=1) + "\n")
        except OSError as error:
            raise RunError(f"can't write {self.path}: {error.strerror}") from error

    def exists(self) -> bool:
        return (self.path / "run.json").is_file()

    def read(self) -> RunRecord:
        """Raises `RunError` for a run this machine doesn't know."""
        file = self.path / "run.json"
        try:
            return RunRecord.model_validate_json(file.read_bytes())
        except FileNotFoundError as error:
            raise RunError(
                f"unknown run {self.run}: no record of it in {self.path.parent}",
                remedy="blindscore status lists the runs of this machine",
            ) from error
        except (OSError, ValidationError) as error:
            raise RunError(f"{file} is not a run record") from error

    def enqueued(self) -> set[str]:
        """Jobs whose message was sent."""
        log = self.path / "enqueued"
        return set(log.read_text().split()) if log.exists() else set()

    def mark_enqueued(self, job: str) -> None:
        """Remember that a job's message was sent; survives a kill right after."""
        descriptor = os.open(self.path / "enqueued", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(descriptor, f"{job}\n".encode())
        finally:
            os.close(descriptor)


def known_runs(home: Path) -> Iterator[RunRecord]:
    """The runs of this machine, oldest first."""
    for path in sorted((home / "runs").glob("*/run.json")):
        yield RunFolder(home, path.parent.name).read()
