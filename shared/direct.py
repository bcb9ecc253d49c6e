"""What both sides of the `direct` scheme must agree on: where things lie, and what is announced.

A row is the polynomial Σ x_i X^i, the weights of a class lie reversed, and one coefficient of their
product is the score: the inner-product packing of Cheetah (Huang, Lu, Hong, Ding: "Cheetah: Lean
and Fast Secure Two-Party Deep Neural Network Inference", USENIX Security 2022, section 3.2).
Nothing here touches a ciphertext; how numbers become integers is in `shared.direct_scale`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from shared.container import Header, Parameter
from shared.errors import CiphertextError, EvaluationKeysError
from shared.params import DIRECT_PRESETS, DirectPreset

Integers = npt.NDArray[np.int64]
Positions = npt.NDArray[np.intp]

SCHEME = "direct"
MAX_KEY_BLOB_BYTES = 4096
MIN_INPUT_BOUND, MAX_INPUT_BOUND = 2.0**-128, 2.0**128


@dataclass(frozen=True, slots=True)
class Layout:
    """Where rows, weights and scores lie in polynomials of `degree` coefficients.

    Row r of a group of n lies at r·S with S = degree // n, class slot c of a product at c·L, and
    their score at r·S + c·L + L - 1, where L is the length of a row or, when a row is longer than
    the ring, of a part of it. All n·(S // L) offsets r·S + c·L are at least L apart, also around
    the end of the ring, so no other row or class reaches a score's coefficient.
    """

    degree: int
    features: int

    @property
    def parts(self) -> int:
        """Ciphertexts that a row longer than the ring is split over; their products add up."""
        return -(-self.features // self.degree)

    @property
    def part_length(self) -> int:
        return -(-self.features // self.parts)

    @property
    def max_group(self) -> int:
        """Rows that can share a ciphertext."""
        return self.degree // self.part_length

    def group_count(self, rows: int) -> int:
        """Groups of rows; each takes `parts` ciphertexts."""
        return -(-rows // self.max_group)

    def groups(self, rows: int) -> list[int]:
        """How many rows share each ciphertext, in order: all full but the last."""
        full, rest = divmod(rows, self.max_group)
        return [self.max_group] * full + [rest] * bool(rest)

    def classes_per_product(self, group: int) -> int:
        return self.degree // group // self.part_length

    def products(self, group: int, classes: int) -> int:
        """Products that give `group` rows all their scores."""
        return -(-classes // self.classes_per_product(group))

    def classes_of(self, group: int, classes: int) -> Iterator[slice]:
        """The classes that each product scores."""
        step = self.classes_per_product(group)
        for first in range(0, classes, step):
            yield slice(first, min(first + step, classes))

    def wanted(self, group: int, classes: int) -> Positions:
        """Coefficients of the scores in a product of `classes` classes, shape (group, classes)."""
        return _wanted(self.degree // group, self.part_length, group, classes)

    def row_coefficients(self, group: int) -> int:
        """Coefficients of a group's polynomial up to the last that can differ from zero."""
        return self.degree // group * (group - 1) + self.part_length

    def row_polynomials(self, rows: Integers) -> Integers:
        """One group's rows, shape (group, features), as (parts, degree) coefficients."""
        group, length = len(rows), self.part_length
        out = np.zeros((self.parts, self.degree), dtype=np.int64)
        stride = self.degree // group
        if self.parts == 1:
            out[0, : group * stride].reshape(group, stride)[:, :length] = rows
        else:
            padded = np.zeros(self.parts * length, dtype=np.int64)
            padded[: self.features] = rows[0]
            out[:, :length] = padded.reshape(self.parts, length)
        return out

    def weight_polynomials(self, weights: Integers) -> Integers:
        """One product's weights, shape (classes, features), as (parts, degree) coefficients."""
        classes, length = len(weights), self.part_length
        padded = np.zeros((classes, self.parts * length), dtype=np.int64)
        padded[:, : self.features] = weights
        parts = padded.reshape(classes, self.parts, length)[:, :, ::-1].swapaxes(0, 1)
        out = np.zeros((self.parts, self.degree), dtype=np.int64)
        out[:, : classes * length] = parts.reshape(self.parts, -1)
        return out


def header_parameters(preset: DirectPreset, *, input_bound: float) -> dict[str, Parameter]:
    """What every header says of the ring and the inputs."""
    return {
        "preset": preset.name,
        "degree": preset.ring.degree,
        "prime_bits": preset.ring.prime_bits,
        "plain_bits": preset.plain_bits,
        "input_bound": float(input_bound),
    }


@lru_cache(maxsize=64)
def make_header(
    preset: DirectPreset,
    *,
    input_bound: float,
    rows: int,
    features: int,
    key_id: str,
    frames: int,
    classes: int = 0,
    weight_bits: int = 0,
) -> Header:
    """A request's header, or a response's, which says `classes` and `weight_bits` as well."""
    parameters = header_parameters(preset, input_bound=input_bound)
    if classes:
        parameters |= {"classes": classes, "weight_bits": weight_bits}
    return Header(
        scheme=SCHEME,
        parameters=parameters,
        rows=rows,
        features=features,
        key_id=key_id,
        frames=frames,
    )


def read_parameters(header: Header, *, extra: tuple[str, ...] = ()) -> tuple[DirectPreset, float]:
    """The preset and the input bound of a header, which must say `extra` besides and no more.

    Raises `CiphertextError` for parameters that we don't know.
    """
    return _read_parameters(
        tuple((name, value) for name, value in header.parameters.items() if name not in extra)
    )


def key_blob(preset: DirectPreset, tag: bytes) -> bytes:
    """What is published under a key id: parameters and a random tag. Nothing computes with it."""
    record = {
        "scheme": SCHEME,
        "version": 1,
        "preset": preset.name,
        "degree": preset.ring.degree,
        "prime_bits": preset.ring.prime_bits,
        "plain_bits": preset.plain_bits,
        "tag": tag.hex(),
    }
    return json.dumps(record, sort_keys=True, separators=(",", ":")).encode()


def read_key_blob(blob: bytes) -> DirectPreset:
    """The preset of a key blob. Raises `EvaluationKeysError` for anything else."""
    try:
        record = json.loads(blob) if len(blob) <= MAX_KEY_BLOB_BYTES else {}
        preset = DIRECT_PRESETS[record["preset"]]
        genuine = blob == key_blob(preset, bytes.fromhex(record["tag"]))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise EvaluationKeysError("not a key blob of the direct scheme") from error
    if not genuine:
        raise EvaluationKeysError("a key blob of the direct scheme with other parameters")
    return preset


@lru_cache(maxsize=64)
def _read_parameters(given: tuple[tuple[str, Parameter], ...]) -> tuple[DirectPreset, float]:
    parameters = dict(given)
    preset = DIRECT_PRESETS.get(str(parameters.get("preset")))
    input_bound = parameters.get("input_bound")
    if preset is None or not isinstance(input_bound, int | float):
        raise CiphertextError("the container's parameters name no preset of direct")
    if not MIN_INPUT_BOUND <= input_bound <= MAX_INPUT_BOUND:
        raise CiphertextError(f"the container's input bound is {input_bound:g}")
    if parameters != header_parameters(preset, input_bound=input_bound):
        raise CiphertextError(f"the container's parameters are not those of preset {preset.name}")
    return preset, float(input_bound)


@lru_cache(maxsize=256)
def _wanted(stride: int, length: int, group: int, classes: int) -> Positions:
    rows = np.arange(group)[:, None] * stride
    positions: Positions = rows + np.arange(classes) * length + length - 1
    positions.setflags(write=False)
    return positions
