"""What both sides of the `packed` scheme must agree on: layout, scales and formats.

A ciphertext carries a feature of up to N rows, row i in coefficient i. A score is a combination of
features with plaintext factors, so every row of a block is scored by the same few additions of
polynomials: no rotation, no product of polynomials, no evaluation key. Where the rows leave room,
features follow one another in a ciphertext (see `ciphertexts`), row i of the second in coefficient
rows + i. The scorer brings each to coefficient 0 by multiplying with a power of X, which moves
coefficients and changes signs.

Values are integers x·2^scale_bits, encrypted without room between them and the noise, which so ends
up in the low bits of the scores: the approximate arithmetic of CKKS (Cheon, Kim, Kim, Song, "Homo-
morphic Encryption for Arithmetic of Approximate Numbers", ASIACRYPT 2017), but on coefficients.
CKKS's own slots are an embedding that only products need. It spreads each coefficient's noise over
all slots, while that of a coefficient has a bound that always holds (`score.schemes.packed_plan`).

Frames of a request, each the 64-byte seed of its second polynomial, then coefficients of the first
modulo the prime, little endian:

    0        an encryption of zero, N coefficients: the public key that masks the results
    1 …      the features in order (all, or those in the parameter `active`), as many to a frame as
             share a ciphertext, one coefficient a row of each, without its low bits
             (`shared.coefficients`), which the plan counts as noise

Only the first is sent whole: masks are as good as random because the public key is.

A frame of a response is a digit of a class, the lowest of each class first (a scorer may split its
weights, `score.schemes.packed_plan`): a coefficient a row of the first polynomial, then N of the
second, without their low bits. A score is the sum of its digits' values times 2^digit_bits each.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Sequence
from functools import lru_cache
from itertools import groupby

import numpy as np

from shared import coefficients
from shared.coefficients import Words
from shared.container import Header, Parameter
from shared.errors import CiphertextError, EvaluationKeysError
from shared.params import PACKED_PRESETS, PackedPreset

SCHEME = "packed"
MAX_KEY_BLOB_BYTES = 4096
MIN_INPUT_BOUND, MAX_INPUT_BOUND = 2.0**-128, 2.0**128
MAX_WEIGHT_BITS = 700
MAX_WEIGHT_DIGITS = 8
MAX_DIGITS_BITS = 64
"""Of all digits of a weight but the highest."""
SEED_BYTES = 64
NOISE = 21
"""What SEAL adds to a coefficient that it encrypts, at most (`score.schemes.packed_plan`)."""
SECTION_FEATURES = 160
"""Features of two sections share no ciphertext, so that each can be encrypted by itself: of a full
block at N = 4096 they are up to 4.4 MiB, about a block of an upload (`shared.azure_upload`)."""
WEIGHTS = ("weight_bits", "digits", "digit_bits")
"""What responses say of the scale of weights, and of the digits that they are split into."""
_MAX_NAME = 80


@lru_cache(maxsize=4)
def ciphertexts(
    preset: PackedPreset, *, rows: int, features: range | tuple[int, ...]
) -> tuple[tuple[int, ...], ...]:
    """Which features are in each ciphertext of 1 to N rows: as many of a section as fit.

    `features` are those that are sent, in order. Every part of a block asks for the same.
    """
    together = preset.ring.degree // rows
    found: list[tuple[int, ...]] = []
    for _, section in groupby(features, lambda feature: feature // SECTION_FEATURES):
        sent = tuple(section)
        found += [sent[first : first + together] for first in range(0, len(sent), together)]
    return tuple(found)


def scale_bits(preset: PackedPreset, input_bound: float) -> int:
    """Inputs are coded as round(x · 2^scale_bits), of 2^data_bits at most.

    It depends on nothing but the declared bound, so it tells nothing of the rows.
    """
    mantissa, exponent = math.frexp(input_bound)
    return preset.data_bits - (exponent - 1 if mantissa == 0.5 else exponent)


def largest_integer(preset: PackedPreset, input_bound: float | None) -> float:
    """What an input as large as the bound becomes; for a bound that isn't known, the least."""
    if input_bound is None:
        return 2.0 ** (preset.data_bits - 1)
    return math.ldexp(input_bound, scale_bits(preset, input_bound))


def input_noise(preset: PackedPreset) -> float:
    """How far the integer in a feature's ciphertext may be from the one that was encrypted."""
    return NOISE + coefficients.rounding(preset.input_dropped_bits)


def max_frame_bytes(preset: PackedPreset) -> int:
    """No frame of a request is larger than its first."""
    return SEED_BYTES + preset.ring.degree * preset.zero_bytes


def write_zero(preset: PackedPreset, seed: bytes, words: Words) -> bytes:
    """A request's first frame; coefficients below the prime, shape (N,)."""
    return seed + coefficients.pack(words, size=preset.zero_bytes, dropped_bits=0)


def read_zero(preset: PackedPreset, payload: bytes) -> tuple[bytes, Words]:
    """The seed and the coefficients of a request's first frame. Raises `CiphertextError`."""
    return _read(preset, payload, preset.ring.degree, size=preset.zero_bytes, dropped_bits=0)


