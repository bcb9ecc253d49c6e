"""The `packed` scheme, key owner's side: thousands of values in each ciphertext.

A ciphertext is SEAL's symmetric, seeded encryption of zero, in the coefficient form that SEAL's BFV
has, plus the scaled values of the rows. That is what SEAL's own encryptor does (`encryptor.cpp`: it
encrypts zero, then adds the plaintext), but for a division by the plain modulus in each coefficient
and a plaintext object, a fifth of the time. See `shared.packed` for layout and formats.
"""

from __future__ import annotations

import hashlib
import math
import secrets
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from operator import itemgetter
from typing import Any, NoReturn

import msgpack
import numpy as np
import numpy.typing as npt
from tenseal import sealapi

from producer.rows import Rows
from producer.schemes import Encoding, Scores
from producer.schemes.packed_seal import encryption_of_zero, plain_coefficients
from shared import bfv, container, packed, seal
from shared.coefficients import Words
from shared.container import CONTENT_TYPE, Header
from shared.errors import (
    CiphertextError,
    DatasetError,
    EvaluationKeysError,
    MalformedRequest,
    SecretKeyError,
    UsageError,
)
from shared.params import (
    PACKED_DEFAULT,
    PACKED_PRESETS,
    PackedPreset,
    interchangeable,
    served_by,
)

SECRET_MAGIC = "blindscore-packed-secret"  # noqa: S105 - a format's name
TAG_BYTES = 16
FEATURES_AT_ONCE = 16
"""Columns are read from the rows in groups, or every value would cost a cache miss."""


