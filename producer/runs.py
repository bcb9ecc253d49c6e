"""What the key owner keeps of each run, on its own disk: nothing here goes to the account.

runs/{run}/run.json      which data, which key, which model was offered
runs/{run}/encrypted     } how far it has come, see `producer.journal`
runs/{run}/enqueued      }
runs/{run}/lock          held while the run is being produced
runs/{run}/collected/    exact scores of `collect --round` and `--labels-only`, see `producer.parts`
runs/{run}/collected_at  when all of it had been collected, for who wants to forget its key
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import structlog
from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
)

from producer import disk
from producer.journal import Journal
from producer.offer import Offer
from shared import blobnames
from shared.blobnames import KeyId, RunId
from shared.errors import RunError
from shared.messages import ContainerName, SchemeName

log = structlog.get_logger()


class RunRecord(BaseModel):
    """How a run was made; enough to continue it, and to read its data set again for the report."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    run: RunId
    scheme: SchemeName
    key_id: KeyId
    container: ContainerName
    queue: ContainerName
    dataset: dict[str, Any]
    """The data set's own record, see `producer.datasets.reopen`."""
    features: PositiveInt
    input_bound: PositiveFloat
    preset: str = ""
    """How values are coded, where the key serves several presets; empty: as its own says."""
    rows_per_job: PositiveInt
    """Of the data set; canaries come on top."""
    canaries: NonNegativeInt = 0
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
            with disk.whole(self.path / "run.json") as file:
                file.write(f"{record.model_dump_json(indent=1)}\n".encode())
        except OSError as error:
            raise disk.cannot_write(self.path, error) from error

    def read(self) -> RunRecord:
        """Raises `RunError` for a run this machine doesn't know."""
        if (record := self.find()) is None:
            raise RunError(
                f"unknown run {self.run}: no record of it in {self.path.parent}",
                remedy="blindscore status lists the runs of this machine",
            )
        return record

    def find(self) -> RunRecord | None:
        """None for a run this machine doesn't know. Raises `RunError`."""
        file = self.path / "run.json"
        try:
            return RunRecord.model_validate_json(file.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise RunError(f"can't read {file}: {error.strerror}") from error
        except ValidationError as error:
            raise RunError(f"{file} is not a run record") from error

    def mark_collected(self, now: datetime) -> None:
        """Remember that all of the run has been collected. Raises `RunError`."""
        with disk.whole(self.path / "collected_at") as file:
            file.write(f"{now.isoformat()}\n".encode())

    def collected_at(self) -> datetime | None:
        """When all of the run had been collected; None if that is not known."""
        try:
            return datetime.fromisoformat((self.path / "collected_at").read_text().strip())
        except (OSError, ValueError):
            return None

    @contextmanager
    def journal(self) -> Iterator[Journal]:
        """How far the run has come; for one process at a time. Raises `RunError`."""
        busy = RunError(
            f"run {self.run} is being produced by another process",
            remedy="wait until that has ended, then resume",
        )
        with disk.held(self.path / "lock", busy):
            journal = Journal(self.path)
            journal.load()
            yield journal


def known_runs(home: Path) -> Iterator[RunRecord]:
    """The runs of this machine, oldest first; without damaged records, which a warning names.

    Raises `RunError` for a folder that can't be read.
    """
    for name in _names(home / "runs"):
        try:
            record = RunFolder(home, name).find()
        except RunError as error:
            log.warning("a run was left out: nothing is known of its key", why=str(error))
            continue
        if record is not None:
            yield record


def _names(runs: Path) -> list[str]:
    try:
        return sorted(path.name for path in runs.iterdir() if blobnames.is_run_id(path.name))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RunError(f"can't read {runs}: {error.strerror}") from error
