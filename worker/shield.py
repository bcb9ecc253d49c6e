"""Work that a cancellation must not cut in half."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog

log = structlog.get_logger()


async def uninterrupted(work: Coroutine[Any, Any, None]) -> None:
    """Carry `work` to its end even if cancelled meanwhile, and only then give way.

    A second cancellation ends it.
    """
    task = asyncio.create_task(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        try:
            await asyncio.wait({task})
        finally:
            task.cancel()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("final_write_failed", error=str(error))
        raise
