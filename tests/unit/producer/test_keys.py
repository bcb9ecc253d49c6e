"""Secret keys on disk are the user's alone, never show, and change as a whole."""

from __future__ import annotations

import copy
import json
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from structlog.testing import capture_logs

from producer import keyseal
from producer.keyphrase import Passphrases
from producer.keyrecord import KeyRecord
from producer.keys import KeyFile, KeyRing, new_record, require_unexpired
from producer.keyseal import under_passphrase
from producer.schemes import SCHEME_NAMES, ClientKey, Encoding, client_scheme
from producer.schemes.ei import REFERENCE
from shared.errors import SecretKeyError, UsageError
from tests.unit.producer.keymaking import CHEAP, PASSPHRASE, locked_key, passphrase_file

NOW = datetime(2026, 6, 1, tzinfo=UTC)
PACKAGES = ("producer", "worker", "score", "shared", "deploy")


@pytest.fixture
def key() -> ClientKey:
    return client_scheme("direct").generate()


def test_a_key_comes_back_the_same(key: ClientKey, tmp_path: Path) -> None:
    KeyRing(tmp_path).save(key)
    again = KeyRing(tmp_path).load(key.key_id).key()
    assert again.key_id == key.key_id
    assert again.export_secret() == key.export_secret()


def test_a_file_of_the_first_version_is_still_read(key: ClientKey, tmp_path: Path) -> None:
    path = KeyRing(tmp_path).save(key)
    written = json.loads(path.read_text())
    names = ("scheme", "key_id", "created_at", "secret")
    path.write_text(json.dumps({"version": 1} | {name: written[name] for name in names}))
    opened = KeyRing(tmp_path).load(key.key_id)
    assert opened.key().export_secret() == key.export_secret()
    assert (opened.record.preset, opened.record.expires_at) == (None, None)
    assert KeyRing(tmp_path).newest("direct").key_id == key.key_id


