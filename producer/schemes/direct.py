"""The `direct` scheme, key owner's side: a row in one ciphertext, its scores in one or two.

SEAL BFV with symmetric, seeded encryption; see `shared.direct` for where things lie and how they
are quantised. A request carries, before its rows, one encryption of zero: the scorer makes a fresh
mask of it for each result (see `score.schemes.direct`). The key blob holds parameters only.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, NoReturn

import msgpack
import numpy as np
import numpy.typing as npt
from tenseal import sealapi

from producer.rows import Rows
from producer.schemes import Encoding, Scores
from shared import bfv, container, direct, direct_scale, seal
from shared.container import CONTENT_TYPE, Header
from shared.direct import Integers, Layout, Positions
from shared.errors import (
    CiphertextError,
    DatasetError,
    EvaluationKeysError,
    MalformedRequest,
    SecretKeyError,
    UsageError,
)
from shared.params import DIRECT_DEFAULT, DIRECT_PRESETS, DirectPreset

SECRET_MAGIC = "blindscore-direct-secret"  # noqa: S105 - a format's name
TAG_BYTES = 16
OFF_GRID_STEPS = 0.01
"""A value this far from the grid, in steps of it, counts as on it: floats are not exact."""


class DirectKey:
    """A secret key and the ring it lives in. Usable from several threads at once."""

    scheme = direct.SCHEME

    def __init__(self, preset: DirectPreset, blob: bytes, secret_key: Any) -> None:
        self.preset = preset
        self.key_id = hashlib.sha256(blob).hexdigest()
        self._blob = blob
        self._ring = bfv.ring(preset)
        self._secret_key = secret_key
        self._encryptor = sealapi.Encryptor(self._ring.context, secret_key)
        self._decryptor = sealapi.Decryptor(self._ring.context, secret_key)

    def __repr__(self) -> str:
        return f"DirectKey(preset={self.preset.name!r}, key_id={self.key_id!r}, secret=<redacted>)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret key does not pickle: use export_secret and load")

    @property
    def preset_name(self) -> str:
        return self.preset.name

    def evaluation_keys(self) -> bytes:
        """The key blob: parameters and a random tag, some 150 bytes."""
        return self._blob

    def export_secret(self) -> bytes:
        """The key blob and SEAL's secret key, 33 to 60 KB."""
        packed: bytes = msgpack.packb(
            [SECRET_MAGIC, 1, self._blob, seal.save(self._secret_key, secret=True)]
        )
        return packed

    def encrypt(self, rows: Rows, encoding: Encoding) -> Iterator[bytes]:
        """A container: an encryption of zero, then the rows, ciphertext by ciphertext.

        `rows` has shape (rows, `encoding.features`). Raises `DatasetError`, before the first piece.
        """
        integers = quantise_rows(rows, encoding, self.preset)
        layout = Layout(self.preset.ring.degree, encoding.features)
        groups = layout.groups(len(rows))
        header = direct.make_header(
            self.preset,
            input_bound=encoding.input_bound,
            rows=len(rows),
            features=encoding.features,
            key_id=self.key_id,
            frames=1 + len(groups) * layout.parts,
        )
        return container.write(header, self._ciphertexts(integers, layout, groups))

    def decrypt(self, body: bytes, *, rows: int) -> Scores:
        """Scores of `rows` rows, shape (rows, classes), from a response's container.

        Raises `MalformedRequest`, `BodyTooLarge`, `CiphertextError`.
        """
        header, payloads = container.read(body, max_frame_bytes=self._max_result_bytes)
        classes, scale = self._check_response(header, rows=rows)
        self._require_whole(payloads, rows=rows)
        layout = Layout(self._ring.degree, header.features)
        groups = layout.groups(rows)
        if len(payloads) != sum(layout.products(group, classes) for group in groups):
            raise MalformedRequest(f"the response has {len(payloads)} results, not one a product")
        scores = np.empty((rows, classes))
        results, first = iter(payloads), 0
        for group in groups:
            for part in layout.classes_of(group, classes):
                wanted = layout.wanted(group, part.stop - part.start)
                values = self._open(next(results), wanted.ravel()).reshape(wanted.shape)
                scores[first : first + group, part] = values / scale
            first += group
        return scores

    @property
    def _max_result_bytes(self) -> int:
        return 2 * self._ring.degree * self.preset.result_bytes

    @cached_property
    def _zero(self) -> bytes:
        """An encryption of zero: the same in every request, as a public key would be."""
        parms_id = list(self._ring.result.parms_id)
        return seal.save(self._encryptor.encrypt_zero_symmetric(parms_id))

    def _ciphertexts(
        self, integers: Integers, layout: Layout, groups: list[int]
    ) -> Iterator[bytes]:
        yield self._zero
        first = 0
        for group in groups:
            used = layout.row_coefficients(group)
            for polynomial in layout.row_polynomials(integers[first : first + group]):
                plain = bfv.plaintext(self._ring, polynomial[:used])
                yield seal.save(self._encryptor.encrypt_symmetric(plain))
            first += group

    def _check_response(self, header: Header, *, rows: int) -> tuple[int, float]:
        """The number of classes and the scale of a response that is for this key and request."""
        if header.scheme != self.scheme or header.key_id != self.key_id:
            raise CiphertextError(f"the response is not for direct key {self.key_id}")
        if header.rows != rows:
            raise MalformedRequest(f"the response has {header.rows} rows, {rows} were asked for")
        preset, input_bound = direct.read_parameters(header, extra=("classes", "weight_bits"))
        classes, bits = header.parameters.get("classes"), header.parameters.get("weight_bits")
        if (
            preset != self.preset
            or not (isinstance(classes, int) and 0 < classes <= header.frames * self._ring.degree)
            or not (isinstance(bits, int) and abs(bits) <= direct_scale.MAX_WEIGHT_BITS)
        ):
            raise CiphertextError("the response's parameters are not those of the request")
        return classes, direct_scale.product_scale(
            preset, features=header.features, input_bound=input_bound, weight_bits=bits
        )

    def _require_whole(self, payloads: list[bytes], *, rows: int) -> None:
        """That so many rows have results of some size, before there is room for their scores."""
        if rows > len(payloads) * self._ring.degree:
            raise MalformedRequest(f"{len(payloads)} results are too few for {rows} rows")
        least = min(map(len, payloads))
        if least <= self._ring.degree * self.preset.result_bytes:
            raise CiphertextError(f"a result has {least} bytes, which its shape forbids")

    def _open(self, payload: bytes, wanted: Positions) -> Integers:
        """The integers at the coefficients `wanted` of a result."""
        if len(payload) != (len(wanted) + self._ring.degree) * self.preset.result_bytes:
            raise CiphertextError(f"a result has {len(payload)} bytes, which its shape forbids")
        words = bfv.unpack(self._ring, payload, what="a result")
        polynomials = np.zeros((2, self._ring.degree), dtype=np.uint64)
        polynomials[0, wanted] = words[: len(wanted)]
        polynomials[1] = words[len(wanted) :]
        plain = sealapi.Plaintext()
        self._decryptor.decrypt(bfv.ciphertext(self._ring, polynomials), plain)
        plain.resize(self._ring.degree)  # SEAL cuts leading zeros
        # One call a score; having SEAL serialise the whole polynomial for numpy takes 100 µs.
        modulus = 1 << self.preset.plain_bits
        residues = (plain[index] for index in wanted.tolist())
        return np.array(
            [value - modulus if value >= modulus // 2 else value for value in residues],
            dtype=np.int64,
        )


class DirectScheme:
    """Keys of the `direct` scheme."""

    name = direct.SCHEME
    content_type = CONTENT_TYPE
    reads_foreign_objects = False

    def rows_per_job(self, _preset: str = "", /) -> int:
        """With 784 features and 10 classes: some 250 KB of ciphertexts up, 1.8 MB of results."""
        return 16

    def split(self, encoding: Encoding) -> Sequence[Encoding]:
        """One part: the ciphertexts are of rows."""
        return [encoding]

    def generate(self, preset: str = "") -> DirectKey:
        """A new key for a preset of `shared.params.DIRECT_PRESETS`. Raises `UsageError`."""
        preset = preset or DIRECT_DEFAULT
        if preset not in DIRECT_PRESETS:
            raise UsageError(
                f"unknown preset {preset!r} of direct", remedy=f"one of {', '.join(DIRECT_PRESETS)}"
            )
        chosen = DIRECT_PRESETS[preset]
        blob = direct.key_blob(chosen, secrets.token_bytes(TAG_BYTES))
        secret_key = sealapi.KeyGenerator(bfv.ring(chosen).context).secret_key()
        return DirectKey(chosen, blob, secret_key)

    def load(self, secret: bytes) -> DirectKey:
        """The key of an exported secret. Raises `SecretKeyError`."""
        try:
            match msgpack.unpackb(secret):
                case [str(magic), 1, bytes(blob), bytes(key_bytes)] if magic == SECRET_MAGIC:
                    pass
                case _:
                    raise SecretKeyError("not a secret of the direct scheme")
            preset = direct.read_key_blob(blob)
            secret_key = seal.load(
                sealapi.SecretKey(),
                bfv.ring(preset).context,
                key_bytes,
                what="the secret key",
                secret=True,
            )
        except (ValueError, EvaluationKeysError, CiphertextError) as error:
            raise SecretKeyError(f"the secret of a direct key is damaged: {error}") from error
        return DirectKey(preset, blob, secret_key)


SCHEME = DirectScheme()


def quantise_rows(rows: Rows, encoding: Encoding, preset: DirectPreset) -> Integers:
    """Rows as integers of at most `direct_scale.levels`. Raises `DatasetError`, naming the row.

    Rounding is refused where the grid is too coarse for it: such a grid takes only its own values.
    """
    bound = encoding.input_bound
    if rows.ndim != 2 or 0 in rows.shape:
        raise DatasetError(f"a block has shape {rows.shape}; (rows, features) is needed")
    if rows.shape[1] != encoding.features:
        raise DatasetError(f"rows have {rows.shape[1]} features, the run has {encoding.features}")
    if not direct.MIN_INPUT_BOUND <= bound <= direct.MAX_INPUT_BOUND:
        raise DatasetError(f"an input bound of {bound:g} can't be scaled", remedy="scale the data")
    if not (rows.max() <= bound and rows.min() >= -bound):  # so that NaN is refused too
        raise _refusal(rows, ~(np.abs(rows) <= bound), f"beyond the declared bound of {bound:g}")
    levels = direct_scale.levels(preset, encoding.features)
    scaled = rows * (levels / bound)
    integers = np.rint(scaled)
    if 1 / (2 * levels) > direct_scale.MAX_RELATIVE_ERROR:
        off_grid = np.abs(scaled - integers) > OFF_GRID_STEPS
        if off_grid.any():
            raise _refusal(
                rows,
                off_grid,
                f"not a multiple of {bound:g}/{levels}, as preset {preset.name} needs in rows of "
                f"so many features",
                remedy="take a key of the precision preset",
            )
    return integers.astype(np.int64)


def _refusal(
    rows: Rows, bad: npt.NDArray[np.bool_], reason: str, *, remedy: str = ""
) -> DatasetError:
    row, feature = np.argwhere(bad)[0]
    return DatasetError(
        f"row {row} of the block has {rows[row, feature]:g} as feature {feature}: {reason}",
        remedy=remedy,
    )
