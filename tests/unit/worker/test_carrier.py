"""One job: what is written, in which order, and what becomes of its message."""

from __future__ import annotations

import asyncio
import json

import pytest

from shared import blobnames
from shared.errors import (
    AccessDenied,
    BodyTooLarge,
    EndpointError,
    StorageUnavailable,
    Unauthorized,
)
from shared.messages import FailureRecord, ResultInfo
from shared.ports import Delivery
from tests.unit.worker.harness import (
    CONTAINER,
    INPUT,
    RESULT,
    RUN,
    TRACEPARENT,
    TYPE,
    Rig,
    message,
)
from tests.unit.worker.virtual import now_s, virtual_time
from worker.endpoint import ScoreRequest
from worker.retry import RetryPolicy

PASSING = EndpointError("overloaded", retryable=True, status=503)
PERMANENT = EndpointError("answered 422", retryable=False, status=422, reason="feature_count")


@virtual_time
async def test_a_job_is_scored_and_the_result_is_written_before_the_message_goes() -> None:
    rig = Rig()
    await rig.submit(0)
    await rig.carry()
    assert rig.endpoint.requests == [INPUT]
    assert rig.endpoint.traceparents == [TRACEPARENT]
    assert rig.result() == RESULT
    assert rig.queue.bodies == []
    assert rig.journal == ["receive", "create runs/run-1/out/000000", "delete"]


@virtual_time
async def test_a_result_says_how_it_was_made() -> None:
    rig = Rig([PASSING, RESULT])
    await rig.submit(0)
    await rig.carry()
    blob, _ = rig.store.blobs[blobnames.output_blob(RUN, "000000")]
    info = ResultInfo.from_metadata(blob.metadata, blob=blob.name)
    assert blob.content_type == TYPE
    assert (info.model, info.sha256, info.worker) == ("model-1", "", "worker-1")
    assert (info.scheme, info.key_id, info.rows) == ("packed", "0123456789abcdef", 3)
    assert (info.attempts, info.deliveries, info.score_ms) == (2, 1, 7)
    assert info.enqueued_at < info.received_at <= info.scored_at


@virtual_time
async def test_a_result_that_is_there_already_is_success() -> None:
    rig = Rig()
    await rig.submit(0)
    await rig.store.replace(message().output, b"earlier", content_type=TYPE)
    await rig.carry()
    assert rig.endpoint.requests == []
    assert (rig.result(), rig.queue.bodies) == (b"earlier", [])


@virtual_time
async def test_after_a_crash_between_write_and_delete_the_next_holder_only_deletes() -> None:
    rig = Rig(lease_s=30)
    await rig.submit(0)
    rig.queue.failing = {"delete"}
    await rig.carry()
    assert rig.result() == RESULT
    assert len(rig.queue.bodies) == 1

    rig.queue.failing = set()
    await asyncio.sleep(30)
    await rig.carry()
    assert len(rig.endpoint.requests) == 1
    assert rig.queue.bodies == []
    assert rig.failure() is None


@virtual_time
async def test_two_holders_end_with_one_result_and_no_error() -> None:
    rig = Rig()
    await rig.submit(0)
    other_is_done = asyncio.Event()

    async def stalled(_: ScoreRequest) -> bytes:
        await other_is_done.wait()
        return b"late result"

    rig.endpoint.script = [stalled, RESULT]
    first = asyncio.create_task(rig.carry())
    await rig.endpoint.called.wait()
    await asyncio.sleep(31)  # nobody renews here: the lease runs out
    await rig.carry()
    other_is_done.set()
    lease = await first
    assert lease.lost
    assert len(rig.endpoint.requests) == 2
    assert (rig.result(), rig.queue.bodies, rig.queue.dead_letters) == (RESULT, [], [])
    assert rig.failure() is None


@virtual_time
async def test_passing_faults_are_tried_again_with_growing_waits() -> None:
    policy = RetryPolicy(max_attempts=5, base_s=1, cap_s=30, random=lambda: 1.0)
    unavailable = StorageUnavailable("storage is away")
    rig = Rig([PASSING, unavailable, PASSING, RESULT], policy)
    await rig.submit(0)
    await rig.carry()
    assert now_s() == 1 + 2 + 4
    assert rig.result() == RESULT
    assert rig.endpoint.requests == [INPUT] * 4  # each attempt opens the blob anew


@virtual_time
async def test_retry_after_is_a_minimum() -> None:
    asked = EndpointError("busy", retryable=True, status=429, retry_after_s=17)
    rig = Rig([asked, RESULT])
    await rig.submit(0)
    await rig.carry()
    assert now_s() == 17