def write_features(preset: PackedPreset, seed: bytes, words: Words) -> bytes:
    """The frame of features; coefficients below the prime, shape (features · rows,)."""
    return seed + coefficients.pack(
        words, size=preset.input_bytes, dropped_bits=preset.input_dropped_bits
    )


def read_features(preset: PackedPreset, payload: bytes, count: int) -> tuple[bytes, Words]:
    """The seed of a frame of features and its coefficients, half a step off at most.

    Raises `CiphertextError` unless there are `count`, all below the prime.
    """
    dropped_bits = preset.input_dropped_bits
    return _read(preset, payload, count, size=preset.input_bytes, dropped_bits=dropped_bits)


def _read(
    preset: PackedPreset, payload: bytes, count: int, *, size: int, dropped_bits: int
) -> tuple[bytes, Words]:
    what, needed = "a ciphertext", SEED_BYTES + count * size
    if len(payload) != needed:
        raise CiphertextError(f"{what} has {len(payload)} bytes, {needed} are needed")
    words = coefficients.unpack(
        payload[SEED_BYTES:], size=size, dropped_bits=dropped_bits, prime=preset.prime, what=what
    )
    return payload[:SEED_BYTES], words


def header_parameters(preset: PackedPreset, *, input_bound: float) -> dict[str, Parameter]:
    """What a header says of ring and scale; requests may add `active`, responses `WEIGHTS`."""
    return {
        "preset": preset.name,
        "degree": preset.ring.degree,
        "primes": (preset.prime,),
        "input_bound": float(input_bound),
        "scale_bits": scale_bits(preset, input_bound),
        "input_dropped_bits": preset.input_dropped_bits,
    }


def read_parameters(header: Header, *, extra: Collection[str]) -> tuple[PackedPreset, float]:
    """The preset and the input bound of a header, which may say `extra` besides and no more.

    Raises `CiphertextError` for parameters that we don't know.
    """
    given = {name: value for name, value in header.parameters.items() if name not in extra}
    preset = PACKED_PRESETS.get(str(given.get("preset")))
    input_bound = given.get("input_bound")
    if preset is None or not isinstance(input_bound, int | float):
        raise CiphertextError("the container's parameters name no preset of packed")
    if not MIN_INPUT_BOUND <= input_bound <= MAX_INPUT_BOUND:
        raise CiphertextError(f"the container's input bound is {input_bound:g}")
    expected = header_parameters(preset, input_bound=input_bound)
    if given != expected:
        wrong = sorted(
            name[:_MAX_NAME]  # it may be the sender's
            for name in given.keys() | expected
            if given.get(name) != expected.get(name)
        )
        raise CiphertextError(
            f"the container's parameters are not those of preset {preset.name}: {', '.join(wrong)}"
        )
    if header.rows > preset.ring.degree:
        raise CiphertextError(f"{header.rows} rows don't fit preset {preset.name} of packed")
    return preset, float(input_bound)


def write_active(active: Sequence[int], features: int) -> str:
    """Which of `features` a request holds: a bit each, the first lowest, as hexadecimal bytes."""
    bits = np.zeros(features, dtype=np.uint8)
    bits[list(active)] = 1
    return np.packbits(bits, bitorder="little").tobytes().hex()


def read_active(header: Header) -> range | tuple[int, ...]:
    """The features that a request holds, in the order of its frames. Raises `CiphertextError`."""
    text = header.parameters.get("active")
    if text is None:
        return range(header.features)
    try:
        bits = np.frombuffer(bytes.fromhex(str(text)), dtype=np.uint8)
    except ValueError as error:
        raise CiphertextError("the container's active features are not hexadecimal") from error
    active: list[int] = np.flatnonzero(np.unpackbits(bits, bitorder="little")).tolist()
    if len(bits) != -(-header.features // 8) or (active and active[-1] >= header.features):
        raise CiphertextError(f"the container's active features are not of {header.features}")
    return tuple(active)


def key_blob(preset: PackedPreset, tag: bytes) -> bytes:
    """What is published under a key id: parameters and a random tag. Nothing computes with it."""
    record = {
        "scheme": SCHEME,
        "version": 1,
        "preset": preset.name,
        "degree": preset.ring.degree,
        "primes": [preset.prime],
        "tag": tag.hex(),
    }
    return json.dumps(record, sort_keys=True, separators=(",", ":")).encode()


def read_key_blob(blob: bytes) -> PackedPreset:
    """The preset of a key blob. Raises `EvaluationKeysError` for anything else."""
    try:
        record = json.loads(blob) if len(blob) <= MAX_KEY_BLOB_BYTES else {}
        preset = PACKED_PRESETS[record["preset"]]
        genuine = blob == key_blob(preset, bytes.fromhex(record["tag"]))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise EvaluationKeysError("not a key blob of the packed scheme") from error
    if not genuine:
        raise EvaluationKeysError("a key blob of the packed scheme with other parameters")
    return preset
