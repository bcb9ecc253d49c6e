"""Where evaluation keys are: in the scorer's own container, by key id.

`keys/{key_id}` is where our key owners publish them, `{key_id}` where clients of
`encrypted-inference` 0.9 do.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime

from score.answers import NeedKeys
from score.keyhost import allowed_hosts, request_storage
from score.settings import KeyOptions
from shared import blobnames
from shared.errors import (
    AccessDenied,
    BlobNotFound,
    EvaluationKeysError,
    KeyHostNotAllowed,
    KeyUnknown,
    MalformedRequest,
    UsageError,
)
from shared.ports import BlobInfo, BlobStore
from shared.settings import StorageSettings

OpenStore = Callable[[StorageSettings], AbstractAsyncContextManager[BlobStore]]


@dataclass(frozen=True, slots=True)
class KeySource:
    """One key id in one place. `origin` is empty for the scorer's own storage, else a digest of
    the credential that reaches it: whoever lacks that credential shares nothing read with it."""

    key_id: str
    container: str
    origin: str = ""
    storage: StorageSettings | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class KeyBlob:
    """A key blob as it was found."""

    name: str
    etag: str
    data: bytes = field(repr=False)
    expires_at: datetime | None = None
    """Its owner wants nothing scored under it from then on."""


class KeyStore:
    """Reads key blobs, from allowed places only."""

    def __init__(
        self,
        own: BlobStore,
        settings: StorageSettings,
        options: KeyOptions,
        open_store: OpenStore,
    ) -> None:
        """`own` is the store of `settings`. Raises `UsageError` for an unusable endpoint."""
        self._own = own
        self._settings = settings
        self._allowed = allowed_hosts(settings, options.allowed_hosts)
        self._open_store = open_store
        self._max_key_bytes = options.max_key_bytes

    def source(self, need: NeedKeys) -> KeySource:
        """Where the keys that a request names are to be read.

        Raises `KeyHostNotAllowed`, and `MalformedRequest` for names that are no names.
        """
        container = need.container or self._settings.container
        if not blobnames.is_key_id(need.key_id) or not blobnames.is_container(container):
            raise MalformedRequest("the request names no key id and container")
        if need.conn_str:
            storage = request_storage(need.conn_str, container, self._settings, self._allowed)
            credential = storage.connection_string.get_secret_value()
            origin = hashlib.sha256(credential.encode()).hexdigest()
            return KeySource(need.key_id, container, origin, storage)
        if container != self._settings.container:
            raise KeyHostNotAllowed(
                f"this endpoint does not read keys in container {container}",
                remedy=f"publish them in {self._settings.container}",
            )
        return KeySource(need.key_id, container)

    async def find(self, source: KeySource) -> KeyBlob:
        """Read the key blob.

        Raises `KeyUnknown`, and `EvaluationKeysError` for one too large or with an unreadable date.
        """
        async with self._store(source) as store:
            for name in (blobnames.key(source.key_id), source.key_id):
                try:
                    reader = await store.open(name)
                except BlobNotFound:
                    continue
                except AccessDenied:
                    if name == source.key_id:
                        continue  # a credential for keys/ alone, and there it is not
                    raise
                if reader.info.size > self._max_key_bytes:
                    raise EvaluationKeysError(
                        f"key blob {name} of {reader.info.size} bytes is over {self._max_key_bytes}"
                    )
                data = b"".join([chunk async for chunk in reader])
                return KeyBlob(name, reader.info.etag, data, _expires_at(reader.info))
        raise KeyUnknown(
            f"no evaluation keys are published under {source.key_id}",
            remedy=f"publish them in container {source.container}",
        )

    async def is_current(self, source: KeySource, blob: KeyBlob) -> bool:
        """Whether that blob is still there, unchanged."""
        async with self._store(source) as store:
            try:
                return (await store.stat(blob.name)).etag == blob.etag
            except BlobNotFound:
                return False

    @asynccontextmanager
    async def _store(self, source: KeySource) -> AsyncIterator[BlobStore]:
        if source.storage is None:
            yield self._own
            return
        try:
            async with self._open_store(source.storage) as store:
                yield store
        except (AccessDenied, UsageError):
            raise KeyHostNotAllowed("the storage account refused the request's conn_str") from None


def _expires_at(info: BlobInfo) -> datetime | None:
    """The date in the blob's metadata. One that can't be read must not mean "never"."""
    text = info.metadata.get(blobnames.EXPIRES_AT)
    if text is None:
        return None
    with contextlib.suppress(ValueError):
        expires_at = datetime.fromisoformat(text)
        if expires_at.tzinfo is not None:
            return expires_at
    raise EvaluationKeysError(
        f"the metadata of key blob {info.name} does not tell when it expires",
        remedy=f"{blobnames.EXPIRES_AT} is a date and time in ISO 8601, with its offset",
    )
