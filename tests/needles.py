"""What must not be found, in the forms in which it would show, and how it is looked for."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote, quote_plus

import numpy as np

START_BYTES = 6
WINDOW_BYTES = 16
WINDOWS = 5
MIN_DISTINCT_BYTES = 5
"""Windows of fewer different bytes, such as runs of zeros, are in many places by chance."""


@dataclass(frozen=True, slots=True)
class Needle:
    """A secret, or a part of one, in one form."""

    secret: str
    """What it is of, for example "account key"."""
    form: str
    data: bytes


def of_bytes(secret: str, data: bytes) -> Iterator[Needle]:
    """A few windows of a secret's bytes, in every form; all of one that is short."""
    distinct = [window for window in _windows(data) if len(set(window)) >= MIN_DISTINCT_BYTES]
    assert distinct, f"{secret} can't be told from anything else"
    for window in distinct:
        yield Needle(secret, "bytes", window)
        yield Needle(secret, "hexadecimal", window.hex().encode())
        yield Needle(secret, "upper-case hexadecimal", window.hex().upper().encode())
        yield Needle(secret, "Python literal", repr(window)[2:-1].encode())
        yield Needle(secret, "list of numbers", ", ".join(map(str, window)).encode())
        for shift in range(3):
            text = _base64_within(window, shift)
            yield Needle(secret, f"base64, shifted by {shift}", text)
            yield Needle(secret, f"URL-safe base64, shifted by {shift}", _url_safe(text))


def of_text(secret: str, text: str) -> Iterator[Needle]:
    """A text, as it is and as other formats would carry it."""
    yield Needle(secret, "text", text.encode())
    yield Needle(secret, "JSON", json.dumps(text)[1:-1].encode())
    yield Needle(secret, "URL", quote(text, safe="").encode())
    yield Needle(secret, "form", quote_plus(text).encode())
    yield Needle(secret, "hexadecimal", text.encode().hex().encode())
    for shift in range(3):
        yield Needle(secret, f"base64, shifted by {shift}", _base64_within(text.encode(), shift))


def leaks(
    evidence: Mapping[bytes, set[str]],
    needles: list[Needle],
    is_expected: Callable[[str, str], bool],
) -> list[str]:
    """Where a secret is found and is not expected: a line for each secret, form and place.

    `evidence` is all that was seen, and where; `is_expected` is told a secret and a place.
    """
    search = Search(needles)
    return sorted(
        {
            f"{needle.secret} ({needle.form}) in {place}"
            for data, places in evidence.items()
            for needle in search.hits(data)
            for place in places
            if not is_expected(needle.secret, place)
        }
    )


class Search:
    """Looks for hundreds of needles at once: a pass a needle would take a minute.

    Positions are sieved by the pairs of bytes that needles begin with, then compared.
    """

    def __init__(self, needles: Sequence[Needle]) -> None:
        self._by_start: dict[bytes, list[Needle]] = {}
        self._begins = np.zeros((START_BYTES // 2, 1 << 16), dtype=np.bool_)
        for needle in needles:
            start = needle.data[:START_BYTES]
            assert len(start) == START_BYTES, f"{needle} is too short to be told from anything else"
            self._by_start.setdefault(start, []).append(needle)
            for index, pair in enumerate(np.frombuffer(start, dtype="<u2")):
                self._begins[index, pair] = True

    def hits(self, data: bytes) -> set[Needle]:
        """The needles that are in `data`."""
        if len(data) < START_BYTES:
            return set()
        values = np.frombuffer(data, dtype=np.uint8).astype(np.uint16)
        pairs = values[:-1] | values[1:] << 8
        last = len(pairs) - START_BYTES + 2
        sieved = np.logical_and.reduce(
            [begins[pairs[2 * i : last + 2 * i]] for i, begins in enumerate(self._begins)]
        )
        return {
            needle
            for place in np.flatnonzero(sieved).tolist()
            for needle in self._by_start.get(data[place : place + START_BYTES], ())
            if data.startswith(needle.data, place)
        }


def _windows(data: bytes) -> Iterator[bytes]:
    last = max(0, len(data) - WINDOW_BYTES)
    for start in sorted({round(last * i / (WINDOWS - 1)) for i in range(WINDOWS)}):
        yield data[start : start + WINDOW_BYTES]


def _base64_within(data: bytes, shift: int) -> bytes:
    """The base64 of data that begins `shift` bytes after a multiple of three; whole characters."""
    text = base64.b64encode(bytes(shift) + data)
    first = -(-shift * 8 // 6)
    return text[first : (shift + len(data)) * 8 // 6]


def _url_safe(text: bytes) -> bytes:
    return text.replace(b"+", b"-").replace(b"/", b"_")
