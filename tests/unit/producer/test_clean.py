"""Cleaning removes one run, all of it, and leaves the others as they were."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from producer.clean import BATCH, LEASE_S, clean_key, clean_run
from shared import blobnames
from shared.messages import JobMessage
from shared.ports import Delivery
from tests.fakes import FakeClock, FakeQueue
from tests.unit.producer.pipeline import RUN, World, data_set

ROWS = data_set(12)


async def send_others(queue: FakeQueue, like: JobMessage, count: int) -> None:
    """Messages of another run, and one that is none at all."""
    for index in range(count):
        job = blobnames.job_id(index)
        other = like.model_copy(
            update={
                "run": "run-2",
                "job": job,
                "input": blobnames.input_blob("run-2", job),
                "output": blobnames.output_blob("run-2", job),
            }
        )
        await queue.send(other.encode())
    await queue.send(b"not ours")


async def test_a_run_is_removed_and_others_stay(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.produce(ROWS)
    await send_others(world.queue, world.messages()[0], 5)
    await world.store.create("runs/run-10/manifest.json", b"{}", content_type="x")
    removed = await clean_run(RUN, world.store, world.queue)
    assert (removed.messages, removed.blobs) == (3, 4)
    assert set(world.store.blobs) == {"runs/run-10/manifest.json"}
    left = await world.queue.receive(32, lease_s=1)
    assert len(left) == 6
    again = await clean_run(RUN, world.store, world.queue)
    assert (again.messages, again.blobs) == (0, 0)


class SlowQueue(FakeQueue):
    """Time passes with each get, so that leases of a long queue run out within one pass."""

    def __init__(self, clock: FakeClock, step_s: float) -> None:
        super().__init__(clock)
        self.tick: Callable[[], None] = lambda: clock.advance(step_s)

    async def receive(self, max_messages: int, *, lease_s: float) -> list[Delivery]:
        self.tick()
        return await super().receive(max_messages, lease_s=lease_s)


async def test_a_queue_longer_than_a_lease_is_gone_through_once(tmp_path: Path) -> None:
    queue = SlowQueue(FakeClock(), step_s=LEASE_S / 3)
    world = World(tmp_path, queue=queue)
    await world.produce(ROWS)
    await send_others(queue, world.messages()[0], 10 * BATCH)
    removed = await clean_run(RUN, world.store, queue)
    assert removed.messages == 3
    assert len(queue.bodies) == 10 * BATCH + 1
    queue.tick = lambda: None
    delivery = max(await queue.receive(32, lease_s=1), key=lambda d: d.deliveries)
    assert delivery.deliveries <= 3


async def test_a_keys_evaluation_keys_are_removed(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.store.create(blobnames.key("a" * 64), b"keys", content_type="x")
    assert (await clean_key("a" * 64, world.store)).blobs == 1
    assert (await clean_key("a" * 64, world.store)).blobs == 0
