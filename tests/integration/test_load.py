"""A worker with much to do: it ends in order, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from deploy.local.azurite import Azurite
from shared.settings import StorageSettings
from shared.storage import Storage
from tests.integration.test_worker import working
from tests.integration.worksite import Endpoint, Site, Turnstile, site_of, until

JOBS, ANSWERED, AT_A_TIME = 60, 20, 8
GRACE_S = 60.0


@pytest.fixture
def endpoint() -> Turnstile:
    return Turnstile(ANSWERED)


@pytest.fixture
async def site(
    azurite: Azurite, storage: Storage, storage_settings: StorageSettings, endpoint: Turnstile
) -> AsyncIterator[Site]:
    async with site_of(azurite, storage, storage_settings, endpoint) as site:
        yield site


async def test_sigterm_under_load_ends_with_0_and_nothing_is_done_twice(
    site: Site, endpoint: Turnstile
) -> None:
    await site.submit(*range(JOBS))
    hands = str(AT_A_TIME)
    options = ("--grace-s", str(GRACE_S), "--min-concurrency", hands, "--max-concurrency", hands)
    begun = ANSWERED + AT_A_TIME
    async with working(site.settings, site.worker_settings.endpoint, *options) as worker:
        await until(lambda: endpoint.requests == begun, "both hands full")
        worker.signal(signal.SIGTERM)
        await worker.until('"draining"')
        endpoint.opened.set()
        assert await worker.end() == 0, worker.text  # which waits for less than the grace period
    assert endpoint.requests == len(await site.results()) == begun, "what had begun was finished"
    assert await site.storage.queue.depth() == JOBS - begun, "and its messages are gone"
    rest = await site.storage.queue.receive(32, lease_s=1)
    assert {delivery.deliveries for delivery in rest} == {1}, "the others were never taken"
    await site.work()
    await site.require_all_scored(JOBS)
    assert endpoint.requests == JOBS


def tasks() -> Counter[str]:
    """What runs in this process beside the servers of the test, by name."""
    names = (getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks())
    return Counter(name for name in names if "RequestHandler" not in name)


async def test_many_jobs_leave_no_task_behind(
    azurite: Azurite, storage: Storage, storage_settings: StorageSettings
) -> None:
    """Neither while the worker is there, nor once it has ended."""
    async with site_of(azurite, storage, storage_settings, Endpoint()) as site:
        before = tasks()
        async with site.working() as worker:
            await until(
                lambda: site.to_storage.asked("GET", "/messages") >= 2, "a worker without work"
            )
            idle = tasks()
            await site.submit(*range(150))
            await site.until_empty(worker)
            await until(lambda: tasks() <= idle, "as few tasks as before")
        assert tasks() == before
        await site.require_all_scored(150)