@virtual_time
async def test_a_spent_budget_hands_the_message_back_for_later() -> None:
    rig = Rig([PASSING], RetryPolicy(max_attempts=3, cap_s=30, random=lambda: 0.0))
    await rig.submit(0)
    await rig.carry()
    assert len(rig.endpoint.requests) == 3
    assert rig.failure() is None
    await asyncio.sleep(14)
    assert await rig.queue.receive(1, lease_s=30) == []
    await asyncio.sleep(2)
    (delivery,) = await rig.queue.receive(1, lease_s=30)
    assert delivery.deliveries == 2


@pytest.mark.parametrize(
    ("error", "code", "status"),
    [
        (PERMANENT, "feature_count", 422),
        (EndpointError("no", retryable=False, status=418), "endpoint", 418),
        (BodyTooLarge("answer is too large"), "too_large", None),
    ],
)
@virtual_time
async def test_a_permanent_fault_is_recorded_then_buried(
    error: Exception, code: str, status: int | None
) -> None:
    rig = Rig([error])
    await rig.submit(0)
    await rig.carry()
    assert rig.journal == [
        "receive",
        "renew",  # the lease is proven before anything is said of the job
        "create runs/run-1/failed/000000.json",
        "poison",
        "delete",
    ]
    record = FailureRecord.decode(rig.failure() or b"", blob="failure")
    assert (record.code, record.status, record.attempts) == (code, status, 1)
    assert (record.run, record.job, record.worker) == (RUN, "000000", "worker-1")
    assert (record.traceparent, record.deliveries) == (TRACEPARENT, 1)
    assert len(rig.endpoint.requests) == 1
    assert (rig.queue.bodies, rig.result()) == ([], None)
    letter = json.loads(rig.queue.dead_letters[0])
    assert (letter["message"], letter["encoding"]) == (message().encode().decode(), "text")
    assert (letter["code"], letter["status"], letter["attempts"]) == (code, status, 1)
    assert letter["reason"] == record.reason
    assert letter["traceparent"] == TRACEPARENT


@virtual_time
async def test_a_failure_record_that_is_there_already_is_fine() -> None:
    rig = Rig([PERMANENT])
    await rig.submit(0)
    await rig.store.replace(blobnames.failure_blob(RUN, "000000"), b"{}", content_type=TYPE)
    await rig.carry()
    assert rig.failure() == b"{}"
    assert len(rig.queue.dead_letters) == 1


@virtual_time
async def test_a_missing_input_is_permanent() -> None:
    rig = Rig()
    await rig.queue.send(message().encode())
    await rig.carry()
    record = FailureRecord.decode(rig.failure() or b"", blob="failure")
    assert (record.code, record.attempts) == ("input_missing", 1)
    assert len(rig.queue.dead_letters) == 1


@virtual_time
async def test_a_corrupt_input_is_permanent_and_never_fully_sent() -> None:
    rig = Rig()
    await rig.submit(0)
    await rig.store.replace(message().input, INPUT[:-1] + b"?", content_type=TYPE)
    await rig.carry()
    assert rig.endpoint.requests == []
    record = FailureRecord.decode(rig.failure() or b"", blob="failure")
    assert record.code == "corrupt_input"


@virtual_time
async def test_too_many_deliveries_of_a_scored_job_are_success() -> None:
    rig = Rig(max_deliveries=1)
    await rig.submit(0)
    await rig.store.replace(message().output, RESULT, content_type=TYPE)
    await rig.take()
    await asyncio.sleep(30)
    await rig.carry()
    assert (rig.queue.bodies, rig.queue.dead_letters, rig.failure()) == ([], [], None)


@virtual_time
async def test_who_wakes_up_without_the_lease_does_not_fail_anothers_job() -> None:
    """Stopped for longer than a lease, it has not even tried to renew."""
    rig = Rig()
    await rig.submit(0)

    async def stalled(_: ScoreRequest) -> bytes:
        await asyncio.sleep(31)  # nobody renews here
        await rig.queue.receive(1, lease_s=100)
        raise PERMANENT

    rig.endpoint.script = [stalled]
    lease = await rig.carry()
    assert lease.lost
    assert (rig.failure(), rig.queue.dead_letters, len(rig.queue.bodies)) == (None, [], 1)


