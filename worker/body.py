"""Request bodies: a blob on its way to the endpoint, checked as it goes."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator
from types import TracebackType
from typing import Protocol, Self

from shared.errors import BodyTooLarge, CorruptInput
from shared.ports import BlobReader


class Body(Protocol):
    """Bytes of a known number, in order, once."""

    size: int
    complete: bool
    """All of it has been handed out, and it was right."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...


class BytesBody:
    """A body in memory."""

    def __init__(self, data: bytes) -> None:
        self.size = len(data)
        self.complete = False
        self._data = data

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self.complete = True
        yield self._data


class VerifiedBody:
    """A blob's bytes, the last of them held back until the hash of all is right.

    So a request with a corrupt input never completes, and its endpoint never evaluates it. A
    context manager: whatever a caller made of a broken-off body, leaving raises the body's own
    error (`CorruptInput`, or a storage error) instead, since that is the cause.
    """

    def __init__(self, reader: BlobReader, *, sha256: str) -> None:
        self.size = reader.info.size
        self.complete = False
        self._name = reader.info.name
        self._expected = sha256
        self._hash = hashlib.sha256()
        self._seen = 0
        self._held: bytes | None = None
        self._error: Exception | None = None
        self._chunks = aiter(reader)
        self._reading = asyncio.Lock()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        async with self._reading:
            if self._error is not None:
                raise self._error
            if self.complete:
                raise StopAsyncIteration
            try:
                return await self._next()
            except Exception as error:
                self._error = error
                raise

    async def __aenter__(self) -> Self:
        if not self.size:
            self._verify()  # an empty request would be complete with its headers
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        async with self._reading:
            if isinstance(self._chunks, AsyncGenerator):
                await self._chunks.aclose()
        if self._error is not None and isinstance(error, Exception):
            raise self._error from error

    async def _next(self) -> bytes:
        held = self._held if self._held is not None else await self._take()
        self._held = await self._take()
        if self._held is None:
            self._verify()
        return held or b""

    async def _take(self) -> bytes | None:
        """The next chunk that isn't empty, counted and hashed; None at the end."""
        while (chunk := await anext(self._chunks, None)) is not None:
            if chunk:
                self._seen += len(chunk)
                self._hash.update(chunk)
                if self._seen > self.size:
                    raise CorruptInput(f"blob {self._name} is longer than its {self.size} bytes")
                return chunk
        return None

    def _verify(self) -> None:
        if self._seen != self.size or self._hash.hexdigest() != self._expected:
            raise CorruptInput(f"blob {self._name} does not have the hash its message names")
        self.complete = True


async def read_all(body: Body, *, limit: int) -> bytes:
    """A whole body, in memory. Raises `BodyTooLarge` over `limit` bytes."""
    if body.size > limit:
        raise BodyTooLarge(f"a body of {body.size} bytes is over {limit}")
    return b"".join([chunk async for chunk in body])
