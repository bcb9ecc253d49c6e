"""What workers did with a message that the queue hands out again and again.

The queue counts how often it handed a message out, which is more often than anybody worked on it:
gets whose answer is lost, or that the service fails, count too. So workers note for themselves
when they begin, from the second delivery on; the first costs nothing. A worker that ends in any
orderly way adds how. Where that is missing, the worker died of it, or beside it.

Notes are blobs, created and never changed: a worker's credential need allow no more, and two
holders of one message can't overwrite each other's. They are numbered, so that they are found
without listing. A message that is sent again has an id of its own, and so a clean record.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError

from shared import blobnames
from shared.errors import BlobExists, BlobNotFound, StorageError
from shared.ports import BlobStore
from worker.job import Job

FIRST_RECORDED = 2
MAX_EXCUSED = 20
"""So often can it be somebody else's fault: with growing delays, that is a bad night."""
MAX_REASON = 300


@dataclass(frozen=True, slots=True)
class History:
    """What became of a message in all deliveries that are on record."""

    begun: int = 0
    excused: int = 0
    crashed: int = 0
    attempts: int = 0
    status: int | None = None
    reason: str = ""
    """Of the last delivery that says so; so is `status`."""

    @property
    def counted(self) -> int:
        """Deliveries that speak against the job."""
        return self.begun - min(self.excused, MAX_EXCUSED)

    @property
    def summary(self) -> str:
        """Why there will be no further delivery."""
        parts = [f"worked on in vain in {self.counted + 1} deliveries"]
        if self.crashed:
            parts.append(f"{self.crashed} or more of them ended the worker")
        if self.reason:
            parts.append(f"the last error: {self.reason}")
        return "; ".join(parts)

    def after(self, ending: Ending) -> History:
        """With one more delivery."""
        return History(
            begun=self.begun + 1,
            excused=self.excused + ending.excused,
            crashed=self.crashed + (ending is CRASH),
            attempts=self.attempts + ending.attempts,
            status=ending.status or self.status,
            reason=ending.reason or self.reason,
        )


class Ending(BaseModel):
    """How a delivery ended that left its job undone."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    excused: bool
    """It was not the job's fault."""
    attempts: NonNegativeInt
    status: int | None = None
    """The endpoint's last HTTP status, if it was asked."""
    reason: str = ""

    def to_metadata(self) -> dict[str, str]:
        fields = self.model_dump(mode="json", exclude_none=True)
        return {name: str(value)[:MAX_REASON] for name, value in fields.items()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Self | None:
        """Read it back; None for what is no such note."""
        try:
            return cls.model_validate_strings(dict(metadata))
        except ValidationError:
            return None


CRASH = Ending(excused=False, attempts=1)
"""Nothing was noted: the worker died."""


class AttemptLog:
    """Keeps the record of all messages, and judges by it."""

    def __init__(self, store: BlobStore, *, max_deliveries: int, worker: str) -> None:
        self._store = store
        self._max_deliveries = max_deliveries
        self._worker = worker

    async def judge(self, job: Job) -> History | None:
        """The record of a job that has been worked on often enough; None for any other.

        As the first delivery is not on record, one less is enough. Where the queue may have
        counted a delivery that nobody saw, that is in the job's favour: at least one must be.
        """
        if job.deliveries <= self._max_deliveries:
            return None
        history = await self._history(job)
        return history if history.counted >= max(1, self._max_deliveries - 1) else None

    async def begin(self, job: Job) -> None:
        """Note that work on this delivery begins. Raises `StorageError`: then it must not."""
        if job.deliveries < FIRST_RECORDED:
            return
        number = 1
        while not await self._note(_begun(job, number), {"deliveries": str(job.deliveries)}):
            number += 1
        job.noted = number

    async def end(self, job: Job, ending: Ending) -> None:
        """Note how it ended. What can't be noted counts against the job."""
        if not job.noted:
            return
        try:
            await self._note(_ended(job, job.noted), ending.to_metadata())
        except StorageError as error:
            job.log.warning("attempt_not_noted", error=str(error))

    async def _note(self, name: str, metadata: dict[str, str]) -> bool:
        """Write a note; False when there is one."""
        try:
            await self._store.create(
                name,
                b"",
                content_type="application/octet-stream",
                metadata=metadata | {"worker": self._worker},
            )
        except BlobExists:
            return False
        return True

    async def _history(self, job: Job) -> History:
        history = History()
        while await self._metadata(_begun(job, history.begun + 1)) is not None:
            metadata = await self._metadata(_ended(job, history.begun + 1))
            history = history.after(Ending.from_metadata(metadata or {}) or CRASH)
        return history

    async def _metadata(self, name: str) -> dict[str, str] | None:
        try:
            return dict((await self._store.stat(name)).metadata)
        except BlobNotFound:
            return None


def _begun(job: Job, number: int) -> str:
    return f"{_folder(job)}{number:06d}-begun"


def _ended(job: Job, number: int) -> str:
    return f"{_folder(job)}{number:06d}-ended"


def _folder(job: Job) -> str:
    return blobnames.attempts(job.run, job.job, job.lease.delivery.id)
