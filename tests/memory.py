"""What a piece of code takes of memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(slots=True)
class Peak:
    """The largest number of bytes that Python and numpy held at once, known at the end."""

    bytes: int = 0


@contextmanager
def traced_peak() -> Iterator[Peak]:
    """Measure the code in the context."""
    peak = Peak()
    tracemalloc.start()
    try:
        yield peak
        _, peak.bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
