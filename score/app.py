"""The endpoint over HTTP: routes, limits, tokens, and problems as callers see them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import re
import time

import orjson
import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from score import metrics
from score.engine import JSON_TYPE
from score.metrics import Metrics
from score.pool import Pool
from score.problems import Problem, internal_problem, problem_of
from score.scoring import Course, Scoring
from score.settings import EndpointOptions
from score.upload import Upload
from shared import container
from shared.errors import BlindscoreError, BodyTooLarge, Unauthorized, UnsupportedMediaType
from shared.linear import LinearModel

MODEL_HEADER = "X-Blindscore-Model"
ROWS_HEADER = "X-Blindscore-Rows"
READ_BUFFER_BYTES = 256 * 1024
CLOSE_S = 1.0
"""For the last bytes of answers, and connections that sent nothing."""
OPEN_PATHS = ("/", "/ready")
"""What load balancers probe, without a token."""

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_COURSE: web.RequestKey[Course] = web.RequestKey("course", Course)

log = structlog.get_logger()


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
        self._options = options
        self._tokens = [_digest(token) for token in options.tokens]
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
        self._draining = False
        self._active = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def runner(self) -> web.AppRunner:
        """The aiohttp application and how it is run."""
        return web.AppRunner(
            self._application(),
            access_log=None,
            shutdown_timeout=CLOSE_S,
            auto_decompress=False,
            read_bufsize=READ_BUFFER_BYTES,
        )

    def _application(self) -> web.Application:
        app = web.Application(
            middlewares=[self._guard], client_max_size=self._options.max_body_bytes
        )
        app.router.add_post("/score", self.score)
        app.router.add_get("/", self.health)
        app.router.add_get("/ready", self.ready)
        app.router.add_get("/model", self.model)
        app.router.add_get("/metrics", self.metrics)
        app.on_response_prepare.append(self._finish_head)
        return app

    async def drain(self, grace_s: float) -> None:
        """Wait until all requests are answered, `grace_s` at the most.

        To be called once no more connections are taken. aiohttp's own shutdown does not do: it
        reads no more of bodies that are on their way.
        """
        self._draining = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
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
        try:
            done = await self._scoring.score(request.content_type, upload, request[_COURSE])
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
            return _respond(Problem(503, "not_ready", "no evaluator is up", retry_after_s=1))
        return web.Response(text="Ready")

    async def model(self, _: web.Request) -> web.Response:
        """`GET /model`: what is scored here, and how to encrypt for it."""
        return web.Response(body=self._model, content_type=JSON_TYPE)

    async def metrics(self, _: web.Request) -> web.Response:
        """`GET /metrics`, for Prometheus."""
        return web.Response(
            body=self._counters.exposition(), headers={"Content-Type": metrics.CONTENT_TYPE}
        )

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Count the request as one in progress."""
        self._active += 1
        self._idle.clear()
        try:
            return await self._answer(request, handler)
        finally:
            self._active -= 1
            if not self._active:
                self._idle.set()

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Check the token, answer errors as problems, and note how `/score` went."""
        course = request[_COURSE] = Course()
        started_s = time.perf_counter()
        code = metrics.OK
        try:
            self._authorize(request)
            response = await handler(request)
        except BlindscoreError as error:
            code = error.code
            if error.http_status == 500:
                log.exception("request failed", path=request.path)
            response = _respond(problem_of(error))
        except web.HTTPException as error:
            code = error.reason.lower().replace(" ", "_")
            response = _respond(Problem(error.status, code, error.reason), allow=error)
        except Exception:
            code = BlindscoreError.code
            log.exception("request failed", path=request.path)
            response = _respond(internal_problem())
        if request.path == "/score":
            course.stages_s["total"] = time.perf_counter() - started_s
            self._note(request, response.status, code, course)
        return response

    def _note(self, request: web.Request, status: int, code: str, course: Course) -> None:
        self._counters.requests.labels(course.scheme, code).inc()
        if code == metrics.OK:
            for stage, seconds in course.stages_s.items():
                self._counters.stages.labels(stage).observe(seconds)
        traceparent = request.headers.get("traceparent", "")
        log.info(
            "request",
            status=status,
            code=code,
            scheme=course.scheme,
            traceparent=traceparent if _TRACEPARENT.fullmatch(traceparent) else "",
            **{f"{stage}_ms": round(s * 1000, 1) for stage, s in course.stages_s.items()},
        )

    async def _finish_head(self, _: web.Request, response: web.StreamResponse) -> None:
        # Which versions run here is nobody's business.
        response.headers["Server"] = "blindscore"
        if self._draining:
            response.force_close()

    def _authorize(self, request: web.Request) -> None:
        """Raises `Unauthorized`. Each token is compared, in constant time, whichever fits."""
        if not self._tokens or request.path in OPEN_PATHS:
            return
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        given = _digest(token.strip())
        fits = [hmac.compare_digest(given, accepted) for accepted in self._tokens]
        if scheme.lower() != "bearer" or not any(fits):
            raise Unauthorized(
                "no bearer token, or not an accepted one", remedy="send Authorization: Bearer …"
            )


def _respond(problem: Problem, *, allow: web.HTTPException | None = None) -> web.Response:
    headers = problem.headers()
    if allow is not None and "Allow" in allow.headers:
        headers["Allow"] = allow.headers["Allow"]
    return web.Response(status=problem.status, body=problem.encode(), headers=headers)


def _digest(token: str) -> bytes:
    """Tokens are compared by digest: their lengths show nothing then."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
