"""Which deliveries speak against a job: those in which somebody worked on it, in vain."""

from __future__ import annotations

import asyncio
import contextlib
import json

import pytest

from shared import blobnames
from shared.errors import EndpointError, StorageError, StorageUnavailable
from shared.messages import FailureRecord
from tests.unit.worker.harness import RESULT, RUN, TYPE, Rig, message
from tests.unit.worker.virtual import virtual_time
from worker.attempts import MAX_EXCUSED
from worker.endpoint import ScoreRequest
from worker.retry import MAX_HAND_BACK_S, RetryPolicy

BROKEN = EndpointError("answered 500", retryable=True, status=500)
BUSY = EndpointError("answered 503", retryable=True, status=503)
UNREACHABLE = EndpointError("nobody there", retryable=True, reason="unreachable")
ONE_TRY = RetryPolicy(max_attempts=1, random=lambda: 1.0)
NEVER = 10_000  # the breaker has tests of its own


class Killed(BaseException):
    """The process ends here and now, and does nothing more."""


async def _die(_: ScoreRequest) -> bytes:
    raise Killed


def notes(rig: Rig) -> list[str]:
    return [name.rsplit("/", 1)[1] for name in rig.store.blobs if "/attempts/" in name]


async def _deliver(rig: Rig, times: int) -> None:
    """Carry the one message again and again, whenever it is visible."""
    for _ in range(times):
        if not rig.queue.bodies:
            return
        with contextlib.suppress(Killed):
            await rig.carry()
        await asyncio.sleep(MAX_HAND_BACK_S)


async def _hand_out(rig: Rig, times: int) -> None:
    """Count deliveries up, as gets do whose answer is lost."""
    for _ in range(times):
        await rig.take()
        await asyncio.sleep(rig.settings.lease_s)


def _failure(rig: Rig) -> FailureRecord:
    return FailureRecord.decode(rig.failure() or b"", blob="failure")


@virtual_time
async def test_a_first_delivery_costs_no_note() -> None:
    rig = Rig([BUSY], ONE_TRY)
    await rig.submit(0, 1)
    await rig.carry()
    rig.endpoint.script = [RESULT]
    await rig.carry()
    assert notes(rig) == []


@virtual_time
async def test_a_job_that_kills_its_workers_ends_as_poison() -> None:
    rig = Rig([_die], max_deliveries=4)
    await rig.submit(0)
    await _deliver(rig, 4)
    assert (rig.failure(), len(rig.endpoint.requests)) == (None, 4)
    await _deliver(rig, 1)
    assert len(rig.endpoint.requests) == 4
    record = _failure(rig)
    assert (record.code, record.deliveries, record.attempts) == ("too_many_deliveries", 5, 3)
    assert record.reason == (
        "worked on in vain in 4 deliveries; 3 or more of them ended the worker"
    )
    assert len(rig.queue.dead_letters) == 1


@virtual_time
async def test_even_one_delivery_at_most_takes_two_to_be_sure() -> None:
    rig = Rig([_die], max_deliveries=1)
    await rig.submit(0)
    await _deliver(rig, 3)
    assert len(rig.endpoint.requests) == 2
    assert _failure(rig).code == "too_many_deliveries"


@virtual_time
async def test_deliveries_that_nobody_saw_do_not_poison_a_job() -> None:
    """A get that the service fails raises the counts of all messages in it."""
    rig = Rig(max_deliveries=3)
    await rig.submit(0)
    await _hand_out(rig, 50)
    await rig.carry()
    assert (rig.result(), rig.failure(), rig.queue.bodies) == (RESULT, None, [])


@virtual_time
async def test_deliveries_that_nobody_saw_hide_no_killer() -> None:
    rig = Rig([_die], max_deliveries=3)
    await rig.submit(0)
    await _hand_out(rig, 50)
    await _deliver(rig, 10)
    assert len(rig.endpoint.requests) == 2  # on record from its first one on
    assert _failure(rig).code == "too_many_deliveries"


@virtual_time
async def test_a_job_that_always_fails_ends_as_poison_with_its_last_error() -> None:
    rig = Rig(
        [BROKEN],
        RetryPolicy(max_attempts=2, random=lambda: 1.0),
        max_deliveries=3,
        breaker_failures=NEVER,
    )
    await rig.submit(0)
    await _deliver(rig, 10)
    assert len(rig.endpoint.requests) == 3 * 2
    record = _failure(rig)
    assert (record.code, record.status, record.attempts) == ("too_many_deliveries", 500, 4)
    assert record.reason == "worked on in vain in 3 deliveries; the last error: answered 500"
    letter = json.loads(rig.queue.dead_letters[0])
    assert (letter["status"], letter["attempts"], letter["deliveries"]) == (500, 4, 4)


@virtual_time
async def test_the_last_error_is_known_even_if_the_last_worker_died() -> None:
    rig = Rig([BROKEN, BROKEN, _die], ONE_TRY, max_deliveries=3, breaker_failures=NEVER)
    await rig.submit(0)
    await _deliver(rig, 4)
    assert _failure(rig).status == 500
    assert "1 or more of them ended the worker; the last error: answered 500" in (
        _failure(rig).reason
    )


@pytest.mark.parametrize("error", [BUSY, UNREACHABLE, StorageUnavailable("away")])
@virtual_time
async def test_what_can_not_be_the_jobs_fault_does_not_count(error: Exception) -> None:
    rig = Rig([error], ONE_TRY, max_deliveries=2, breaker_failures=NEVER)
    await rig.submit(0)
    await _deliver(rig, MAX_EXCUSED)
    assert rig.failure() is None
    rig.endpoint.script = [RESULT]
    await _deliver(rig, 1)
    assert (rig.result(), rig.queue.bodies) == (RESULT, [])


