"""The key owner's side of each scheme: how rows become ciphertexts, and results become scores.

A scheme is one small class behind `ClientScheme`; nothing else in the producer asks which it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt

from producer.rows import Rows
from shared.errors import UsageError

Scores = npt.NDArray[np.float64]
"""Decrypted scores, shape (rows, classes); one column for a binary model or a regressor."""

SCHEME_NAMES = ("ei", "direct", "packed")


@dataclass(frozen=True, slots=True)
class Encoding:
    """What a run fixes for all of its blocks."""

    container: str
    """The storage container: part of an `ei` request."""
    features: int
    input_bound: float
    """Every |x| is at most this; scales are chosen from it, and a row beyond it is refused."""
    active: tuple[int, ...] | None = None
    """The features that the model uses, in order, where its owner announces them: a scheme may
    leave out the others. None: not announced."""
    preset: str = ""
    """How values are coded, where a key serves several presets; none: as the key's own says."""
    columns: range | None = None
    """Of a part of a block (see `ClientScheme.split`): the features that its rows have."""


class ClientKey(Protocol):
    """A secret key of one scheme. It never leaves the key owner's machine."""

    scheme: str
    key_id: str

    @property
    def preset_name(self) -> str:
        """Of the scheme's parameters; empty where the scheme has no presets."""
        ...

    def evaluation_keys(self) -> bytes:
        """The public key blob, published under `key_id`."""
        ...

    def export_secret(self) -> bytes:
        """The secret, for `shared`-free storage by `producer.keys` alone."""
        ...

    def encrypt(self, rows: Rows, encoding: Encoding) -> Iterator[bytes]:
        """A block of rows as a request body, piece by piece. Raises `DatasetError`."""
        ...

    def decrypt(self, body: bytes, *, rows: int) -> Scores:
        """A response body's scores. Raises `CiphertextError`, `MalformedRequest`."""
        ...


class ClientScheme(Protocol):
    """How keys of a scheme come to be, and how many rows one job of it takes."""

    name: str
    content_type: str
    """Of the request bodies that its keys' `encrypt` makes."""
    reads_foreign_objects: bool
    """Whether results are serialised objects of a native library, as others wrote them: one may
    end the process that reads it."""

    def rows_per_job(self, preset: str = "", /) -> int:
        """In one job of a key of this preset, unless its owner wants something else."""
        ...

    def split(self, encoding: Encoding) -> Sequence[Encoding]:
        """Parts in which a block may be encrypted, on any core: their bodies, in order, are its.

        What they raise, the block would. A scheme that works row by row has one part.
        """
        ...

    def generate(self, preset: str = "") -> ClientKey:
        """A new key, for a preset of the scheme's parameters. Raises `UsageError`."""
        ...

    def load(self, secret: bytes) -> ClientKey:
        """Raises `SecretKeyError`."""
        ...


def client_scheme(name: str) -> ClientScheme:
    """The scheme of that name; its libraries are imported only now. Raises `UsageError`."""
    return cast("ClientScheme", import_module(module_of(name)).SCHEME)


def module_of(name: str) -> str:
    """The module of the scheme of that name. Raises `UsageError`."""
    if name not in SCHEME_NAMES:
        raise UsageError(f"unknown scheme {name!r}", remedy=f"one of {', '.join(SCHEME_NAMES)}")
    return f"{__name__}.{name}"
