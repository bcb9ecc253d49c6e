"""Ciphers for secret keys at rest: scrypt makes a key of a passphrase, AES-256-GCM seals bytes.

Both are the `cryptography` package's (OpenSSL). Derived keys and opened secrets are bytearrays, so
that their owner can overwrite them once they are no longer needed: see `wipe` for how much that is
worth in Python.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from shared.errors import SecretKeyError

KEY_BYTES = 32
NONCE_BYTES = 12
SALT_BYTES = 16
TAG_BYTES = 16

MIN_N, MAX_N = 1 << 10, 1 << 20
MAX_R = MAX_P = 16
MAX_MEMORY_BYTES = 1 << 30
MAX_WORK = 1 << 24
"""N·r·p, sixteen times `OWASP`'s: some five seconds."""


@dataclass(frozen=True, slots=True)
class ScryptCost:
    """What one guess at a passphrase costs: 128·n·r bytes of memory, n·r·p steps (RFC 7914).

    Raises ValueError beyond the bounds of this module: whoever can write a key file must not
    make its reader ask for terabytes, or compute for years.
    """

    n: int
    r: int
    p: int

    def __post_init__(self) -> None:
        if not (MIN_N <= self.n <= MAX_N and self.n & (self.n - 1) == 0):
            raise ValueError(f"scrypt n is not a power of two from {MIN_N} to {MAX_N}")
        if not (1 <= self.r <= MAX_R and 1 <= self.p <= MAX_P):
            raise ValueError(f"scrypt r or p is not from 1 to {MAX_R}")
        if self.memory_bytes > MAX_MEMORY_BYTES or self.n * self.r * self.p > MAX_WORK:
            raise ValueError("scrypt n, r and p ask for too much memory or time")

    @property
    def memory_bytes(self) -> int:
        return 128 * self.n * self.r


OWASP = ScryptCost(n=1 << 17, r=8, p=1)
"""128 MiB and a third of a second a guess: the first choice of OWASP's Password Storage Cheat Sheet
(https://cheatsheetseries.owasp.org/cheatsheets/Password_Storage_Cheat_Sheet.html)."""


def derive(passphrase: str, salt: bytes, cost: ScryptCost) -> bytearray:
    """The 32-byte key of a passphrase. Takes as long as `cost` says: not for an event loop.

    Raises `SecretKeyError` where there is too little memory.
    """
    key = bytearray(KEY_BYTES)
    try:
        kdf = Scrypt(salt=salt, length=KEY_BYTES, n=cost.n, r=cost.r, p=cost.p)
        kdf.derive_into(passphrase.encode(), key)
    except MemoryError as error:
        raise SecretKeyError(
            "there is too little memory to make a key of a passphrase, which needs "
            f"{cost.memory_bytes >> 20} MiB"
        ) from error
    return key


def seal(key: bytes | bytearray, nonce: bytes, data: bytes | bytearray, about: bytes) -> bytes:
    """Encrypt and authenticate `data`, and authenticate `about`: 16 bytes longer than `data`.

    A nonce serves once with one key.
    """
    return AESGCM(key).encrypt(nonce, data, about)


def open_sealed(
    key: bytes | bytearray, nonce: bytes, sealed: bytes, about: bytes
) -> bytearray | None:
    """What was sealed; None if key, nonce, `about` or a bit of `sealed` is another."""
    data = bytearray(max(len(sealed) - TAG_BYTES, 0))
    try:
        AESGCM(key).decrypt_into(nonce, sealed, about, data)
    except InvalidTag:
        return None
    return data


def wipe(secret: bytearray) -> None:
    """Overwrite bytes that are no longer needed.

    That takes them out of this buffer, and so out of later core dumps and swapped pages. It does
    not reach what Python copied elsewhere: a passphrase is a str, a scheme's exported secret is
    bytes, and SEAL, OpenSSL and a process's pipe have copies of their own.
    """
    secret[:] = bytes(len(secret))


def new_key() -> bytearray:
    return bytearray(secrets.token_bytes(KEY_BYTES))
