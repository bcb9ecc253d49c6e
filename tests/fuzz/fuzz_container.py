"""The container of our own schemes: refused with a code, or read the same however it arrives.

python -m tests.fuzz.fuzz_container -max_total_time=60
"""

from __future__ import annotations

import sys
from itertools import zip_longest

import atheris

with atheris.instrument_imports(include=["shared"]):
    from shared import container, direct, packed
    from shared.container import Header, Reader
    from shared.errors import BodyTooLarge, CiphertextError, MalformedRequest
    from shared.params import PACKED_PRESETS

MAX_FRAME_BYTES = 1024


def test_one_input(data: bytes) -> None:
    """`data` as a body, as what follows a sound header, and as the bits flipped in one."""
    _same_in_pieces(data)
    _same_in_pieces(_HEADER + data)
    _same_in_pieces(bytes(a ^ b for a, b in zip_longest(_BODY, data, fillvalue=0)))


def _same_in_pieces(body: bytes) -> None:
    whole = _read(body, len(body) or 1)
    assert _read(body, 7) == whole
    if whole is None:
        return
    header, payloads = whole
    assert len(payloads) == header.frames
    for read in (packed.read_active, _packed_parameters, direct.read_parameters):
        try:
            read(header)
        except CiphertextError:
            continue


def _packed_parameters(header: Header) -> object:
    return packed.read_parameters(header, extra="active")


def _read(body: bytes, piece_bytes: int) -> tuple[Header, list[bytes]] | None:
    """What a body holds; None when it is refused."""
    reader = Reader(max_frame_bytes=MAX_FRAME_BYTES)
    payloads: list[bytes] = []
    try:
        for at in range(0, len(body), piece_bytes):
            payloads += [frame.payload for frame in reader.feed(body[at : at + piece_bytes])]
        return reader.close(), payloads
    except (MalformedRequest, BodyTooLarge):
        return None


def _body() -> bytes:
    header = Header(
        scheme=packed.SCHEME,
        parameters=packed.header_parameters(PACKED_PRESETS["n4096"], input_bound=1.0),
        rows=1,
        features=2,
        key_id="k" * 64,
        frames=3,
    )
    return b"".join(container.write(header, [b"", b"payload", b""]))


_BODY = _body()
_HEADER = _BODY[: _BODY.index(bytes([0x93, 0]))]
_same_in_pieces(_BODY)


if __name__ == "__main__":
    atheris.Setup(sys.argv, test_one_input)
    atheris.Fuzz()
