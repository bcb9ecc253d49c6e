"""For probes and Prometheus: `GET /live`, `/ready` and `/metrics`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

from aiohttp import web

from shared.errors import UsageError
from worker.loop import Worker
from worker.metrics import CONTENT_TYPE, Metrics
from worker.throttle import Throttle

LIVE_WITHIN_S = 120.0
"""The main loop turns at least every few seconds, unless storage answers as late as it may."""
_CIRCUIT = {"closed": 0, "half-open": 1, "open": 2}

Condition = Literal["starting", "ready", "circuit_open", "draining"]


class Health:
    """How the worker is. Before `watch`, it is starting."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._worker: Worker | None = None
        self._throttle: Throttle | None = None

    def watch(self, worker: Worker, throttle: Throttle) -> None:
        """Tell of these from now on."""
        self._worker, self._throttle = worker, throttle
        self._metrics.gauge("jobs_in_hand", "Jobs worked on.", lambda: worker.in_hand)
        self._metrics.gauge("jobs_allowed", "Jobs that may be.", lambda: throttle.allowed)
        self._metrics.gauge(
            "circuit",
            "The endpoint counts as: 0 up, 1 perhaps back, 2 down.",
            lambda: _CIRCUIT[throttle.state],
        )

    @property
    def condition(self) -> Condition:
        """An endpoint that counts as down does not make a worker fail: it waits."""
        if self._worker is None or self._throttle is None:
            return "starting"
        if self._worker.stopping:
            return "draining"
        return "circuit_open" if self._throttle.is_open else "ready"

    @property
    def is_live(self) -> bool:
        """False when the main loop hangs. Starting and draining have deadlines of their own."""
        worker = self._worker
        if worker is None or worker.stopping:
            return True
        return asyncio.get_running_loop().time() - worker.turned_s <= LIVE_WITHIN_S

    async def live(self, _: web.Request) -> web.Response:
        """`GET /live`: 503 says that a restart would help."""
        live = self.is_live
        return web.Response(text="live" if live else "stuck", status=200 if live else 503)

    async def ready(self, _: web.Request) -> web.Response:
        """`GET /ready`: 200 while it takes jobs; the text says why it doesn't."""
        condition = self.condition
        return web.Response(text=condition, status=200 if condition == "ready" else 503)

    async def metrics(self, _: web.Request) -> web.Response:
        """`GET /metrics`, for Prometheus."""
        body = self._metrics.exposition()
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE})


@asynccontextmanager
async def serving_health(health: Health, host: str, port: int) -> AsyncIterator[None]:
    """Answer probes meanwhile; port 0: don't. Raises `UsageError` for an address in use."""
    if not port:
        yield
        return
    app = web.Application(client_max_size=1024)
    app.router.add_get("/live", health.live)
    app.router.add_get("/ready", health.ready)
    app.router.add_get("/metrics", health.metrics)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise UsageError(
                f"can't answer probes on {host} port {port}: {error.strerror}",
                remedy="choose another --health-port",
            ) from error
        yield
    finally:
        await runner.cleanup()
