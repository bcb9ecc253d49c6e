"""Ring parameters and the security table they must satisfy."""

from __future__ import annotations

from dataclasses import dataclass

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
