"""Sitting out a storage account that can't be reached for a while."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from shared.errors import StorageUnavailable

T = TypeVar("T")

PATIENCE_S = 120.0
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 5.0


async def patiently(call: Callable[[], Awaitable[T]], *, patience_s: float = PATIENCE_S) -> T:
    """Make a storage call again and again while the account is out of reach, for so long.

    The call must bear being carried out twice. Raises what it raises; `StorageUnavailable` only
    `patience_s` seconds after it was first raised: a long call may go well for longer than that.
    """
    clock = asyncio.get_running_loop().time
    give_up_at: float | None = None
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            return await call()
        except StorageUnavailable:
            if give_up_at is None:
                give_up_at = clock() + patience_s
            elif clock() + pause_s > give_up_at:
                raise
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
