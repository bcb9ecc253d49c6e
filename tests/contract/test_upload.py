"""Long blobs on Azurite: they are whole, or they are not there."""

from __future__ import annotations

from collections.abc import AsyncIterator

from shared.azure_blob import AzureBlobStore
from shared.storage import Storage

PIECE = bytes(range(256)) * 4096 * 5


async def test_a_long_blob_is_whole_whatever_others_find_out_meanwhile(storage: Storage) -> None:
    """An identity's roles may change during a run: then one upload is told that it must not stage
    blocks, while another one has staged some."""
    store = storage.store
    assert isinstance(store, AzureBlobStore)

    async def pieces() -> AsyncIterator[bytes]:
        for number in range(4):
            if number == 3:
                store._rights.blocks = False  # as another upload does when it is refused
            yield PIECE

    await store.create("blob", pieces(), content_type="application/octet-stream")
    assert await store.read("blob", limit=5 * len(PIECE)) == 4 * PIECE
