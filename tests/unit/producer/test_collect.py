"""Every score once, or a named reason: whatever is in the account, however often killed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from producer import pace
from producer.collect import Collector
from producer.judge import hex_digest
from producer.keypool import KeyPool
from producer.keys import CANARIES, SIGNING
from producer.pace import LONGEST_PAUSE_S, REST_S
from producer.results import Collected
from producer.signing import ManifestSigner
from shared import blobnames, container
from shared.errors import RunError, StorageUnavailable
from shared.linear import LinearModel
from shared.messages import FailureRecord, Manifest
from shared.ports import BlobInfo
from tests.fakes import FakeStore
from tests.unit.producer.pipeline import (
    ERROR,
    FEATURES,
    KEY,
    MODEL,
    RUN,
    START,
    World,
    data_set,
    new_key,
    scores_of,
)
from tests.unit.worker.virtual import now_s, virtual_time

ROWS = data_set(12)
JOBS = ["000000", "000001", "000002"]


class Killed(BaseException):
    """Not an error: nothing may catch it."""


@dataclass
class WatchedStore(FakeStore):
    """Counts what is read and listed; may fail."""

    reads: list[str] = field(default_factory=list)
    manifests: int = 0
    """How often one was read."""
    listings: list[str] = field(default_factory=list)
    listed: int = 0
    die_at_read: int = 0
    out_for: int = 0
    """How many listings fail."""

    async def read(self, name: str, *, limit: int) -> bytes:
        body = await super().read(name, limit=limit)
        self.manifests += name.endswith("manifest.json")
        if "/out/" in name:
            self.reads.append(name)
            if self.die_at_read and len(self.reads) >= self.die_at_read:
                raise Killed
        return body

    async def list(self, prefix: str) -> AsyncIterator[BlobInfo]:
        self.listings.append(prefix)
        if self.out_for:
            self.out_for -= 1
            raise StorageUnavailable("away")
        async for blob in super().list(prefix):
            self.listed += 1
            yield blob


async def scored(home: Path, *, canaries: int = 0, rows_per_job: int = 4) -> World:
    """A run of three jobs with all its results."""
    world = World(home, store=WatchedStore(), canaries=canaries, rows_per_job=rows_per_job)
    await world.produce(ROWS)
    await world.score()
    return world


def watched(world: World) -> WatchedStore:
    assert isinstance(world.store, WatchedStore)
    return world.store


def change(world: World, job: str, result: Callable[[bytes], bytes]) -> None:
    """Put other bytes in place of a job's result; its metadata stay."""
    name = blobnames.output_blob(RUN, job)
    info, body = world.store.blobs[name]
    world.store._put(name, result(body), info.content_type, info.metadata)


def relabel(world: World, job: str, **metadata: str) -> None:
    name = blobnames.output_blob(RUN, job)
    info, body = world.store.blobs[name]
    world.store._put(name, body, info.content_type, {**info.metadata, **metadata})


def require_scores(collected: Collected, rows: np.ndarray = ROWS) -> None:
    assert collected.complete
    assert np.abs(scores_of(collected) - MODEL.scores(rows)).max() < ERROR


async def test_all_scores_of_a_run(tmp_path: Path) -> None:
    collected = await (await scored(tmp_path)).collect()
    require_scores(collected)
    assert collected.rows_scored == len(ROWS)
    assert collected.model == MODEL.fingerprint
    assert collected.classes == 3
    assert not collected.missing


