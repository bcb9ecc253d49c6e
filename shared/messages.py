"""What travels between the programs besides ciphertexts: job messages, result metadata, failures.

All of it is versioned and strict: an unknown version or field shape is refused, never guessed at.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Literal, Self

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    NonNegativeInt,
    PositiveInt,
    StringConstraints,
    ValidationError,
    model_validator,
)

from shared import blobnames
from shared.blobnames import JobId, KeyId, RunId, Sha256
from shared.errors import MessageError, RunError

MAX_MESSAGE_BYTES = 48 * 1024  # 64 KiB on the wire, base64-encoded

SchemeName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9]{0,15}$")]
ContainerName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$")]
TraceParent = Annotated[
    str, StringConstraints(pattern=r"^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$")
]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class JobMessage(_Record):
    """One job: a block of rows, claimed by reference (the bytes are in blobs)."""

    version: Literal[1] = 1
    run: RunId
    job: JobId
    scheme: SchemeName
    key_id: KeyId
    container: ContainerName
    input: str
    output: str
    rows: PositiveInt
    sha256: Sha256
    """Of the input blob."""
    enqueued_at: AwareDatetime
    traceparent: TraceParent

    @model_validator(mode="after")
    def _names_are_the_jobs_own(self) -> Self:
        if self.input != blobnames.input_blob(self.run, self.job):
            raise ValueError("input is not this job's input blob")
        if self.output != blobnames.output_blob(self.run, self.job):
            raise ValueError("output is not this job's output blob")
        return self

    def encode(self) -> bytes:
        return self.model_dump_json().encode()

    @classmethod
    def decode(cls, body: bytes) -> JobMessage:
        """Parse a queue message's body. Raises `MessageError`, naming what is wrong."""
        if len(body) > MAX_MESSAGE_BYTES:
            raise MessageError(f"message of {len(body)} bytes is over {MAX_MESSAGE_BYTES}")
        try:
            return cls.model_validate_json(body, strict=True)
        except ValidationError as error:
            raise MessageError(f"not a job message: {_summary(error)}") from error


class ResultInfo(_Record):
    """What a result blob's metadata says of how it was made; one listing gives the statistics."""

    scheme: SchemeName
    key_id: KeyId
    model: str
    """Fingerprint of the model that scored it; empty when the endpoint does not announce one."""
    rows: PositiveInt
    sha256: str
    """Of the result blob, as announced by the endpoint; empty when it announces none."""
    worker: str
    attempts: PositiveInt
    deliveries: PositiveInt
    enqueued_at: AwareDatetime
    received_at: AwareDatetime
    scored_at: AwareDatetime
    score_ms: NonNegativeInt
    """From the request's first byte to the answer's first byte, in the successful attempt."""

    def to_metadata(self) -> dict[str, str]:
        return {name: str(value) for name, value in self.model_dump(mode="json").items()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], *, blob: str) -> ResultInfo:
        """Read it back. Raises `RunError`, naming the blob."""
        known = {name: metadata[name] for name in cls.model_fields if name in metadata}
        try:
            return cls.model_validate_strings(known)
        except ValidationError as error:
            raise RunError(
                f"result blob {blob} has unusable metadata: {_summary(error)}"
            ) from error


class FailureRecord(_Record):
    """Why a job can't have a result."""

    version: Literal[1] = 1
    run: RunId
    job: JobId
    code: str
    reason: str
    status: int | None = None
    """The endpoint's last HTTP status, if it was asked."""
    attempts: NonNegativeInt
    deliveries: PositiveInt
    worker: str
    failed_at: AwareDatetime
    traceparent: str = ""

    def encode(self) -> bytes:
        return self.model_dump_json().encode()

    @classmethod
    def decode(cls, body: bytes, *, blob: str) -> FailureRecord:
        """Parse a failure blob. Raises `RunError`, naming the blob."""
        try:
            return cls.model_validate_json(body)
        except ValidationError as error:
            raise RunError(f"failure record {blob} is unusable: {_summary(error)}") from error


class JobEntry(_Record):
    """One job in a manifest: which rows it holds, and the hash of their ciphertexts."""

    job: JobId
    first_row: NonNegativeInt
    rows: PositiveInt
    """Of the data set. With canaries, the job's body and its message have more."""
    sha256: Sha256
    """Of the input blob."""


class Manifest(_Record):
    """What a run consists of. Written at the start of a run and again at its end.

    In the account it is signed, see `producer.signing`.
    """

    version: Literal[1] = 1
    run: RunId
    scheme: SchemeName
    key_id: KeyId
    features: PositiveInt
    rows: NonNegativeInt
    """So far; final when `complete`."""
    created_at: AwareDatetime
    complete: bool
    canaries: NonNegativeInt = 0
    """How many copies of rows are hidden in each job, see `producer.canaries`. Where is secret."""
    jobs: tuple[JobEntry, ...]

    def encode(self) -> bytes:
        return self.model_dump_json().encode()

    @classmethod
    def decode(cls, body: bytes, *, run: str) -> Manifest:
        """Parse a manifest. Raises `RunError`, naming the run."""
        try:
            manifest = cls.model_validate_json(body)
        except ValidationError as error:
            raise RunError(f"manifest of run {run} is unusable: {_summary(error)}") from error
        if manifest.run != run:
            raise RunError(f"manifest of run {run} says it is run {manifest.run}")
        return manifest


def _summary(error: ValidationError) -> str:
    """The first problem in one line, without echoing the input (it may be hostile or secret)."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{where + ': ' if where else ''}{first['msg']}{more}"


def utc_now() -> datetime:
    """The wall clock, with its zone."""
    return datetime.now(UTC)
