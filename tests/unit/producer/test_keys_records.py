"""A key file opens with the right passphrase as it was written, and in no other way."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from producer import keycrypt, keyseal
from producer.keycrypt import MAX_MEMORY_BYTES, MAX_WORK, OWASP, ScryptCost
from producer.keyrecord import KeyRecord, PassphraseLock, VaultLock, VaultPlace
from producer.keyseal import under_passphrase
from producer.schemes import client_scheme
from shared.errors import SecretKeyError
from tests.unit.producer.keymaking import CHEAP, PASSPHRASE, SECRET, locked_key

PLACE = VaultPlace(vault="https://myvault.vault.azure.net", name="blindscore-k", version="1a")
VAULT_KEY = bytearray(range(32))
GOLDEN = Path(__file__).parent / "golden"
"""Files of a throw-away key, as version 2 was first written. They are never made anew."""


def by_passphrase() -> KeyRecord:
    return locked_key(partial(under_passphrase, passphrase=PASSPHRASE, cost=CHEAP))


def by_vault() -> KeyRecord:
    return locked_key(
        lambda record, secret: keyseal.under_vault_key(record, secret, VAULT_KEY, PLACE)
    )


def opened(record: KeyRecord, passphrase: SecretStr = PASSPHRASE) -> bytes | None:
    """The secret, by whichever key the test has."""
    if isinstance(record.lock, PassphraseLock):
        secret = keyseal.open_with_passphrase(record, record.lock, passphrase)
    elif isinstance(record.lock, VaultLock):
        secret = keyseal.open_with_vault_key(record, record.lock, VAULT_KEY)
    else:
        secret = keyseal.open_plain(record)
    return None if secret is None else bytes(secret)


def reread(record: KeyRecord) -> KeyRecord:
    return KeyRecord.decode(record.encode(), source="the file")


@pytest.mark.parametrize("record", [by_passphrase(), by_vault(), locked_key(keyseal.unlocked)])
def test_what_was_locked_opens_after_it_was_written(record: KeyRecord) -> None:
    assert opened(reread(record)) == SECRET
    assert reread(record) == record


def test_it_opens_however_the_file_is_laid_out() -> None:
    fields = json.loads(by_passphrase().encode())
    shuffled = dict(reversed(fields.items()))
    shuffled["lock"] = dict(reversed(fields["lock"].items()))
    record = KeyRecord.decode(json.dumps(shuffled, indent=8).encode(), source="the file")
    assert opened(record) == SECRET


class LaterRecord(KeyRecord):
    """What a later program may have come to write."""

    note: str | None = None


@pytest.mark.parametrize("kind", [KeyRecord, LaterRecord])
@pytest.mark.parametrize("name", ["passphrase", "vault"])
def test_a_file_that_was_sealed_long_ago_opens(name: str, kind: type[KeyRecord]) -> None:
    record = kind.decode((GOLDEN / f"{name}.json").read_bytes(), source=name)
    assert record.protection == name
    secret = opened(record)
    assert secret is not None
    assert client_scheme("ei").load(secret).key_id == record.key_id
    relocked = under_passphrase(record, secret, PASSPHRASE, cost=CHEAP)
    assert opened(kind.decode(relocked.encode(), source=name)) == secret


@pytest.mark.parametrize("secret", [b"", b"x", os.urandom(70_000)])
def test_secrets_of_any_size_are_locked(secret: bytes) -> None:
    record = under_passphrase(by_passphrase(), secret, PASSPHRASE, cost=CHEAP)
    assert opened(record) == secret


def test_at_full_cost() -> None:
    """As the command line does it: OWASP's parameters, which the file then holds."""
    record = reread(locked_key(partial(under_passphrase, passphrase=PASSPHRASE)))
    assert isinstance(record.lock, PassphraseLock)
    assert (record.lock.n, record.lock.r, record.lock.p) == (2**17, 8, 1)
    assert record.lock.cost == OWASP
    assert opened(record) == SECRET
    assert opened(record, SecretStr("correct horse battery stable")) is None