async def test_the_deadline_passes_and_what_is_missing_is_known(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.produce(ROWS)
    await world.score(jobs=["000001"])
    collected = await world.collect()
    assert not collected.complete
    assert [entry.job for entry in collected.missing] == ["000000", "000002"]
    assert collected.rows_scored == 4


async def test_results_are_awaited(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.produce(ROWS)
    collecting = asyncio.create_task(world.collect(deadline_s=60))
    await asyncio.sleep(0)
    await world.score()
    require_scores(await collecting)


async def test_an_unknown_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="unknown run run-1"):
        await World(tmp_path).collect()


# --- what is wrong with one result is that job's failure --------------------------------------


def _other_key(body: bytes) -> bytes:
    header, frames = container.read(body, max_frame_bytes=1 << 24)
    foreign = header.model_copy(update={"key_id": new_key().key_id})
    return b"".join(container.write(foreign, frames))


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut off": lambda body: body[:-1],
    "empty": lambda body: b"",
    "a flipped bit": lambda body: body[:200] + bytes([body[200] ^ 1]) + body[201:],
    "not a container": lambda body: b"<html>busy</html>",
    "for another key": _other_key,
    "too large": lambda body: bytes((1 << 24) + 1),
}


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_result_that_is_no_use_is_its_jobs_failure(tmp_path: Path, damage: str) -> None:
    world = await scored(tmp_path)
    change(world, "000001", DAMAGES[damage])
    collected = await world.collect()
    assert collected.complete
    fault = collected.fault("000001")
    assert fault is not None
    assert fault.code == "bad_result"
    assert fault.reason
    expected = np.delete(MODEL.scores(ROWS), slice(4, 8), axis=0)
    assert np.abs(scores_of(collected) - expected).max() < ERROR


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({"sha256": "0" * 64}, "hash"),
        ({"rows": "3"}, "3 rows were scored, not 4"),
        ({"rows": "many"}, "unusable metadata"),
        ({"scored_at": "yesterday"}, "unusable metadata"),
    ],
)
async def test_a_result_whose_metadata_are_wrong_is_its_jobs_failure(
    tmp_path: Path, metadata: dict[str, str], reason: str
) -> None:
    world = await scored(tmp_path)
    relabel(world, "000002", **metadata)
    collected = await world.collect()
    fault = collected.fault("000002")
    assert fault is not None
    assert fault.code == "bad_result"
    assert reason in fault.reason
    assert collected.rows_scored == 8


async def test_a_result_with_its_hash_is_taken(tmp_path: Path) -> None:
    world = await scored(tmp_path)
    body = world.store.blobs[blobnames.output_blob(RUN, "000002")][1]
    relabel(world, "000002", sha256=hex_digest(body))
    require_scores(await world.collect())


async def test_blobs_that_are_no_jobs_of_the_run_are_nothing_to_it(tmp_path: Path) -> None:
    world = await scored(tmp_path)
    info, body = world.store.blobs[blobnames.output_blob(RUN, "000000")]
    for name in ("000007", "000001.json", "notes", "x/000001", "0"):
        foreign = {**info.metadata, "key_id": "f" * 64}
        await world.store.create(
            blobnames.outputs(RUN) + name, body, content_type="x", metadata=foreign
        )
    collected = await world.collect()
    require_scores(collected)
    assert set(collected.results) == set(JOBS)


# --- results of something else are refused altogether -----------------------------------------


@pytest.mark.parametrize(
    ("metadata", "told"),
    [
        ({"key_id": "f" * 64}, "of key f"),
        ({"scheme": "packed"}, "of scheme packed, the run's is direct"),
        ({"model": "f" * 64}, "more than one model"),
        ({"model": ""}, "more than one model"),
    ],
)
async def test_results_of_something_else_are_refused(
    tmp_path: Path, metadata: dict[str, str], told: str
) -> None:
    world = await scored(tmp_path)
    relabel(world, "000002", **metadata)
    for _ in range(2):  # and again, from the parts of the first time
        with pytest.raises(RunError, match=told):
            await world.collect()


