"""Key blobs in the parent process: fetched once however many requests wait, and kept current."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from score.keystore import KeyBlob, KeySource, KeyStore
from score.lru import ByteLru
from score.settings import KeyOptions
from shared.errors import KeyExpired, StorageUnavailable
from shared.messages import utc_now

ENTRY_BYTES = 4096
"""What keeping a blob costs besides its bytes: 1.5 KB at the most, and some room. Else any number
of empty ones would fit."""


@dataclass(frozen=True, slots=True)
class Key:
    """Evaluation keys; `version` names them in this version of their blob, in all processes."""

    version: str
    data: bytes = field(repr=False)


@dataclass(slots=True)
class _Entry:
    blob: KeyBlob
    looked_at_s: float


class KeyCache:
    """Key blobs by source, at most `options.cache_bytes` of them.

    An entry older than `options.ttl_s` is compared with storage by its ETag before it is used, so
    a deleted or replaced key stops working within that time, wherever it is loaded: evaluators are
    never asked for keys that this cache didn't vouch for. That there is none is not kept. A key
    past its date stops at once.
    """

    def __init__(
        self,
        store: KeyStore,
        options: KeyOptions,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._store = store
        self._options = options
        self._clock = clock
        self._now = now
        self._entries: ByteLru[KeySource, _Entry] = ByteLru(options.cache_bytes)
        self._lookups: dict[KeySource, asyncio.Task[KeyBlob]] = {}
        self.hits = 0
        self.misses = 0

    @property
    def nbytes(self) -> int:
        """Bytes of the blobs kept, and of keeping them."""
        return self._entries.nbytes

    async def get(self, source: KeySource) -> Key:
        """The keys, as of now or at most `ttl_s` ago.

        Raises `KeyUnknown`, `KeyExpired`, `EvaluationKeysError`, `KeyHostNotAllowed`,
        `StorageError`.
        """
        entry = self._entries.get(source)
        if entry is not None and self._clock() - entry.looked_at_s < self._options.ttl_s:
            self.hits += 1
            return self._key(source, entry.blob)
        self.misses += 1
        lookup = self._lookups.get(source)
        if lookup is None:
            lookup = asyncio.get_running_loop().create_task(self._look_up(source, entry))
            self._lookups[source] = lookup
            lookup.add_done_callback(lambda task: self._looked_up(source, task))
        # Shielded: a caller that goes away must not take the others' keys with it.
        return self._key(source, await asyncio.shield(lookup))

    async def aclose(self) -> None:
        """Stop what is being fetched."""
        lookups = list(self._lookups.values())
        for lookup in lookups:
            lookup.cancel()
        await asyncio.gather(*lookups, return_exceptions=True)

    async def _look_up(self, source: KeySource, entry: _Entry | None) -> KeyBlob:
        looked_at_s = self._clock()
        try:
            async with asyncio.timeout(self._options.fetch_s):
                if entry is not None and await self._store.is_current(source, entry.blob):
                    entry.looked_at_s = looked_at_s
                    return entry.blob
                self._entries.drop(source)
                blob = await self._store.find(source)
        except TimeoutError as error:
            raise StorageUnavailable(
                f"keys {source.key_id} did not arrive within {self._options.fetch_s:g} s"
            ) from error
        self._entries.put(source, _Entry(blob, looked_at_s), ENTRY_BYTES + len(blob.data))
        return blob

    def _looked_up(self, source: KeySource, lookup: asyncio.Task[KeyBlob]) -> None:
        del self._lookups[source]
        if not lookup.cancelled():
            lookup.exception()  # raised to whoever waits; nobody may

    def _key(self, source: KeySource, blob: KeyBlob) -> Key:
        if blob.expires_at is not None and self._now() >= blob.expires_at:
            raise KeyExpired(
                f"the keys {source.key_id} expired at {_in_utc(blob.expires_at)}",
                remedy="make and publish new ones",
            )
        # No part but the last can hold a separator, so no two keys have one version.
        return Key(f"{source.origin}/{source.container}/{blob.name}@{blob.etag}", blob.data)


def _in_utc(moment: datetime) -> str:
    """A moment for people; as its owner wrote it where UTC has no date for it."""
    try:
        return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    except OverflowError:
        return moment.isoformat(" ", "minutes")
