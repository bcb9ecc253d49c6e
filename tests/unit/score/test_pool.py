"""Evaluator processes: one request each, and what happens when they die, hang or are all taken."""

from __future__ import annotations

import asyncio
import base64
import fcntl
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import termios
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack

import orjson
import psutil
import pytest
from structlog.testing import capture_logs

from score.answers import Done, More, NeedBlob, NeedKeys
from score.engine import JSON_TYPE
from score.lane import Lane
from score.pool import Pool
from score.settings import EngineOptions, PoolOptions
from shared.errors import (
    BlindscoreError,
    CiphertextError,
    EvaluationTimeout,
    MalformedRequest,
    ModelError,
    Overloaded,
)
from tests.unit.score import toys

WITHIN_S = 20.0


@pytest.fixture(autouse=True)
def nothing_is_left_behind(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """asyncio logs exceptions that nobody asked for when it drops them."""
    yield
    gc.collect()
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []


@pytest.fixture
async def pool() -> AsyncIterator[Pool]:
    """Two lanes, and two places in line."""
    options = PoolOptions(processes=2, max_waiting=2)
    async with Pool(toys.MODEL, EngineOptions(), options, toys.build) as pool:
        yield pool


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that other processes bring about."""
    async with asyncio.timeout(WITHIN_S):
        while not condition():  # noqa: ASYNC110 - nothing in this process announces it
            await asyncio.sleep(0.01)


def body(ciphertext: bytes) -> bytes:
    text = base64.b64encode(ciphertext).decode()
    return orjson.dumps({"data": [text], "key_id": toys.KEY_ID, "container": "keys-here"})


async def evaluate(lane: Lane, ciphertext: bytes) -> bytes:
    """Score one row in a lane; the result as text."""
    assert isinstance(await lane.feed(JSON_TYPE, body(ciphertext), last=True), NeedKeys)
    answer = await lane.use_keys("version", None)
    if isinstance(answer, NeedBlob):
        answer = await lane.use_keys("version", toys.KEY_BLOB)
    assert isinstance(answer, Done)
    (text,) = orjson.loads(answer.body)
    return base64.b64decode(text)


async def score(pool: Pool, ciphertext: bytes) -> bytes:
    async with asyncio.timeout(WITHIN_S), pool.lease() as lane:
        return await evaluate(lane, ciphertext)


async def score_pid(pool: Pool) -> int:
    return int((await score(pool, toys.PID)).split()[0])


async def test_requests_are_evaluated_in_processes_of_their_own(pool: Pool) -> None:
    assert await score(pool, b"row") == b"ROW by load 1"
    assert await score_pid(pool) in pool.pids
    assert os.getpid() not in pool.pids
    assert len(set(pool.pids)) == 2


async def test_the_pool_says_what_it_offers(pool: Pool) -> None:
    assert pool.schemes["packed"]["degree"] == 4096
    assert pool.schemes["ei"]["batch"] is True


async def test_the_lane_used_last_is_taken_first(pool: Pool) -> None:
    """So its keys are loaded: the load counter stays."""
    results = [await score(pool, b"row") for _ in range(5)]
    assert set(results) == {b"ROW by load 1"}
    assert len({await score_pid(pool) for _ in range(5)}) == 1


@pytest.mark.parametrize("ending", [toys.SEGFAULT, toys.OUT_OF_MEMORY])
async def test_a_lane_that_dies_hurts_only_its_own_request(pool: Pool, ending: bytes) -> None:
    async with pool.lease() as healthy:
        async with pool.lease() as doomed:
            assert isinstance(await healthy.feed(JSON_TYPE, b"", last=False), More)
            with pytest.raises(CiphertextError, match="died on this request"):
                await evaluate(doomed, ending)
        assert isinstance(await healthy.feed("", body(b"row"), last=True), NeedKeys)
    await until(lambda: len(pool.pids) == 2)
    assert pool.restarts == 1
    assert {await score(pool, b"a"), await score(pool, b"b")} == {b"A by load 1", b"B by load 1"}


async def test_hostile_bytes_that_kill_the_process_are_the_callers_fault(pool: Pool) -> None:
    for _ in range(3):
        with pytest.raises(CiphertextError, match="died on this request"):
            await score(pool, toys.SEGFAULT)
    await until(lambda: pool.restarts == 3)
    assert await score(pool, b"row") == b"ROW by load 1"


async def test_a_lane_that_died_between_requests_is_not_given_to_one(pool: Pool) -> None:
    pid = await score_pid(pool)
    os.kill(pid, signal.SIGKILL)
    await until(lambda: pid not in {child.pid for child in multiprocessing.active_children()})
    assert await score_pid(pool) != pid
    await until(lambda: len(pool.pids) == 2)


async def test_a_lane_that_ends_with_the_request_unread_is_worth_another_try(pool: Pool) -> None:
    """It was not the request's doing, so it is not answered 422."""
    async with pool.lease() as lane:
        assert lane.pid is not None
        os.kill(lane.pid, signal.SIGSTOP)  # it reads no more
        asking = asyncio.create_task(lane.feed(JSON_TYPE, body(b"row"), last=True))
        await until(lambda: _unread(lane) > 0)
        os.kill(lane.pid, signal.SIGKILL)
        with pytest.raises(Overloaded):
            await asking


async def test_an_unforeseen_error_is_ours_and_replaces_the_lane(pool: Pool) -> None:
    """Its place is logged; its words, which may be a caller's, are not."""
    pid = await score_pid(pool)
    with capture_logs() as logs, pytest.raises(BlindscoreError, match="ZeroDivision") as caught:
        await score(pool, toys.BUG)
    assert type(caught.value) is BlindscoreError
    assert "in obey" in logs[0]["place"]
    assert toys.CALLERS_WORDS not in str(logs)
    await until(lambda: pool.restarts == 1)
    assert pid not in pool.pids


async def test_a_refused_request_leaves_its_lane_as_it_was(pool: Pool) -> None:
    pid = await score_pid(pool)
    with pytest.raises(CiphertextError, match="a ciphertext is bad"):
        await score(pool, toys.BAD)
    async with pool.lease() as lane:
        with pytest.raises(MalformedRequest):
            await lane.feed(JSON_TYPE, b"{", last=True)
    assert await score_pid(pool) == pid


async def test_nothing_is_left_of_a_refused_request(pool: Pool) -> None:
    async with pool.lease() as lane:
        with pytest.raises(MalformedRequest):
            await lane.feed(JSON_TYPE, b"{", last=True)
        with pytest.raises(BlindscoreError, match="out of turn"):
            await lane.use_keys("version", toys.KEY_BLOB)


async def test_an_abandoned_request_is_dropped(pool: Pool) -> None:
    async with pool.lease() as lane:
        await lane.feed(JSON_TYPE, b'{"data"', last=False)
        pid = lane.pid
    async with pool.lease() as lane:
        assert lane.pid == pid
        with pytest.raises(BlindscoreError, match="out of turn"):
            await lane.feed("", b":", last=True)


async def test_a_request_that_computes_for_too_long_is_stopped() -> None:
    options = PoolOptions(processes=1, exec_s=0.3)
    async with Pool(toys.MODEL, EngineOptions(), options, toys.build) as pool:
        with pytest.raises(EvaluationTimeout, match=r"0\.3 s"):
            await score(pool, toys.HANG)
        assert await score(pool, b"row") == b"ROW by load 1"
        assert pool.restarts == 1


async def test_a_cancelled_request_frees_its_lane(pool: Pool) -> None:
    hanging = [asyncio.create_task(score(pool, toys.HANG)) for _ in range(2)]
    await until(lambda: pool.busy == 2)
    for task in hanging:
        task.cancel()
    await asyncio.wait(hanging)
    assert await score(pool, b"row") == b"ROW by load 1"


async def test_requests_wait_for_a_lane_in_order(pool: Pool) -> None:
    served: list[int] = []

    async def wait(number: int) -> None:
        async with pool.lease():
            served.append(number)

    async with pool.lease(), pool.lease():
        tasks = [asyncio.create_task(wait(number)) for number in range(4)]
        await until(lambda: pool.waiting == 4)
        tasks[1].cancel()
        await asyncio.wait([tasks[1]])
    await asyncio.gather(*tasks, return_exceptions=True)
    assert served == [0, 2, 3]
    assert pool.busy == 0


async def test_a_turn_that_is_cancelled_as_it_comes_passes_the_lane_on(pool: Pool) -> None:
    async with pool.lease():
        last = pool.lease()
        await last.__aenter__()
        turn = asyncio.create_task(score(pool, b"row"))
        await until(lambda: pool.waiting == 1)
        await last.__aexit__(None, None, None)
        turn.cancel()  # it has the lane already, but has not run since
        await asyncio.wait([turn])
    assert pool.busy == 0


async def test_the_line_is_bounded(pool: Pool) -> None:
    with ExitStack() as places:
        for _ in range(4):
            places.enter_context(pool.place())
        with pytest.raises(Overloaded):
            places.enter_context(pool.place())
    with pool.place():
        pass


async def test_a_model_that_can_not_be_scored_stops_the_start() -> None:
    pool = Pool(toys.HOSTILE_MODEL, EngineOptions(), PoolOptions(processes=2), toys.build)
    with pytest.raises(ModelError, match="no scheme"):
        await pool.__aenter__()
    assert pool.pids == []


async def test_lanes_end_with_the_pool() -> None:
    async with Pool(toys.MODEL, EngineOptions(), PoolOptions(processes=2), toys.build) as pool:
        pids = pool.pids
    assert len(pids) == 2
    assert not any(_runs(pid) for pid in pids)


async def test_a_request_in_flight_does_not_disturb_the_end() -> None:
    """A lane is buried once, by whoever stops the pool, and nothing takes its place."""

    hanging = 0

    async def hang(pool: Pool) -> None:
        nonlocal hanging
        async with pool.lease() as lane:
            assert isinstance(await lane.feed(JSON_TYPE, body(toys.HANG), last=True), NeedKeys)
            hanging += 1
            await lane.use_keys("version", toys.KEY_BLOB)

    async with asyncio.timeout(WITHIN_S):
        async with Pool(toys.MODEL, EngineOptions(), PoolOptions(processes=2), toys.build) as pool:
            requests = [asyncio.create_task(hang(pool)) for _ in range(2)]
            await until(lambda: hanging == 2)
            requests[0].cancel()
        results = await asyncio.gather(*requests, return_exceptions=True)
    ended = (CiphertextError, Overloaded)  # as it had taken the order, or not yet
    assert isinstance(results[0], (asyncio.CancelledError, *ended))
    assert isinstance(results[1], ended)
    assert (pool.restarts, pool.pids) == (0, [])
    with pytest.raises(Overloaded):
        async with pool.lease():
            pass


async def test_signals_are_left_to_the_parent(pool: Pool) -> None:
    """Ctrl-C and a service manager's SIGTERM go to lanes too; requests finish all the same."""
    for pid in pool.pids:
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGTERM)
    assert {await score(pool, b"a"), await score(pool, b"b")} == {b"A by load 1", b"B by load 1"}
    assert pool.restarts == 0


