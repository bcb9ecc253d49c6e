"""Tokens, certificate and key: read from their files again each time that SIGHUP comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import asynccontextmanager
from threading import Thread
from typing import TypeVar

import structlog

from score.callers import Callers
from score.settings import ServerOptions
from score.tls import ServerTls, server_context
from score.tokens import read_tokens
from shared.errors import UsageError

T = TypeVar("T")

READ_WITHIN_S = 30.0

log = structlog.get_logger()


@asynccontextmanager
async def renewing(
    hangup: asyncio.Event, callers: Callers, tls: ServerTls | None, options: ServerOptions
) -> AsyncIterator[None]:
    """Use what the files hold whenever `hangup` is set; those that can't be used change nothing."""
    task = asyncio.get_running_loop().create_task(_renew_always(hangup, callers, tls, options))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _renew_always(
    hangup: asyncio.Event, callers: Callers, tls: ServerTls | None, options: ServerOptions
) -> None:
    token_file, tls_files = options.token_file, options.tls
    while True:
        await hangup.wait()
        hangup.clear()
        if token_file is not None:
            tokens = await _read_again("tokens", lambda: read_tokens(token_file))
            if tokens is not None:
                callers.accept((*options.fixed_tokens, *tokens))
                log.info("read again", what="tokens")
        if tls is not None and tls_files is not None:
            context = await _read_again("certificate", lambda: server_context(tls_files))
            if context is not None:
                tls.current = context
                log.info("read again", what="certificate")


async def _read_again(what: str, read: Callable[[], T]) -> T | None:
    """What `read` returns; None, and a line in the log, where that can't be used."""
    try:
        async with asyncio.timeout(READ_WITHIN_S):
            return await _aside(read)
    except UsageError as error:
        reason = str(error)
    except TimeoutError:
        reason = f"its file was not read within {READ_WITHIN_S:g} s"
    except Exception as error:  # noqa: BLE001 - not foreseen: it goes on with what it has
        # What it says may quote a token.
        reason = type(error).__name__
    log.warning("what a file holds now is not used", what=what, reason=reason)
    return None


async def _aside(read: Callable[[], T]) -> T:
    """Run it off the loop, on which a file system that hangs would hold up all requests.

    In a thread that the end of the process does not wait for, as it does for `asyncio.to_thread`.
    """
    result: Future[T] = Future()

    def run() -> None:
        if result.set_running_or_notify_cancel():
            try:
                result.set_result(read())
            except BaseException as error:  # noqa: BLE001 - raised to who waits for it
                result.set_exception(error)

    Thread(target=run, daemon=True).start()
    return await asyncio.wrap_future(result)
