"""A body that comes too slowly, in virtual time."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest
from aiohttp.base_protocol import BaseProtocol

from score.settings import MB, EndpointOptions
from score.upload import Upload
from shared.errors import RequestTimeout
from tests.unit.worker.virtual import now_s, virtual_time


def upload(**options: float) -> tuple[aiohttp.StreamReader, Upload]:
    loop = asyncio.get_running_loop()
    protocol = BaseProtocol(loop)
    protocol.connection_made(asyncio.Transport())
    content = aiohttp.StreamReader(protocol, 64 * MB, loop=loop)
    return content, Upload(content, EndpointOptions(**options))  # type: ignore[arg-type]


async def take_all(body: Upload, *, evaluating_s: float = 0.0) -> None:
    last = False
    while not last:
        last = (await body.next()).last
        await asyncio.sleep(evaluating_s)


async def feed(content: aiohttp.StreamReader, pieces: int, every_s: float) -> None:
    for _ in range(pieces):
        await asyncio.sleep(every_s)
        content.feed_data(b"x" * MB)
    content.feed_eof()


@virtual_time
async def test_a_body_that_trickles_is_given_up_when_its_time_is_over() -> None:
    """Every MiB comes within its own limit; 1 GiB of them would take more than eight hours."""
    content, slow = upload(piece_s=30.0, body_s=100.0)
    async with asyncio.TaskGroup() as group:
        caller = group.create_task(feed(content, 1024, 29.0))
        with pytest.raises(RequestTimeout, match=r"longer than 100 s .*smaller bodies"):
            await take_all(slow)
        caller.cancel()
    assert now_s() == 100
    assert slow.received == 3 * MB


@virtual_time
async def test_a_piece_has_a_limit_of_its_own() -> None:
    content, slow = upload(piece_s=30.0, body_s=100.0)
    content.feed_data(b"x" * (MB - 1))
    with pytest.raises(RequestTimeout, match="within 30 s"):
        await slow.next()
    assert now_s() == 30


@virtual_time
async def test_time_in_which_a_piece_is_evaluated_is_not_the_callers() -> None:
    content, upload_ = upload(piece_s=30.0, body_s=40.0)
    async with asyncio.TaskGroup() as group:
        group.create_task(feed(content, 4, 9.0))
        await take_all(upload_, evaluating_s=60)
    assert upload_.received == 4 * MB


@virtual_time
async def test_a_steady_body_within_its_limits_is_taken() -> None:
    content, steady = upload(piece_s=30.0, body_s=100.0)
    async with asyncio.TaskGroup() as group:
        group.create_task(feed(content, 4, 24.0))
        await take_all(steady)
    assert steady.received == 4 * MB
