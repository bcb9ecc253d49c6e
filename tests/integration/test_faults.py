"""A whole worker between Azurite and an endpoint, over lines that break in every way.

Whatever is lost on the wire, each job ends with its one result, and what the storage service is
known for is borne (see docs/reliability.md).
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Coroutine
from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from deploy.local.azurite import Azurite
from shared.azure_sdk import ATTEMPTS
from shared.settings import StorageSettings
from shared.storage import Storage
from tests.faults import PATIENCE_S, Fault, Kind, give_up_sooner
from tests.integration.worksite import (
    SHORT_LEASE_S,
    Endpoint,
    Site,
    Turnstile,
    now_s,
    site_of,
    until,
)

UNDONE: tuple[Kind, ...] = ("lost request", "reset", "busy", "failing", "bad gateway")
"""Faults after which the service has done nothing."""
UNTOLD: tuple[Kind, ...] = ("lost answer", "first byte", "late answer")
"""Faults after which it has, and nobody was told."""
QUARTER_OF_A_MINUTE_S = 15.0


@pytest.fixture
async def site(
    azurite: Azurite, storage: Storage, storage_settings: StorageSettings
) -> AsyncIterator[Site]:
    async with site_of(azurite, storage, storage_settings, Endpoint()) as site:
        yield site


@pytest.fixture
async def slow_site(
    azurite: Azurite, storage: Storage, storage_settings: StorageSettings
) -> AsyncIterator[Site]:
    """Scoring takes longer than a third of the lease, so that it is renewed."""
    async with site_of(azurite, storage, storage_settings, Endpoint(takes_s=1.8)) as site:
        settings = site.worker_settings.model_copy(update={"lease_s": 4.0})
        yield replace(site, worker_settings=settings)


# --- the line to storage


@pytest.mark.parametrize("kind", UNDONE + UNTOLD)
async def test_every_call_to_storage_may_fail_once(
    site: Site, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another job is hit by each fault, except that a get is for all."""
    if kind == "late answer":
        give_up_sooner(monkeypatch)
    site.to_storage.plan(
        Fault(kind, "HEAD", "/out/000000"),
        Fault(kind, "GET", "/in/000001"),
        Fault(kind, "PUT", "/out/000002"),
        Fault(kind, "DELETE", "/messages/"),
    )
    if kind in UNDONE:
        site.to_storage.plan(Fault(kind, "GET", "/messages"))
    await site.submit(*range(4))
    events = await site.work()
    results = await site.require_all_scored(4)
    assert all((info.attempts, info.deliveries) == (1, 1) for info in results.values())
    assert site.endpoint.requests == 4, "a lost answer of the store is no reason to score again"
    assert [e["event"] for e in events if e["log_level"] == "error"] == []


