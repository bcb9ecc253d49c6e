"""A request body, taken in pieces of about 1 MiB, each and all within limits of time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from aiohttp import StreamReader
from aiohttp.web import RequestPayloadError

from score.settings import MB, EndpointOptions
from shared.errors import BodyTooLarge, MalformedRequest, RequestTimeout

PIECE_BYTES = MB


@dataclass(frozen=True, slots=True)
class Piece:
    """Part of a body; `last` when nothing follows."""

    data: bytes
    last: bool


class Upload:
    """The body of one request."""

    def __init__(self, content: StreamReader, options: EndpointOptions) -> None:
        self.received = 0
        self._content = content
        self._options = options
        self._left_s = options.body_s

    async def next(self) -> Piece:
        """The next piece.

        Raises `BodyTooLarge`, `RequestTimeout` when this piece or all of them take too long, and
        `MalformedRequest` when the body breaks off.
        """
        data = bytearray()
        clock = asyncio.get_running_loop().time
        started_s = clock()
        try:
            async with asyncio.timeout(min(self._options.piece_s, self._left_s)):
                while len(data) < PIECE_BYTES and not self._content.at_eof():
                    data += await self._content.readany()
        except TimeoutError:
            raise self._too_slow() from None
        except (ConnectionError, RequestPayloadError) as error:
            raise MalformedRequest("the body broke off") from error
        # Only waiting for the caller counts: while a piece is evaluated, nothing is asked of it.
        self._left_s -= clock() - started_s
        self.received += len(data)
        if self.received > self._options.max_body_bytes:
            raise BodyTooLarge(f"body is over {self._options.max_body_bytes} bytes")
        return Piece(bytes(data), self._content.at_eof())

    def _too_slow(self) -> RequestTimeout:
        if self._left_s < self._options.piece_s:
            return RequestTimeout(
                f"the body took longer than {self._options.body_s:g} s",
                remedy="send smaller bodies",
            )
        return RequestTimeout(
            f"less than {PIECE_BYTES} bytes came within {self._options.piece_s:g} s"
        )
