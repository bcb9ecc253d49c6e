"""Leases: renewed in time, never used with a stale receipt, given up exactly once."""

from __future__ import annotations

import asyncio

import pytest

from shared.errors import AccessDenied, LeaseLost
from shared.ports import Delivery
from tests.unit.worker.harness import Rig
from tests.unit.worker.virtual import now_s, virtual_time
from worker.lease import Lease


async def _held(rig: Rig) -> tuple[Lease, asyncio.Task[None]]:
    await rig.queue.send(b"message")
    lease = await rig.take()
    return lease, asyncio.create_task(lease.keep())


@virtual_time
async def test_it_is_renewed_every_third_and_stays_ours() -> None:
    rig = Rig(lease_s=30)
    lease, keeper = await _held(rig)
    await asyncio.sleep(95)
    assert rig.queue.renewed_at == [10, 20, 30, 40, 50, 60, 70, 80, 90]
    assert await rig.queue.receive(1, lease_s=30) == []
    assert await lease.delete()
    await keeper
    assert rig.queue.bodies == []


@virtual_time
async def test_a_settled_lease_is_not_renewed_again() -> None:
    rig = Rig(lease_s=30)
    lease, keeper = await _held(rig)
    await lease.release(delay_s=0)
    await keeper
    assert now_s() == 0
    assert rig.queue.renewed_at == []


@virtual_time
async def test_a_delete_waits_for_the_renewal_on_its_way() -> None:
    """The renewal kills the receipt that the delete would otherwise use."""
    rig = Rig(lease_s=30)
    lease, keeper = await _held(rig)
    under_way = asyncio.Event()

    async def slow() -> None:
        under_way.set()
        await asyncio.sleep(5)

    rig.queue.on_renew = slow
    await under_way.wait()
    assert await lease.delete()
    assert now_s() == 15
    assert rig.journal == ["receive", "renew", "delete"]
    await keeper


@virtual_time
async def test_the_end_of_a_job_does_not_cut_a_renewal_off() -> None:
    rig = Rig(lease_s=30)
    lease, keeper = await _held(rig)
    receipt = lease.delivery.receipt
    under_way = asyncio.Event()

    async def slow() -> None:
        under_way.set()
        await asyncio.sleep(5)

    rig.queue.on_renew = slow
    await under_way.wait()
    lease.end()
    await keeper
    assert lease.delivery.receipt != receipt


@virtual_time
async def test_a_refused_renewal_leaves_the_message_to_its_next_holder() -> None:
    rig = Rig(lease_s=30)
    lease, keeper = await _held(rig)
    stranger = Delivery(**{name: getattr(lease.delivery, name) for name in Delivery.__slots__})
    await rig.queue.renew(stranger, lease_s=100)
    await keeper
    assert lease.lost
    assert not await lease.delete()
    assert not await lease.release(delay_s=0)
    assert not await lease.poison(b"letter")
    assert rig.journal.count("delete") + rig.journal.count("release") == 0
    assert rig.queue.bodies == [b"message"]
    assert rig.queue.dead_letters == []


@virtual_time
async def test_a_delete_that_is_refused_is_a_lost_lease() -> None:
    rig = Rig(lease_s=30)
    lease, keeper = await _held(rig)
    lease.delivery.receipt = "stale"
    assert not await lease.delete()
    assert lease.lost
    await keeper


@virtual_time
async def test_a_failing_renewal_is_tried_again_within_the_lease() -> None:
    rig = Rig(lease_s=30)
    lease, keeper = await _held(rig)
    rig.queue.failing = {"renew"}
    await asyncio.sleep(20)
    rig.queue.failing = set()
    await asyncio.sleep(15)
    assert not lease.lost
    assert await rig.queue.receive(1, lease_s=30) == []
    assert await lease.delete()
    await keeper


@virtual_time
async def test_a_lease_that_could_not_be_renewed_in_time_is_lost() -> None:
    rig = Rig(lease_s=30)
    lease, keeper = await _held(rig)
    rig.queue.failing = {"renew"}
    await keeper
    assert lease.lost
    assert now_s() == 30


@virtual_time
async def test_a_renewal_without_an_answer_loses_the_lease_when_it_runs_out() -> None:
    rig = Rig(lease_s=30)
    lease, keeper = await _held(rig)

    async def hang() -> None:
        await asyncio.sleep(3600)

    rig.queue.on_renew = hang
    await keeper
    assert lease.lost
    assert now_s() == 30


@virtual_time
async def test_the_lease_is_counted_from_before_the_renewal_was_sent() -> None:
    """The service counts from when it answers, which may be long before we hear of it."""
    rig = Rig(lease_s=30)
    lease, keeper = await _held(rig)

    async def slow() -> None:
        rig.queue.on_renew = None
        await asyncio.sleep(9)
        rig.queue.failing = {"renew"}

    rig.queue.on_renew = slow  # sent at 10 s, answered at 19 s
    await keeper
    assert lease.lost
    assert now_s() == 40


@virtual_time
async def test_an_unexpected_error_reaches_whoever_watches() -> None:
    rig = Rig(lease_s=30)
    _, keeper = await _held(rig)

    async def deny() -> None:
        raise AccessDenied("no update permission")

    rig.queue.on_renew = deny
    with pytest.raises(AccessDenied):
        await keeper


@virtual_time
async def test_what_storage_does_not_take_back_is_left_to_run_out() -> None:
    rig = Rig(lease_s=30)
    lease, keeper = await _held(rig)
    rig.queue.failing = {"delete", "release"}
    assert not await lease.delete()
    assert not await lease.release(delay_s=0)
    assert not lease.lost
    lease.end()
    await keeper


@virtual_time
async def test_poison_buries_and_ends_the_lease() -> None:
    rig = Rig(lease_s=30)
    lease, keeper = await _held(rig)
    assert await lease.poison(b"letter")
    await keeper
    assert (rig.queue.bodies, rig.queue.dead_letters) == ([], [b"letter"])
    with pytest.raises(LeaseLost):
        await rig.queue.delete(lease.delivery)