def test_nothing_is_used_twice() -> None:
    """Each lock has a salt and a nonce of its own, also for the same secret and passphrase."""
    locks = [by_passphrase().lock for _ in range(8)]
    for name in ("salt", "nonce"):
        assert len({getattr(lock, name) for lock in locks}) == len(locks)
    assert len({by_passphrase().secret for _ in range(8)}) == 8


def test_the_secret_is_not_in_the_file() -> None:
    assert keyseal._to_text(SECRET)[:32] in locked_key(keyseal.unlocked).encode().decode()
    for record in (by_passphrase(), by_vault()):
        assert keyseal._to_text(SECRET)[:32] not in record.encode().decode()
        assert PASSPHRASE.get_secret_value() not in record.encode().decode()


@pytest.mark.parametrize(
    "wrong", ["", "Correct horse battery staple", "correct horse battery stapl"]
)
def test_a_wrong_passphrase_opens_nothing(wrong: str) -> None:
    assert opened(by_passphrase(), SecretStr(wrong)) is None


def test_another_vault_key_opens_nothing() -> None:
    record = by_vault()
    assert isinstance(record.lock, VaultLock)
    assert keyseal.open_with_vault_key(record, record.lock, bytearray(32)) is None


# --- damage -----------------------------------------------------------------------------------


