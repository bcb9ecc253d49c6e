"""Dead letters: nothing is lost by looking, and nothing by being killed while sending again."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime

import pytest

from shared import blobnames
from shared.errors import (
    EndpointError,
    LeaseLost,
    MessageError,
    QueueNotFound,
    StorageUnavailable,
    UsageError,
)
from shared.ports import Delivery
from tests.fakes import FakeClock, FakeQueue
from tests.unit.worker.harness import CONTAINER, RESULT, RUN, TRACEPARENT, Rig, message
from tests.unit.worker.virtual import virtual_time
from worker.deadletter import MAX_ORIGINAL_BYTES, DeadLetter
from worker.dlq import LEASE_S, DeadLetters, Letter, Selection, holding

PERMANENT = EndpointError("no", retryable=False, status=422, reason="feature_count")


def envelope(body: bytes, code: str = "feature_count") -> bytes:
    return DeadLetter.wrap(
        body,
        code=code,
        reason="why",
        status=422,
        attempts=1,
        deliveries=2,
        traceparent=TRACEPARENT,
        worker="worker-1",
        failed_at=datetime(2026, 1, 1, tzinfo=UTC),
    ).encode()


async def _failed(*jobs: int) -> Rig:
    """A worker's queue after these jobs failed for good."""
    rig = Rig([PERMANENT])
    await rig.submit(*jobs)
    for _ in jobs:
        await rig.carry()
    assert len(rig.queue.dead_letters) == len(jobs)
    rig.endpoint.script = [RESULT]
    return rig


async def _visible(queue: FakeQueue) -> int:
    return len(await queue.peek(32))


@virtual_time
async def test_letters_are_read_and_handed_back() -> None:
    rig = await _failed(0, 1)
    async with holding(rig.queue.poison_queue, CONTAINER) as letters:
        first, second = await letters.take()
        assert await _visible(rig.queue.poison_queue) == 0
    assert (first.run, first.job, first.code) == (RUN, "000000", "feature_count")
    assert (second.run, second.job) == (RUN, "000001")
    assert first.envelope is not None
    assert first.envelope.original == message(0).encode()
    assert first.envelope.trace_id == "a" * 32
    assert await _visible(rig.queue.poison_queue) == 2


@virtual_time
async def test_all_are_found_however_many_there_are() -> None:
    queue = FakeQueue(asyncio.get_running_loop().time)
    for job in range(100):
        await queue.send(envelope(message(job).encode()))
    async with holding(queue, CONTAINER) as letters:
        found = await letters.take()
    assert [letter.job for letter in found] == [blobnames.job_id(job) for job in range(100)]
    assert await _visible(queue) == 32


@virtual_time
async def test_looking_ends_although_leases_run_out_meanwhile() -> None:
    clock = FakeClock()

    class Slow(FakeQueue):
        async def receive(self, max_messages: int, *, lease_s: float) -> list[Delivery]:
            clock.advance(LEASE_S)
            return await super().receive(max_messages, lease_s=lease_s)

    queue = Slow(clock)
    for job in range(3):
        await queue.send(envelope(message(job).encode()))
    async with holding(queue, CONTAINER) as letters:
        assert len(await letters.take()) == 3
    assert await _visible(queue) == 3


async def test_a_queue_that_does_not_exist_has_no_letters() -> None:
    class Missing(FakeQueue):
        async def receive(self, max_messages: int, *, lease_s: float) -> list[Delivery]:
            raise QueueNotFound("none")

    async with holding(Missing(), CONTAINER) as letters:
        assert await letters.take() == []


async def test_a_strangers_message_is_a_letter_too() -> None:
    queue = FakeQueue()
    await queue.send(b"hello")
    async with holding(queue, CONTAINER) as letters:
        (letter,) = await letters.take()
        assert (letter.envelope, letter.code, letter.run) == (None, "foreign", "")
        with pytest.raises(MessageError, match="whole message"):
            await letters.replay(letter, jobs=FakeQueue(), store=Rig().store)
        assert await letters.purge(letter)
    assert queue.bodies == []


@virtual_time
async def test_replayed_a_job_is_worked_on_as_if_it_had_never_failed() -> None:
    rig = await _failed(0, 1)
    async with holding(rig.queue.poison_queue, CONTAINER) as letters:
        (letter, _) = await letters.take()
        assert await letters.replay(letter, jobs=rig.queue, store=rig.store)
    assert (rig.failure(0), rig.queue.bodies) == (None, [message(0).encode()])
    assert rig.failure(1) is not None
    assert await _visible(rig.queue.poison_queue) == 1
    await rig.carry()
    assert (rig.result(0), rig.queue.bodies) == (RESULT, [])


@virtual_time
async def test_replayed_too_early_it_fails_again_and_says_so_again() -> None:
    """Even a worker that is faster than we are leaves its failure record behind."""
    rig = await _failed(0)
    rig.endpoint.script = [PERMANENT]
    send = rig.queue.send

    async def send_and_fail(body: bytes, *, delay_s: float = 0.0) -> None:
        await send(body, delay_s=delay_s)
        await rig.carry()

    rig.queue.send = send_and_fail  # type: ignore[method-assign]
    async with holding(rig.queue.poison_queue, CONTAINER) as letters:
        (letter,) = await letters.take()
        await letters.replay(letter, jobs=rig.queue, store=rig.store)
    assert rig.failure(0) is not None
    assert len(rig.queue.dead_letters) == 1


class Killed(BaseException):
    """The process ends here and now, and does nothing more."""


