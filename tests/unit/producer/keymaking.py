"""Key files for tests, under a passphrase that is cheap to try."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from pydantic import SecretStr

from producer.keycrypt import MIN_N, ScryptCost
from producer.keyrecord import KeyRecord
from producer.keys import Locker

CHEAP = ScryptCost(n=MIN_N, r=8, p=1)
PASSPHRASE = SecretStr("correct horse battery staple")
SECRET = b"what a scheme's key exports" * 8
CREATED = datetime(2026, 1, 1, 12, 30, tzinfo=UTC)


def locked_key(locker: Locker, *, key_id: str = "k" * 64) -> KeyRecord:
    """A record of `SECRET`, which is no scheme's, as `locker` keeps it."""
    record = KeyRecord(
        scheme="direct",
        key_id=key_id,
        created_at=CREATED,
        preset="precision",
        secret=SecretStr(""),
    )
    return locker(record, bytearray(SECRET))


@contextmanager
def passphrase_file(folder: Path, text: str = PASSPHRASE.get_secret_value()) -> Iterator[Path]:
    """A file with a passphrase, as an editor would save it."""
    path = folder / "passphrase"
    path.write_text(f"{text}\n")
    yield path
