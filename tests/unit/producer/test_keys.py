"""Secret keys on disk are the user's alone, and never show."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from producer.keys import KeyRing
from producer.schemes import ClientKey, client_scheme
from shared.errors import SecretKeyError


@pytest.fixture
def key() -> ClientKey:
    return client_scheme("direct").generate()


def test_a_key_comes_back_the_same(key: ClientKey, tmp_path: Path) -> None:
    KeyRing(tmp_path).save(key)
    again = KeyRing(tmp_path).load(key.key_id).key()
    assert again.key_id == key.key_id
    assert again.export_secret() == key.export_secret()


def test_only_its_owner_can_read_the_file(key: ClientKey, tmp_path: Path) -> None:
    os.umask(0o022)
    path = KeyRing(tmp_path).save(key)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_key_is_never_written_over(key: ClientKey, tmp_path: Path) -> None:
    KeyRing(tmp_path).save(key)
    with pytest.raises(SecretKeyError, match="File exists"):
        KeyRing(tmp_path).save(key)


def test_the_newest_key_of_a_scheme(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path)
    for _ in range(2):
        last = client_scheme("direct").generate()
        ring.save(last)
    assert ring.newest("direct").key_id == last.key_id
    with pytest.raises(SecretKeyError, match="blindscore keygen --scheme ei"):
        ring.newest("ei")


@pytest.mark.parametrize("text", ["", "{}", '{"version": 2}', "not json"])
def test_a_damaged_file_is_named(key: ClientKey, tmp_path: Path, text: str) -> None:
    path = KeyRing(tmp_path).save(key)
    path.write_text(text)
    with pytest.raises(SecretKeyError, match=str(path)):
        KeyRing(tmp_path).load(key.key_id)


def test_the_secret_shows_in_no_repr(key: ClientKey, tmp_path: Path) -> None:
    path = KeyRing(tmp_path).save(key)
    entry = KeyRing(tmp_path).load(key.key_id)
    secret = path.read_text().split('"secret": "')[1].split('"')[0]
    for shown in (repr(entry), str(entry), entry.model_dump_json(), repr(key), str(key)):
        assert secret not in shown
        assert secret[:40] not in shown