def leaves(value: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The fields of nested dictionaries that are no dictionaries."""
    if isinstance(value, dict):
        return [leaf for name in value for leaf in leaves(value[name], (*path, name))]
    return [path]


def changed(fields: dict[str, Any], path: tuple[str, ...], value: object) -> bytes:
    copy = json.loads(json.dumps(fields))
    at(copy, path[:-1])[path[-1]] = value
    return json.dumps(copy).encode()


OTHERS: dict[str, list[object]] = {
    "version": [1],
    "scheme": ["packed"],
    "key_id": ["j" * 64],
    "created_at": ["2026-01-01T12:30:01Z"],
    "preset": ["speed", None],
    "expires_at": ["2036-01-01T00:00:00Z"],
    "kind": ["vault", "passphrase"],
    "cipher": ["AES-128-GCM"],
    "kdf": ["pbkdf2"],
    "n": [CHEAP.n * 2],
    "r": [CHEAP.r - 1],
    "p": [CHEAP.p + 1],
    "vault": ["https://another.vault.azure.net"],
    "name": ["blindscore-j"],
}


@pytest.mark.parametrize("record", [by_passphrase(), by_vault()], ids=["passphrase", "vault"])
def test_a_file_in_which_any_field_was_changed_does_not_open(record: KeyRecord) -> None:
    fields = json.loads(record.encode())
    paths = leaves(fields)
    assert len(paths) == 7 + (8 if record.protection == "passphrase" else 6)
    for path in paths:
        was = at(fields, path)
        others = OTHERS.get(path[-1], []) if path != ("lock", "place", "version") else ["2b"]
        assert [other for other in others if other != was] or isinstance(was, str)
        for other in others or flips(was):
            if other == was:
                continue
            data = changed(fields, path, other)
            try:
                found = opened(KeyRecord.decode(data, source="the file"))
            except SecretKeyError:
                continue
            assert found is None, f"{path} = {other}"


def at(value: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        value = value[name]
    return value


def flips(text: str) -> Sequence[object]:
    """A text with each of some characters changed, and cut, and longer."""
    return [
        text[:at] + ("0" if text[at] != "0" else "1") + text[at + 1 :]
        for at in {0, 1, len(text) // 2, len(text) - 3}
    ] + [text[:-4], text + text[:4]]


@pytest.mark.parametrize("name", ["scheme", "key_id", "created_at", "secret"])
def test_a_field_that_is_missing_is_named(name: str) -> None:
    fields = json.loads(by_passphrase().encode())
    del fields[name]
    with pytest.raises(SecretKeyError, match=rf"the file is not .* key file: {name}"):
        KeyRecord.decode(json.dumps(fields).encode(), source="the file")


@pytest.mark.parametrize("later", ["preset", "expires_at", "lock"])
def test_a_file_of_the_first_version_has_no_later_fields(later: str) -> None:
    """A reader that knows no expiry would not have honoured it."""
    fields = json.loads(by_passphrase().encode()) | {"expires_at": "2036-01-01T00:00:00Z"}
    named = ("scheme", "key_id", "created_at", "secret")
    old = {"version": 1} | {name: fields[name] for name in named}
    KeyRecord.decode(json.dumps(old).encode(), source="the file")
    with pytest.raises(SecretKeyError, match="version 1"):
        KeyRecord.decode(json.dumps(old | {later: fields[later]}).encode(), source="the file")


def test_a_lock_that_was_taken_away_leaves_no_key() -> None:
    """What was sealed is no secret of any scheme."""
    fields = json.loads(by_passphrase().encode()) | {"lock": None}
    record = KeyRecord.decode(json.dumps(fields).encode(), source="the file")
    assert opened(record) != SECRET


@settings(max_examples=60, deadline=None)
@given(at=st.integers(0), flip=st.integers(1, 255))
def test_no_flipped_bit_of_a_file_opens_to_something_else(at: int, flip: int) -> None:
    data = bytearray(RECORD)
    data[at % len(data)] ^= flip
    try:
        record = KeyRecord.decode(bytes(data), source="the file")
        found = opened(record)
    except SecretKeyError:
        return
    assert found is None or (found == SECRET and record == KeyRecord.decode(RECORD, source="it"))


RECORD = by_passphrase().encode()


# --- hostile costs ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "r", "p"),
    [
        *[(2**40, 8, 1), (2**21, 8, 1), (2**20, 16, 1), (2**17, 2**20, 1), (2**17, 8, 2**30)],
        *[(2**20, 8, 16), (2**17 + 1, 8, 1), (2, 8, 1), (0, 8, 1), (-(2**17), 8, 1)],
        *[(2**17, 0, 1), (2**17, 8, 0), (2**17, -8, -1), (2**17, "8", 1), (131072.0, 8, 1)],
    ],
)
def test_costs_beyond_reason_are_refused_before_anything_is_computed(
    monkeypatch: pytest.MonkeyPatch, n: object, r: object, p: object
) -> None:
    def computed(*_: object) -> bytearray:
        raise AssertionError("scrypt was begun")

    monkeypatch.setattr(keycrypt, "derive", computed)
    fields = json.loads(RECORD)
    fields["lock"] |= {"n": n, "r": r, "p": p}
    with pytest.raises(SecretKeyError, match="the file is not a blindscore key file"):
        KeyRecord.decode(json.dumps(fields).encode(), source="the file")


@settings(max_examples=200, deadline=None)
@given(log_n=st.integers(0, 64), r=st.integers(-1, 2**32), p=st.integers(-1, 2**32))
def test_whatever_cost_is_allowed_is_bounded(log_n: int, r: int, p: int) -> None:
    try:
        cost = ScryptCost(2**log_n, r, p)
    except ValueError:
        return
    assert 128 * cost.n * cost.r <= MAX_MEMORY_BYTES
    assert cost.n * cost.r * cost.p <= MAX_WORK


@pytest.mark.parametrize(
    "vault",
    [
        *["http://myvault.vault.azure.net", "https://user:pw@vault", "https://v/path", "myvault"],
        *["https://v?x=1", "https://", "file:///etc/passwd", "https://v\n"],
    ],
)
def test_a_file_can_only_name_a_vault_over_https(vault: str) -> None:
    fields = json.loads(by_vault().encode())
    with pytest.raises(SecretKeyError, match="not a blindscore key file"):
        KeyRecord.decode(changed(fields, ("lock", "place", "vault"), vault), source="the file")
