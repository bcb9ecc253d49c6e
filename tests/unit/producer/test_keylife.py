"""What a key is needed for, and whether scorers find it, over a store in memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from producer import keylife
from producer.keylife import Waiting
from producer.runs import RunFolder
from shared import blobnames
from shared.errors import AccessDenied, KeyUnknown
from shared.ports import BlobInfo
from tests.fakes import FakeStore
from tests.unit.producer.test_cli_key import START, run_of

KEY = "k" * 64


async def test_every_run_that_was_not_collected_is_named(tmp_path: Path) -> None:
    """Also one of another account, which nothing here tells from one that is gone."""
    store = FakeStore()
    for run in ("run-1", "run-2", "run-3"):
        run_of(KEY, run, tmp_path)
    run_of("e" * 64, "run-4", tmp_path)
    RunFolder(tmp_path, "run-2").mark_collected(START)
    await store.create(blobnames.manifest("run-1"), b"{}", content_type="x")
    here = await keylife.not_collected(store, "blindscore", tmp_path, KEY)
    assert here == [Waiting("run-1", ""), Waiting("run-3", "not in this account")]
    elsewhere = await keylife.not_collected(store, "another", tmp_path, KEY)
    assert {waiting.place for waiting in elsewhere} == {"in container blindscore"}


async def test_a_key_that_scorers_do_not_find_is_told() -> None:
    store = FakeStore()
    with pytest.raises(KeyUnknown, match=f"blindscore key rotate {KEY}"):
        await keylife.require_published(store, KEY)
    await store.create(blobnames.key(KEY), b"keys", content_type="x")
    await keylife.require_published(store, KEY)


async def test_who_may_not_look_for_a_key_is_told_nothing() -> None:
    class Closed(FakeStore):
        async def stat(self, name: str) -> BlobInfo:
            raise AccessDenied(name)

    await keylife.require_published(Closed(), KEY)
