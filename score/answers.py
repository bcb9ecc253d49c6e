"""What an evaluator says of the bytes it was fed, and how that crosses the pipe to the parent.

Answers come from a process that has parsed hostile bytes, so they travel as msgpack and are
checked strictly: never as pickles, which could run code where the storage credential is.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgpack
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from shared.errors import BlindscoreError


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Ready(_Answer):
    """The evaluators are built; `schemes` is their part of `/model`."""

    kind: Literal["ready"] = "ready"
    schemes: dict[str, dict[str, Any]]
    refused: dict[str, str]
    """Schemes this model can't be scored in, and why."""


class More(_Answer):
    """Taken; the rest of the body is due."""

    kind: Literal["more"] = "more"


class NeedKeys(_Answer):
    """The request is under this key id: say which version of it is current."""

    kind: Literal["need_keys"] = "need_keys"
    scheme: str
    key_id: str
    container: str = ""
    """As the request names it; empty for the scorer's own."""
    conn_str: str = Field(default="", repr=False)


class NeedBlob(_Answer):
    """That version is not loaded here: its bytes are needed."""

    kind: Literal["need_blob"] = "need_blob"


class Done(_Answer):
    """The response, whole."""

    kind: Literal["done"] = "done"
    body: bytes = Field(repr=False)
    content_type: str
    scheme: str
    rows: int
    sha256: bytes
    """Of `body`."""
    load_s: float
    """Time spent loading keys."""
    evaluate_s: float
    """Time spent on ciphertexts."""


class Failed(_Answer):
    """The request, or the evaluator's start, failed with this error."""

    kind: Literal["failed"] = "failed"
    code: str
    message: str
    remedy: str = ""
    place: str = ""
    """Where in our code an error that nobody foresaw came up, for the log."""

    def error(self) -> BlindscoreError:
        """The error, as its own class again."""
        return _classes().get(self.code, BlindscoreError)(self.message, remedy=self.remedy)


Answer = More | NeedKeys | NeedBlob | Done
"""What an evaluation says in process."""

Reply = Ready | Answer | Failed
"""What comes through a pipe."""

_REPLY: TypeAdapter[Reply] = TypeAdapter(Annotated[Reply, Field(discriminator="kind")])


def failed(error: BlindscoreError) -> Failed:
    """An error as it crosses the pipe."""
    return Failed(code=error.code, message=error.message, remedy=error.remedy)


def encode(reply: Reply) -> bytes:
    """A reply as msgpack."""
    return bytes(msgpack.packb(reply.model_dump()))


def decode(data: bytes) -> Reply:
    """Read a reply back. Raises `BlindscoreError` for anything else."""
    try:
        return _REPLY.validate_python(msgpack.unpackb(data, max_ext_len=0))
    except (ValueError, ValidationError) as error:
        raise BlindscoreError("an evaluator answered out of protocol") from error


def _classes() -> dict[str, type[BlindscoreError]]:
    """Error classes by code, where a message and a remedy are all that they take."""
    found: dict[str, type[BlindscoreError]] = {}
    pending = [BlindscoreError]
    while pending:
        cls = pending.pop()
        if cls.__init__ is BlindscoreError.__init__:
            found[cls.code] = cls
        pending.extend(cls.__subclasses__())
    return found