@pytest.mark.parametrize("step", ["failure record", "send", "letter"])
@pytest.mark.parametrize("when", ["before", "after"])
@virtual_time
async def test_killed_at_any_point_it_can_be_done_again(step: str, when: str) -> None:
    rig = await _failed(0)
    poison = rig.queue.poison_queue
    owner, name = {
        "failure record": (rig.store, "delete"),
        "send": (rig.queue, "send"),
        "letter": (poison, "delete"),
    }[step]
    real = getattr(owner, name)

    async def die(*arguments: object, **options: object) -> None:
        if when == "after":
            await real(*arguments, **options)
        raise Killed

    setattr(owner, name, die)
    letters = DeadLetters(poison, CONTAINER)  # which nobody hands back
    (letter,) = await letters.take()
    with pytest.raises(Killed):
        await letters.replay(letter, jobs=rig.queue, store=rig.store)
    setattr(owner, name, real)

    await asyncio.sleep(LEASE_S)
    async with holding(poison, CONTAINER) as letters:
        for letter in await letters.take():
            assert await letters.replay(letter, jobs=rig.queue, store=rig.store)
    assert 1 <= len(rig.queue.bodies) <= 2
    for _ in tuple(rig.queue.bodies):
        await rig.carry()
    assert (rig.result(0), rig.failure(0)) == (RESULT, None)
    assert (rig.queue.bodies, poison.bodies) == ([], [])


@virtual_time
async def test_a_letter_that_another_has_taken_is_left_to_them() -> None:
    rig = await _failed(0)
    poison = rig.queue.poison_queue
    async with holding(poison, CONTAINER) as letters:
        (letter,) = await letters.take()
        await asyncio.sleep(LEASE_S)
        (other,) = await poison.receive(1, lease_s=600)
        assert not await letters.replay(letter, jobs=rig.queue, store=rig.store)
        assert not await letters.purge(Letter(letter.delivery, letter.envelope))
    assert rig.queue.bodies == []
    assert rig.failure(0) is not None
    await poison.delete(other)


@virtual_time
async def test_purged_it_is_gone_and_its_failure_record_stays() -> None:
    rig = await _failed(0, 1)
    async with holding(rig.queue.poison_queue, CONTAINER) as letters:
        (letter, _) = await letters.take()
        assert await letters.purge(letter)
    assert await _visible(rig.queue.poison_queue) == 1
    assert (rig.failure(0) is not None, rig.queue.bodies) == (True, [])


async def test_a_letter_that_holds_a_part_of_its_message_is_not_sent() -> None:
    queue, jobs = FakeQueue(), FakeQueue()
    await queue.send(envelope(b"x" * (MAX_ORIGINAL_BYTES + 1)))
    async with holding(queue, CONTAINER) as letters:
        (letter,) = await letters.take()
        with pytest.raises(MessageError, match="whole message"):
            await letters.replay(letter, jobs=jobs, store=Rig().store)
    assert (jobs.bodies, len(queue.bodies)) == ([], 1)


async def test_a_message_for_another_container_touches_no_failure_record() -> None:
    rig = Rig()
    name = blobnames.failure_blob(RUN, "000000")
    await rig.store.replace(name, b"{}", content_type="application/json")
    poison = rig.queue.poison_queue
    await poison.send(envelope(message(0, container="another").encode(), code="bad_message"))
    async with holding(poison, CONTAINER) as letters:
        (letter,) = await letters.take()
        assert (letter.run, letter.job) == ("", "")
        await letters.replay(letter, jobs=rig.queue, store=rig.store)
    assert rig.failure(0) == b"{}"


async def test_storage_that_fails_while_letters_go_back_does_not_hide_the_error() -> None:
    queue = FakeQueue()
    for job in range(3):
        await queue.send(envelope(message(job).encode()))

    async def fail(delivery: Delivery, *, delay_s: float) -> None:
        if delivery.id == "message-1":
            raise StorageUnavailable("away")
        if delivery.id == "message-2":
            raise LeaseLost("ran out")
        await release(delivery, delay_s=delay_s)

    release = queue.release
    queue.release = fail  # type: ignore[method-assign]

    async def look_and_fail() -> None:
        async with holding(queue, CONTAINER) as letters:
            await letters.take()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await look_and_fail()
    assert await _visible(queue) == 1


def _letter(id_: str, run: str = RUN, job: str = "000007", code: str = "endpoint") -> Letter:
    body = json.dumps({"run": run, "job": job, "container": CONTAINER}).encode()
    delivery = Delivery(id_, "receipt", envelope(body, code), 1, datetime.now(UTC))
    return Letter.of(delivery, CONTAINER)


@pytest.mark.parametrize(
    ("selection", "ids"),
    [
        (Selection(), ["aaaa1", "aaaa2", "bbbb3"]),
        (Selection(("aaaa",)), ["aaaa1", "aaaa2"]),
        (Selection(("aaaa1", "bbbb3")), ["aaaa1", "bbbb3"]),
        (Selection((f"{RUN}/000007",)), ["aaaa1"]),
        (Selection(run="run-2"), ["aaaa2", "bbbb3"]),
        (Selection(code="timeout"), ["bbbb3"]),
        (Selection(("aaaa",), run="run-2"), ["aaaa2"]),
        (Selection(("aaaa",), code="timeout"), []),
        (Selection(run=RUN[:-1]), []),
    ],
)
def test_letters_are_selected_by_all_that_is_given(selection: Selection, ids: list[str]) -> None:
    letters = [
        _letter("aaaa1"),
        _letter("aaaa2", run="run-2", job="000001"),
        _letter("bbbb3", run="run-2", code="timeout"),
    ]
    assert [letter.id for letter in letters if selection.takes(letter)] == ids


@pytest.mark.parametrize("name", ["", "a", "/", "abc"])
def test_a_name_that_would_fit_too_much_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="names no dead letter"):
        Selection((name,))
