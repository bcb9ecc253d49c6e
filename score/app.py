"""The endpoint over HTTP: routes, limits, tokens, and problems as callers see them."""

from __future__ import annotations

import asyncio
import base64
import contextlib

import orjson
from aiohttp import web
from aiohttp.typedefs import Handler

from score import metrics, nohttp, openapi
from score.answering import COURSE, Answering, respond
from score.callers import Callers
from score.engine import JSON_TYPE
from score.limiter import Limiter
from score.metrics import Metrics
from score.pool import Pool
from score.problems import Problem
from score.scoring import Scoring
from score.settings import EndpointOptions
from score.upload import Upload
from shared import container
from shared.errors import BodyTooLarge, Unauthorized, UnsupportedMediaType
from shared.linear import LinearModel

MODEL_HEADER = "X-Blindscore-Model"
ROWS_HEADER = "X-Blindscore-Rows"
READ_BUFFER_BYTES = 256 * 1024
SETTLE_S = 0.1
"""Before nobody counts as waiting: for requests that were sent before the end and have not been
read yet. A busy machine is late with them, and one connection's bytes may overtake another's."""
CLOSE_S = 1.0
"""For the last bytes of answers, and connections that sent nothing."""
LINGER_S = 10.0
"""Longest that the rest of a refused body is read, and dropped. If the connection were closed on
it, its sender would see that, and might miss the answer."""
OPEN_PATHS = ("/", "/ready")
"""What load balancers probe, without a token."""

_CALLER: web.RequestKey[str] = web.RequestKey("caller", str)


class Endpoint:
    """One model behind HTTP."""

    def __init__(
        self,
        model: LinearModel,
        pool: Pool,
        scoring: Scoring,
        counters: Metrics,
        options: EndpointOptions,
    ) -> None:
        self._fingerprint = model.fingerprint
        self._pool = pool
        self._scoring = scoring
        self._counters = counters
        self._answering = Answering(counters)
        self._options = options
        self.callers = Callers(options.tokens)
        self._limiter = Limiter(
            rate_per_s=options.rate_per_s,
            burst=options.burst,
            max_at_once=options.max_per_caller,
        )
        self._model = orjson.dumps(
            {
                "features": model.features,
                "classes": model.classes,
                "labels": list(model.labels),
                "link": model.link,
                "fingerprint": model.fingerprint,
                "schemes": pool.schemes,
                "max_body_bytes": options.max_body_bytes,
            }
        )
        self._openapi = orjson.dumps(
            openapi.document(metrics=not options.metrics_elsewhere, tokens=bool(options.tokens))
        )
        self._draining = False
        self._active = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def runner(self) -> web.AppRunner:
        """The aiohttp application for callers, and how it is run."""
        app = web.Application(
            middlewares=[self._count, self._answering.answer, self._authorize],
            client_max_size=self._options.max_body_bytes,
        )
        app.router.add_post("/score", self.score, expect_handler=self._invite)
        app.router.add_get("/", self.health)
        app.router.add_get("/ready", self.ready)
        app.router.add_get("/model", self.model)
        app.router.add_get("/openapi.json", self.openapi)
        if not self._options.metrics_elsewhere:
            app.router.add_get("/metrics", self.metrics)
        return self._runner(app)

    def health_runner(self) -> web.AppRunner:
        """The same for probes and scrapers: nothing to score with, and no token."""
        app = web.Application(middlewares=[self._answering.answer], client_max_size=1024)
        app.router.add_get("/", self.health)
        app.router.add_get("/ready", self.ready)
        app.router.add_get("/metrics", self.metrics)
        return self._runner(app)

    def _runner(self, app: web.Application) -> web.AppRunner:
        app.on_response_prepare.append(self._finish_head)
        return web.AppRunner(
            app,
            access_log=None,
            logger=nohttp.logger,
            shutdown_timeout=CLOSE_S,
            lingering_time=LINGER_S,
            auto_decompress=False,
            read_bufsize=READ_BUFFER_BYTES,
        )

    async def drain(self, grace_s: float) -> None:
        """Wait until all requests are answered, `grace_s` at the most.

        To be called once no more connections are taken. aiohttp's own shutdown does not do: it
        reads no more of bodies that are on their way.
        """
        self._draining = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await asyncio.sleep(SETTLE_S)
                await self._idle.wait()

    async def score(self, request: web.Request) -> web.Response:
        """`POST /score`: evaluate the body."""
        if request.content_type not in (JSON_TYPE, container.CONTENT_TYPE):
            raise UnsupportedMediaType(
                f"content type {request.content_type} is not scored",
                remedy=f"send {JSON_TYPE} or {container.CONTENT_TYPE}",
            )
        if request.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise UnsupportedMediaType("a compressed body is not accepted")
        if (request.content_length or 0) > self._options.max_body_bytes:
            raise BodyTooLarge(f"body is over {self._options.max_body_bytes} bytes")
        upload = Upload(request.content, self._options)
        with self._limiter.admit(request[_CALLER]):
            try:
                done = await self._scoring.score(request.content_type, upload, request[COURSE])
            finally:
                self._counters.received.inc(upload.received)
        self._counters.rows.labels(done.scheme).inc(done.rows)
        return web.Response(
            body=done.body,
            headers={
                "Content-Type": done.content_type,
                "Repr-Digest": f"sha-256=:{base64.b64encode(done.sha256).decode('ascii')}:",
                MODEL_HEADER: self._fingerprint,
                ROWS_HEADER: str(done.rows),
            },
        )

    async def health(self, _: web.Request) -> web.Response:
        """`GET /`: this process answers."""
        return web.Response(text="Healthy")

    async def ready(self, _: web.Request) -> web.Response:
        """`GET /ready`: requests are welcome."""
        if self._draining or not self._pool.pids:
            return respond(Problem(503, openapi.NOT_READY, "no evaluator is up", retry_after_s=1))
        return web.Response(text="Ready")

    async def model(self, _: web.Request) -> web.Response:
        """`GET /model`: what is scored here, and how to encrypt for it."""
        return web.Response(body=self._model, content_type=JSON_TYPE)

    async def openapi(self, _: web.Request) -> web.Response:
        """`GET /openapi.json`: all of this, for programs."""
        return web.Response(body=self._openapi, content_type=JSON_TYPE)

    async def metrics(self, _: web.Request) -> web.Response:
        """`GET /metrics`, for Prometheus."""
        return web.Response(
            body=self._counters.exposition(), headers={"Content-Type": metrics.CONTENT_TYPE}
        )

    @web.middleware
    async def _count(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Count the request as one in progress."""
        self._active += 1
        self._idle.clear()
        try:
            return await handler(request)
        finally:
            self._active -= 1
            if not self._active:
                self._idle.set()

    @web.middleware
    async def _authorize(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let accepted callers through, and anybody to what probes ask for."""
        if request.path not in OPEN_PATHS:
            request[_CALLER] = self.callers.identify(request)
        return await handler(request)

    async def _invite(self, request: web.Request) -> None:
        """Have a body sent that waits for its cue, unless it is a stranger's.

        Expectations that nobody knows are ignored (RFC 9110, section 10.1.1).
        """
        if request.headers["Expect"].lower() != "100-continue":
            return
        with contextlib.suppress(Unauthorized):
            self.callers.identify(request)
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0  # of the response to come

    async def _finish_head(self, _: web.Request, response: web.StreamResponse) -> None:
        response.headers["Server"] = nohttp.SERVER
        if self._draining:
            response.force_close()
