"""Encryption and decryption off the event loop, on every core.

SEAL's Python binding holds the GIL, so the work is done in processes of our own; each gets the
secret once, through the pipe that starts it, and ends when its parent does, however that ends.
With no processes it is done in a thread, which saves the time it takes to start them when there is
little to do. How much there is to decrypt is not known beforehand: that begins in a thread.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from itertools import count, islice
from multiprocessing.context import BaseContext
from typing import Self, TypeVar

from producer import keyprocess
from producer.rows import StoredRows
from producer.schemes import Encoding, Scores, client_scheme, module_of
from producer.turns import Turns
from shared import forkserver
from shared.errors import BlindscoreError, CiphertextError

T = TypeVar("T")

PARTS_AHEAD = 2
"""Of a block, besides one for each process; as many wait for a process, of all blocks."""

START_S = 0.5
"""What it takes to start processes: so long is decrypted without them, where they can wait."""


class KeyPool:
    """One secret key, usable concurrently. An async context manager.

    With `when_worth_it`, processes are started only when decrypting has taken a thread as long as
    that takes (the ski rental problem's deterministic strategy: at most twice what knowing the
    future would cost). Not so for a scheme whose results may end the process that reads them.
    """

    def __init__(
        self, scheme: str, secret: bytes, *, processes: int, when_worth_it: bool = False
    ) -> None:
        self.processes = processes
        self._secret = (scheme, secret)
        self._thread = ThreadPoolExecutor(1)
        self._threaded_s = 0.0
        self._executor: Executor = self._start(processes) if processes else self._thread
        self._starting: asyncio.Task[None] | None = None
        self._quarantine = asyncio.Lock()
        self._blocks = count()
        self._turns = Turns(processes + PARTS_AHEAD)
        client = client_scheme(scheme)
        self._waits = when_worth_it and not client.reads_foreign_objects
        self._local = client.load(secret) if self._waits or not processes else None

    def __repr__(self) -> str:
        return f"KeyPool(processes={self.processes})"

    async def __aenter__(self) -> Self:
        """Processes start now, while the first rows are read or the first results awaited."""
        if not self._waits:
            self._starting = asyncio.create_task(self._start_all())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._starting is not None:
            await asyncio.gather(self._starting, return_exceptions=True)  # work has told of it
        for executor in (self._thread, self._executor):
            await asyncio.to_thread(executor.shutdown, cancel_futures=True)

    async def _start_all(self) -> None:
        for _ in range(self.processes):
            await _submit(self._executor, keyprocess.started)

    async def encrypt(self, rows: StoredRows, encoding: Encoding) -> AsyncGenerator[bytes]:
        """A block of rows as one request body, part by part. Raises `DatasetError`.

        Parts are begun ahead of the one that is wanted, enough for every process, and no more: they
        wait in memory when they are taken slowly. Of blocks that are encrypted at once, those asked
        for first come first: a block is of use to nobody until it is whole.
        """
        block = next(self._blocks)
        parts = enumerate(client_scheme(self._secret[0]).split(encoding))
        ahead: deque[asyncio.Task[bytes]] = deque()

        async def encrypt(number: int, part: Encoding) -> bytes:
            async with self._turns.take((block, number)):
                return await self._encrypt(rows.columns(part.columns), part)

        def begin(parts_more: int) -> None:
            for number, part in islice(parts, parts_more):
                ahead.append(asyncio.create_task(encrypt(number, part)))

        begin(self.processes + PARTS_AHEAD)
        try:
            while ahead:
                piece = await ahead.popleft()
                begin(1)
                yield piece
        finally:
            for task in ahead:
                task.cancel()
            await asyncio.gather(*ahead, return_exceptions=True)

    async def _encrypt(self, rows: StoredRows, part: Encoding) -> bytes:
        if self._local is not None and not self.processes:
            return await self._in_thread(keyprocess.encrypt_with, self._local, rows, part)
        try:
            return await self._run(keyprocess.encrypt, rows, part)
        except BrokenProcessPool as error:
            raise BlindscoreError(
                "an encryption process died", remedy="is there enough memory? try fewer --processes"
            ) from error

    async def decrypt(self, body: bytes, *, rows: int) -> Scores:
        """The scores in one response body. Raises `CiphertextError`, `MalformedRequest`.

        Bytes that end one of the processes are a `CiphertextError` too.
        """
        if self._local is not None and (not self.processes or self._threaded_s < START_S):
            return await self._in_thread(keyprocess.decrypt_with, self._local, body, rows)
        try:
            return await self._run(keyprocess.decrypt, body, rows)
        except BrokenProcessPool:
            return await self._decrypt_alone(body, rows)

    async def _decrypt_alone(self, body: bytes, rows: int) -> Scores:
        """Once more, in a process of its own: it may have been another body that broke the pool."""
        async with self._quarantine:
            executor = self._start(1)
            try:
                return await asyncio.wrap_future(
                    await _submit(executor, keyprocess.decrypt, body, rows)
                )
            except BrokenProcessPool as error:
                raise CiphertextError("the process that decrypted it died of it") from error
            finally:
                await asyncio.to_thread(executor.shutdown)

    async def _in_thread(self, function: Callable[..., T], *args: object) -> T:
        def timed() -> T:
            began_s = time.monotonic()
            try:
                return function(*args)
            finally:
                self._threaded_s += time.monotonic() - began_s

        return await asyncio.wrap_future(self._thread.submit(timed))

    async def _run(self, function: Callable[..., T], *args: object) -> T:
        """Raises `BrokenProcessPool`; the next call finds a new pool."""
        executor = self._executor
        try:
            return await asyncio.wrap_future(await _submit(executor, function, *args))
        except BrokenProcessPool:
            if self._executor is executor:
                self._executor = self._start(self.processes)
            raise

    def _start(self, processes: int) -> Executor:
        """Cheap: processes are started when there is work for them."""
        return ProcessPoolExecutor(
            processes,
            mp_context=_context(self._secret[0]),
            initializer=keyprocess.start,
            initargs=self._secret,
        )


def start_ahead(scheme: str) -> None:
    """Have what a pool's processes are forked from import their code before there is a pool.

    Where it can't be started, the pool tells why.
    """
    if forkserver.EXISTS:
        multiprocessing.set_forkserver_preload(_preload(scheme))
        with suppress(OSError, EOFError):
            forkserver.ensure_running()


async def _submit(executor: Executor, function: Callable[..., T], *args: object) -> Future[T]:
    """Off the event loop: what has to start a process first waits until it runs."""
    return await asyncio.to_thread(_start_and_submit, executor, function, *args)


def _start_and_submit(executor: Executor, function: Callable[..., T], *args: object) -> Future[T]:
    """Raises `BlindscoreError` when no process can be started."""
    try:
        if isinstance(executor, ProcessPoolExecutor) and forkserver.EXISTS:
            forkserver.ensure_running()
        return executor.submit(function, *args)
    except (OSError, EOFError) as error:
        raise BlindscoreError(
            f"no process can be started ({type(error).__name__})",
            remedy="is there enough memory? --processes 0 needs no more processes",
        ) from error


def _context(scheme: str) -> BaseContext:
    """How processes start: as forks of a fresh interpreter that has imported the scheme's code.

    One takes 30 ms then, and not a quarter of a second of a core. Elsewhere than on POSIX it does.
    """
    if not forkserver.EXISTS:
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_preload(scheme))
    return context


def _preload(scheme: str) -> list[str]:
    return [keyprocess.__name__, module_of(scheme)]
