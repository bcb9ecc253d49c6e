"""`BlobStore` over Azure Blob Storage (or Azurite).

Long blobs are read in ranges of 4 MiB, each tried again by itself, so that a lost connection costs
one range and memory holds one, whatever the blob's size. For writing see `shared.azure_upload`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import quote, unquote

from azure.core import MatchConditions
from azure.core.async_paging import AsyncPageIterator
from azure.core.exceptions import (
    HttpResponseError,
    ResourceExistsError,
    ServiceResponseError,
)
from azure.storage.blob import BlobProperties
from azure.storage.blob.aio import (
    BlobClient,
    BlobServiceClient,
    ContainerClient,
    StorageStreamDownloader,
)

from shared import azure_sdk
from shared.azure_upload import (
    CALL_S,
    MAX_SINGLE_BYTES,
    WRITE_MARK,
    AzureUpload,
    Rights,
)
from shared.errors import BodyTooLarge
from shared.ports import BlobInfo, BlobReader
from shared.settings import StorageSettings

if TYPE_CHECKING:
    from azure.identity.aio import DefaultAzureCredential as Identity

T = TypeVar("T")

READ_S = 20.0
READ_BYTES = 5 * 1024 * 1024
"""Length of a range. Of ranges up to 4 MiB Azurite takes a checksum that nobody asked for, and so
reads them twice."""

_STRANGE = "an answer that is not the blob service's"
_EMPTY = "%"
_PLAIN = "/:+,=@"


class AzureBlobReader:
    """An open blob. Its first bytes are here already; the rest comes in ranges."""

    def __init__(
        self, info: BlobInfo, first: bytes, fetch: Callable[[int], Awaitable[bytes]]
    ) -> None:
        self.info = info
        self._first = first
        self._fetch = fetch

    async def __aiter__(self) -> AsyncIterator[bytes]:
        chunk, self._first = self._first, b""
        offset = 0
        while offset < self.info.size:
            chunk = chunk or await self._fetch(offset)
            offset += len(chunk)
            yield chunk
            chunk = b""


class AzureBlobStore:
    """The blobs of one container."""

    def __init__(self, service: BlobServiceClient, container: str) -> None:
        self._name = container
        self._where = f"container {container} of {service.primary_hostname}"
        self._container: ContainerClient = service.get_container_client(container)
        self._rights = Rights()

    def __repr__(self) -> str:
        return f"AzureBlobStore({self._name!r})"

    async def ensure(self) -> None:
        """Create the container if there is none."""

        async def create(_: bool) -> None:
            try:
                await self._container.create_container()
            except ResourceExistsError as error:
                if azure_sdk.error_code(error) != "ContainerAlreadyExists":
                    raise

        await self._call("", create)

    async def create(
        self,
        name: str,
        data: bytes | AsyncIterator[bytes],
        *,
        content_type: str,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """See `BlobStore`."""
        upload = self._upload(name, content_type, metadata)
        await upload.create(data)

    async def replace(
        self,
        name: str,
        data: bytes,
        *,
        content_type: str,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """See `BlobStore`."""
        upload = self._upload(name, content_type, metadata)
        await upload.replace(data)

    async def open(self, name: str) -> BlobReader:
        """See `BlobStore`. A blob that changes while it is read raises `StorageError`."""
        client = self._container.get_blob_client(name)

        async def start(_: bool) -> tuple[BlobProperties, bytes]:
            stream = await _download(client)
            return stream.properties, await _first_chunk(stream)

        properties, first = await self._call(name, start)
        fetch = partial(self._fetch, client, properties.etag)
        return AzureBlobReader(_info(name, properties), first, fetch)

    async def read(self, name: str, *, limit: int) -> bytes:
        """See `BlobStore`."""
        reader = await self.open(name)
        if reader.info.size > limit:
            raise BodyTooLarge(f"blob {name} of {reader.info.size} bytes is over {limit}")
        return b"".join([chunk async for chunk in reader])

    async def stat(self, name: str) -> BlobInfo:
        """See `BlobStore`."""
        client = self._container.get_blob_client(name)

        async def once(_: bool) -> BlobProperties:
            properties = await client.get_blob_properties()
            if not properties.blob_type:
                raise ServiceResponseError(_STRANGE)  # else a stranger's page would be a result
            return properties

        return _info(name, await self._call(name, once))

    async def list(self, prefix: str) -> AsyncIterator[BlobInfo]:
        """See `BlobStore`. Blobs that come or go meanwhile may or may not be among them."""
        token: str | None = None
        while True:
            page, token = await self._page(prefix, token)
            for info in page:
                yield info
            if not token:
                return

    async def delete(self, name: str) -> bool:
        """See `BlobStore`. A blob that is gone after a lost answer counts as removed by us."""
        client = self._container.get_blob_client(name)

        async def delete_once(maybe_done: bool) -> bool:
            try:
                await client.delete_blob()
            except HttpResponseError as error:
                if azure_sdk.error_code(error) != "BlobNotFound":
                    raise
                return maybe_done
            return True

        return await self._call(name, delete_once)

    async def _call(self, name: str, operation: Callable[[bool], Awaitable[T]]) -> T:
        return await azure_sdk.attempt(operation, subject=self._subject(name), timeout_s=CALL_S)

    def _subject(self, name: str) -> str:
        return f"blob {name} in {self._where}" if name else self._where

    def _upload(
        self, name: str, content_type: str, metadata: Mapping[str, str] | None
    ) -> AzureUpload:
        return AzureUpload(
            self._container.get_blob_client(name),
            subject=self._subject(name),
            content_type=content_type,
            metadata=lambda: _to_headers(metadata or {}),
            rights=self._rights,
        )

    async def _fetch(self, client: BlobClient, etag: str | None, offset: int) -> bytes:
        """The range at `offset`, of the blob as it was when it was opened."""

        async def once(_: bool) -> bytes:
            stream = await _download(
                client,
                offset=offset,
                length=READ_BYTES,
                etag=etag,
                match_condition=MatchConditions.IfNotModified,
            )
            return await _first_chunk(stream)

        return await self._call(client.blob_name, once)

    async def _page(self, prefix: str, token: str | None) -> tuple[Sequence[BlobInfo], str | None]:
        async def once(_: bool) -> tuple[Sequence[BlobInfo], str | None]:
            pages = self._container.list_blobs(
                name_starts_with=prefix, include=["metadata"]
            ).by_page(continuation_token=token)
            page = await anext(pages, None)
            infos = [_info(blob.name, blob) async for blob in page] if page else []
            return infos, cast("AsyncPageIterator[BlobProperties]", pages).continuation_token

        return await self._call("", once)


@asynccontextmanager
async def open_azure_store(
    settings: StorageSettings, *, identity: Identity | None = None
) -> AsyncIterator[AzureBlobStore]:
    """The container of `settings`, without any network access yet. Raises `UsageError`."""
    async with azure_sdk.connect(
        BlobServiceClient,
        "blob",
        settings,
        identity=identity,
        read_s=READ_S,
        max_single_get_size=READ_BYTES,
        max_chunk_get_size=READ_BYTES,
        max_single_put_size=MAX_SINGLE_BYTES,
    ) as service:
        yield AzureBlobStore(service, settings.container)


async def _download(client: BlobClient, **options: Any) -> StorageStreamDownloader[bytes]:
    try:
        stream: StorageStreamDownloader[bytes] = await client.download_blob(**options)
    except ValueError as error:  # what the SDK says of an answer without Content-Range
        raise ServiceResponseError(_STRANGE) from error
    return stream


async def _first_chunk(stream: StorageStreamDownloader[bytes]) -> bytes:
    """What the one request brought, up to `READ_BYTES`: without the copy that `readall` makes."""
    return await anext(aiter(stream.chunks()), b"")


def _info(name: str, properties: BlobProperties) -> BlobInfo:
    return BlobInfo(
        name=name,
        size=properties.size or 0,
        etag=(properties.etag or "").strip('"'),
        content_type=properties.content_settings.content_type or "",
        modified_at=properties.last_modified or datetime.now(UTC),
        metadata=_from_headers(properties.metadata or {}),
    )


def _to_headers(metadata: Mapping[str, str]) -> dict[str, str]:
    """Metadata travels as HTTP headers: any text goes through, percent-encoded; plain text is kept.

    Clients and proxies disagree on empty headers and on spaces, so neither is sent.
    """
    return {key: quote(value, safe=_PLAIN) or _EMPTY for key, value in metadata.items()}


def _from_headers(headers: Mapping[str, str | None]) -> dict[str, str]:
    return {
        key: "" if value in (None, _EMPTY) else unquote(value)
        for key, value in headers.items()
        if key != WRITE_MARK
    }