class PackedKey:
    """A secret key and the ring it lives in."""

    scheme = packed.SCHEME

    def __init__(self, preset: PackedPreset, blob: bytes, secret_key: Any) -> None:
        self.preset = preset
        self.key_id = hashlib.sha256(blob).hexdigest()
        self._blob = blob
        self._ring = bfv.ring(preset)
        self._secret_key = secret_key
        self._encryptor = sealapi.Encryptor(self._ring.context, secret_key)
        self._decryptor = sealapi.Decryptor(self._ring.context, secret_key)

    def __repr__(self) -> str:
        return f"PackedKey(preset={self.preset.name!r}, key_id={self.key_id!r}, secret=<redacted>)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret key does not pickle: use export_secret and load")

    @property
    def preset_name(self) -> str:
        return self.preset.name

    def evaluation_keys(self) -> bytes:
        """The key blob: parameters and a random tag, some 150 bytes."""
        return self._blob

    def export_secret(self) -> bytes:
        """The key blob and SEAL's secret key, some 33 KB."""
        exported: bytes = msgpack.packb(
            [SECRET_MAGIC, 1, self._blob, seal.save(self._secret_key, secret=True)]
        )
        return exported

    def encrypt(self, rows: Rows, encoding: Encoding) -> Iterator[bytes]:
        """A container: an encryption of zero, then the features', each ciphertext as it is made.

        `rows` has shape (rows, `encoding.features`), with at most `preset.ring.degree` rows; for a
        part it has the part's features, and only the first part has what is before them.
        Raises `DatasetError` or `UsageError`, before the first piece.
        """
        preset = served_by(self.preset, encoding.preset or self.preset.name)
        check_rows(rows, encoding, preset)
        parameters = packed.header_parameters(preset, input_bound=encoding.input_bound)
        features: range | tuple[int, ...] = range(encoding.features)
        if encoding.active is not None and len(sent := set(encoding.active)) < encoding.features:
            features = tuple(sorted(sent))
            parameters["active"] = packed.write_active(features, encoding.features)
        groups = packed.ciphertexts(preset, rows=len(rows), features=features)
        header = Header(
            scheme=self.scheme,
            parameters=parameters,
            rows=len(rows),
            features=encoding.features,
            key_id=self.key_id,
            frames=1 + len(groups),
        )
        columns = encoding.columns or range(encoding.features)
        before = bisect_left(groups, columns.start, key=itemgetter(0))
        own = groups[before : bisect_left(groups, columns.stop, key=itemgetter(0))]
        scale = math.ldexp(1.0, packed.scale_bits(preset, encoding.input_bound))
        ciphertexts = self._ciphertexts(preset, rows, own, columns.start, scale)
        frames = container.write_frames(ciphertexts, first=1 + before)
        return frames if columns.start else chain(self._start(header), frames)

    def decrypt(self, body: bytes, *, rows: int) -> Scores:
        """Scores of `rows` rows, shape (rows, classes), from a response's container.

        Raises `MalformedRequest`, `BodyTooLarge`, `CiphertextError`.
        """
        if rows > self._ring.degree:
            raise CiphertextError(f"{rows} rows don't fit preset {self.preset.name} of packed")
        frame_bytes = (rows + self._ring.degree) * self.preset.result_bytes
        header, payloads = container.read(body, max_frame_bytes=frame_bytes)
        units = self._check_response(header, rows=rows)
        for payload in payloads:  # before there is room for what they only promise
            if len(payload) != frame_bytes:
                raise CiphertextError(
                    f"a result has {len(payload)} bytes, {frame_bytes} are needed"
                )
        scores = np.zeros((rows, header.frames // len(units)))
        for k, payload in enumerate(payloads):
            words = bfv.unpack(self._ring, payload, what="a result")
            polynomials = np.zeros((2, self._ring.degree), dtype=np.uint64)
            polynomials[0, :rows] = words[:rows]
            polynomials[1] = words[rows:]
            plain = sealapi.Plaintext()
            self._decryptor.decrypt(bfv.ciphertext(self._ring, polynomials), plain)
            column, digit = divmod(k, len(units))
            scores[:, column] += plain_coefficients(self._ring, plain)[:rows] * units[digit]
        return scores

    def _start(self, header: Header) -> Iterator[bytes]:
        """The header, and the encryption of zero."""
        yield container.write_header(header)
        zero, seed = encryption_of_zero(self._ring, self._encryptor)
        yield from container.write_frames([packed.write_zero(self.preset, seed, zero)])

    def _ciphertexts(
        self,
        preset: PackedPreset,
        rows: Rows,
        groups: Sequence[Sequence[int]],
        offset: int,
        scale: float,
    ) -> Iterator[bytes]:
        """One for each group of features; the first column of `rows` is feature `offset`."""
        prime = preset.prime
        at_once = max(1, FEATURES_AT_ONCE // len(groups[0])) if groups else 1
        for first in range(0, len(groups), at_once):
            some = groups[first : first + at_once]
            features = list(chain.from_iterable(some))
            integers = np.rint(_columns(rows, features, offset) * scale).astype(np.int64)
            words = modulo(integers, prime)
            for group in some:
                values, words = words[: len(group)].ravel(), words[len(group) :]
                zero, seed = encryption_of_zero(self._ring, self._encryptor)
                sums = add_modulo(zero[: values.size], values, prime)
                yield packed.write_features(preset, seed, sums)

    def _check_response(self, header: Header, *, rows: int) -> list[float]:
        """What a unit of the coefficients of each of a class's digits is worth.

        For a response that is for us; raises `CiphertextError` or `MalformedRequest` for any other.
        """
        if header.scheme != self.scheme or header.key_id != self.key_id:
            raise CiphertextError(f"the response is not for packed key {self.key_id}")
        if header.rows != rows:
            raise MalformedRequest(f"the response has {header.rows} rows, {rows} were asked for")
        preset, input_bound = packed.read_parameters(header, extra=packed.WEIGHTS)
        match [header.parameters.get(name) for name in packed.WEIGHTS]:
            case [int(bits), int(digits), int(digit_bits)] if (
                preset in interchangeable(self.preset)
                and abs(bits) <= packed.MAX_WEIGHT_BITS
                and 1 <= digits <= packed.MAX_WEIGHT_DIGITS
                and digit_bits >= 0
                and digit_bits * (digits - 1) <= packed.MAX_DIGITS_BITS
                and header.frames
                and header.frames % digits == 0
            ):
                unit = preset.prime / 2.0**preset.plain_bits
                lowest = -(packed.scale_bits(preset, input_bound) + bits)
                return [math.ldexp(unit, lowest + digit_bits * digit) for digit in range(digits)]
        raise CiphertextError("the response's parameters are not those of the request")


class PackedScheme:
    """Keys of the `packed` scheme."""

    name = packed.SCHEME
    content_type = CONTENT_TYPE
    reads_foreign_objects = False

    def rows_per_job(self, preset: str = "", /) -> int:
        """As many as a ciphertext has coefficients."""
        return PACKED_PRESETS.get(preset, PACKED_PRESETS[PACKED_DEFAULT]).ring.degree

    def split(self, encoding: Encoding) -> Sequence[Encoding]:
        """The sections of the features: no ciphertext depends on those of others."""
        features = range(encoding.features)
        starts = features[:: packed.SECTION_FEATURES]
        return [
            replace(encoding, columns=features[start : start + packed.SECTION_FEATURES])
            for start in starts
        ]

    def generate(self, preset: str = "") -> PackedKey:
        """A new key for a preset of `shared.params.PACKED_PRESETS`. Raises `UsageError`."""
        preset = preset or PACKED_DEFAULT
        if preset not in PACKED_PRESETS:
            raise UsageError(
                f"unknown preset {preset!r} of packed", remedy=f"one of {', '.join(PACKED_PRESETS)}"
            )
        chosen = PACKED_PRESETS[preset]
        blob = packed.key_blob(chosen, secrets.token_bytes(TAG_BYTES))
        secret_key = sealapi.KeyGenerator(bfv.ring(chosen).context).secret_key()
        return PackedKey(chosen, blob, secret_key)

    def load(self, secret: bytes) -> PackedKey:
        """The key of an exported secret. Raises `SecretKeyError`."""
        try:
            match msgpack.unpackb(secret):
                case [str(magic), 1, bytes(blob), bytes(key_bytes)] if magic == SECRET_MAGIC:
                    pass
                case _:
                    raise SecretKeyError("not a secret of the packed scheme")
            preset = packed.read_key_blob(blob)
            secret_key = seal.load(
                sealapi.SecretKey(),
                bfv.ring(preset).context,
                key_bytes,
                what="the secret key",
                secret=True,
            )
        except (ValueError, EvaluationKeysError, CiphertextError) as error:
            raise SecretKeyError(f"the secret of a packed key is damaged: {error}") from error
        return PackedKey(preset, blob, secret_key)


SCHEME = PackedScheme()


def check_rows(rows: Rows, encoding: Encoding, preset: PackedPreset) -> None:
    """Refuse a block that can't be encoded. Raises `DatasetError`, naming the row and the value."""
    bound = encoding.input_bound
    if rows.ndim != 2 or 0 in rows.shape:
        raise DatasetError(f"a block has shape {rows.shape}; (rows, features) is needed")
    columns = encoding.columns or range(encoding.features)
    if rows.shape[1] != len(columns):
        raise DatasetError(f"rows have {rows.shape[1]} features, the run has {len(columns)}")
    if len(rows) > preset.ring.degree:
        raise DatasetError(
            f"a block of {len(rows)} rows doesn't fit preset {preset.name} of packed",
            remedy=f"use at most {preset.ring.degree} rows a job",
        )
    if not packed.MIN_INPUT_BOUND <= bound <= packed.MAX_INPUT_BOUND:
        raise DatasetError(f"an input bound of {bound:g} can't be scaled", remedy="scale the data")
    if encoding.active and not set(encoding.active) <= set(range(encoding.features)):
        raise DatasetError(f"the model announces features beyond the rows' {encoding.features}")
    if not (-bound <= rows.min() and rows.max() <= bound):
        row, feature = np.argwhere(~(np.abs(rows) <= bound))[0]
        raise DatasetError(
            f"row {row} of the block has {rows[row, feature]:g} as feature "
            f"{columns.start + feature}: "
            f"beyond the declared bound of {bound:g}"
        )


def _columns(rows: Rows, features: Sequence[int], offset: int) -> Rows:
    """Those of `features`, shape (features, rows); the first of `rows` is feature `offset`."""
    first, end = features[0] - offset, features[-1] + 1 - offset
    if end - first == len(features):
        return rows.T[first:end]  # far cheaper to read than a list of the same columns
    return rows.T[[feature - offset for feature in features]]


def modulo(integers: npt.NDArray[np.int64], prime: int) -> Words:
    """Integers above -prime and below it, modulo the prime."""
    return (integers + ((integers >> 63) & prime)).view(np.uint64)


def add_modulo(left: Words, right: Words, prime: int) -> Words:
    """The sum of two arrays of residues, modulo a prime below 2^63."""
    sums: Words = left + right
    # The smaller of the two is the one below the prime, as a negative number wraps to a huge one.
    np.minimum(sums, sums - np.uint64(prime), out=sums)
    return sums
