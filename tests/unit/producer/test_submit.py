"""A run can be killed anywhere and resumed: every row ends in one job, and nothing is done twice
that need not be."""

from __future__ import annotations

import asyncio
import hashlib
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from producer import backlog, patience
from producer.keypool import KeyPool
from producer.rows import StoredRows
from producer.schemes import client_scheme
from producer.submit import rows_tag
from shared import blobnames
from shared.errors import RunError, StorageUnavailable
from shared.messages import JobMessage, Manifest
from shared.packed import SECTION_FEATURES
from shared.ports import BlobInfo
from tests.fakes import FakeQueue, FakeStore
from tests.unit.producer.pipeline import (
    ERROR,
    MODEL,
    RUN,
    Block,
    World,
    blocks,
    data_set,
    scores_of,
)

ROWS = data_set(10)
JOBS = 5


class Killed(BaseException):
    """Not an error: nothing may catch it."""


@dataclass
class Fuse:
    """Goes off before or after the n-th call to the account; 0 never does."""

    points: int = 0
    calls: list[str] = field(default_factory=list)

    def burn(self, what: str) -> None:
        if len(self.calls) < self.points or not self.points:
            self.calls.append(what)
        if len(self.calls) == self.points:
            raise Killed  # every later call too: the process is no more


@dataclass
class FusedStore(FakeStore):
    fuse: Fuse = field(default_factory=Fuse)

    async def create(
        self,
        name: str,
        data: bytes | AsyncIterator[bytes],
        *,
        content_type: str,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        # As over the wire: the bytes go first, and the last call makes them a blob.
        body = data if isinstance(data, bytes) else b"".join([piece async for piece in data])
        self.fuse.burn(f"create {name}")
        await super().create(name, body, content_type=content_type, metadata=metadata)
        self.fuse.burn(f"created {name}")

    async def replace(
        self,
        name: str,
        data: bytes,
        *,
        content_type: str,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self.fuse.burn(f"replace {name}")
        await super().replace(name, data, content_type=content_type, metadata=metadata)
        self.fuse.burn(f"replaced {name}")

    async def stat(self, name: str) -> BlobInfo:
        self.fuse.burn(f"stat {name}")
        return await super().stat(name)


class FusedQueue(FakeQueue):
    def __init__(self, fuse: Fuse) -> None:
        super().__init__()
        self.fuse = fuse

    async def send(self, body: bytes, *, delay_s: float = 0.0) -> None:
        job = JobMessage.decode(body).job
        self.fuse.burn(f"send {job}")
        await super().send(body, delay_s=delay_s)
        self.fuse.burn(f"sent {job}")


def fused(home: Path, points: int = 0) -> World:
    fuse = Fuse(points)
    return World(home, store=FusedStore(fuse=fuse), queue=FusedQueue(fuse), rows_per_job=2)


def defuse(world: World) -> Fuse:
    """Whatever happens from now on: it is counted, and goes through."""
    assert isinstance(world.store, FusedStore)
    assert isinstance(world.queue, FusedQueue)
    world.store.fuse = world.queue.fuse = Fuse()
    return world.store.fuse


def require_whole(world: World, manifest: Manifest) -> None:
    """Every row is in one job, whose input and message are there and belong together."""
    assert manifest.complete
    assert [entry.first_row for entry in manifest.jobs] == [0, 2, 4, 6, 8]
    assert sum(entry.rows for entry in manifest.jobs) == manifest.rows == len(ROWS)
    assert world.signer.open(world.store.blobs[blobnames.manifest(RUN)][1], run=RUN) == manifest
    messages = world.messages()
    assert {message.job for message in messages} == {entry.job for entry in manifest.jobs}
    hashes = {entry.job: entry.sha256 for entry in manifest.jobs}
    for message in messages:
        assert message.sha256 == hashes[message.job]
        assert hashlib.sha256(world.store.blobs[message.input][1]).hexdigest() == message.sha256


async def test_a_run_that_is_not_disturbed(tmp_path: Path) -> None:
    world = fused(tmp_path)
    manifest = await world.produce(ROWS)
    require_whole(world, manifest)
    assert len(world.messages()) == JOBS
    assert [message.rows for message in world.messages()] == [2] * JOBS


@pytest.mark.parametrize("in_flight", [1, 3])
async def test_killed_at_every_point_and_resumed(tmp_path: Path, in_flight: int) -> None:
    """As by SIGKILL: before and after every single call to the account."""
    doubled = 0
    for points in range(1, 1000):
        world = fused(tmp_path / str(points), points)
        world.in_flight = in_flight
        try:
            await world.produce(ROWS)
        except Killed:
            fuse = world.store.fuse  # type: ignore[attr-defined]
        else:
            break
        before = Counter(fuse.calls)
        after = defuse(world).calls
        require_whole(world, await world.produce(ROWS))
        counts = Counter(message.job for message in world.messages())
        was_sent = fuse.calls[-1].startswith("sent")
        assert counts.total() == JOBS + was_sent, fuse.calls[-1]
        doubled += was_sent
        for name, count in Counter(after).items():
            if name.startswith("created"):
                assert count + before[name] == 1, f"{name} was uploaded again"
    else:
        pytest.fail("it never ends")
    # With several at once, calls come in another order each time.
    assert doubled == JOBS if in_flight == 1 else doubled > 0
    assert points > 4 * JOBS


async def test_killed_again_and_again(tmp_path: Path) -> None:
    world = fused(tmp_path)
    for _ in range(200):
        assert isinstance(world.store, FusedStore)
        assert isinstance(world.queue, FusedQueue)
        world.store.fuse = world.queue.fuse = Fuse(8)
        try:
            manifest = await world.produce(ROWS)
        except Killed:
            continue
        require_whole(world, manifest)
        return
    pytest.fail("it makes no progress")


async def test_a_resumed_run_gives_every_row_its_own_scores(tmp_path: Path) -> None:
    world = fused(tmp_path, points=13)
    with pytest.raises(Killed):
        await world.produce(ROWS)
    defuse(world)
    await world.produce(ROWS)
    await world.score()
    collected = await world.collect()
    assert np.abs(scores_of(collected) - MODEL.scores(ROWS)).max() < ERROR


async def test_resuming_a_complete_run_sends_nothing(tmp_path: Path) -> None:
    world = fused(tmp_path)
    first = await world.produce(ROWS)
    calls = defuse(world).calls
    assert await world.produce(ROWS) == first
    assert [call.split(" ")[0] for call in calls if "manifest" not in call] == []


async def test_a_torn_line_costs_one_repetition_at_most(tmp_path: Path) -> None:
    for cut in range(1, 9):
        world = fused(tmp_path / str(cut))
        await world.produce(ROWS)
        log = world.folder.path / "enqueued"
        log.write_bytes(log.read_bytes()[:-cut])
        require_whole(world, await world.produce(ROWS))
        lost = 1 if cut <= 7 else 2
        assert len(world.messages()) == JOBS + lost
        assert sorted(log.read_text().split()) == [blobnames.job_id(i) for i in range(JOBS)]


async def test_a_torn_note_of_an_encryption_that_was_not_uploaded(tmp_path: Path) -> None:
    world = fused(tmp_path, points=7)  # before the second upload
    world.in_flight = 1
    with pytest.raises(Killed):
        await world.produce(ROWS)
    defuse(world)
    log = world.folder.path / "encrypted"
    log.write_bytes(log.read_bytes()[:-30])
    require_whole(world, await world.produce(ROWS))


async def test_an_upload_that_arrives_late_is_taken_for_what_it_is(tmp_path: Path) -> None:
    """Of a killed process, after the resumed one has looked for it and made another one."""
    world = fused(tmp_path, points=3)  # before the first upload
    world.in_flight = 1
    with pytest.raises(Killed):
        await world.produce(ROWS)
    defuse(world)
    with world.folder.journal() as journal:
        (first,) = journal.encryptions("000000")
    name = blobnames.input_blob(RUN, "000000")
    other = World(tmp_path / "other", rows_per_job=2)
    await other.produce(ROWS)

    class Late(FusedStore):
        async def create(self, name_: str, data: object, **kwargs: object) -> None:  # type: ignore[override]
            if name_ == name and name not in self.blobs:
                late = other.store.blobs[name][1]
                await FakeStore.create(
                    self, name, late, content_type="x", metadata={"sha256": first.entry.sha256}
                )
            await FakeStore.create(self, name_, data, **kwargs)  # type: ignore[arg-type]

    world.store = Late(fuse=Fuse(), blobs=world.store.blobs)
    manifest = await world.produce(ROWS)
    assert manifest.jobs[0].sha256 == first.entry.sha256
    assert (await world.produce(ROWS)).jobs == manifest.jobs


async def test_a_strangers_blob_is_refused(tmp_path: Path) -> None:
    world = fused(tmp_path)
    name = blobnames.input_blob(RUN, "000001")
    await world.store.create(name, b"x", content_type="x", metadata={"sha256": "0" * 64})
    with pytest.raises(RunError, match=f"{name} that this machine did not upload"):
        await world.produce(ROWS)
    with pytest.raises(RunError, match="did not upload"):
        await world.produce(ROWS)


async def test_a_lost_journal_is_told(tmp_path: Path) -> None:
    """Whose inputs they are can't be known any more."""
    world = fused(tmp_path)
    await world.produce(ROWS)
    (world.folder.path / "encrypted").unlink()
    with pytest.raises(RunError, match="did not upload"):
        await world.produce(ROWS)


@pytest.mark.parametrize("finished", [False, True])
async def test_a_data_set_that_changed_is_refused(tmp_path: Path, finished: bool) -> None:
    world = fused(tmp_path, points=0 if finished else 14)
    if finished:
        await world.produce(ROWS)
    else:
        with pytest.raises(Killed):
            await world.produce(ROWS)
        defuse(world)
    messages = world.messages()
    changed = ROWS.copy()
    changed[1, 3] += 1e-9
    for other in (changed, ROWS[::-1].copy(), ROWS[:2]):
        with pytest.raises(RunError, match="data set of run run-1 has changed"):
            await world.produce(other)
    if finished:
        assert world.messages() == messages


async def test_a_run_that_was_cleaned_cannot_be_resumed(tmp_path: Path) -> None:
    world = fused(tmp_path, points=14)
    with pytest.raises(Killed):
        await world.produce(ROWS)
    defuse(world)
    world.store.blobs.clear()
    with pytest.raises(RunError, match="was it cleaned"):
        await world.produce(ROWS)
    assert world.store.blobs == {}


async def test_an_altered_manifest_is_written_anew(tmp_path: Path) -> None:
    world = fused(tmp_path)
    manifest = await world.produce(ROWS)
    name = blobnames.manifest(RUN)
    await world.store.replace(name, manifest.encode(), content_type="application/json")
    with pytest.raises(RunError, match="not signed"):
        await world.signer.read(world.store, RUN)
    await world.produce(ROWS)
    assert await world.signer.read(world.store, RUN) == manifest


async def test_two_at_once_are_refused(tmp_path: Path) -> None:
    world = fused(tmp_path)
    async with world.submission():
        with pytest.raises(RunError, match="run run-1 is being produced by another process"):
            await world.produce(ROWS)
    await world.produce(ROWS)


async def test_no_more_than_a_few_blocks_are_in_memory(tmp_path: Path) -> None:
    world = World(tmp_path, rows_per_job=2, in_flight=3)
    alive: weakref.WeakSet[Block] = weakref.WeakSet()
    most = 0

    def counted() -> Iterator[Block]:
        nonlocal most
        for first in range(0, 80, 2):
            block = Block(first, data_set(2, seed=first))
            alive.add(block)
            most = max(most, len(alive))
            yield block
            del block

    async with world.submission() as submission:
        await submission.start()
        await submission.run(counted())
    assert most <= 3


async def test_uploads_run_ahead_of_a_full_queue_by_a_few_jobs_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog, "POLL_S", 0.01)
    uploaded = 0
    counts_since = 0
    stuck = asyncio.Event()

    class Counting(FakeStore):
        async def create(self, *args: Any, **kwargs: Any) -> None:
            nonlocal uploaded, counts_since
            await super().create(*args, **kwargs)
            uploaded += 1
            counts_since = 0

    class Full(FakeQueue):
        async def depth(self) -> int:
            nonlocal counts_since
            counts_since += 1
            if uploaded >= 5 and counts_since == 20:
                stuck.set()
            return await super().depth()

    world = World(tmp_path, store=Counting(), queue=Full(), rows_per_job=1, in_flight=2)
    async with world.submission(limit=3) as submission:
        await submission.start()
        running = asyncio.create_task(submission.run(Block(i, ROWS[i : i + 1]) for i in range(10)))
        async with asyncio.timeout(30):
            await stuck.wait()  # it has looked at the full queue so often, and done nothing else
        assert (uploaded, len(world.messages())) == (5, 3)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running


async def test_a_storage_account_that_is_away_for_a_while_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bodies of three parts; answers are lost too: it was done, and its caller doesn't know."""
    monkeypatch.setattr(patience, "FIRST_PAUSE_S", 0.001)
    seen: Counter[str] = Counter()
    taken: list[int] = []

    class Shaky(FusedStore):
        async def create(
            self, name: str, data: bytes | AsyncIterator[bytes], **kwargs: Any
        ) -> None:
            assert not isinstance(data, bytes)
            seen[name] += 1
            pieces: list[bytes] = []
            if seen[name] > 1:
                async for piece in data:
                    pieces.append(piece)
                    if seen[name] == 2 and len(pieces) == 2:
                        break
            taken.append(len(pieces))
            if seen[name] <= 3:
                raise StorageUnavailable("away")
            await super().create(name, b"".join(pieces), **kwargs)
            if seen[name] == 4:
                raise StorageUnavailable("the answer is lost")

    rows = np.random.default_rng(1).uniform(-1, 1, size=(4, 2 * SECTION_FEATURES + 4))
    key = client_scheme("packed").generate()
    world = World(tmp_path, store=Shaky(fuse=Fuse()), rows_per_job=2, in_flight=1)
    async with (
        world.submission() as plain,
        KeyPool("packed", key.export_secret(), processes=0) as pool,
    ):
        of = {"scheme": "packed", "key_id": key.key_id, "features": rows.shape[1]}
        record = plain.record.model_copy(update=of)
        submission = replace(plain, record=record, pool=pool)
        await submission.start()
        manifest = await submission.run(blocks(rows, 2))
        assert taken == 2 * [0, 2, 3, 3, 3]
        for entry in manifest.jobs:
            info, body = world.store.blobs[blobnames.input_blob(RUN, entry.job)]
            uncounted, uploaded, refused, last = (
                encryption.entry for encryption in submission.journal.encryptions(entry.job)
            )
            assert entry == last == uploaded
            assert last.sha256 == hashlib.sha256(body).hexdigest() == info.metadata["sha256"]
            assert len({uncounted.sha256, uploaded.sha256, refused.sha256}) == 3
    assert [message.sha256 for message in world.messages()] == [e.sha256 for e in manifest.jobs]


def test_the_tag_of_rows_needs_the_key_and_tells_every_bit() -> None:
    tag = rows_tag(b"key", StoredRows(ROWS))
    assert rows_tag(b"key", StoredRows(ROWS.copy())) == tag
    assert rows_tag(b"key", StoredRows(np.asfortranarray(ROWS))) == tag
    assert rows_tag(b"other", StoredRows(ROWS)) != tag
    assert rows_tag(b"key", StoredRows(np.nextafter(ROWS, 2))) != tag
    assert rows_tag(b"key", StoredRows(ROWS, scale=2.0)) != tag
    assert rows_tag(b"key", StoredRows(ROWS.view(np.int64))) != tag


@pytest.mark.parametrize("dtype", ["?", "u1", ">i2", ">f4", "<f8", ">f16"])
def test_rows_of_any_type_have_a_tag(dtype: str) -> None:
    values = np.ones((2, 3)).astype(dtype)
    assert rows_tag(b"key", StoredRows(values)) == rows_tag(b"key", StoredRows(values.copy()))


async def test_canaries_are_in_the_body_and_the_message_but_not_in_the_manifest(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, rows_per_job=8, canaries=2)
    manifest = await world.produce(ROWS)
    assert manifest.canaries == 2
    assert [entry.rows for entry in manifest.jobs] == [5, 5]
    assert [message.rows for message in world.messages()] == [8, 8]
    await world.score()
    collected = await world.collect()
    assert np.abs(scores_of(collected) - MODEL.scores(ROWS)).max() < ERROR