async def test_results_of_another_width_are_refused(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.produce(ROWS)
    await world.score(jobs=["000000", "000001"])
    other = LinearModel(np.ones((2, FEATURES)), np.zeros(2), labels=("0", "1"), link="argmax")
    world.queue._clock = lambda: 1e12  # leases have run out
    await world.score(model=other)
    with pytest.raises(RunError, match="more than one model"):
        await world.collect()


# --- the manifest -----------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["unsigned", "altered", "another key's"])
async def test_a_manifest_that_is_not_the_owners_is_refused(tmp_path: Path, how: str) -> None:
    world = await scored(tmp_path)
    name = blobnames.manifest(RUN)
    manifest = await world.signer.read(world.store, RUN)
    fewer = manifest.model_copy(update={"jobs": manifest.jobs[:2], "rows": 8})
    signed = world.store.blobs[name][1]
    body = {
        "unsigned": fewer.encode(),
        "altered": signed.replace(manifest.encode(), fewer.encode()),
        "another key's": ManifestSigner(new_key().derive(SIGNING)).seal(fewer),
    }[how]
    await world.store.replace(name, body, content_type="application/json")
    with pytest.raises(RunError, match=r"run run-1 is (not signed|altered)"):
        await world.collect()


async def test_results_come_in_while_the_run_is_being_produced(tmp_path: Path) -> None:
    """The manifest doesn't say yet which jobs there are, and how long."""
    world = await scored(tmp_path)
    manifest = await world.signer.read(world.store, RUN)
    begun = manifest.model_copy(update={"jobs": (), "rows": 0, "complete": False})
    await world.signer.write(world.store, begun)
    taken = asyncio.Event()

    def progress(collected: Collected) -> None:
        if collected.rows_scored == len(ROWS):
            taken.set()

    async with world.collector() as collector:
        early = replace(collector, on_progress=progress)
        collecting = asyncio.create_task(early.collect(deadline_s=60))
        async with asyncio.timeout(30):
            await taken.wait()
        assert not collecting.done()
        short = manifest.jobs[1].model_copy(update={"rows": 3})
        jobs = (manifest.jobs[0], short)
        await world.signer.write(world.store, manifest.model_copy(update={"jobs": jobs, "rows": 7}))
        first = await collecting
    for collected in (first, await world.collect()):
        assert set(collected.results) == {"000000"}
        fault = collected.fault("000001")
        assert fault is not None
        assert fault.reason == "4 rows have scores, not 3"
        assert collected.rows_scored == 4


# --- failures ---------------------------------------------------------------------------------


async def test_failures_complete_a_run_and_results_count_more(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.produce(ROWS)
    await world.score(jobs=["000000", "000001"])
    await write_failure(world.store, "000001")
    await write_failure(world.store, "000002")
    collected = await world.collect()
    assert collected.complete
    assert collected.fault("000001") is None
    assert collected.rows_scored == 8
    fault = collected.fault("000002")
    assert fault is not None
    assert (fault.code, fault.reason) == ("feature_count", "no")


async def test_an_unreadable_failure_record_is_a_failure_too(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.produce(ROWS)
    await world.score(jobs=["000000", "000001"])
    name = blobnames.failure_blob(RUN, "000002")
    await world.store.create(name, b"[]", content_type="application/json")
    collected = await world.collect()
    assert collected.complete
    fault = collected.fault("000002")
    assert fault is not None
    assert fault.code == "bad_record"


# --- canaries ---------------------------------------------------------------------------------


async def test_honest_results_pass_the_canaries(tmp_path: Path) -> None:
    require_scores(await (await scored(tmp_path, canaries=3, rows_per_job=8)).collect())


def _constant(model: LinearModel) -> LinearModel:
    return LinearModel(model.weights * 0, model.intercept, labels=model.labels, link=model.link)


async def test_a_scorer_that_does_not_apply_its_model_is_noticed(tmp_path: Path) -> None:
    world = World(tmp_path, canaries=1, rows_per_job=6)
    await world.produce(ROWS)
    await world.score(model=_constant(MODEL))
    collected = await world.collect()
    assert collected.complete
    assert {collected.fault(job) for job in JOBS} != {None}
    for job in JOBS:
        fault = collected.fault(job)
        assert fault is not None
        assert fault.code == "canary"
    assert collected.rows_scored == 0


@pytest.mark.parametrize("canaries", [0, 2])
async def test_results_swapped_between_jobs_are_noticed_with_canaries_only(
    tmp_path: Path, canaries: int
) -> None:
    world = await scored(tmp_path, canaries=canaries, rows_per_job=4 + (canaries and canaries + 1))
    bodies = [world.store.blobs[blobnames.output_blob(RUN, job)][1] for job in JOBS[:2]]
    change(world, JOBS[0], lambda _: bodies[1])
    change(world, JOBS[1], lambda _: bodies[0])
    collected = await world.collect()
    faults = [collected.fault(job) for job in JOBS]
    codes = [fault.code if fault else "" for fault in faults]
    assert codes == (["canary", "canary", ""] if canaries else ["", "", ""])


# --- killed and run again ---------------------------------------------------------------------


async def test_killed_anywhere_and_run_again(tmp_path: Path) -> None:
    for point in (1, 2, 3):
        world = await scored(tmp_path / str(point))
        watched(world).die_at_read = point
        with pytest.raises(Killed):
            await world.collect()
        parts = {path.name.split(".")[0] for path in world.home.rglob("*.scores")}
        watched(world).die_at_read = 0
        watched(world).reads.clear()
        require_scores(await world.collect())
        again = {blobnames.job_of(name) for name in watched(world).reads}
        assert again == set(JOBS) - parts


async def test_what_is_decrypted_is_not_fetched_again(tmp_path: Path) -> None:
    world = await scored(tmp_path)
    await world.collect()
    watched(world).reads.clear()
    require_scores(await world.collect())
    assert watched(world).reads == []


def part(world: World, job: str) -> Path:
    (path,) = (world.home / "results" / "parts" / RUN).glob(f"{job}.*.scores")
    return path


@pytest.mark.parametrize("damage", [b"", b"garbage" * 100])
async def test_a_damaged_part_is_made_anew(tmp_path: Path, damage: bytes) -> None:
    world = await scored(tmp_path)
    await world.collect()
    part(world, "000001").write_bytes(damage)
    require_scores(await world.collect())


async def test_a_part_cut_short_is_made_anew(tmp_path: Path) -> None:
    world = await scored(tmp_path)
    await world.collect()
    path = part(world, "000001")
    path.write_bytes(path.read_bytes()[:-8])
    require_scores(await world.collect())


async def test_leftovers_are_removed(tmp_path: Path) -> None:
    world = await scored(tmp_path)
    await world.collect()
    leftover = part(world, "000001").with_suffix(".scores.unfinished")
    leftover.write_bytes(b"half")
    require_scores(await world.collect())
    assert not leftover.exists()


async def test_a_part_is_never_read_for_another_result(tmp_path: Path) -> None:
    """The job was scored again, for example after it was replayed."""
    world = await scored(tmp_path)
    await world.collect()
    other = World(tmp_path / "other")
    rows = data_set(12, seed=99)
    await other.produce(rows)
    await other.score()
    theirs = other.store.blobs[blobnames.output_blob(RUN, "000001")][1]
    change(world, "000001", lambda _: theirs)
    mixed = ROWS.copy()
    mixed[4:8] = rows[4:8]
    require_scores(await world.collect(), mixed)
    part(world, "000001")  # there is only one


async def test_parts_of_different_runs_share_a_folder_without_mixing(tmp_path: Path) -> None:
    world = await scored(tmp_path)
    await world.collect()
    manifest = await world.signer.read(world.store, RUN)
    elsewhere = world.home / "results" / "parts"
    assert [path.name for path in elsewhere.iterdir()] == [RUN]
    later = manifest.model_copy(update={"created_at": START.replace(year=2027)})
    await world.signer.write(world.store, later)
    with pytest.raises(RunError, match="another run of that name"):
        await world.collect()
    require_scores(await world.collect(tmp_path / "new"))


# --- large runs, slow runs, bad weather -------------------------------------------------------


def idle_collector(store: FakeStore, folder: Path) -> Collector:
    """One that has nothing to decrypt: its pool is never started."""
    return Collector(
        run=RUN,
        store=store,
        pool=KeyPool("direct", KEY.secret_bytes(), processes=0),
        signer=ManifestSigner(KEY.derive(SIGNING)),
        canary_key=KEY.derive(CANARIES),
        folder=folder,
        max_result_bytes=1000,
    )


async def write_manifest(store: FakeStore, jobs: int, *, complete: bool = True) -> Manifest:
    entries = [
        {"job": blobnames.job_id(i), "first_row": i, "rows": 1, "sha256": "0" * 64}
        for i in range(jobs)
    ]
    manifest = Manifest.model_validate(
        {
            "run": RUN,
            "scheme": "direct",
            "key_id": KEY.key_id,
            "features": FEATURES,
            "rows": jobs if complete else 0,
            "created_at": START,
            "complete": complete,
            "jobs": entries if complete else [],
        }
    )
    await ManifestSigner(KEY.derive(SIGNING)).write(store, manifest)
    return manifest


@virtual_time
async def test_polling_backs_off_while_nothing_comes(tmp_path: Path) -> None:
    store = WatchedStore()
    await write_manifest(store, 3)
    collected = await idle_collector(store, tmp_path).collect(deadline_s=100)
    assert len(collected.missing) == 3
    assert now_s() == pytest.approx(100)
    polls = len([name for name in store.listings if "/out/" in name])
    assert 60 < polls < 100


async def write_failure(store: FakeStore, job: str) -> None:
    record = FailureRecord(
        run=RUN,
        job=job,
        code="feature_count",
        reason="no",
        attempts=1,
        deliveries=1,
        worker="w",
        failed_at=START,
    )
    store._put(blobnames.failure_blob(RUN, job), record.encode(), "application/json", {})


def put_result(store: FakeStore, job: str) -> None:
    """Of no use, which is news all the same."""
    store._put(blobnames.output_blob(RUN, job), b"", "x", {})


async def put_results_regularly(store: FakeStore, *, count: int, interval_s: float) -> None:
    for i in range(count):
        await asyncio.sleep(interval_s)
        put_result(store, blobnames.job_id(i))


@virtual_time
async def test_the_end_of_a_run_that_is_still_produced_is_seen_soon(tmp_path: Path) -> None:
    store = WatchedStore()
    await write_manifest(store, 2, complete=False)
    collecting = asyncio.create_task(idle_collector(store, tmp_path).collect(deadline_s=100))
    await put_results_regularly(store, count=2, interval_s=1)
    await asyncio.sleep(18)
    await write_manifest(store, 2)
    assert (await collecting).complete
    assert now_s() <= 20 + 2 * LONGEST_PAUSE_S


@virtual_time
async def test_results_after_a_long_wait_are_taken_as_they_come(tmp_path: Path) -> None:
    store = WatchedStore()
    await write_manifest(store, 100)
    collecting = asyncio.create_task(idle_collector(store, tmp_path).collect(deadline_s=100))
    await asyncio.sleep(30)
    before = len(store.listings)
    await put_results_regularly(store, count=100, interval_s=0.2)
    assert len(store.listings) - before > 100
    assert (await collecting).complete
    assert now_s() < 51


@virtual_time
async def test_results_are_looked_for_where_the_next_ones_are_due(tmp_path: Path) -> None:
    store = WatchedStore()
    await write_manifest(store, 300)
    collecting = asyncio.create_task(idle_collector(store, tmp_path).collect(deadline_s=100))
    await put_results_regularly(store, count=40, interval_s=0.5)
    listings = Counter(name.rpartition("/")[2] for name in store.listings if "/out/" in name)
    assert listings["0000"] > 2 * listings["0001"]
    await put_results_regularly(store, count=300, interval_s=0.1)
    assert (await collecting).complete
    assert now_s() < 51


@virtual_time
async def test_results_behind_a_straggler_are_taken_as_they_come(tmp_path: Path) -> None:
    """And behind many failures."""
    store = WatchedStore()
    await write_manifest(store, 200)
    late_s: list[float] = []

    def progress(collected: Collected) -> None:
        seen = [job for job in collected.rejected if int(job) >= 100]
        late_s.extend(now_s() - 0.5 * (int(job) - 99) for job in seen[len(late_s) :])

    for i in range(60):
        await write_failure(store, blobnames.job_id(i))
    for i in range(60, 99):
        put_result(store, blobnames.job_id(i))
    collector = replace(idle_collector(store, tmp_path), on_progress=progress)
    collecting = asyncio.create_task(collector.collect(deadline_s=100))
    for i in range(100, 200):
        await asyncio.sleep(0.5)
        put_result(store, blobnames.job_id(i))
    put_result(store, "000099")
    assert (await collecting).complete
    assert len(late_s) == 100
    assert max(late_s[10:]) < 0.4


@virtual_time
async def test_results_out_of_order_are_taken_too(tmp_path: Path) -> None:
    store = WatchedStore()
    await write_manifest(store, 300)
    rejected_at: dict[str, float] = {}

    def progress(collected: Collected) -> None:
        for job in collected.rejected:
            rejected_at.setdefault(job, now_s())

    collector = replace(idle_collector(store, tmp_path), on_progress=progress)
    collecting = asyncio.create_task(collector.collect(deadline_s=30))
    putting = asyncio.create_task(put_results_regularly(store, count=40, interval_s=0.3))
    await asyncio.sleep(5.1)
    put_result(store, "000150")
    await asyncio.gather(putting, collecting)
    assert rejected_at["000150"] <= 5.1 + 2 * REST_S


@virtual_time
async def test_a_manifest_is_not_read_at_each_look(tmp_path: Path) -> None:
    store = WatchedStore()
    await write_manifest(store, 500, complete=False)
    putting = asyncio.create_task(put_results_regularly(store, count=500, interval_s=0.2))
    await idle_collector(store, tmp_path).collect(deadline_s=60)
    putting.cancel()
    assert 30 <= store.manifests <= 75


@virtual_time
async def test_failures_are_seen_soon_also_while_results_come_in(tmp_path: Path) -> None:
    store = WatchedStore()
    await write_manifest(store, 100)
    seen_at: list[float] = []

    def progress(collected: Collected) -> None:
        if collected.failed:
            seen_at.append(now_s())

    collector = replace(idle_collector(store, tmp_path), on_progress=progress)
    collecting = asyncio.create_task(collector.collect(deadline_s=200))
    putting = asyncio.create_task(put_results_regularly(store, count=99, interval_s=0.3))
    await asyncio.sleep(20.5)
    await write_failure(store, "000099")
    await putting
    assert (await collecting).complete
    assert seen_at[0] <= 20.5 + 2 * LONGEST_PAUSE_S
    assert len([name for name in store.listings if "/failed/" in name]) < 60


@virtual_time
async def test_the_last_look_is_everywhere(tmp_path: Path) -> None:
    store = WatchedStore()
    await write_manifest(store, 5_000)
    collecting = asyncio.create_task(idle_collector(store, tmp_path).collect(deadline_s=8))
    await asyncio.sleep(5)
    put_result(store, "004999")
    assert set((await collecting).rejected) == {"004999"}


@pytest.mark.parametrize("listings_lost", [1, 7])
@virtual_time
async def test_a_storage_account_that_is_away_is_waited_for(
    tmp_path: Path, listings_lost: int
) -> None:
    store = WatchedStore(out_for=listings_lost)
    await write_manifest(store, 1)
    await write_failure(store, "000000")
    collected = await idle_collector(store, tmp_path).collect(deadline_s=100)
    assert collected.complete
    assert now_s() < 30


@virtual_time
async def test_a_storage_account_that_stays_away_is_told_at_the_deadline(tmp_path: Path) -> None:
    store = WatchedStore(out_for=10**6)
    await write_manifest(store, 1)
    with pytest.raises(StorageUnavailable):
        await idle_collector(store, tmp_path).collect(deadline_s=100)
    assert now_s() == pytest.approx(100)


async def test_a_large_run_is_not_listed_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results (here: of no use, which is all the same) come in about in order, in 40 batches."""
    monkeypatch.setattr(pace, "SHORTEST_PAUSE_S", 0.0)
    jobs, batch = 8_000, 200
    store = WatchedStore()
    manifest = await write_manifest(store, jobs)
    entries = iter(manifest.jobs)
    batches = 0

    def more(collected: Collected | None = None) -> None:
        nonlocal batches
        if collected is None or len(collected.rejected) == batches * batch:
            batches += 1
            for entry in islice(entries, batch):
                store._put(blobnames.output_blob(RUN, entry.job), b"", "x", {})

    more()
    collector = replace(idle_collector(store, tmp_path), on_progress=more)
    collected = await collector.collect(deadline_s=600)
    assert collected.complete
    assert len(collected.rejected) == jobs
    assert store.listed < 6 * jobs  # each time all of them would be 20 times as many


async def test_results_far_ahead_are_found(tmp_path: Path) -> None:
    """Jobs are not done in order: the first thousands are missing."""
    store = WatchedStore()
    await write_manifest(store, 5_000)
    store._put(blobnames.output_blob(RUN, "004999"), b"", "x", {})
    collected = await idle_collector(store, tmp_path).collect(deadline_s=0)
    assert set(collected.rejected) == {"004999"}
    assert len(collected.missing) == 4_999
