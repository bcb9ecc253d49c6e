"""A message being worked on, and what is known of it so far."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog

from shared import blobnames
from shared.errors import BlobNotFound
from shared.ports import BlobStore
from worker.lease import Lease

log = structlog.get_logger()


@dataclass(slots=True)
class Job:
    """`run` and `job` are empty for a message that does not name them."""

    lease: Lease
    received_at: datetime
    run: str
    job: str
    traceparent: str = ""
    attempts: int = 0
    noted: int = 0
    """The number of this delivery's note that work has begun; 0 without one."""
    suspect: bool = False
    """A failure of this delivery may be the job's own."""

    @property
    def deliveries(self) -> int:
        return self.lease.delivery.deliveries

    @property
    def name(self) -> str:
        """For telling jobs apart."""
        return f"{self.run}/{self.job}"

    @property
    def log(self) -> Any:
        """A logger whose events name this job."""
        return log.bind(run=self.run, job=self.job, traceparent=self.traceparent)

    async def has_result(self, store: BlobStore) -> bool:
        """Whether someone has scored it already."""
        if not self.run:
            return False
        try:
            await store.stat(blobnames.output_blob(self.run, self.job))
        except BlobNotFound:
            return False
        return True