@virtual_time
async def test_a_result_by_another_holder_outweighs_a_failure() -> None:
    rig = Rig()
    await rig.submit(0)

    async def scored_elsewhere(_: ScoreRequest) -> bytes:
        await rig.store.replace(message().output, RESULT, content_type=TYPE)
        raise PERMANENT

    rig.endpoint.script = [scored_elsewhere]
    await rig.carry()
    assert (rig.queue.bodies, rig.queue.dead_letters, rig.failure()) == ([], [], None)


@virtual_time
async def test_without_the_lease_a_failure_is_left_to_the_next_holder() -> None:
    rig = Rig([PERMANENT])
    await rig.submit(0)
    lease = await rig.take()
    stranger = Delivery(**{name: getattr(lease.delivery, name) for name in Delivery.__slots__})
    await rig.queue.renew(stranger, lease_s=100)
    keeper = asyncio.create_task(lease.keep())
    await keeper
    await rig.carrier.carry(lease)
    assert (rig.failure(), rig.queue.dead_letters, len(rig.queue.bodies)) == (None, [], 1)


@virtual_time
async def test_without_the_lease_a_job_is_finished_but_not_tried_again() -> None:
    rig = Rig([PASSING])
    await rig.submit(0)
    lease = await rig.take()
    stranger = Delivery(**{name: getattr(lease.delivery, name) for name in Delivery.__slots__})
    await rig.queue.renew(stranger, lease_s=100)
    await lease.keep()
    await rig.carrier.carry(lease)
    assert len(rig.endpoint.requests) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"not json",
        b"[" * 40_000,
        b"\xff\xfe",
        json.dumps({"run": RUN, "job": "../../x", "container": CONTAINER}).encode(),
        json.dumps({"run": RUN, "job": "000000"}).encode(),
        message(container="another").encode(),
    ],
    ids=["no-json", "deep", "no-text", "bad-names", "no-container", "another-container"],
)
@virtual_time
async def test_a_message_that_names_no_job_of_ours_is_only_buried(body: bytes) -> None:
    rig = Rig()
    await rig.queue.send(body)
    await rig.carry()
    assert rig.store.blobs == {}
    assert rig.queue.bodies == []
    letter = json.loads(rig.queue.dead_letters[0])
    assert letter["code"] == "bad_message"


@virtual_time
async def test_a_bad_message_that_names_its_job_leaves_a_failure_record() -> None:
    rig = Rig()
    fields = json.loads(message().encode()) | {"version": 2}
    await rig.queue.send(json.dumps(fields).encode())
    await rig.carry()
    record = FailureRecord.decode(rig.failure() or b"", blob="failure")
    assert record.code == "bad_message"
    assert "version" in record.reason
    assert len(rig.queue.dead_letters) == 1


@virtual_time
async def test_storage_that_fails_while_burying_leaves_the_message_in_the_queue() -> None:
    rig = Rig([PERMANENT])
    await rig.submit(0)
    rig.store.failing = {"create"}
    await rig.carry()
    assert (rig.queue.dead_letters, len(rig.queue.bodies)) == ([], 1)
    assert rig.journal == ["receive", "renew", "release"]


@pytest.mark.parametrize("error", [Unauthorized("wrong token"), AccessDenied("no access")])
@virtual_time
async def test_a_fault_of_the_worker_itself_is_not_put_on_the_job(error: Exception) -> None:
    rig = Rig([error])
    await rig.submit(0)
    with pytest.raises(type(error)):
        await rig.carry()
    assert (rig.failure(), rig.queue.dead_letters, len(rig.queue.bodies)) == (None, [], 1)


@virtual_time
async def test_a_cancelled_job_finishes_the_write_it_has_begun() -> None:
    rig = Rig()
    await rig.submit(0)
    writing = asyncio.Event()

    async def slow(_: str) -> None:
        writing.set()
        await asyncio.sleep(5)

    rig.store.before_create = slow
    job = asyncio.create_task(rig.carry())
    await writing.wait()
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job
    assert now_s() == 5
    assert (rig.result(), rig.queue.bodies) == (RESULT, [])


@virtual_time
async def test_a_second_cancellation_ends_even_a_write() -> None:
    rig = Rig()
    await rig.submit(0)
    writing = asyncio.Event()

    async def hang(_: str) -> None:
        writing.set()
        await asyncio.sleep(3600)

    rig.store.before_create = hang
    job = asyncio.create_task(rig.carry())
    await writing.wait()
    for _ in range(2):
        job.cancel()
        await asyncio.sleep(1)
    assert job.cancelled()
    assert (rig.result(), len(rig.queue.bodies)) == (None, 1)
