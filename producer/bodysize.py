"""How large a request of so many rows gets at most: known before anything is encrypted."""

from __future__ import annotations

from shared import ei, packed
from shared.errors import UsageError
from shared.params import PACKED_PRESETS

HEADER_BYTES = 4096
"""Of a request that leaves no feature out; names, numbers and a key id."""
FRAME_BYTES = 64
"""What frames a ciphertext, as `shared.container` counts it."""
DIRECT_DEGREE, DIRECT_CIPHERTEXT_BYTES = 4096, 70_000
"""A row may need a ciphertext for itself; seeded, under two primes at most."""
PACKED_INPUT_BYTES = max(preset.input_bytes for preset in PACKED_PRESETS.values())
PACKED_ZERO_BYTES = max(packed.max_frame_bytes(preset) for preset in PACKED_PRESETS.values())

_EI_CIPHERTEXT_BYTES = 4 * -(-ei.MAX_INPUT_BYTES // 3) + len(', ""')


def most_rows(scheme: str, *, features: int, body_bytes: int) -> int:
    """How many rows of `features` values surely fit a body of that size; none may.

    Raises `UsageError` for an unknown scheme.
    """
    framing, row = _sizes(scheme, features)
    return max(0, (body_bytes - framing) // row)


def _sizes(scheme: str, features: int) -> tuple[int, int]:
    """Bytes of a body without rows, and of each row."""
    match scheme:
        case "ei":  # JSON: a list of base64 texts a row
            return HEADER_BYTES, -(-features // ei.SLOTS) * _EI_CIPHERTEXT_BYTES + len(",[]")
        case "direct":  # a frame for the masks, then frames of rows
            frame = DIRECT_CIPHERTEXT_BYTES + FRAME_BYTES
            return HEADER_BYTES + frame, -(-features // DIRECT_DEGREE) * frame
        case "packed":  # a frame for the masks, of N coefficients, then one a feature at most
            frames = (features + 1) * (packed.SEED_BYTES + FRAME_BYTES)
            active = features // 4  # hexadecimal, where some are left out
            return HEADER_BYTES + PACKED_ZERO_BYTES + frames + active, features * PACKED_INPUT_BYTES
    raise UsageError(f"unknown scheme {scheme!r}")
