"""Logging: one event a line on standard error, human on a terminal, JSON elsewhere.

Events carry names, sizes and times; never keys, connection strings, rows or scores.
"""

from __future__ import annotations

import logging
import sys

import structlog

from shared.errors import UsageError

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


def configure(level: str = "info", *, json: bool | None = None) -> None:
    """Set up logging for a program. Raises `UsageError` for an unknown level."""
    if level not in LEVELS:
        raise UsageError(f"unknown log level {level!r}", remedy=f"one of {', '.join(LEVELS)}")
    as_json = not sys.stderr.isatty() if json is None else json
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    # Libraries log through the standard module; the Azure SDK's request logs are headers and URLs.
    logging.basicConfig(level=max(LEVELS[level], logging.WARNING), stream=sys.stderr, force=True)