@pytest.mark.parametrize("kind", UNTOLD)
async def test_a_lost_answer_to_a_get_costs_a_lease_and_nothing_else(
    site: Site, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody holds the message then, and that delivery is not held against the job."""
    if kind == "late answer":
        give_up_sooner(monkeypatch)
    site.to_storage.plan(Fault(kind, "GET", "/messages"))
    await site.submit(0)
    await site.work(lease_s=SHORT_LEASE_S, max_deliveries=1)
    results = await site.require_all_scored(1)
    assert results["000000"].deliveries > 1


async def test_a_lost_answer_to_the_upload_is_recognised(site: Site) -> None:
    """The second try is told that the blob exists: it is ours, and the job is done."""
    site.to_storage.plan(Fault("lost answer", "PUT", "/out/"))
    await site.submit(0)
    events = await site.work()
    await site.require_all_scored(1)
    assert site.to_storage.asked("PUT", "/out/") == 2
    assert len([e for e in events if e["event"] == "job_scored"]) == 1


async def test_a_lost_answer_to_the_delete_is_no_lost_lease(site: Site) -> None:
    """The second try is told that there is no such message: it worked."""
    site.to_storage.plan(Fault("lost answer", "DELETE", "/messages/"))
    await site.submit(0)
    events = await site.work()
    await site.require_all_scored(1)
    assert site.to_storage.asked("DELETE", "/messages/") == 2
    assert not {"lease_lost", "delete_failed"} & {e["event"] for e in events}


async def test_a_delete_that_never_arrives_leaves_the_next_holder_a_result(site: Site) -> None:
    site.to_storage.plan(Fault("lost request", "DELETE", "/messages/", times=5))
    await site.submit(0)
    events = await site.work(lease_s=SHORT_LEASE_S)
    await site.require_all_scored(1)
    assert site.endpoint.requests == 1
    told = [e["event"] for e in events if e["event"] in {"delete_failed", "job_done_already"}]
    assert told == ["delete_failed", "job_done_already"]


async def test_a_lost_answer_to_a_renewal_leaves_the_message_to_its_next_holder(
    slow_site: Site,
) -> None:
    """The new receipt was in that answer; the old one is refused (400 here, 404 on Azure)."""
    slow_site.to_storage.plan(Fault("lost answer", "PUT", "/messages/"))
    await slow_site.submit(0)
    events = await slow_site.work()
    await slow_site.require_all_scored(1)
    assert slow_site.endpoint.requests == 1
    told = [e["event"] for e in events if e["event"] in {"lease_lost", "job_done_already"}]
    assert told == ["lease_lost", "job_done_already"]


async def test_a_renewed_message_stays_out_of_sight_and_goes_by_its_newest_receipt(
    azurite: Azurite, storage: Storage, storage_settings: StorageSettings
) -> None:
    turnstile = Turnstile(0)
    async with site_of(azurite, storage, storage_settings, turnstile) as site:
        await site.submit(0)
        with capture_logs() as events:
            async with site.working(lease_s=4.0) as worker:
                await until(
                    lambda: site.to_storage.asked("PUT", "/messages/") >= 2, "a second renewal"
                )
                assert await site.storage.queue.receive(32, lease_s=1) == []
                turnstile.opened.set()
                await site.until_empty(worker)
        results = await site.require_all_scored(1)
    assert (results["000000"].deliveries, turnstile.requests) == (1, 1)
    assert not {"lease_lost", "job_done_already"} & {e["event"] for e in events}


async def test_a_renewal_that_fails_is_tried_again_in_time(slow_site: Site) -> None:
    slow_site.to_storage.plan(Fault("busy", "PUT", "/messages/", times=2))
    await slow_site.submit(0)
    events = await slow_site.work()
    results = await slow_site.require_all_scored(1)
    assert results["000000"].deliveries == 1
    assert "lease_lost" not in {e["event"] for e in events}


async def test_a_lost_answer_costs_no_quarter_of_a_minute(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it would by the SDK's own retry: all pauses after these twelve are shorter together."""
    pauses_s = _pauses(monkeypatch)
    site.to_storage.plan(
        *(
            Fault("lost answer", method, where, times=ATTEMPTS - 1)
            for method, where in (("HEAD", "/out/"), ("GET", "/in/"), ("PUT", "/out/"))
        )
    )
    await site.submit(0)
    await site.work()
    await site.require_all_scored(1)
    assert len(pauses_s) == 3 * (ATTEMPTS - 1)
    assert sum(pauses_s) < QUARTER_OF_A_MINUTE_S


async def test_a_message_sent_twice_is_scored_once_and_both_go(site: Site) -> None:
    """As after a send whose answer was lost."""
    await site.submit(0)
    (delivery,) = await site.storage.queue.receive(1, lease_s=1)
    await site.storage.queue.send(delivery.body)
    events = await site.work(max_concurrency=1)
    await site.require_all_scored(1)
    assert site.endpoint.requests == 1
    assert len([e for e in events if e["event"] == "job_done_already"]) == 1


async def test_storage_that_is_out_for_a_while_stops_nobody(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For longer than any one call is patient."""
    monkeypatch.setattr("shared.azure_sdk.FIRST_PAUSE_S", 0.01)
    site.to_storage.plan(Fault("lost request", "GET", "/messages", times=3 * ATTEMPTS))
    await site.submit(0, 1)
    events = await site.work()
    await site.require_all_scored(2)
    assert len([e for e in events if e["event"] == "receive_failed"]) == 3


async def test_jobs_that_storage_fails_come_back_and_it_is_not_their_fault(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.azure_sdk.FIRST_PAUSE_S", 0.01)
    site.to_storage.plan(Fault("busy", "GET", "/in/", times=4 * ATTEMPTS))
    await site.submit(0)
    events = await site.work(max_attempts=2, max_deliveries=1)
    await site.require_all_scored(1)
    assert [e["excused"] for e in events if e["event"] == "job_handed_back"] == [True, True]


async def test_a_result_that_is_never_confirmed_is_not_written_twice(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next attempt scores again, and is told that there is a result."""
    monkeypatch.setattr("shared.azure_sdk.FIRST_PAUSE_S", 0.01)
    site.to_storage.plan(Fault("lost answer", "PUT", "/out/", times=ATTEMPTS))
    await site.submit(0)
    events = await site.work()
    results = await site.require_all_scored(1)
    assert (results["000000"].attempts, site.endpoint.requests) == (1, 2)
    assert [e["event"] for e in events if e["log_level"] == "error"] == []


# --- the line to the endpoint


@pytest.mark.parametrize(
    "fault",
    [
        Fault("lost request", "POST"),
        Fault("reset", "POST"),
        Fault("lost answer", "POST"),
        Fault("first byte", "POST"),
        Fault("cut answer", "POST"),
        Fault("late answer", "POST"),
        Fault("busy", "POST"),
        Fault("busy", "POST", retry_after_s=1),
        Fault("throttled", "POST"),
        Fault("throttled", "POST", retry_after_s=1),
        Fault("failing", "POST"),
        Fault("bad gateway", "POST"),
        Fault("page", "POST"),
    ],
    ids=lambda fault: f"{fault.kind}{', Retry-After' if fault.retry_after_s else ''}",
)
async def test_an_endpoint_that_fails_is_asked_again(site: Site, fault: Fault) -> None:
    site.to_endpoint.plan(replace(fault, where="/score", times=2))
    await site.submit(0)
    asked_s = now_s()
    options = {"request_timeout_s": PATIENCE_S} if fault.kind == "late answer" else {}
    events = await site.work(**options)
    results = await site.require_all_scored(1)
    assert (results["000000"].attempts, results["000000"].deliveries) == (3, 1)
    assert len([e for e in events if e["event"] == "job_retry"]) == 2
    if fault.retry_after_s is not None:
        assert now_s() - asked_s >= 2 * fault.retry_after_s


async def test_an_endpoint_that_stays_down_burns_no_deliveries(site: Site) -> None:
    """More jobs than one come back when it does, and none of them as poison."""
    site.to_endpoint.plan(Fault("bad gateway", "POST", "/score", times=8))
    await site.submit(*range(4))
    options = {"max_attempts": 2, "max_deliveries": 1, "breaker_failures": 4}
    events = await site.work(**options, breaker_pause_s=0.2)
    await site.require_all_scored(4)
    assert "circuit_opened" in {e["event"] for e in events}


# --- limits of the service


async def test_a_get_asks_for_32_messages_at_most(site: Site) -> None:
    await site.submit(*range(40))
    await site.work(min_concurrency=64, max_concurrency=64)
    await site.require_all_scored(40)
    gets = [line for line in site.to_storage.requests if "numofmessages" in line]
    asked = {int(line.split("numofmessages=")[1].split("&")[0]) for line in gets}
    assert max(asked) == 32


def _pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long each pause is, in seconds, that the way to storage makes from now on.

    That is, our adapters or the SDK below them; not the worker, which pauses without work.
    """
    pauses_s: list[float] = []
    sleep = asyncio.sleep

    def noted(delay_s: float, *result: Any) -> Coroutine[Any, Any, Any]:
        caller = sys._getframe(1).f_globals["__name__"]
        if delay_s and caller.startswith(("shared.azure_", "azure.")):
            pauses_s.append(delay_s)
        return sleep(delay_s, *result)

    monkeypatch.setattr(asyncio, "sleep", noted)
    return pauses_s
