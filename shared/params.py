"""Ring parameters and the security table they must satisfy."""

from __future__ import annotations

from dataclasses import dataclass, replace

from shared.errors import UsageError

MAX_MODULUS_BITS_SEAL = {1024: 27, 2048: 54, 4096: 109, 8192: 218, 16384: 438}
"""Total prime bits for 128-bit security: homomorphicencryption.org standard (2018), as in SEAL."""

MAX_MODULUS_BITS_2024 = {1024: 26, 2048: 53, 4096: 106, 8192: 214, 16384: 430}
"""The same by the 2024 guidelines (eprint 2024/463, ternary secret): slightly tighter."""


@dataclass(frozen=True, slots=True)
class RingParameters:
    """A polynomial ring: degree N and the bit sizes of its coefficient primes."""

    degree: int
    prime_bits: tuple[int, ...]

    @property
    def modulus_bits(self) -> int:
        return sum(self.prime_bits)


def check_security(ring: RingParameters, *, strict: bool = True) -> None:
    """Refuse a ring with less than 128 bits of security.

    `strict` takes the 2024 table, else SEAL's. Raises `UsageError`.
    """
    table = MAX_MODULUS_BITS_2024 if strict else MAX_MODULUS_BITS_SEAL
    limit = table.get(ring.degree)
    if limit is None or ring.modulus_bits > limit:
        raise UsageError(
            f"N = {ring.degree} with {ring.modulus_bits} bits of primes is below 128-bit security",
            remedy=f"choose from {table} (degree: most bits)",
        )


@dataclass(frozen=True, slots=True)
class BfvPreset:
    """SEAL's BFV in a ring, with results under the ring's first prime alone."""

    name: str
    ring: RingParameters
    plain_bits: int
    """The plain modulus is 2^plain_bits: a score's integer lies below 2^(plain_bits - 1)."""
    dropped_bits: int
    """Low bits of a result's coefficients that are not sent; the others fill whole bytes."""

    @property
    def result_bytes(self) -> int:
        """Bytes of one coefficient of a result."""
        return (self.ring.prime_bits[0] - self.dropped_bits) // 8


@dataclass(frozen=True, slots=True)
class DirectPreset(BfvPreset):
    """One way to run the `direct` scheme: products of polynomials.

    A second prime makes room for the product's noise and is switched away before a result is sent;
    with several, the last one is SEAL's key-switching prime, which nothing here uses.
    """

    grid_doublings: int
    """Inputs are integers up to 255·2^grid_doublings at least …"""
    grid_bits: int
    """… and up to 255·2^12 as long as features × levels stays below 2^grid_bits."""
    zeros: int
    """Encryptions of zero that results are masked with in turn; several need a single prime."""


DIRECT_PRESETS = {
    preset.name: preset
    for preset in (
        DirectPreset("speed", RingParameters(4096, (60,)), 33, 12, 0, 18, 4),
        DirectPreset("precision", RingParameters(4096, (60, 30, 16)), 46, 4, 8, 26, 1),
    )
}
"""`speed` is for 8-bit inputs (pixels) and for rows of few features; `precision` is for any."""

DIRECT_DEFAULT = "precision"


@dataclass(frozen=True, slots=True)
class PackedPreset(BfvPreset):
    """One way to run the `packed` scheme: one prime, and a value of a row in each coefficient.

    The plain modulus is half of the prime, so that the noise lies in the low bits of what is
    decrypted, as in CKKS, and no room is lost to keeping integers exact.
    """

    prime: int
    """The ring's only prime, as SEAL chooses it."""
    data_bits: int
    """The largest input becomes an integer of 2^(data_bits - 1) to 2^data_bits."""
    input_dropped_bits: int
    """Low bits of a row's coefficients that are not sent; the others fill whole bytes."""

    @property
    def input_bytes(self) -> int:
        """Bytes of one coefficient of a row."""
        return (self.ring.prime_bits[0] - self.input_dropped_bits) // 8

    @property
    def zero_bytes(self) -> int:
        """Bytes of one coefficient of the encryption of zero, which is sent as it is."""
        return -(-self.ring.prime_bits[0] // 8)


PACKED_PRESETS = {
    preset.name: preset
    for preset in (
        PackedPreset("n4096", RingParameters(4096, (60,)), 59, 20, (1 << 60) - 16383, 29, 4),
        PackedPreset("n8192", RingParameters(8192, (60,)), 59, 20, (1 << 60) - 16383, 29, 4),
        PackedPreset("n2048", RingParameters(2048, (53,)), 52, 13, (1 << 53) - 126975, 24, 5),
        PackedPreset("compact", RingParameters(4096, (60,)), 59, 20, (1 << 60) - 16383, 40, 20),
    )
}
"""By rows that share a ciphertext, and bytes a value: 7, and 6 in `n2048`, 5 in `compact`.

Of 784 features the error bound of `compact` is 2.4 times that of `n4096`, that of `n2048` 10 times;
up to some 100,000 features they are at most 25 and 40 times that. `n4096` has a data bit more than
is most precise for images: it leaves more of their scores that can be passed on
(`producer.disclosure`). With the 40 of `compact` two digits are enough for 784 weights."""

PACKED_DEFAULT = "n4096"


def served_by(preset: PackedPreset, name: str) -> PackedPreset:
    """The preset of that name, if keys of `preset` serve it. Raises `UsageError` for others."""
    served = {other.name: other for other in interchangeable(preset)}
    if name not in served:
        known = f"; or keygen --scheme packed --preset {name}" if name in PACKED_PRESETS else ""
        raise UsageError(
            f"a key of preset {preset.name} doesn't serve preset {name!r} of packed",
            remedy=f"one of {', '.join(served)}{known}",
        )
    return served[name]


def interchangeable(preset: PackedPreset) -> tuple[PackedPreset, ...]:
    """The presets that keys of `preset` serve: they differ in nothing but how inputs are coded."""
    return tuple(
        other
        for other in PACKED_PRESETS.values()
        if preset
        == replace(
            other,
            name=preset.name,
            data_bits=preset.data_bits,
            input_dropped_bits=preset.input_dropped_bits,
        )
    )
