"""What a storage account that is out of reach for a while costs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from producer.patience import PATIENCE_S, patiently
from shared import blobnames
from shared.errors import BlobExists, StorageUnavailable
from tests.fakes import FakeStore
from tests.unit.producer.pipeline import RUN, World, data_set
from tests.unit.worker.virtual import now_s, virtual_time


@virtual_time
async def test_a_call_that_went_well_for_long_is_made_again() -> None:
    """It is the account's absence that is not sat out for ever, not a long upload."""
    tries = 0

    async def upload() -> str:
        nonlocal tries
        tries += 1
        await asyncio.sleep(10 * PATIENCE_S)
        if tries == 1:
            raise StorageUnavailable("away")
        return "done"

    assert await patiently(upload) == "done"


@virtual_time
async def test_an_account_that_stays_away_is_given_up() -> None:
    async def call() -> None:
        raise StorageUnavailable("away")

    begun = now_s()
    with pytest.raises(StorageUnavailable):
        await patiently(call)
    assert now_s() - begun == pytest.approx(PATIENCE_S, abs=10)


async def test_a_blob_that_is_there_and_then_gone_is_uploaded(tmp_path: Path) -> None:
    """Or its message would name an input that nobody has."""
    name = blobnames.input_blob(RUN, "000001")

    class Vanishing(FakeStore):
        refused = False

        async def create(self, blob: str, data: Any, **kwargs: Any) -> None:  # type: ignore[override]
            if blob == name and not self.refused:
                self.refused = True
                assert [piece async for piece in data]
                raise BlobExists("there")
            await super().create(blob, data, **kwargs)

    world = World(tmp_path, store=Vanishing(), rows_per_job=2)
    await world.produce(data_set(6))
    assert {message.input for message in world.messages()} <= set(world.store.blobs)
    assert len(world.messages()) == 3
