"""A request body, taken in pieces of about 1 MiB, each within a limit of time."""

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

    async def next(self) -> Piece:
        """The next piece.

        Raises `BodyTooLarge`, `RequestTimeout` when it takes too long, and `MalformedRequest`
        when the body breaks off.
        """
        data = bytearray()
        try:
            async with asyncio.timeout(self._options.piece_s):
                while len(data) < PIECE_BYTES and not self._content.at_eof():
                    data += await self._content.readany()
        except TimeoutError:
            raise RequestTimeout(
                f"less than {PIECE_BYTES} bytes came within {self._options.piece_s:g} s"
            ) from None
        except (ConnectionError, RequestPayloadError) as error:
            raise MalformedRequest("the body broke off") from error
        self.received += len(data)
        if self.received > self._options.max_body_bytes:
            raise BodyTooLarge(f"body is over {self._options.max_body_bytes} bytes")
        return Piece(bytes(data), self._content.at_eof())
