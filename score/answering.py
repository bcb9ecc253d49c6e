"""Errors as problems, and how each request to score went."""

from __future__ import annotations

import re
import time

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from score import metrics
from score.metrics import Metrics
from score.problems import Problem, internal_problem, problem_of
from score.scoring import Course
from shared.errors import BlindscoreError

COURSE: web.RequestKey[Course] = web.RequestKey("course", Course)
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")

log = structlog.get_logger()


class Answering:
    """A middleware; what it notes goes to the log and to `counters`."""

    def __init__(self, counters: Metrics) -> None:
        self._counters = counters

    @web.middleware
    async def answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer errors as problems, and note how `/score` went."""
        course = request[COURSE] = Course()
        started_s = time.perf_counter()
        code = metrics.OK
        try:
            response = await handler(request)
        except BlindscoreError as error:
            code = error.code
            if error.http_status == 500:
                log.exception("request failed", path=request.path)
            response = respond(problem_of(error))
        except web.HTTPException as error:
            code = error.reason.lower().replace(" ", "_")
            response = respond(Problem(error.status, code, error.reason), allow=error)
        except Exception:
            code = BlindscoreError.code
            log.exception("request failed", path=request.path)
            response = respond(internal_problem())
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


def respond(problem: Problem, *, allow: web.HTTPException | None = None) -> web.Response:
    """The problem as a response; `allow` may know the methods that are allowed."""
    headers = problem.headers()
    if allow is not None and "Allow" in allow.headers:
        headers["Allow"] = allow.headers["Allow"]
    return web.Response(status=problem.status, body=problem.encode(), headers=headers)
