"""Evaluator processes, each held by one request at a time.

A process that dies hurts only the request in it, which is answered 422; another is started in its
place. A request gets the process used most recently (its keys are loaded, its caches warm);
requests that must wait are served in order.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from itertools import chain, repeat
from types import TracebackType
from typing import Any, Self

import structlog

from score import evaluators
from score.engine import Build
from score.lane import Lane
from score.settings import EngineOptions, PoolOptions
from shared.errors import BlindscoreError, Overloaded
from shared.linear import LinearModel

RESTART_DELAYS_S = (0.0, 0.1, 0.5, 2.0, 5.0)
LAST_RESTART_DELAY_S = 30.0

log = structlog.get_logger()


class Pool:
    """`options.processes` lanes of one model; an async context manager, ready when entered."""

    def __init__(
        self,
        model: LinearModel,
        engine: EngineOptions,
        options: PoolOptions,
        build: Build = evaluators.build,
    ) -> None:
        self._model, self._engine, self._build = model, engine, build
        self._options = options
        # Twice as many threads as lanes: one may wait for a lane's end while another starts.
        self._threads = ThreadPoolExecutor(2 * options.processes, thread_name_prefix="lane")
        self._lanes: set[Lane] = set()
        self._free: list[Lane] = []
        self._waiting: deque[asyncio.Future[Lane]] = deque()
        self._replacements: set[asyncio.Task[None]] = set()
        self._places = options.processes + options.max_waiting
        self._stopping = False
        self.schemes: dict[str, dict[str, Any]] = {}
        """Each scheme's part of `/model`."""
        self.restarts = 0
        """How many lanes were replaced so far."""

    @property
    def pids(self) -> list[int]:
        """Process ids of the lanes that are up."""
        return [lane.pid for lane in self._lanes if lane.pid is not None]

    @property
    def busy(self) -> int:
        """Lanes held by a request."""
        return len(self._lanes) - len(self._free)

    @property
    def waiting(self) -> int:
        """Requests in line for a lane."""
        return len(self._waiting)

    async def __aenter__(self) -> Self:
        """Start all lanes. Raises `ModelError` when the model can't be scored."""
        try:
            async with asyncio.TaskGroup() as starts:
                tasks = [starts.create_task(self._start()) for _ in range(self._options.processes)]
        except BaseExceptionGroup as errors:
            await self._stop()
            raise errors.exceptions[0] from None
        except BaseException:
            await self._stop()
            raise
        ready = tasks[0].result().ready
        self.schemes = ready.schemes
        for scheme, reason in ready.refused.items():
            log.warning("scheme not offered", scheme=scheme, reason=reason)
        for task in tasks:
            self._offer(task.result())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stop()

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place in the line, taken before a body is read. Raises `Overloaded`."""
        if self._places <= 0:
            raise Overloaded("all evaluators are busy and the line is full")
        self._places -= 1
        try:
            yield
        finally:
            self._places += 1

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[Lane]:
        """A lane of one's own, until the block ends."""
        lane = await self._take()
        lane.begin_request()
        try:
            yield lane
        finally:
            try:
                await lane.end_request()
            finally:
                self._give_back(lane)

    async def _take(self) -> Lane:
        if self._stopping:
            raise Overloaded("the endpoint is about to end")
        while self._free:
            lane = self._free.pop()
            if lane.is_alive():
                return lane
            self._replace(lane)
        turn: asyncio.Future[Lane] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._give_back(turn.result())
            raise

    def _give_back(self, lane: Lane) -> None:
        if lane.is_alive():
            self._offer(lane)
        else:
            self._replace(lane)

    def _offer(self, lane: Lane) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(lane)
                return
        self._free.append(lane)

    def _replace(self, dead: Lane) -> None:
        if self._stopping:
            return  # a request that was in it is on its way out; who stops the pool buries it
        self._lanes.discard(dead)
        task = asyncio.get_running_loop().create_task(self._replacement(dead))
        self._replacements.add(task)
        task.add_done_callback(self._replaced)

    def _replaced(self, task: asyncio.Task[None]) -> None:
        self._replacements.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("evaluator is lost", reason=repr(error))

    async def _replacement(self, dead: Lane) -> None:
        """Start a lane in place of a dead one, however often it takes."""
        exit_code = await self._bury(dead)
        log.warning("evaluator died", exit_code=exit_code)
        for delay_s in chain(RESTART_DELAYS_S, repeat(LAST_RESTART_DELAY_S)):
            await asyncio.sleep(delay_s)
            try:
                lane = await self._start()
            except (BlindscoreError, OSError) as error:
                log.warning("evaluator does not start", reason=str(error))
            else:
                self.restarts += 1
                self._offer(lane)
                return

    async def _start(self) -> Lane:
        lane = await Lane.start(
            self._model, self._engine, self._build, self._threads, self._options
        )
        self._lanes.add(lane)
        return lane

    async def _bury(self, lane: Lane) -> int | None:
        return await asyncio.get_running_loop().run_in_executor(self._threads, lane.bury)

    async def _stop(self) -> None:
        self._stopping = True
        for task in self._replacements:
            task.cancel()
        await asyncio.gather(*self._replacements, return_exceptions=True)
        for turn in self._waiting:
            turn.cancel()
        for lane in self._lanes:
            lane.kill()
        await asyncio.gather(*(self._bury(lane) for lane in self._lanes))
        self._lanes.clear()
        self._free.clear()
        self._threads.shutdown()
