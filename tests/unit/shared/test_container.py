"""What a container refuses, and that it is read as it arrives."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import msgpack
import pytest

from shared import container
from shared.container import Frame, Header, Reader
from shared.errors import BodyTooLarge, MalformedRequest

LIMIT = 1000
PAYLOADS = [b"first" * 20, b"", b"third" * 100]
FIELDS: dict[str, Any] = {
    "scheme": "packed",
    "parameters": {"preset": "n4096", "primes": [2**60 - 16383], "input_bound": 0.1},
    "rows": 7,
    "features": 3,
    "key_id": "k" * 64,
    "frames": 3,
}


def body_of(*items: object) -> bytes:
    return b"".join(msgpack.packb(item) for item in items)


def start(**changes: object) -> list[object]:
    return ["blindscore", 1, {**FIELDS, **changes}]


def frame(index: int, payload: bytes = b"payload") -> list[object]:
    return [index, container._checksum(index, payload), payload]


@pytest.fixture
def header() -> Header:
    return Header.model_validate(FIELDS)


@pytest.fixture
def body(header: Header) -> bytes:
    return b"".join(container.write(header, PAYLOADS))


def feed_all(reader: Reader, data: bytes, *, chunk_bytes: int) -> list[Frame]:
    return [
        frame
        for at in range(0, len(data), chunk_bytes)
        for frame in reader.feed(data[at : at + chunk_bytes])
    ]


def read(body: bytes) -> list[bytes]:
    return container.read(body, max_frame_bytes=LIMIT)[1]


@pytest.mark.parametrize("chunk_bytes", [1, 7, 64, 10_000])
def test_reads_what_was_written_however_it_arrives(
    header: Header, body: bytes, chunk_bytes: int
) -> None:
    reader = Reader(max_frame_bytes=LIMIT)
    frames = feed_all(reader, body, chunk_bytes=chunk_bytes)
    assert reader.close() == header
    assert [frame.payload for frame in frames] == PAYLOADS
    assert [frame.index for frame in frames] == [0, 1, 2]


def test_frames_come_out_before_the_body_is_complete(header: Header) -> None:
    pieces = list(container.write(header, PAYLOADS))
    reader = Reader(max_frame_bytes=LIMIT)
    assert list(reader.feed(pieces[0])) == []
    assert reader.header == header
    assert [frame.payload for frame in reader.feed(pieces[1])] == [PAYLOADS[0]]


def test_writes_each_frame_when_it_is_asked_for(header: Header) -> None:
    asked = []

    def payloads() -> Any:
        for payload in PAYLOADS:
            asked.append(payload)
            yield payload

    pieces = container.write(header, payloads())
    next(pieces)
    assert asked == []
    next(pieces)
    assert asked == PAYLOADS[:1]


@pytest.mark.parametrize("count", [2, 4])
def test_writing_another_number_of_frames_than_announced_is_a_fault(
    header: Header, count: int
) -> None:
    with pytest.raises(ValueError, match="header says 3"):
        list(container.write(header, [b""] * count))


def test_every_truncation_is_refused(body: bytes) -> None:
    for length in range(len(body)):
        with pytest.raises(MalformedRequest):
            read(body[:length])


@pytest.mark.parametrize(
    ("items", "reason"),
    [
        ([start(), frame(0), frame(2), frame(1)], "frame 2 where 1 was due"),
        ([start(), frame(0), frame(0), frame(1)], "frame 0 where 1 was due"),
        ([start(), frame(0), frame(1), frame(2), frame(3)], "surplus"),
        ([start(frames=0), frame(0)], "surplus"),
        ([start(), frame(0), frame(1)], "has 2 of 3 frames"),
        ([start(), [0, 12345, b"payload"]], "checksum"),
        ([start(), [1, *frame(0)[1:]]], "frame 1 where 0"),
        ([start(), frame(0), [1, *frame(0)[1:]]], "checksum"),  # moved to another place
        ([start(), [0, b"payload"]], "is not"),
        ([start(), [0, 1, "text"]], "is not"),
        ([start(), {"index": 0}], "is not"),
        ([start(), start()], "is not"),
        ([["blindscore", 1]], "not a blindscore container"),
        ([["other", 1, FIELDS]], "not a blindscore container"),
        ([["blindscore", 2, FIELDS]], "version 2"),
        ([FIELDS], "not a blindscore container"),
        ([start(surprise=1)], "surprise"),
        ([start(scheme="../x")], "scheme"),
        ([start(rows=0)], "rows"),
        ([start(rows="7")], "rows"),
        ([start(rows=True)], "rows"),
        ([start(features=-1)], "features"),
        ([start(frames=container.MAX_FRAMES + 1)], "frames"),
        ([start(key_id="../../etc/passwd")], "key_id"),
        ([start(parameters={"nested": {"a": 1}})], "parameters"),
        ([start(parameters={7: 1})], "not a blindscore container"),
        ([start(parameters={"scale": float("nan")})], "scale.*finite"),
        ([start(parameters={"scales": [1.0, -float("inf")]})], "parameters.scales"),
    ],
)
def test_refuses(items: list[object], reason: str) -> None:
    with pytest.raises(MalformedRequest, match=reason):
        read(body_of(*items))


@pytest.mark.parametrize(
    "body",
    [b"\xc1", b"\xff" * 100, b"\x91" * 5000, b"\xdf\xff\xff\xff\xff", b"\xdd\xff\xff\xff\xff"],
    ids=["unused byte", "integers", "nested", "map of 4 G", "array of 4 G"],
)
def test_refuses_bytes_that_are_no_container(body: bytes) -> None:
    with pytest.raises(MalformedRequest):
        read(body)


def test_a_payload_over_the_limit_is_refused_before_it_has_arrived() -> None:
    reader = Reader(max_frame_bytes=LIMIT)
    list(reader.feed(body_of(start()) + b"\x93\x00\x00\xc6" + struct.pack(">I", 2**31)))
    with pytest.raises(BodyTooLarge):
        feed_all(reader, b"x" * (LIMIT + 200), chunk_bytes=100)


def test_a_complete_payload_over_the_limit_is_refused() -> None:
    with pytest.raises((BodyTooLarge, MalformedRequest)):
        read(body_of(start(), frame(0, b"x" * (LIMIT + 1))))


@pytest.mark.parametrize(
    "endless",
    [
        lambda: b"\x93\xae" + b"x" * (container.MAX_HEADER_BYTES + 10),
        lambda: body_of(start()) + b"\x9f" + b"\xc4\xff" * 2000,
    ],
    ids=["header", "frame"],
)
def test_an_item_that_does_not_end_is_refused(endless: Callable[[], bytes]) -> None:
    reader = Reader(max_frame_bytes=LIMIT)
    with pytest.raises((BodyTooLarge, MalformedRequest)):
        feed_all(reader, endless(), chunk_bytes=1)


@pytest.mark.parametrize("fields", [{"x" * 100_000: 1}, {"parameters": {"y" * 100_000: None}}])
def test_a_senders_own_names_are_not_repeated_at_length(fields: dict[str, object]) -> None:
    with pytest.raises(MalformedRequest) as caught:
        read(body_of(start(**fields)))
    assert len(str(caught.value)) < 200
