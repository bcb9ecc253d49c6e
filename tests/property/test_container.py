"""Whatever the bytes, a container is read right or refused in our own terms."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from shared import container
from shared.container import Header, Reader
from shared.errors import BodyTooLarge, MalformedRequest

LIMIT = 200

headers = st.builds(
    Header,
    scheme=st.from_regex(r"\A[a-z][a-z0-9]{0,15}\Z"),
    parameters=st.dictionaries(
        st.text(max_size=8),
        st.one_of(
            st.integers(-(2**63), 2**64 - 1),
            st.floats(allow_nan=False, allow_infinity=False),
            st.text(max_size=20),
            st.lists(st.integers(0, 2**64 - 1), max_size=5).map(tuple),
        ),
        max_size=5,
    ),
    rows=st.integers(1, 2**32),
    features=st.integers(1, 2**32),
    key_id=st.from_regex(r"\A[a-z0-9]{16,64}\Z"),
    frames=st.just(0),
)


@st.composite
def bodies(draw: st.DrawFn) -> tuple[Header, list[bytes], bytes]:
    payloads = draw(st.lists(st.binary(max_size=LIMIT), max_size=6))
    header = draw(headers).model_copy(update={"frames": len(payloads)})
    return header, payloads, b"".join(container.write(header, payloads))


@given(bodies(), st.data())
@settings(deadline=None, max_examples=60)
def test_reads_what_was_written_in_any_pieces(
    written: tuple[Header, list[bytes], bytes], data: st.DataObject
) -> None:
    header, payloads, body = written
    cuts = data.draw(st.lists(st.integers(0, len(body)), max_size=10).map(sorted))
    reader = Reader(max_frame_bytes=LIMIT)
    read = [
        frame.payload
        for first, last in zip([0, *cuts], [*cuts, len(body)], strict=True)
        for frame in reader.feed(body[first:last])
    ]
    assert (reader.close(), read) == (header, payloads)


@given(bodies(), st.data())
@settings(deadline=None, max_examples=100)
def test_a_changed_byte_never_changes_a_payload(
    written: tuple[Header, list[bytes], bytes], data: st.DataObject
) -> None:
    _, payloads, body = written
    at = data.draw(st.integers(0, len(body) - 1))
    changed = bytearray(body)
    changed[at] ^= data.draw(st.integers(1, 255))
    try:
        _, read = container.read(bytes(changed), max_frame_bytes=LIMIT)
    except (MalformedRequest, BodyTooLarge):
        return
    assert read == payloads


@given(st.binary(max_size=400))
@settings(deadline=None, max_examples=200)
def test_noise_is_refused(noise: bytes) -> None:
    prefix = b"\x93\xaablindscore\x01"
    for body in (noise, prefix + noise):
        try:
            container.read(body, max_frame_bytes=LIMIT)
        except (MalformedRequest, BodyTooLarge):
            continue
        raise AssertionError("noise was read as a container")
