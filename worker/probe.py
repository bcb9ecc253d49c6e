"""Asking the endpoint how it is: before the first message, and when it was down."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import aiohttp
import structlog
from pydantic import BaseModel, ConfigDict, ValidationError

from shared.errors import EndpointError
from worker import answers
from worker.endpoint import read_start
from worker.settings import TOKEN_VARIABLE

log = structlog.get_logger()

PAUSE_S = 0.25
READY_S = 10.0
MAX_MODEL_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Profile:
    """What an endpoint says of itself in `/model`; nothing, when it has none."""

    batches: bool = False
    """It takes several rows in one JSON request."""
    fingerprint: str = ""


class _Model(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)

    fingerprint: str = ""
    schemes: dict[str, dict[str, Any]]


async def wait_for_endpoint(session: aiohttp.ClientSession, url: str, *, wait_s: float) -> Profile:
    """Ask `GET /model` until there is an answer.

    Raises `EndpointError` when there is none for `wait_s` seconds, `Unauthorized`.
    """
    loop = asyncio.get_running_loop()
    give_up_s = loop.time() + wait_s
    told = False
    while True:
        try:
            async with asyncio.timeout_at(max(give_up_s, loop.time() + PAUSE_S)):
                return await _ask(session, f"{url}/model")
        except (aiohttp.ClientError, TimeoutError, _NotReadyError) as error:
            reason = str(error) if isinstance(error, _NotReadyError) else type(error).__name__
            if loop.time() + PAUSE_S > give_up_s:
                raise EndpointError(
                    f"no endpoint at {url} ({reason})",
                    retryable=True,
                    remedy="start one with `blindscore serve`, or set BLINDSCORE_ENDPOINT",
                ) from error
        if not told:
            log.info("waiting_for_endpoint", endpoint=url, reason=reason, wait_s=wait_s)
            told = True
        await asyncio.sleep(PAUSE_S)


async def is_ready(session: aiohttp.ClientSession, url: str) -> bool:
    """Ask `GET /ready`. An endpoint that knows no such page, but answers, may be tried too."""
    try:
        async with (
            asyncio.timeout(READY_S),
            session.get(f"{url}/ready", allow_redirects=False) as response,
        ):
            return not answers.is_passing(response.status) or response.status < 300
    except (aiohttp.ClientError, TimeoutError):
        return False


class _NotReadyError(Exception):
    """The endpoint, or a proxy in front of it, answered that it can't answer now."""


async def _ask(session: aiohttp.ClientSession, url: str) -> Profile:
    async with session.get(url, allow_redirects=False) as response:
        if response.status == 401:
            raise answers.unauthorized(TOKEN_VARIABLE)
        if answers.is_passing(response.status) and response.status >= 400:
            raise _NotReadyError(f"it answers {response.status}")
        if response.status != 200:
            return Profile()
        return _profile(await read_start(response.content, MAX_MODEL_BYTES))


def _profile(body: bytes) -> Profile:
    """What `/model` says. A page that isn't ours is an endpoint without `/model`."""
    try:
        model = _Model.model_validate_json(body)
    except ValidationError:
        return Profile()
    ei = model.schemes.get("ei")
    batches = ei is None or ei.get("batch") is True
    return Profile(batches=batches, fingerprint=model.fingerprint)
