"""Writes one blob of any length to Azure Blob Storage, all or nothing.

Long blobs are staged in blocks of some 4 MiB, each tried again by itself, and become a blob by one
last call; so a lost connection costs one block, memory holds two, and nobody sees half a blob.

Azure takes blocks only from those who may write, which includes overwriting. A narrow credential
that may create blobs and nothing more sends a long one whole, from memory.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from azure.core import MatchConditions
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.storage.blob import BlobBlock, ContentSettings
from azure.storage.blob.aio import BlobClient

from shared import azure_sdk
from shared.errors import AccessDenied, BlobExists

T = TypeVar("T")

CALL_S = 60.0
"""Enough for one block at 70 KB/s."""
BLOCK_BYTES = 4 * 1024 * 1024
SINGLE_BYTES = 1024 * 1024
"""Blobs up to this length are written by one call, longer ones in blocks."""
MAX_SINGLE_BYTES = 5000 * 1024 * 1024
"""Azure's own limit of one call."""
WRITE_MARK = "write_id"
"""Metadata of our own: tells whether the blob that is there was written by this very upload."""

_NO_RIGHT = "AuthorizationPermissionMismatch"
_TAKEN = ("BlobAlreadyExists", "ConditionNotMet", "InvalidBlockList", _NO_RIGHT)
"""The last one is what who may only create is told of a blob that exists."""

Body = bytes | Sequence[BlobBlock]
"""What the last call is given: short bytes, or the blocks that are staged already."""


@dataclass(slots=True)
class Rights:
    """What a store's credential turned out to allow."""

    blocks: bool = True


class AzureUpload:
    """One write of one blob; `metadata` gives, at the last call, what goes into headers."""

    def __init__(
        self,
        client: BlobClient,
        *,
        subject: str,
        content_type: str,
        metadata: Callable[[], Mapping[str, str]],
        rights: Rights,
    ) -> None:
        self._client = client
        self._rights = rights
        self._subject = subject
        self._settings = ContentSettings(content_type=content_type)
        self._mark = secrets.token_hex(8)
        self._metadata = metadata

    async def create(self, data: bytes | AsyncIterator[bytes]) -> None:
        """Write a blob that must not exist yet. Raises `BlobExists`."""
        body = await self._stage_all(data)
        try:
            await self._call(lambda _: self._create(body), size=_size(body))
        except _PhantomError:
            blocks = [await self._stage(body)] if isinstance(body, bytes) else body
            await self._call(lambda _: self._create(blocks))

    async def replace(self, data: bytes) -> None:
        """Write a blob over what may be there."""
        body = await self._stage_all(data)
        await self._call(lambda _: self._write(body, must_be_new=False), size=_size(body))

    async def _call(self, operation: Callable[[bool], Awaitable[T]], *, size: int = 0) -> T:
        timeout_s = CALL_S * max(1.0, size / BLOCK_BYTES)
        return await azure_sdk.attempt(operation, subject=self._subject, timeout_s=timeout_s)

    async def _stage_all(self, data: bytes | AsyncIterator[bytes]) -> Body:
        """Bring to the store what is too long for one call; short bytes are given back."""
        staged: list[BlobBlock] = []
        last = b""
        async with aclosing(_blocks(data)) as blocks:
            async for block in blocks:
                if last and not await self._can_stage(last, staged):
                    return b"".join([last, block, *[rest async for rest in blocks]])
                last = block
        if not staged and len(last) <= SINGLE_BYTES:
            return last
        return staged if await self._can_stage(last, staged) else last

    async def _can_stage(self, block: bytes, staged: list[BlobBlock]) -> bool:
        """Stage one more block, unless the first one shows that we may create only."""
        if not staged and not self._rights.blocks:
            return False
        try:
            staged.append(await self._stage(block))
        except AccessDenied:
            if staged or self._rights.blocks:
                raise  # what is staged is part of the blob: nothing but all of it will do
            return False
        return True

    async def _stage(self, block: bytes) -> BlobBlock:
        # Ids are random because writers of one name share its staged blocks: with the usual ids,
        # numbered from 0, they overwrite each other's, and the winner commits a mixture.
        block_id = secrets.token_hex(16)
        digest = await asyncio.to_thread(_md5, block)

        async def stage(_: bool) -> None:
            try:
                await self._client.stage_block(
                    block_id,
                    cast("Any", _Pieces(block)),
                    length=len(block),
                    transactional_content_md5=digest,
                )
            except HttpResponseError as error:
                if azure_sdk.error_code(error) == _NO_RIGHT:
                    self._rights.blocks = False
                raise

        await self._call(stage, size=len(block))
        return BlobBlock(block_id=block_id)

    async def _create(self, body: Body) -> None:
        """Raises `BlobExists`, or `_PhantomError`."""
        try:
            await self._write(body, must_be_new=True)
        except HttpResponseError as error:
            code = azure_sdk.error_code(error)
            if code not in _TAKEN:
                raise
            there = await self._mark_there()
            if there is None and isinstance(body, bytes) and code != _NO_RIGHT:
                raise _PhantomError from error
            if there is None:
                raise
            if there != self._mark:  # else an earlier try was carried out, and its answer lost
                raise BlobExists(f"{self._subject} exists already") from error

    async def _write(self, body: Body, *, must_be_new: bool) -> None:
        metadata = {**self._metadata(), WRITE_MARK: self._mark}
        if isinstance(body, bytes):
            await self._client.upload_blob(
                body,
                overwrite=not must_be_new,
                metadata=metadata,
                content_settings=self._settings,
                raw_request_hook=_in_pieces if len(body) > SINGLE_BYTES else None,
            )
            return
        await self._client.commit_block_list(
            list(body),
            metadata=metadata,
            content_settings=self._settings,
            match_condition=MatchConditions.IfMissing if must_be_new else None,
        )

    async def _mark_there(self) -> str | None:
        """The mark of the blob that is there, empty when it has none; None without a blob."""
        try:
            properties = await self._client.get_blob_properties()
        except ResourceNotFoundError:
            return None
        return dict(properties.metadata or {}).get(WRITE_MARK, "")


