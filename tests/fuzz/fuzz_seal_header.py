"""The checks before any byte of a client reaches SEAL: they refuse, and raise nothing else.

python -m tests.fuzz.fuzz_seal_header -max_total_time=60
"""

from __future__ import annotations

import sys
import zlib

import atheris

with atheris.instrument_imports(include=["shared"]):
    from shared import ei, seal
    from shared.errors import CiphertextError, EvaluationKeysError

OBJECT = seal.HEADER.size
LEVEL = ei.INPUT_LEVEL


def test_one_input(data: bytes) -> None:
    """`data` as it is, and as the bits that are flipped at the beginning of sound objects."""
    _refuses(data)
    for whole in (_SEEDED, _RESULT):
        flipped = bytes(a ^ b for a, b in zip(whole, data, strict=False)) + whole[len(data) :]
        _refuses(flipped)
        deflated = zlib.compress(flipped[OBJECT:], level=1)
        size = OBJECT + len(deflated)
        _refuses(seal.SealHeader(3, 5, seal.COMPRESSION_ZLIB, size).pack() + deflated)


def _refuses(data: bytes) -> None:
    """Whatever passes is what it claims to be, to the byte."""
    try:
        header = seal.parse_header(data, what="fuzz")
    except CiphertextError:
        pass
    else:
        assert OBJECT < header.size <= len(data)
        assert seal.parse_header(header.pack() + data[OBJECT:], what="fuzz") == header
    for check, seeded in ((ei.check_input, True), (ei.check_result, False)):
        try:
            checked = check(data, what="fuzz")
        except CiphertextError:
            continue
        assert len(checked.data) == ei.object_bytes(checked.level, seeded=seeded)
    try:
        ei.check_evaluation_keys(data)
    except EvaluationKeysError:
        return
    raise AssertionError("a key blob of less than its size has passed")


def _object(level: int, *, seeded: bool) -> bytes:
    """A sound ciphertext of zeros, uncompressed."""
    size = ei.object_bytes(level, seeded=seeded)
    coefficients = (1 if seeded else 2) * level * ei.DEGREE
    array = seal.SealHeader(3, 5, seal.COMPRESSION_NONE, OBJECT + 8 + 8 * coefficients).pack()
    members = b"".join((
        ei.parms_id(level),
        bytes([1]),
        *(value.to_bytes(8, "little") for value in (2, ei.DEGREE, level)),
        bytes.fromhex("0000000000007042"),  # 2^40, a double
    ))  # fmt: skip
    head = seal.SealHeader(3, 5, seal.COMPRESSION_NONE, size).pack() + members + array
    return (head + coefficients.to_bytes(8, "little")).ljust(size, b"\0")


_SEEDED = _object(LEVEL, seeded=True)
_RESULT = _object(1, seeded=False)
ei.check_input(_SEEDED, what="the sound input")
ei.check_result(_RESULT, what="the sound result")


if __name__ == "__main__":
    atheris.Setup(sys.argv, test_one_input)
    atheris.Fuzz()
