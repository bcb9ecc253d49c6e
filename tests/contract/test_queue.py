"""What every `JobQueue` does, in memory and on Azurite."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from shared.errors import LeaseLost, MessageError
from shared.messages import MAX_MESSAGE_BYTES
from shared.ports import Delivery
from tests.contract.conftest import LEASE_S, QueueCase
from tests.fakes import FakeQueue


async def test_a_body_arrives_byte_for_byte(case: QueueCase) -> None:
    body = bytes(range(256)) + "naïve €".encode()
    await case.queue.send(body)
    (delivery,) = await case.queue.receive(32, lease_s=60)
    assert delivery.body == body
    assert delivery.deliveries == 1
    assert delivery.id
    assert delivery.receipt
    assert delivery.inserted_at.tzinfo is not None
    if not isinstance(case.queue, FakeQueue):
        assert abs(delivery.inserted_at - datetime.now(UTC)) < timedelta(minutes=1)


async def test_an_empty_queue_gives_nothing(case: QueueCase) -> None:
    assert await case.queue.receive(32, lease_s=60) == []


async def test_no_more_messages_are_taken_than_asked_for(case: QueueCase) -> None:
    for number in range(5):
        await case.queue.send(b"%d" % number)
    first = await case.queue.receive(2, lease_s=60)
    rest = await case.queue.receive(32, lease_s=60)
    assert [len(first), len(rest)] == [2, 3]
    assert sorted(delivery.body for delivery in first + rest) == [b"0", b"1", b"2", b"3", b"4"]


@pytest.mark.parametrize("count", [0, 33])
async def test_batches_are_of_1_to_32(case: QueueCase, count: int) -> None:
    with pytest.raises(ValueError, match="1 to 32"):
        await case.queue.receive(count, lease_s=60)


async def test_the_longest_body_fits_and_a_longer_one_is_refused(case: QueueCase) -> None:
    longest = b"\xff" * MAX_MESSAGE_BYTES
    await case.queue.send(longest)
    assert (await case.take()).body == longest
    with pytest.raises(MessageError, match="over"):
        await case.queue.send(longest + b"x")


async def test_a_delayed_message_is_not_visible_at_once(case: QueueCase) -> None:
    await case.queue.send(b"later", delay_s=LEASE_S)
    assert await case.queue.receive(1, lease_s=60) == []
    assert (await case.take()).body == b"later"


async def test_a_leased_message_is_nobody_elses(case: QueueCase) -> None:
    await case.queue.send(b"job")
    await case.take()
    assert await case.queue.receive(32, lease_s=60) == []
    assert await case.queue.depth() == 1


async def test_an_expired_lease_is_redelivered_and_counted(case: QueueCase) -> None:
    await case.queue.send(b"job")
    seen = [await case.take(LEASE_S) for _ in range(3)]
    assert [delivery.deliveries for delivery in seen] == [1, 2, 3]
    assert len({delivery.id for delivery in seen}) == 1
    assert len({delivery.receipt for delivery in seen}) == 3


async def test_a_deleted_message_is_gone(case: QueueCase) -> None:
    await case.queue.send(b"job")
    delivery = await case.take(LEASE_S)
    await case.queue.delete(delivery)
    assert await case.queue.depth() == 0
    with pytest.raises(LeaseLost):
        await case.queue.delete(delivery)


async def test_renewal_extends_the_lease_under_a_new_receipt(case: QueueCase) -> None:
    await case.queue.send(b"job")
    delivery = await case.take(LEASE_S)
    old = _copy(delivery)
    await case.queue.renew(delivery, lease_s=60)
    assert delivery.receipt != old.receipt
    for _ in range(30):  # well past the first lease
        await case.tick()
    assert await case.queue.receive(1, lease_s=60) == []
    await case.queue.delete(delivery)
    assert await case.queue.depth() == 0


@pytest.mark.parametrize("verb", ["renew", "release", "delete", "poison"])
async def test_an_old_receipt_is_refused(case: QueueCase, verb: str) -> None:
    await case.queue.send(b"job")
    delivery = await case.take()
    old = _copy(delivery)
    await case.queue.renew(delivery, lease_s=60)
    with pytest.raises(LeaseLost):
        await _apply(case, verb, old)
    assert await case.letters.depth() == 0
    assert await case.queue.receive(1, lease_s=60) == []
    await case.queue.delete(delivery)  # the new one still holds


@pytest.mark.parametrize("verb", ["renew", "release", "delete", "poison"])
async def test_the_previous_holder_is_refused(case: QueueCase, verb: str) -> None:
    await case.queue.send(b"job")
    previous = await case.take(LEASE_S)
    current = await case.take(60)
    with pytest.raises(LeaseLost):
        await _apply(case, verb, previous)
    assert await case.letters.depth() == 0
    await case.queue.delete(current)


async def test_an_expired_receipt_that_nobody_replaced_still_deletes(case: QueueCase) -> None:
    await case.queue.send(b"job")
    delivery = await case.take(LEASE_S)
    await case.until(lambda: case.queue.peek(1))
    await case.queue.delete(delivery)
    assert await case.queue.depth() == 0


async def test_an_expired_receipt_that_nobody_replaced_still_renews(case: QueueCase) -> None:
    await case.queue.send(b"job")
    delivery = await case.take(LEASE_S)
    await case.until(lambda: case.queue.peek(1))
    await case.queue.renew(delivery, lease_s=60)
    assert await case.queue.receive(1, lease_s=60) == []
    await case.queue.delete(delivery)


async def test_a_released_message_comes_back_at_once_without_delay(case: QueueCase) -> None:
    await case.queue.send(b"job")
    await case.queue.release(await case.take(), delay_s=0)
    (again,) = await case.queue.receive(1, lease_s=60)
    assert (again.body, again.deliveries) == (b"job", 2)


async def test_a_released_message_comes_back_after_its_delay(case: QueueCase) -> None:
    await case.queue.send(b"job")
    delivery = await case.take()
    await case.queue.release(delivery, delay_s=LEASE_S)
    assert await case.queue.receive(1, lease_s=60) == []
    with pytest.raises(LeaseLost):
        await case.queue.delete(delivery)
    assert (await case.take()).deliveries == 2


async def test_poison_moves_the_envelope_to_the_dead_letters(case: QueueCase) -> None:
    await case.queue.send(b"bad")
    await case.queue.send(b"good")
    bad = next(d for d in await case.queue.receive(2, lease_s=60) if d.body == b"bad")
    await case.queue.poison(bad, b'{"reason": "bad"}')
    assert await case.queue.depth() == 1
    (letter,) = await case.letters.receive(32, lease_s=60)
    assert letter.body == b'{"reason": "bad"}'
    with pytest.raises(LeaseLost):
        await case.queue.delete(bad)


async def test_depth_counts_leased_messages_too(case: QueueCase) -> None:
    assert await case.queue.depth() == 0
    for _ in range(3):
        await case.queue.send(b"job")
    await case.queue.receive(2, lease_s=60)
    assert await case.queue.depth() == 3


async def test_a_peek_changes_nothing(case: QueueCase) -> None:
    await case.queue.send(b"job")
    for _ in range(2):
        (peeked,) = await case.queue.peek(32)
        assert (peeked.body, peeked.receipt, peeked.deliveries) == (b"job", "", 0)
    assert (await case.take()).deliveries == 1
    assert await case.queue.peek(32) == []


async def test_a_purge_empties_the_queue(case: QueueCase) -> None:
    for _ in range(3):
        await case.queue.send(b"job")
    await case.queue.receive(1, lease_s=60)
    await case.queue.purge()
    assert await case.queue.depth() == 0


@pytest.mark.parametrize("text", ['{"not": "base64", "sign": "€<&>"}', "a-b c-d"])
async def test_a_strangers_text_arrives_as_it_is(case: QueueCase, text: str) -> None:
    await case.send_text(text)
    assert (await case.take()).body == text.encode()


async def test_many_receivers_share_the_messages_without_overlap(case: QueueCase) -> None:
    for number in range(40):
        await case.queue.send(b"%d" % number)
    batches = await asyncio.gather(*(case.queue.receive(8, lease_s=60) for _ in range(8)))
    bodies = [delivery.body for batch in batches for delivery in batch]
    assert sorted(map(int, bodies)) == list(range(40))


def _copy(delivery: Delivery) -> Delivery:
    return Delivery(
        delivery.id, delivery.receipt, delivery.body, delivery.deliveries, delivery.inserted_at
    )


async def _apply(case: QueueCase, verb: str, delivery: Delivery) -> None:
    match verb:
        case "renew":
            await case.queue.renew(delivery, lease_s=60)
        case "release":
            await case.queue.release(delivery, delay_s=0)
        case "delete":
            await case.queue.delete(delivery)
        case _:
            await case.queue.poison(delivery, b"envelope")