class _PhantomError(Exception):
    """A short blob was refused as existing, but there is none.

    Azurite takes blocks that an interrupted writer has staged for a blob, except in a commit.
    """


def _md5(block: bytes) -> bytearray:
    """What the service compares with the block that it got: the transport's checksum, no more.

    Azurite takes CRC-64 of a block that comes without, in JavaScript: three quarters of its work.
    """
    return bytearray(hashlib.md5(block, usedforsecurity=False).digest())


def _size(body: Body) -> int:
    """Bytes that the last call sends."""
    return len(body) if isinstance(body, bytes) else 0


def _in_pieces(request: Any) -> None:
    """Send a long body as `_Pieces`."""
    request.http_request.data = _Pieces(request.http_request.data)


@dataclass(frozen=True, slots=True, repr=False)
class _Pieces:
    """A long body for aiohttp, which warns of one of bytes, and copies what is given as a file.

    It can be sent more than once: the SDK itself does that when a token isn't accepted any more.
    """

    body: bytes

    async def __aiter__(self) -> AsyncIterator[memoryview]:
        view = memoryview(self.body)
        for start in range(0, len(view), azure_sdk.PIECE_BYTES):
            yield view[start : start + azure_sdk.PIECE_BYTES]


async def _blocks(data: bytes | AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """Blocks of 4 MiB, the last one shorter; nothing for no bytes.

    Of a stream, a block is as many pieces as make 4 MiB or more: cutting them would be copying.
    """
    if isinstance(data, bytes):
        for start in range(0, len(data), BLOCK_BYTES):
            yield data[start : start + BLOCK_BYTES]
        return
    pieces: list[bytes] = []
    size = 0
    async for piece in data:
        pieces.append(piece)
        size += len(piece)
        if size >= BLOCK_BYTES:
            yield b"".join(pieces)
            pieces, size = [], 0
    if size:
        yield b"".join(pieces)
