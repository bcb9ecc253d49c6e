"""The parent's handle on one evaluator process."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import multiprocessing
import threading
from concurrent.futures import Executor
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from typing import Self

import structlog

from score import lane_main
from score.answers import Answer, Done, Failed, Ready, Reply, decode
from score.engine import Build
from score.settings import EngineOptions, PoolOptions
from shared import forkserver
from shared.errors import BlindscoreError, CiphertextError, EvaluationTimeout, Overloaded
from shared.linear import LinearModel

# Lanes are forks of a fresh interpreter that has imported their code and nothing else: of the
# parent's memory (credentials, other requests) nothing is in them, and one is there in 30 ms.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([lane_main.__name__])

log = structlog.get_logger()

MAX_REPLY_BYTES = 2**31 - 1


class Lane:
    """One evaluator process. A request holds it alone, from `begin_request` to `end_request`.

    Pipes are read and written in `threads`, off the event loop.
    """

    def __init__(
        self, process: ForkServerProcess, pipe: Connection, threads: Executor, exec_s: float
    ) -> None:
        self.ready = Ready(schemes={}, refused={})
        self._process = process
        self._pipe = pipe
        self._threads = threads
        self._exec_s = exec_s
        self._left_s = exec_s
        self._in_request = False
        self._killed = False
        self._buried = False
        self._ending = threading.Lock()
        """A request may end a lane on the event loop while a thread buries it."""

    @classmethod
    async def start(
        cls,
        model: LinearModel,
        engine: EngineOptions,
        build: Build,
        threads: Executor,
        options: PoolOptions,
    ) -> Self:
        """Start a process and wait until its engine is ready. Raises `ModelError`."""
        ours, theirs = _context.Pipe()
        process = _context.Process(
            target=lane_main.main, args=(theirs, model, engine, build), daemon=True
        )
        lane = cls(process, ours, threads, options.exec_s)
        await asyncio.get_running_loop().run_in_executor(threads, lane._launch, theirs)
        try:
            lane.ready = await lane._first_reply(options.start_s)
        except BaseException:
            lane.kill()
            await asyncio.get_running_loop().run_in_executor(threads, lane.bury)
            raise
        return lane

    @property
    def pid(self) -> int | None:
        """Process id of the evaluator."""
        return self._process.pid

    def is_alive(self) -> bool:
        """Whether it can take another request; not to be asked during one of its replies.

        A process that ends closes its pipe first: then there is an end to be read, and a lane
        that nobody asked anything has nothing else to say.
        """
        return not self._killed and not self._pipe.poll() and self._process.is_alive()

    def begin_request(self) -> None:
        """A request takes hold of the lane, with a new time budget."""
        self._left_s = self._exec_s

    async def end_request(self) -> None:
        """The request lets go; what is left of it in the process is dropped."""
        if self._in_request and self.is_alive():
            with contextlib.suppress(BlindscoreError):  # a lane that fails here is ended
                await self._ask(lane_main.drop())
        self._in_request = False

    async def feed(self, content_type: str, piece: bytes, *, last: bool) -> Answer:
        """Have a piece of the body evaluated (`content_type` with the first one, else empty).

        Raises what evaluating raises, `CiphertextError` when the process dies of it, `Overloaded`
        when it died before, and `EvaluationTimeout` when the request has computed for too long.
        """
        self._in_request = True
        return await self._ask(lane_main.feed(content_type, piece, last=last))

    async def use_keys(self, version: str, blob: bytes | None) -> Answer:
        """Answer `NeedKeys` or `NeedBlob`; raises as `feed` does."""
        return await self._ask(lane_main.use_keys(version, blob))

    def kill(self) -> None:
        """End the process at once."""
        self._killed = True
        with self._ending:
            if not self._buried:
                self._process.kill()

    def bury(self) -> int | None:
        """Wait until the process has ended, and free what it held; blocks. Its exit code."""
        self._process.join()
        with self._ending:
            exit_code = self._process.exitcode
            atexit.unregister(self._process.kill)
            self._killed = self._buried = True
            self._process.close()
            self._pipe.close()
        return exit_code

    def _launch(self, theirs: Connection) -> None:
        forkserver.ensure_running()
        self._process.start()
        # Evaluators ignore SIGTERM, by which multiprocessing would end them at exit.
        atexit.register(self._process.kill)
        theirs.close()

    async def _first_reply(self, start_s: float) -> Ready:
        try:
            reply = await self._exchange(b"", start_s)
        except TimeoutError:
            raise BlindscoreError(f"an evaluator was not ready within {start_s:g} s") from None
        except (EOFError, OSError) as error:
            raise BlindscoreError("an evaluator died while it started") from error
        match reply:
            case Ready():
                return reply
            case Failed():
                raise reply.error()
        raise BlindscoreError("an evaluator started out of protocol")

    async def _ask(self, order: bytes) -> Answer:
        if self._killed:
            raise Overloaded("an evaluator ended before it took the request")
        clock = asyncio.get_running_loop().time
        started_s = clock()
        try:
            reply = await self._exchange(order, self._left_s)
        except TimeoutError:
            raise EvaluationTimeout(
                f"the request has computed for {self._exec_s:g} s", remedy="send fewer rows"
            ) from None
        except (BrokenPipeError, ConnectionResetError) as error:
            self.kill()  # it ended with the order unread: not this request's doing
            raise Overloaded("an evaluator ended before it took the request") from error
        except (EOFError, OSError) as error:
            self.kill()
            raise CiphertextError("an evaluator died on this request") from error
        except BlindscoreError:
            self.kill()
            raise
        self._left_s -= clock() - started_s
        if isinstance(reply, Ready | Failed):
            self._in_request = False
            raise self._failure(reply)
        if isinstance(reply, Done):
            self._in_request = False
        return reply

    def _failure(self, reply: Ready | Failed) -> BlindscoreError:
        if isinstance(reply, Failed) and reply.code != BlindscoreError.code:
            return reply.error()
        self.kill()  # a fault of ours: the state of the process is unknown
        if isinstance(reply, Ready):
            return BlindscoreError("an evaluator answered out of protocol")
        log.error("evaluator failed", reason=reply.message, place=reply.place)
        return reply.error()

    async def _exchange(self, order: bytes, limit_s: float) -> Reply:
        """Send an order, if there is one, and wait for the reply.

        Unless it comes within `limit_s`, the process is ended. Raises `TimeoutError`, `EOFError`
        or `OSError` when the process ends by itself, `BlindscoreError` for an unknown reply.
        """
        loop = asyncio.get_running_loop()
        exchange = loop.run_in_executor(self._threads, self._round_trip, order)
        exchange.add_done_callback(_retrieve)
        try:
            await asyncio.wait([exchange], timeout=limit_s)
            if not exchange.done():
                raise TimeoutError
        finally:
            if not exchange.done():
                self.kill()  # ends the round trip too
                await asyncio.wait([exchange])
        return exchange.result()

    def _round_trip(self, order: bytes) -> Reply:
        if order:
            self._pipe.send_bytes(order)
        return decode(self._pipe.recv_bytes(MAX_REPLY_BYTES))


def _retrieve(exchange: asyncio.Future[Reply]) -> None:
    """What a stopped exchange raises is of interest to nobody."""
    if not exchange.cancelled():
        exchange.exception()
