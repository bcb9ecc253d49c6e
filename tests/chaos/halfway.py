"""Uploads that were begun and not finished, as only the storage service itself knows them."""

from __future__ import annotations

from collections.abc import Sequence

from azure.core.exceptions import ResourceNotFoundError
from azure.storage.blob.aio import BlobServiceClient

from shared import azure_sdk, blobnames
from shared.settings import StorageSettings

CALL_S = 30.0


async def half_staged(settings: StorageSettings, run: str, jobs: Sequence[str]) -> int:
    """How many inputs have staged blocks, but not all, and are no blobs yet.

    The first one must be a blob: all are taken to be as long as it is.
    """
    found = 0
    async with azure_sdk.connect(BlobServiceClient, "blob", settings, read_s=CALL_S) as service:
        container = service.get_container_client(settings.container)
        first = container.get_blob_client(blobnames.input_blob(run, jobs[0]))
        whole = (await first.get_blob_properties()).size
        for job in jobs[1:]:
            client = container.get_blob_client(blobnames.input_blob(run, job))
            try:
                committed, staged = await client.get_block_list("all")
            except ResourceNotFoundError:
                continue
            found += not committed and 0 < sum(block.size for block in staged) < whole
    return found
