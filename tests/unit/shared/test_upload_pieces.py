"""Long bodies go out in pieces, and again if they have to."""

from __future__ import annotations

import os

from shared.azure_sdk import PIECE_BYTES
from shared.azure_upload import _Pieces


async def test_a_body_can_be_sent_again() -> None:
    """The SDK sends a request once more, by itself, when its token isn't accepted any more."""
    body = os.urandom(2 * PIECE_BYTES + 1)
    pieces = _Pieces(body)
    for _ in range(2):
        sent = [bytes(piece) async for piece in pieces]
        assert b"".join(sent) == body
        assert len(sent) == 3
