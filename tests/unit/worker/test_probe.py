"""What a worker learns of its endpoint before it starts."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web

from shared.errors import EndpointError, Unauthorized
from tests.unit.worker.server import serving, session_for
from worker import probe
from worker.probe import Profile, is_ready, wait_for_endpoint

MODEL = {
    "features": 64,
    "classes": 10,
    "fingerprint": "ab12",
    "schemes": {"ei": {"batch": True}, "packed": {"degree": 4096}},
}


async def _ask(model: object, *, status: int = 200, wait_s: float = 0.0) -> Profile:
    async def answer(_: web.Request) -> web.Response:
        if isinstance(model, str):
            return web.Response(text=model, content_type="text/html", status=status)
        return web.json_response(model, status=status)

    async with serving(model=answer) as url, session_for(url) as session:
        return await wait_for_endpoint(session, url, wait_s=wait_s)


async def test_our_endpoint_takes_batches() -> None:
    assert await _ask(MODEL) == Profile(batches=True, fingerprint="ab12")


@pytest.mark.parametrize("ei", [{}, {"batch": False}, {"batch": "yes"}])
async def test_an_endpoint_that_announces_no_batch_gets_single_rows(ei: object) -> None:
    profile = await _ask(MODEL | {"schemes": {"ei": ei}})
    assert profile == Profile(batches=False, fingerprint="ab12")


async def test_an_endpoint_without_ei_gets_bodies_as_they_are() -> None:
    assert (await _ask(MODEL | {"schemes": {"packed": {}}})).batches


@pytest.mark.parametrize(
    ("model", "status"),
    [("<html>Healthy</html>", 200), ({"some": "json"}, 200), ([], 200), ("no", 404), ("no", 405)],
)
async def test_an_endpoint_without_model_gets_single_rows(model: object, status: int) -> None:
    assert await _ask(model, status=status) == Profile(batches=False, fingerprint="")


async def test_an_endpoint_that_starts_late_is_waited_for() -> None:
    answers = iter([503, 502, 429, 200])

    async def late(_: web.Request) -> web.Response:
        return web.json_response(MODEL, status=next(answers))

    async with serving(model=late) as url, session_for(url) as session:
        assert (await wait_for_endpoint(session, url, wait_s=30)).fingerprint == "ab12"


async def test_nobody_there_is_a_clear_error() -> None:
    async with serving() as url:
        pass
    async with session_for(url) as session:
        with pytest.raises(EndpointError, match=f"no endpoint at {url}") as caught:
            await wait_for_endpoint(session, url, wait_s=0.1)
    assert "blindscore serve" in caught.value.remedy


async def test_an_endpoint_that_stays_unready_says_what_it_answers() -> None:
    with pytest.raises(EndpointError, match="answers 503"):
        await _ask(MODEL, status=503, wait_s=0.1)


async def test_an_endpoint_that_hangs_does_not_hold_the_worker_up() -> None:
    async def hang(_: web.Request) -> web.Response:
        await asyncio.sleep(3600)
        return web.Response()

    async with serving(model=hang) as url, session_for(url) as session:
        with pytest.raises(EndpointError):
            await wait_for_endpoint(session, url, wait_s=0.1)


async def test_a_refused_token_is_told_at_once() -> None:
    with pytest.raises(Unauthorized):
        await _ask(MODEL, status=401, wait_s=30)


@pytest.mark.parametrize(
    ("status", "ready"),
    [(200, True), (204, True), (404, True), (405, True)]
    + [(status, False) for status in (301, 408, 429, 500, 502, 503)],
)
async def test_ready_is_who_says_so_or_knows_no_such_page(status: int, *, ready: bool) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status)

    async with serving(ready=answer) as url, session_for(url) as session:
        assert await is_ready(session, url) is ready


async def test_nobody_there_is_not_ready() -> None:
    async with serving() as url:
        pass
    async with session_for(url) as session:
        assert not await is_ready(session, url)


async def test_whoever_hangs_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "READY_S", 0.1)

    async def hang(_: web.Request) -> web.Response:
        await asyncio.sleep(3600)
        return web.Response()

    async with serving(ready=hang) as url, session_for(url) as session:
        assert not await is_ready(session, url)
