"""What is told of requests that are no HTTP: aiohttp answers them before our application can."""

from __future__ import annotations

import logging

from aiohttp import web_response
from aiohttp.http_exceptions import HttpProcessingError

SERVER = "blindscore"

logger = logging.getLogger("score.http")


def _without_callers_bytes(record: logging.LogRecord) -> bool:
    """The error quotes the line that it could not read, and that may be the one with the token."""
    if record.exc_info and isinstance(record.exc_info[1], HttpProcessingError):
        record.exc_info = None
    return True


logger.addFilter(_without_callers_bytes)
# Which versions run here is nobody's business, and there is no option for it.
web_response.SERVER_SOFTWARE = SERVER  # type: ignore[attr-defined]