PARENT = """
import asyncio
from shared import telemetry
from score.pool import Pool
from score.settings import EngineOptions, PoolOptions
from tests.unit.score import toys, test_pool

async def main():
    options = PoolOptions(processes=2)
    async with Pool(toys.MODEL, EngineOptions(), options, toys.build) as pool:
        print(*pool.pids, flush=True)
        await test_pool.score(pool, toys.HANG)

if __name__ == "__main__":
    telemetry.configure("error")
    asyncio.run(main())
"""


def test_lanes_die_with_their_parent() -> None:
    """Even one that computes, and even when the parent is killed without warning."""
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        try:
            pids = [int(pid) for pid in parent.stdout.readline().split()]
            assert len(pids) == 2
            assert all(_runs(pid) for pid in pids)
        finally:
            parent.kill()
    deadline_s = time.monotonic() + WITHIN_S
    while any(_runs(pid) for pid in pids):
        assert time.monotonic() < deadline_s, "a lane outlives its parent"
        time.sleep(0.01)


def _unread(lane: Lane) -> int:
    """Bytes that the lane was sent and has not read (SIOCOUTQ of its socket)."""
    size = fcntl.ioctl(lane._pipe.fileno(), termios.TIOCOUTQ, b"\0" * 4)
    return int.from_bytes(size, sys.byteorder)


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