@virtual_time
async def test_one_failure_that_may_be_the_jobs_makes_a_delivery_count() -> None:
    rig = Rig(
        [BROKEN, BUSY] * 10, RetryPolicy(max_attempts=2), max_deliveries=2, breaker_failures=NEVER
    )
    await rig.submit(0)
    await _deliver(rig, 3)
    assert _failure(rig).status == 503


@virtual_time
async def test_only_an_endpoint_that_says_it_is_ready_can_blame_a_job() -> None:
    rig = Rig([BROKEN], ONE_TRY, max_deliveries=2, breaker_failures=NEVER)
    await rig.submit(0)
    rig.is_ready = False
    await _deliver(rig, 5)
    assert rig.failure() is None
    rig.is_ready = True
    await _deliver(rig, 2)
    assert _failure(rig).status == 500


@virtual_time
async def test_a_storage_error_that_is_no_outage_counts() -> None:
    rig = Rig([StorageError("the account refused the request")], ONE_TRY, max_deliveries=2)
    await rig.submit(0)
    await _deliver(rig, 3)
    assert "refused the request" in _failure(rig).reason


@virtual_time
async def test_excuses_run_out() -> None:
    """Two jobs that bring the endpoint down between them excuse each other, but not for ever."""
    rig = Rig([BUSY], ONE_TRY, max_deliveries=2, breaker_failures=NEVER)
    await rig.submit(0)
    await _deliver(rig, 2 * MAX_EXCUSED)
    assert len(rig.endpoint.requests) == MAX_EXCUSED + 2
    assert _failure(rig).code == "too_many_deliveries"


@virtual_time
async def test_being_interrupted_does_not_count() -> None:
    """A job longer than the grace period survives any number of restarts."""

    async def long(_: ScoreRequest) -> bytes:
        await asyncio.sleep(3600)
        return RESULT

    rig = Rig(max_deliveries=2)
    await rig.submit(0)
    for _ in range(6):
        worker = Rig([long], beside=rig, max_deliveries=2, grace_s=1)
        running = asyncio.create_task(worker.worker.run())
        await worker.endpoint.called.wait()
        worker.worker.stop("test")
        await running
    assert notes(rig).count("000005-ended") == 1
    await rig.carry()
    assert (rig.result(), rig.failure()) == (RESULT, None)


@virtual_time
async def test_storage_that_hangs_does_not_keep_an_interrupted_job_from_going_back() -> None:
    rig = Rig(lease_s=600, grace_s=1)
    await rig.submit(0)
    await rig.take()
    await asyncio.sleep(600)

    async def hang(_: ScoreRequest) -> bytes:
        rig.store.before_create = _never
        await asyncio.sleep(3600)
        return RESULT

    rig.endpoint.script = [hang]
    running = asyncio.create_task(rig.worker.run())
    await rig.endpoint.called.wait()
    rig.worker.stop("test")
    await running
    assert len(await rig.queue.receive(1, lease_s=30)) == 1


async def _never(_: str) -> None:
    await asyncio.sleep(3600)


@virtual_time
async def test_nobody_works_on_what_can_not_be_noted() -> None:
    rig = Rig()
    await rig.submit(0)
    await _hand_out(rig, 1)
    rig.store.failing = {"create"}
    await rig.carry()
    assert (rig.endpoint.requests, rig.failure(), len(rig.queue.bodies)) == ([], None, 1)


@virtual_time
async def test_a_message_that_is_sent_again_has_a_clean_record() -> None:
    rig = Rig([_die], max_deliveries=3)
    await rig.submit(0)
    await _deliver(rig, 4)
    assert _failure(rig).code == "too_many_deliveries"
    await rig.queue.send(message().encode())
    await _hand_out(rig, 3)
    rig.endpoint.script = [RESULT]
    await rig.carry()
    assert rig.result() == RESULT


@virtual_time
async def test_two_holders_of_one_message_keep_notes_of_their_own() -> None:
    rig = Rig([BROKEN], ONE_TRY, max_deliveries=5, breaker_failures=NEVER)
    await rig.submit(0)
    await _hand_out(rig, 1)
    stalled = await rig.take()
    await asyncio.sleep(30)
    await rig.carry()
    await rig.carrier.carry(stalled)
    assert sorted(notes(rig)) == ["000001-begun", "000001-ended", "000002-begun", "000002-ended"]


@virtual_time
async def test_a_note_that_somebody_damaged_counts_as_a_crash() -> None:
    rig = Rig([BUSY], ONE_TRY, max_deliveries=2, breaker_failures=NEVER)
    await rig.submit(0)
    await _deliver(rig, 2)
    (name,) = (name for name in rig.store.blobs if name.endswith("-ended"))
    await rig.store.replace(name, b"", content_type=TYPE, metadata={"excused": "?"})
    await _deliver(rig, 1)
    assert _failure(rig).code == "too_many_deliveries"


@virtual_time
async def test_notes_are_part_of_their_run() -> None:
    rig = Rig([_die])
    await rig.submit(0)
    await _deliver(rig, 2)
    (name,) = (name for name in rig.store.blobs if "/attempts/" in name)
    assert name.startswith(blobnames.run_prefix(RUN))
    assert name == blobnames.attempts(RUN, "000000", "message-1") + "000001-begun"
