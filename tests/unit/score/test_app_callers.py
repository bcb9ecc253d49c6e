"""What one caller may not do to the others: ask too often, too much at once, or too slowly."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from score import app
from score.callers import Callers
from score.settings import EndpointOptions
from tests.unit.score.served import (
    MB,
    TOKENS,
    Served,
    head,
    json_body,
    raw_connection,
    serving,
    until,
)

BEARERS = tuple(f"Bearer {token}" for token in TOKENS)
SELDOM = EndpointOptions(tokens=TOKENS, rate_per_s=0.01, burst=2)


async def test_a_caller_that_asks_too_often_is_told_when_to_come_back() -> None:
    async with serving(options=SELDOM) as served:
        first = [await served.post(json_body(), Authorization=BEARERS[0]) for _ in range(3)]
        assert [answer.status for answer in first] == [200, 200, 429]
        assert first[-1].code == "rate_limited"
        assert 1 <= int(first[-1].headers["Retry-After"]) <= 100
        other = await served.post(json_body(), Authorization=BEARERS[1])
        assert other.status == 200


async def test_what_costs_nothing_is_not_counted() -> None:
    async with serving(options=SELDOM) as served:
        for path in ("/", "/ready", "/model", "/metrics", "/openapi.json"):
            for _ in range(5):
                assert (await served.get(path, Authorization=BEARERS[0])).status == 200
        for _ in range(5):  # nor what is refused before anybody knows who it is
            assert (await served.post(json_body())).status == 401
        for _ in range(5):  # nor what its head rules out
            refused = await served.post(json_body(), "text/plain", Authorization=BEARERS[0])
            assert refused.status == 415
        assert (await served.post(json_body(), Authorization=BEARERS[0])).status == 200


async def test_without_tokens_callers_are_told_apart_by_address_not_by_what_they_say() -> None:
    async with serving(options=EndpointOptions(rate_per_s=0.01, burst=1)) as served:
        assert (await served.post(json_body(), Authorization="Bearer a")).status == 200
        for headers in ({"Authorization": "Bearer b"}, {"X-Forwarded-For": "192.0.2.7"}):
            assert (await served.post(json_body(), **headers)).status == 429


async def test_requests_of_one_caller_in_progress_are_limited() -> None:
    options = EndpointOptions(tokens=TOKENS, max_per_caller=1)
    async with serving(processes=2, options=options) as served:
        authorized = f"Authorization: {BEARERS[0]}"
        _, writer = await raw_connection(served)
        writer.write(head(authorized, f"Content-Length: {4 * MB}") + b" " * 2 * MB)
        await until(lambda: served.pool.busy == 1)
        refused = await served.post(json_body(), Authorization=BEARERS[0])
        assert (refused.status, refused.code) == (429, "rate_limited")
        assert refused.headers["Retry-After"] == "1"
        assert (await served.post(json_body(), Authorization=BEARERS[1])).status == 200
        writer.close()
        await until(lambda: served.pool.busy == 0)
        assert (await served.post(json_body(), Authorization=BEARERS[0])).status == 200


async def test_a_caller_that_trickles_loses_its_evaluator_and_the_next_one_gets_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each MiB is in time; all of them together are not."""
    monkeypatch.setattr(app, "LINGER_S", 0.1)
    async with serving(options=EndpointOptions(piece_s=60.0, body_s=0.5)) as served:
        reader, writer = await raw_connection(served)
        writer.write(head(f"Content-Length: {100 * MB}") + b" " * 2 * MB)
        await until(lambda: served.pool.busy == 1)
        waiting = asyncio.create_task(served.post(json_body()))
        assert b"408 " in await reader.readline()
        assert b'"request_timeout"' in await reader.read()
        assert (await waiting).status == 200
        assert served.pool.restarts == 0
        writer.close()


def caller(address: str, *tokens: str, authorization: str = "") -> str:
    """The name by which a request from there is counted."""

    class Transport(asyncio.Transport):
        def get_extra_info(self, name: str, default: object = None) -> object:
            return (address, 1234) if name == "peername" else default

    headers = {"Authorization": authorization} if authorization else {}
    request = make_mocked_request("POST", "/score", headers=headers, transport=Transport())
    assert isinstance(request, web.Request)
    return Callers(tokens).identify(request)


@pytest.mark.parametrize(
    ("address", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("fe80::1%eth0", "fe80::1%eth1", True),
        ("", "192.0.2.1", False),
    ],
)
def test_an_address_stands_for_all_that_its_owner_has(
    address: str, other: str, *, same: bool
) -> None:
    assert (caller(address) == caller(other)) == same


def test_the_name_of_a_caller_does_not_tell_its_token() -> None:
    name = caller("192.0.2.1", *TOKENS, authorization=BEARERS[0])
    assert TOKENS[0] not in name
    assert name == caller("192.0.2.2", *TOKENS, authorization=BEARERS[0])
    assert name != caller("192.0.2.1", *TOKENS, authorization=BEARERS[1])


async def test_tokens_can_be_exchanged_while_it_serves() -> None:
    async with serving(options=EndpointOptions(tokens=TOKENS[:1])) as served:
        assert (await served.get("/model", Authorization=BEARERS[1])).status == 401
        served.endpoint.callers.accept(TOKENS[1:])
        assert (await served.get("/model", Authorization=BEARERS[1])).status == 200
        assert (await served.get("/model", Authorization=BEARERS[0])).status == 401


async def test_probes_and_scrapers_have_a_listener_of_their_own() -> None:
    options = EndpointOptions(tokens=TOKENS, metrics_elsewhere=True)
    async with serving(options=options) as served:
        runner = served.endpoint.health_runner()
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            probed = Served(
                served.session, runner.addresses[0][1], served.keys, served.pool, served.endpoint
            )
            await served.post(json_body(), Authorization=BEARERS[0])
            assert (await probed.get("/")).body == b"Healthy"
            assert (await probed.get("/ready")).status == 200
            assert (
                b'blindscore_requests_total{code="ok",scheme="ei"} 1.0'
                in (await probed.get("/metrics")).body
            )
            for path in ("/score", "/model", "/openapi.json"):
                answer = await probed.get(path)
                assert (answer.status, answer.code) == (404, "not_found")
            assert (await probed.request("POST", "/metrics")).code == "method_not_allowed"

            assert (await served.get("/metrics", Authorization=BEARERS[0])).status == 404
            assert (await served.get("/ready")).status == 200
            await served.endpoint.drain(0)
            assert (await probed.get("/ready")).status == 503
            assert (await probed.get("/")).status == 200
        finally:
            await runner.cleanup()
