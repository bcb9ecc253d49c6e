"""What aiohttp answers before our application can: bytes that are no HTTP, and expectations."""

from __future__ import annotations

import logging

from aiohttp import web, web_response, web_urldispatcher
from aiohttp.http_exceptions import HttpProcessingError

SERVER = "blindscore"

logger = logging.getLogger("score.http")


def _without_callers_bytes(record: logging.LogRecord) -> bool:
    """The error quotes the line that it could not read, and that may be the one with the token."""
    if record.exc_info and isinstance(record.exc_info[1], HttpProcessingError):
        record.exc_info = None
    return True


async def _expect_nothing(request: web.Request) -> None:
    """Have routes answer at once, whatever the caller expects, unless they say otherwise.

    An expectation nobody knows may be ignored, and one of a cue is met by the answer itself (RFC
    9110, section 10.1.1). aiohttp would answer the former 417, even where there is no route.
    """


logger.addFilter(_without_callers_bytes)
# There is no option for it where there is no route.
web_urldispatcher._default_expect_handler = _expect_nothing  # noqa: SLF001
# Which versions run here is nobody's business, and there is no option for it.
web_response.SERVER_SOFTWARE = SERVER  # type: ignore[attr-defined]
