"""Encryption and decryption off the event loop, on every core.

SEAL's Python binding holds the GIL, so the work is done in processes of our own; each gets the
secret once, through the pipe that starts it. With no processes it is done in a thread, which
saves the second it takes to start them when there is only one job.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Self, TypeVar

from producer.schemes import ClientKey, Encoding, Rows, Scores, client_scheme
from shared.errors import BlindscoreError

T = TypeVar("T")

_key: ClientKey | None = None


class KeyPool:
    """One secret key, usable concurrently. An async context manager."""

    def __init__(self, scheme: str, secret: bytes, *, processes: int) -> None:
        self.processes = processes
        self._executor: Executor
        if processes > 0:
            self._executor = ProcessPoolExecutor(
                processes,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_start_process,
                initargs=(scheme, secret),
            )
        else:
            self._executor = ThreadPoolExecutor(1)
        self._local = None if processes else client_scheme(scheme).load(secret)

    def __repr__(self) -> str:
        return f"KeyPool(processes={self.processes})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self._executor.shutdown, cancel_futures=True)

    async def encrypt(self, rows: Rows, encoding: Encoding) -> bytes:
        """A block of rows as one request body. Raises `DatasetError`."""
        if self._local is not None:
            return await self._run(_encrypt_with, self._local, rows, encoding)
        return await self._run(_encrypt, rows, encoding)

    async def decrypt(self, body: bytes, *, rows: int) -> Scores:
        """The scores in one response body. Raises `CiphertextError`, `MalformedRequest`."""
        if self._local is not None:
            return await self._run(_decrypt_with, self._local, body, rows)
        return await self._run(_decrypt, body, rows)

    async def _run(self, function: Callable[..., T], *args: object) -> T:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._executor, function, *args)
        except BrokenProcessPool as error:
            raise BlindscoreError(
                "an encryption process died", remedy="is there enough memory? try --processes 1"
            ) from error


def _start_process(scheme: str, secret: bytes) -> None:
    global _key  # noqa: PLW0603 - one key a process, set once
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    _key = client_scheme(scheme).load(secret)


def _own_key() -> ClientKey:
    if _key is None:
        raise BlindscoreError("this process was not given a key")
    return _key


def _encrypt(rows: Rows, encoding: Encoding) -> bytes:
    return _encrypt_with(_own_key(), rows, encoding)


def _decrypt(body: bytes, rows: int) -> Scores:
    return _decrypt_with(_own_key(), body, rows)


def _encrypt_with(key: ClientKey, rows: Rows, encoding: Encoding) -> bytes:
    return b"".join(key.encrypt(rows, encoding))


def _decrypt_with(key: ClientKey, body: bytes, rows: int) -> Scores:
    return key.decrypt(body, rows=rows)
