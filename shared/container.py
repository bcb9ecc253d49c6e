"""The body of our own schemes (`direct`, `packed`): one header, then one frame per ciphertext.

A msgpack stream (https://github.com/msgpack/msgpack/blob/master/spec.md), readable as it arrives:

    header   ["blindscore", 1, {scheme, parameters, rows, features, key_id, frames}]
    frame i  [i, crc32, bytes]        i = 0 … frames-1, crc32 over i (8 bytes, big endian) and bytes

Length limits, order, count and checksums are settled here, before any byte reaches SEAL. The
checksum finds damage, not malice: whoever can change the bytes can change the checksum.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import msgpack
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError

from shared.blobnames import KeyId
from shared.errors import BodyTooLarge, MalformedRequest

CONTENT_TYPE = "application/vnd.blindscore"
MAGIC = "blindscore"
VERSION = 1
MAX_FRAMES = 1_000_000
MAX_HEADER_BYTES = 256 * 1024
_FRAME_OVERHEAD = 64
_MAX_NAME = 80

Parameter = int | float | str | tuple[int, ...] | tuple[float, ...]


class Header(BaseModel):
    """What a body holds: enough to refuse it, or to read it, before the first ciphertext."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    scheme: str = Field(pattern=r"^[a-z][a-z0-9]{0,15}$")
    parameters: Mapping[str, Parameter]
    rows: PositiveInt = Field(strict=True)
    features: PositiveInt = Field(strict=True)
    key_id: KeyId
    frames: NonNegativeInt = Field(le=MAX_FRAMES, strict=True)


@dataclass(frozen=True, slots=True)
class Frame:
    """One ciphertext, in the form that its scheme gives it."""

    index: int
    payload: bytes


def write(header: Header, payloads: Iterable[bytes]) -> Iterator[bytes]:
    """Serialise a body piece by piece. The number of payloads must be `header.frames`."""
    yield write_header(header)
    count = 0
    for count, frame in enumerate(write_frames(payloads), start=1):  # noqa: B007 - counts them
        yield frame
    if count != header.frames:
        raise ValueError(f"{count} frames written, header says {header.frames}")


def write_header(header: Header) -> bytes:
    """The first piece of a body."""
    packed: bytes = msgpack.packb([MAGIC, VERSION, header.model_dump(mode="json")])
    return packed


def write_frames(payloads: Iterable[bytes], *, first: int = 0) -> Iterator[bytes]:
    """The pieces of consecutive frames, the first of which is number `first` of its body."""
    pack = msgpack.Packer(use_bin_type=True).pack
    for index, payload in enumerate(payloads, start=first):
        yield pack([index, _checksum(index, payload), payload])


class Reader:
    """Reads a body as it arrives: `feed` chunks, take the frames they complete, then `close`.

    `max_frame_bytes` bounds a ciphertext, and with it the memory a hostile body can claim.
    """

    def __init__(self, *, max_frame_bytes: int) -> None:
        self.header: Header | None = None
        self._next = 0
        self._max_frame_bytes = max_frame_bytes
        self._fed = 0
        self._taken = 0
        self._unpacker = msgpack.Unpacker(
            raw=False,
            use_list=True,
            strict_map_key=True,
            max_buffer_size=0,  # bounded by _pending() below, whose error says why
            max_bin_len=max_frame_bytes,
            max_str_len=MAX_HEADER_BYTES,
            max_array_len=4096,
            max_map_len=64,
            max_ext_len=0,
        )

    def feed(self, chunk: bytes) -> Iterator[Frame]:
        """Take the next bytes; yields the frames they complete.

        Raises `MalformedRequest` at the first byte that can't be right, `BodyTooLarge` for a
        frame over the limit.
        """
        self._unpacker.feed(chunk)
        self._fed += len(chunk)
        while True:
            try:
                item = self._unpacker.unpack()
            except msgpack.OutOfData:
                limit = self._max_frame_bytes + _FRAME_OVERHEAD if self.header else MAX_HEADER_BYTES
                if self._pending() > limit:
                    raise BodyTooLarge(f"a frame is over {limit} bytes") from None
                return
            except ValueError as error:  # msgpack's FormatError, StackError and length limits
                raise MalformedRequest(f"not a blindscore container: {error}") from error
            self._taken = self._unpacker.tell()
            if self.header is None:
                self.header = _header(item)
            else:
                yield self._frame(item, self.header)

    def close(self) -> Header:
        """Declare the end of the body. Raises `MalformedRequest` when something is missing."""
        if self.header is None:
            raise MalformedRequest("container ends before its header")
        if self._pending():
            raise MalformedRequest(f"container ends inside frame {self._next}")
        if self._next != self.header.frames:
            raise MalformedRequest(f"container has {self._next} of {self.header.frames} frames")
        return self.header

    def _pending(self) -> int:
        """Bytes of the item that is incomplete. (`tell` counts those parsed so far as taken.)"""
        return self._fed - self._taken

    def _frame(self, item: object, header: Header) -> Frame:
        match item:
            case [int(index), int(checksum), bytes(payload)]:
                pass
            case _:
                raise MalformedRequest(f"frame {self._next} is not [index, crc32, bytes]")
        if self._next >= header.frames:
            raise MalformedRequest(f"surplus frame after the {header.frames} announced")
        if index != self._next:
            raise MalformedRequest(f"frame {index} where {self._next} was due")
        if len(payload) > self._max_frame_bytes:
            raise BodyTooLarge(f"frame {index} is over {self._max_frame_bytes} bytes")
        if checksum != _checksum(index, payload):
            raise MalformedRequest(f"frame {index} does not match its checksum")
        self._next += 1
        return Frame(index, payload)


def read(body: bytes, *, max_frame_bytes: int) -> tuple[Header, list[bytes]]:
    """Read a whole body at once; raises as `Reader` does."""
    reader = Reader(max_frame_bytes=max_frame_bytes)
    payloads = [frame.payload for frame in reader.feed(body)]
    return reader.close(), payloads


def _checksum(index: int, payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(index.to_bytes(8, "big")))


def _header(item: object) -> Header:
    match item:
        case [str(magic), int(version), dict(fields)] if magic == MAGIC:
            pass
        case _:
            raise MalformedRequest("not a blindscore container")
    if version != VERSION:
        raise MalformedRequest(f"container version {version}; this side reads {VERSION}")
    try:
        return Header.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])[:_MAX_NAME]  # it may be the sender's
        raise MalformedRequest(f"container header: {where}: {first['msg']}") from error