def test_only_its_owner_can_read_the_file(key: ClientKey, tmp_path: Path) -> None:
    os.umask(0o022)
    path = KeyRing(tmp_path).save(key)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_is_open_to_others_is_closed(key: ClientKey, tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir(mode=0o755)
    path = KeyRing(tmp_path).save(key)
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_file_that_others_can_read_is_refused(key: ClientKey, tmp_path: Path) -> None:
    path = KeyRing(tmp_path).save(key)
    path.chmod(0o640)
    with pytest.raises(SecretKeyError, match=f"chmod 600 {path}"):
        KeyRing(tmp_path).load(key.key_id)


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


def test_an_expired_key_encrypts_nothing_new(key: ClientKey, tmp_path: Path) -> None:
    ring = KeyRing(tmp_path)
    ring.save(key, now=NOW, expires_at=NOW + timedelta(days=1))
    after = NOW + timedelta(days=1)
    assert ring.newest("direct", now=after - timedelta(seconds=1)).key_id == key.key_id
    remedy = f"expired at 2026-06-02 00:00 UTC.*blindscore key rotate {key.key_id}"
    with pytest.raises(SecretKeyError, match=remedy):
        ring.newest("direct", now=after)
    with pytest.raises(SecretKeyError, match=remedy):
        require_unexpired(ring.files.record(key.key_id), now=after)
    assert ring.load(key.key_id).key().export_secret() == key.export_secret(), "to collect with"


def test_an_expired_key_leaves_the_place_to_an_older_one(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path)
    older, newer = (client_scheme("direct").generate() for _ in range(2))
    ring.save(older, now=NOW)
    ring.save(newer, now=NOW + timedelta(days=1), expires_at=NOW + timedelta(days=2))
    assert ring.newest("direct", now=NOW + timedelta(days=1)).key_id == newer.key_id
    assert ring.newest("direct", now=NOW + timedelta(days=3)).key_id == older.key_id


def test_a_key_that_expired_long_ago_is_not_loaded_to_encrypt(
    key: ClientKey, tmp_path: Path
) -> None:
    ring = KeyRing(tmp_path)
    ring.save(key, now=NOW - timedelta(days=9000), expires_at=NOW - timedelta(days=8999))
    with pytest.raises(SecretKeyError, match="expired"):
        ring.load(key.key_id, to_encrypt=True)


@pytest.mark.parametrize("text", ["", "{}", '{"version": 3}', "not json", "[]", "x" * (2 << 20)])
def test_a_damaged_file_is_named(key: ClientKey, tmp_path: Path, text: str) -> None:
    path = KeyRing(tmp_path).save(key)
    path.write_text(text)
    with pytest.raises(SecretKeyError, match=str(path)):
        KeyRing(tmp_path).load(key.key_id)


def test_a_file_under_another_keys_name_is_refused(key: ClientKey, tmp_path: Path) -> None:
    path = KeyRing(tmp_path).save(key)
    path.rename(path.with_name(f"{'0' * 64}.key"))
    with pytest.raises(SecretKeyError, match=f"holds key {key.key_id}"):
        KeyRing(tmp_path).load("0" * 64)


def test_an_unusable_key_is_passed_over(key: ClientKey, tmp_path: Path) -> None:
    ring = KeyRing(tmp_path)
    ring.save(key)
    damaged = ring.files.path_of("d" * 64)
    damaged.write_text("not a key")
    damaged.chmod(0o600)
    with capture_logs() as logged:
        assert ring.newest("direct").key_id == key.key_id
    assert [str(damaged) in entry["why"] for entry in logged] == [True]
    found = ring.files.scan()
    assert isinstance(found["d" * 64], SecretKeyError)
    assert found[key.key_id] == ring.files.record(key.key_id)


def test_a_folder_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    """It is not taken for one without keys."""
    ring = KeyRing(tmp_path)
    ring.files.path.write_text("not a folder")
    for attempt in (
        ring.files.scan,
        lambda: ring.newest("direct"),
        lambda: ring.load("k" * 64),
        lambda: ring.files.find("k"),
        lambda: ring.files.remove("k" * 64),
    ):
        with pytest.raises(SecretKeyError, match=f"can't .*{ring.files.path}.*: Not a directory"):
            attempt()


def test_a_link_is_not_taken_for_a_key(key: ClientKey, tmp_path: Path) -> None:
    """Deleted or replaced, it would leave the secret where it leads."""
    ring = KeyRing(tmp_path)
    path = ring.save(key)
    record = ring.files.record(key.key_id)
    target = path.rename(tmp_path / "elsewhere")
    path.symlink_to(target)
    for attempt in (
        lambda: ring.load(key.key_id),
        lambda: ring.files.replace(record, record),
        lambda: ring.files.remove(key.key_id),
    ):
        with pytest.raises(SecretKeyError, match=f"{path} is a link to {target}"):
            attempt()
    assert path.is_symlink()


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    files = KeyRing(tmp_path).files
    files.require_writable()
    os.mkfifo(files.path_of("k" * 64), 0o600)
    with pytest.raises(SecretKeyError, match="not a blindscore key file"):
        files.record("k" * 64)


def test_keys_are_found_by_the_beginning_of_their_id(tmp_path: Path) -> None:
    files = KeyRing(tmp_path).files
    secret = keyseal.unlocked
    one, other = (locked_key(secret, key_id=name + "0" * 60) for name in ("abcd", "abce"))
    for record in (one, other):
        files.add(record)
    assert files.find("abcd") == one
    assert files.find(other.key_id) == other
    short = locked_key(secret, key_id="f" * 16)
    for record in (short, locked_key(secret, key_id="f" * 17)):
        files.add(record)
    assert files.find(short.key_id) == short, "a whole id is that id"
    with pytest.raises(UsageError, match="2 keys begin with abc"):
        files.find("abc")
    for unknown in ("", "abcf", "../abcd", "*"):
        with pytest.raises(SecretKeyError, match="blindscore key list"):
            files.find(unknown)


# --- secrets don't show -----------------------------------------------------------------------


def test_the_secret_shows_in_no_repr(key: ClientKey, tmp_path: Path) -> None:
    path = KeyRing(tmp_path).save(key)
    opened = KeyRing(tmp_path).load(key.key_id)
    record = opened.record
    secret = json.loads(path.read_text())["secret"]
    for shown in (
        *(repr(opened), str(opened), repr(record), str(record), record.model_dump_json()),
        *(repr(key), str(key), repr(KeyRing(tmp_path))),
    ):
        assert secret not in shown
        assert secret[:40] not in shown


def test_a_damaged_file_quotes_nothing_of_the_secret(key: ClientKey, tmp_path: Path) -> None:
    path = KeyRing(tmp_path).save(key)
    fields = json.loads(path.read_text())
    path.write_text(json.dumps(fields | {"secret": [fields["secret"]], fields["secret"]: 1}))
    with pytest.raises(SecretKeyError) as refused:
        KeyRing(tmp_path).load(key.key_id)
    assert fields["secret"][:40] not in str(refused.value)


@pytest.mark.parametrize("scheme", SCHEME_NAMES)
def test_no_key_pickles(scheme: str, tmp_path: Path) -> None:
    key = client_scheme(scheme).generate()
    KeyRing(tmp_path).save(key)
    opened = KeyRing(tmp_path).load(key.key_id)
    for secret in (key, opened, opened.record):
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            with pytest.raises(TypeError, match="does not pickle"):
                pickle.dumps(secret, protocol)
    with pytest.raises(TypeError, match="does not pickle"):
        copy.copy(opened)


def test_the_sdk_is_never_verbose(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """It would print the secret key."""
    from encrypted.inference.eibase import EIBase

    asked: list[tuple[bool, str]] = []
    monkeypatch.setattr(EIBase, "log", lambda self, said: asked.append((self.verbose, said)))
    key = REFERENCE.generate()
    list(key.encrypt(np.zeros((1, 3)), Encoding("blindscore", 3, 1.0)))
    assert any(said.startswith("Secret key: ") for _, said in asked)
    assert not any(verbose for verbose, _ in asked)
    assert capfd.readouterr() == ("", "")


def test_nothing_asks_the_sdk_to_be_verbose() -> None:
    root = Path(__file__).parents[3]
    sources = [path for package in PACKAGES for path in (root / package).rglob("*.py")]
    assert sources
    assert [path for path in sources if "verbose" in path.read_text()] == []


def test_an_open_key_can_be_wiped(key: ClientKey) -> None:
    opened = KeyFile(new_record(key), bytearray(key.export_secret()))
    opened.wipe()
    assert not any(opened.secret_bytes())


# --- files change as a whole --------------------------------------------------------------------


class PowerCut(BaseException):
    """Nothing after it runs, as far as the test can have it so."""


def protected(record: KeyRecord, secret: bytearray) -> KeyRecord:
    return under_passphrase(record, secret, PASSPHRASE, cost=CHEAP)


@pytest.mark.parametrize("where", ["os.fsync", "pathlib.Path.replace"])
def test_a_file_whose_change_is_interrupted_is_the_old_one(
    key: ClientKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    ring = KeyRing(tmp_path)
    path = ring.save(key)
    before = path.read_bytes()
    opened = ring.load(key.key_id)

    def interrupted(*_: object) -> None:
        raise PowerCut

    relocked = opened.relock(protected)
    with monkeypatch.context() as patched:
        patched.setattr(where, interrupted)
        with pytest.raises(PowerCut):
            ring.files.replace(relocked, opened.record)
    assert path.read_bytes() == before
    assert {file.name for file in ring.files.path.iterdir()} == {".lock", path.name}
    ring.files.replace(relocked, opened.record)
    assert ring.files.record(key.key_id).protection == "passphrase"


def test_what_a_killed_process_left_is_removed(key: ClientKey, tmp_path: Path) -> None:
    """It may hold a secret, and in plain."""
    ring = KeyRing(tmp_path)
    path = ring.save(key)
    leftovers = [path.with_name(path.name + ".unfinished"), path.with_name("0.key.unfinished")]
    for leftover in leftovers:
        leftover.write_text("half a secret")
    opened = ring.load(key.key_id)
    ring.files.replace(opened.relock(protected), opened.record)
    assert not any(leftover.exists() for leftover in leftovers)
    with passphrase_file(tmp_path) as file:
        again = KeyRing(tmp_path, Passphrases(file)).load(key.key_id)
    assert again.key().export_secret() == key.export_secret()
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_that_changed_meanwhile_is_left_alone(key: ClientKey, tmp_path: Path) -> None:
    ring = KeyRing(tmp_path)
    path = ring.save(key)
    opened = ring.load(key.key_id)
    ring.files.replace(opened.relock(protected), opened.record)
    now = path.read_bytes()
    with pytest.raises(SecretKeyError, match="changed meanwhile"):
        ring.files.replace(opened.relock(protected), opened.record)
    assert path.read_bytes() == now


def test_keys_that_are_written_at_once_all_arrive(tmp_path: Path) -> None:
    """Each removes what it takes for leftovers, so they have to take turns."""
    records = [locked_key(keyseal.unlocked, key_id=f"{n:064d}") for n in range(64)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(KeyRing(tmp_path).files.add, records))
    assert list(KeyRing(tmp_path).files.records()) == records


def test_a_disk_that_takes_nothing_is_told(
    key: ClientKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(SecretKeyError, match="No space left on device"):
        KeyRing(tmp_path).save(key)
    assert not list((tmp_path / "keys").glob("*.key*"))
