"""What every `BlobStore` does, in memory and on Azurite."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.errors import BlobExists, BlobNotFound, BodyTooLarge
from shared.ports import BlobStore

MIB = 1024 * 1024
BINARY = "application/octet-stream"


async def stream(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def test_a_blob_is_read_back_with_all_that_was_said_of_it(store: BlobStore) -> None:
    metadata = {"model": "ab12", "scored_at": "2026-01-31T12:00:00.123456Z", "worker": "w 1"}
    await store.create(
        "runs/r1/out/000001", b"result", content_type="application/x-test", metadata=metadata
    )
    assert await store.read("runs/r1/out/000001", limit=100) == b"result"
    info = await store.stat("runs/r1/out/000001")
    assert info.name == "runs/r1/out/000001"
    assert info.size == 6
    assert info.content_type == "application/x-test"
    assert info.metadata == metadata
    assert info.etag
    assert abs(info.modified_at - datetime.now(UTC)) < timedelta(minutes=1)
    assert (await store.open("runs/r1/out/000001")).info == info
    assert [found async for found in store.list("")] == [info]


@pytest.mark.parametrize("size", [0, 1, 4 * MIB, 4 * MIB + 1, 9 * MIB])
async def test_bytes_of_any_length_come_back(store: BlobStore, size: int) -> None:
    data = (b"0123456789abcdef!" * (size // 17 + 1))[:size]
    await store.create("blob", data, content_type=BINARY)
    reader = await store.open("blob")
    assert reader.info.size == size
    chunks = [chunk async for chunk in reader]
    assert all(chunks)
    assert b"".join(chunks) == data
    assert await store.read("blob", limit=size) == data


@pytest.mark.parametrize(
    "chunks",
    [
        [],
        [b""],
        [b"a", b"", b"bc"],
        [b"x" * MIB] * 4,
        [b"x" * (4 * MIB), b"y"],
        [b"%07d" % n * 1000 for n in range(1500)],
    ],
    ids=["nothing", "empty", "small", "one block", "block and a byte", "many"],
)
async def test_a_stream_is_stored_whole(store: BlobStore, chunks: list[bytes]) -> None:
    await store.create("blob", stream(*chunks), content_type=BINARY, metadata={"a": "b"})
    info = await store.stat("blob")
    assert (info.content_type, dict(info.metadata)) == (BINARY, {"a": "b"})
    assert await store.read("blob", limit=100 * MIB) == b"".join(chunks)


@pytest.mark.parametrize("before", [1, 9 * MIB])
async def test_a_stream_that_raises_leaves_nothing(store: BlobStore, before: int) -> None:
    async def broken() -> AsyncIterator[bytes]:
        for start in range(0, before, MIB):
            yield b"x" * min(MIB, before - start)
        raise ConnectionError("the endpoint went away")

    with pytest.raises(ConnectionError, match="went away"):
        await store.create("blob", broken(), content_type=BINARY)
    with pytest.raises(BlobNotFound):
        await store.stat("blob")
    with pytest.raises(BlobNotFound):
        await store.open("blob")
    assert [info async for info in store.list("")] == []
    await store.create("blob", stream(b"second try"), content_type=BINARY)
    assert await store.read("blob", limit=100) == b"second try"


async def test_a_cancelled_writer_leaves_nothing(store: BlobStore) -> None:
    started = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield b"x" * (5 * MIB)
        started.set()
        await asyncio.Event().wait()

    writer = asyncio.create_task(store.create("blob", endless(), content_type=BINARY))
    await started.wait()
    writer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writer
    assert [info async for info in store.list("")] == []


@pytest.mark.parametrize("size", [3, 5 * MIB])
async def test_a_second_create_is_refused_and_changes_nothing(store: BlobStore, size: int) -> None:
    await store.create("blob", b"first", content_type=BINARY, metadata={"by": "first"})
    with pytest.raises(BlobExists, match="blob"):
        await store.create("blob", b"x" * size, content_type="text/plain")
    with pytest.raises(BlobExists):
        await store.create("blob", stream(b"x" * size), content_type="text/plain")
    with pytest.raises(BlobExists):  # the same again is no better: someone else wrote it
        await store.create("blob", b"first", content_type=BINARY, metadata={"by": "first"})
    assert await store.read("blob", limit=100) == b"first"
    assert (await store.stat("blob")).content_type == BINARY


@pytest.mark.parametrize("size", [1000, 9 * MIB], ids=["small", "in blocks"])
async def test_of_16_racers_one_wins_and_its_bytes_are_unmixed(store: BlobStore, size: int) -> None:
    async def race(number: int) -> int:
        body = bytes([number]) * size
        try:
            await store.create("blob", stream(body), content_type=BINARY)
        except BlobExists:
            return 0
        return number

    winners = [n for n in await asyncio.gather(*(race(n) for n in range(1, 17))) if n]
    assert len(winners) == 1
    assert await store.read("blob", limit=size) == bytes(winners) * size


async def test_interleaved_streams_to_one_name_do_not_mix(store: BlobStore) -> None:
    turn = asyncio.Barrier(2)

    async def paced(letter: bytes) -> AsyncIterator[bytes]:
        for _ in range(3):
            yield letter * (4 * MIB)
            await turn.wait()

    outcomes = await asyncio.gather(
        *(store.create("blob", paced(x), content_type=BINARY) for x in (b"a", b"b")),
        return_exceptions=True,
    )
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["BlobExists", "NoneType"]
    letter = b"a" if outcomes[0] is None else b"b"
    found = hashlib.sha256(await store.read("blob", limit=12 * MIB)).digest()
    assert found == hashlib.sha256(letter * (12 * MIB)).digest()


async def test_replace_writes_over_what_was_there(store: BlobStore) -> None:
    await store.replace("m", b"one", content_type="text/plain", metadata={"a": "1"})
    before = await store.stat("m")
    await store.replace("m", b"three", content_type="text/html", metadata={"b": "2"})
    after = await store.stat("m")
    assert await store.read("m", limit=10) == b"three"
    assert (after.size, after.content_type, dict(after.metadata)) == (5, "text/html", {"b": "2"})
    assert after.etag != before.etag


async def test_reading_stops_at_the_limit(store: BlobStore) -> None:
    await store.create("blob", b"12345", content_type=BINARY)
    assert await store.read("blob", limit=5) == b"12345"
    with pytest.raises(BodyTooLarge, match="blob of 5 bytes is over 4"):
        await store.read("blob", limit=4)


async def test_what_is_missing_is_said_to_be(store: BlobStore) -> None:
    with pytest.raises(BlobNotFound, match="nowhere"):
        await store.stat("nowhere")
    with pytest.raises(BlobNotFound, match="nowhere"):
        await store.open("nowhere")
    with pytest.raises(BlobNotFound, match="nowhere"):
        await store.read("nowhere", limit=1)


async def test_delete_tells_whether_there_was_one(store: BlobStore) -> None:
    await store.create("blob", b"x", content_type=BINARY)
    assert await store.delete("blob") is True
    assert await store.delete("blob") is False
    with pytest.raises(BlobNotFound):
        await store.stat("blob")
    await store.create("blob", b"y", content_type=BINARY)


async def test_a_listing_is_by_prefix_in_name_order_with_metadata(store: BlobStore) -> None:
    names = [f"runs/r1/out/{number:06d}" for number in (11, 2, 30, 1)] + ["runs/r10/out/000001"]
    for name in names:
        await store.create(name, name.encode(), content_type=BINARY, metadata={"name": name})
    found = [info async for info in store.list("runs/r1/")]
    assert [info.name for info in found] == sorted(names[:4])
    assert [dict(info.metadata) for info in found] == [{"name": name} for name in sorted(names[:4])]
    assert [info.size for info in found] == [len(name) for name in sorted(names[:4])]
    assert len([info async for info in store.list("")]) == 5
    assert [info async for info in store.list("nothing/")] == []


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(values=st.dictionaries(st.from_regex(r"[a-z][a-z0-9_]{0,9}", fullmatch=True), TEXT))
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
async def test_metadata_values_may_be_any_text(store: BlobStore, values: dict[str, str]) -> None:
    values |= {"empty": "", "spaced": "  a  b ", "percent": "100%25 %", "line": "a\r\nx: y"}
    await store.replace("blob", b"", content_type=BINARY, metadata=values)
    assert (await store.stat("blob")).metadata == values
    assert (await store.open("blob")).info.metadata == values
    assert [dict(info.metadata) async for info in store.list("blob")] == [values]
