"""Request bodies: whole and right, or never complete."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import BodyTooLarge, CorruptInput, StorageUnavailable
from tests.fakes import FakeReader, FakeStore
from worker.body import BytesBody, VerifiedBody, read_all


async def _reader(data: bytes, *, chunk_bytes: int = 7) -> FakeReader:
    store = FakeStore()
    await store.replace("blob", data, content_type="text/plain")
    return FakeReader(await store.stat("blob"), data, chunk_bytes)


async def _send(body: VerifiedBody, sent: bytearray) -> None:
    async for chunk in body:
        sent += chunk


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@settings(deadline=None)
@given(data=st.binary(max_size=60), chunk_bytes=st.integers(min_value=1, max_value=70))
async def test_a_right_blob_passes_unchanged(data: bytes, chunk_bytes: int) -> None:
    async with VerifiedBody(
        await _reader(data, chunk_bytes=chunk_bytes), sha256=_sha256(data)
    ) as body:
        assert await read_all(body, limit=100) == data
        assert body.complete


@settings(deadline=None)
@given(
    data=st.binary(min_size=1, max_size=60),
    chunk_bytes=st.integers(min_value=1, max_value=70),
    where=st.integers(min_value=0),
)
async def test_a_changed_byte_keeps_the_last_chunk_back(
    data: bytes, chunk_bytes: int, where: int
) -> None:
    expected = _sha256(data)
    changed = bytearray(data)
    changed[where % len(data)] ^= 1
    body = VerifiedBody(await _reader(bytes(changed), chunk_bytes=chunk_bytes), sha256=expected)
    sent = bytearray()
    with pytest.raises(CorruptInput):
        await _send(body, sent)
    assert len(sent) < len(data)
    assert not body.complete
    with pytest.raises(CorruptInput):
        await anext(body)


@pytest.mark.parametrize("there", [b"12345", b"123456789"], ids=["shorter", "longer"])
async def test_a_blob_of_another_length_than_announced_never_completes(there: bytes) -> None:
    """A request with that Content-Length would otherwise complete before the hash is known."""
    reader = await _reader(b"1234567", chunk_bytes=1)
    reader.data = there
    body = VerifiedBody(reader, sha256=_sha256(there))
    sent = bytearray()
    with pytest.raises(CorruptInput):
        await _send(body, sent)
    assert len(sent) < 7


async def test_an_empty_blob_that_should_not_be_is_refused_before_any_request() -> None:
    with pytest.raises(CorruptInput):
        async with VerifiedBody(await _reader(b""), sha256=_sha256(b"more")):
            raise AssertionError("a request would be made here")


async def test_the_cause_outlives_what_a_caller_makes_of_it() -> None:
    async def send() -> None:
        async with VerifiedBody(await _reader(b"data"), sha256=_sha256(b"more")) as body:
            try:
                await anext(body)
            except CorruptInput as error:
                raise ConnectionError("broken off") from error

    with pytest.raises(CorruptInput):
        await send()


async def test_a_storage_fault_midway_is_passed_on() -> None:
    class Failing(FakeReader):
        async def __aiter__(self):  # type: ignore[no-untyped-def]
            yield b"da"
            raise StorageUnavailable("gone")

    whole = await _reader(b"data")
    body = VerifiedBody(Failing(whole.info, b"data"), sha256=_sha256(b"data"))
    with pytest.raises(StorageUnavailable):
        await read_all(body, limit=10)


async def test_leaving_early_closes_the_blob() -> None:
    closed = False

    class Watched(FakeReader):
        async def __aiter__(self):  # type: ignore[no-untyped-def]
            nonlocal closed
            try:
                for _ in range(100):
                    yield b"data"
            finally:
                closed = True

    whole = await _reader(b"data" * 100)
    async with VerifiedBody(Watched(whole.info, b""), sha256=_sha256(b"data" * 100)) as body:
        await anext(body)
    assert closed


async def test_reading_a_whole_body_is_limited() -> None:
    with pytest.raises(BodyTooLarge):
        await read_all(BytesBody(b"12345"), limit=4)
    assert await read_all(BytesBody(b"1234"), limit=4) == b"1234"
