"""Rows hidden among a block's own, so that a broken, careless or cheating scorer is noticed.

With K canaries a block gets, in places that only the key owner can tell, copies of K of its rows,
and one contrast: a row unlike them. Encrypted, all rows look alike. Once scored, copies must have
the scores of their rows, and the contrast must not. (Without it, a scorer that gives every row
the same scores would pass: that is a linear model too, so no relation that holds between the
scores of honest linear models could tell.)

Places come from HMAC-SHA256, under a key derived from the run's secret key, of run and job. So
nothing in the account reveals them, they are different in each job, and every machine that has
the key finds them. docs/verification.md says what this can and can't detect.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from producer.rows import StoredRows
from producer.schemes import Scores
from shared.errors import BlindscoreError, UsageError

RELATIVE_TOLERANCE = 1e-3
"""Of the distance between a block's scores. Copies differ by 4e-6 of it in the coarsest preset of
`packed`, by 1e-7 in its default one, and not at all in `direct`."""
ABSOLUTE_TOLERANCE = 1e-5
"""For scores so small that the error of `ei`, which does not shrink with them, is what is left."""
NOISE_FACTOR = 20.0
"""Scores closer together than this many times the largest error seen are as good as the same."""
EXACT = 1e-12

Places = npt.NDArray[np.intp]


def hidden_rows(copies: int) -> int:
    """How many rows more than its own a block's body has."""
    return copies + 1 if copies else 0


def data_rows(rows_per_job: int, copies: int) -> int:
    """How many rows of its own a block may have. Raises `UsageError` when that is none."""
    room = rows_per_job - hidden_rows(copies)
    if room < 1:
        raise UsageError(
            f"{copies} canaries (and a contrast) leave no room in jobs of {rows_per_job} rows",
            remedy="fewer --canaries, or more --rows-per-job",
        )
    return room


class CanaryError(BlindscoreError):
    """A job's hidden rows don't have the scores that an honest scorer gives them."""

    code = "canary"


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things are in a block's body; each place is an index of the body's rows."""

    data: Places
    """The block's own rows, in order."""
    copies: Places
    sources: Places
    """The row that each copy is of."""
    contrast: int


@dataclass(frozen=True, slots=True, repr=False)
class Canaries:
    """Hides `copies` canaries in each block of a run; 0 hides nothing."""

    key: bytes
    run: str
    copies: int

    @property
    def hidden(self) -> int:
        return hidden_rows(self.copies)

    def hide(self, stored: StoredRows, *, job: str, input_bound: float) -> StoredRows:
        """The body's rows, shape (rows + hidden, features); |x| ≤ `input_bound` as before."""
        if not self.copies:
            return stored
        rows = stored.rows
        layout = self._layout(job, rows.shape[0])
        body = np.empty((rows.shape[0] + self.hidden, rows.shape[1]))
        body[layout.data] = rows
        body[layout.copies] = body[layout.sources]
        noise = self._stream(job, "contrast", rows.shape[1])
        body[layout.contrast] = _contrast(body[layout.sources[0]], noise, input_bound)
        return StoredRows(body)

    def reveal(self, scores: Scores, *, job: str) -> Scores:
        """The scores of the block's own rows, from those of the body's. Raises `CanaryError`."""
        if not self.copies:
            return scores
        layout = self._layout(job, scores.shape[0] - self.hidden)
        _require_equal(scores, layout)
        return np.ascontiguousarray(scores[layout.data])

    def _layout(self, job: str, rows: int) -> Layout:
        places = self._shuffled(job, "places", rows + self.hidden)
        data = np.sort(places[self.hidden :])
        sources = self._shuffled(job, "sources", rows)[np.arange(self.copies) % rows]
        return Layout(
            data=data,
            copies=places[1 : self.hidden],
            sources=data[sources],
            contrast=int(places[0]),
        )

    def _shuffled(self, job: str, what: str, count: int) -> Places:
        """0 … count-1 in an order that nobody without the key can tell."""
        numbers = np.frombuffer(self._stream(job, what, 8 * count), dtype="<u8")
        return np.argsort(numbers, kind="stable")

    def _stream(self, job: str, what: str, size: int) -> bytes:
        """`size` bytes of SHAKE-256, seeded by the HMAC: the same with every version of numpy."""
        seed = hmac.digest(self.key, f"{self.run}/{job}/{what}".encode(), "sha256")
        return hashlib.shake_256(seed).digest(size)


def _contrast(row: npt.NDArray[np.float64], noise: bytes, bound: float) -> npt.NDArray[np.float64]:
    """A row that differs from `row` in every feature, by at least half of the bound.

    Its values are multiples of bound/255, which every grid of `direct` has.
    """
    values = np.frombuffer(noise, dtype=np.uint8)
    sizes: npt.NDArray[np.float64] = np.minimum((128 + (values & 127)) * (bound / 255), bound)
    at_random = np.where(values & 128, 1.0, -1.0)
    signs: npt.NDArray[np.float64] = np.where(row == 0, at_random, -np.sign(row))
    return signs * sizes


def _require_equal(scores: Scores, layout: Layout) -> None:
    """Raise `CanaryError` unless copies score like their rows, and unlike the contrast.

    Distances are the largest over the classes. How far apart scores lie is the median distance to
    the contrast's, which a few wild answers can't stretch, unless they hit the contrast itself.
    """
    if not np.isfinite(scores).all():
        raise CanaryError("there are scores that are no numbers")
    errors = np.abs(scores[layout.copies] - scores[layout.sources]).max(axis=1)
    others = np.delete(scores, layout.contrast, axis=0)
    distance = float(np.median(np.abs(others - scores[layout.contrast]).max(axis=1)))
    tolerance = RELATIVE_TOLERANCE * distance + ABSOLUTE_TOLERANCE
    if wrong := int((errors > tolerance).sum()):
        raise CanaryError(
            f"{wrong} of {len(errors)} hidden copies of rows don't have their rows' scores: "
            f"off by up to {errors.max():.3g}, where {tolerance:.3g} is allowed"
        )
    if distance <= NOISE_FACTOR * float(errors.max()) + EXACT * float(np.abs(scores).max()):
        raise CanaryError("different rows have the same scores: the model was not applied")
