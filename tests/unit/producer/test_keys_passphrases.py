"""Passphrases come from a file, a variable or a terminal, and a wrong one is told as such."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import unicodedata
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
from pydantic import SecretStr

from producer import keycrypt, keyphrase
from producer.keycrypt import ScryptCost
from producer.keyphrase import MAX_BYTES, PASSPHRASE_VARIABLE, Passphrases
from producer.keyrecord import KeyRecord
from producer.keys import KeyRing, new_record
from producer.keyseal import under_passphrase
from producer.schemes.direct import SCHEME
from shared.errors import SecretKeyError, UsageError
from tests.commands import CLEAN_ENVIRONMENT
from tests.unit.producer.keymaking import CHEAP, PASSPHRASE, passphrase_file

RIGHT = PASSPHRASE.get_secret_value()


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PASSPHRASE_VARIABLE, raising=False)


@pytest.fixture
def record(tmp_path: Path) -> KeyRecord:
    """A key under `PASSPHRASE`, in its file."""
    locker = partial(under_passphrase, passphrase=PASSPHRASE, cost=CHEAP)
    record = new_record(SCHEME.generate(), locker=locker)
    KeyRing(tmp_path).files.add(record)
    return record


class Typist:
    """Somebody at a terminal, who types what the test says; U+DCxx is the byte xx."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *typed: str) -> None:
        self.prompts: list[str] = []
        self.typed = list(typed)
        monkeypatch.setattr(keyphrase, "_can_ask", lambda: True)
        monkeypatch.setattr(keyphrase, "_ask", self._answer)

    def _answer(self, prompt: str) -> str:
        self.prompts.append(prompt)
        return self.typed.pop(0).encode(errors="surrogateescape").decode()


def test_the_variable_opens_a_key(
    record: KeyRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PASSPHRASE_VARIABLE, RIGHT)
    assert KeyRing(tmp_path).load(record.key_id).key().key_id == record.key_id


def test_a_file_opens_a_key_and_comes_before_the_variable(
    record: KeyRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PASSPHRASE_VARIABLE, "another one")
    with passphrase_file(tmp_path) as file:
        ring = KeyRing(tmp_path, Passphrases(file))
    assert ring.load(record.key_id).key().key_id == record.key_id


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_the_line_end_of_a_file_is_not_part_of_it(tmp_path: Path, end: str) -> None:
    file = tmp_path / "passphrase"
    file.write_bytes(f" with spaces \t{end}".encode())
    assert Passphrases(file).given() == SecretStr(" with spaces \t")


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe", b"x" * (MAX_BYTES + 1), None])
def test_a_file_without_a_passphrase_is_named(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "passphrase"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UsageError, match=str(file)):
        Passphrases(file).given()


def test_letters_that_were_typed_apart_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    apart, composed = (unicodedata.normalize(form, "Zoë Grüße") for form in ("NFD", "NFC"))
    assert apart != composed
    monkeypatch.setenv(PASSPHRASE_VARIABLE, apart)
    assert Passphrases().given() == SecretStr(composed)


def test_a_wrong_passphrase_is_told(
    record: KeyRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PASSPHRASE_VARIABLE, "wrong horse")
    with pytest.raises(SecretKeyError, match=f"wrong passphrase for key {record.key_id}") as told:
        KeyRing(tmp_path).load(record.key_id)
    assert "wrong horse" not in str(told.value)
    assert told.value.exit_code != 0


def test_without_a_passphrase_the_remedy_names_where_to_put_it(
    record: KeyRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyphrase, "_can_ask", lambda: False)
    remedy = "set BLINDSCORE_PASSPHRASE, or use --passphrase-file, or run this on a terminal"
    with pytest.raises(SecretKeyError, match=remedy):
        KeyRing(tmp_path).load(record.key_id)
    with pytest.raises(UsageError, match=remedy):
        Passphrases().new()


def test_at_a_terminal_there_are_three_tries(
    record: KeyRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    typist = Typist(monkeypatch, "wrong one", "wrong two", RIGHT)
    assert KeyRing(tmp_path).load(record.key_id).key_id == record.key_id
    assert len(typist.prompts) == 3
    typist = Typist(monkeypatch, "wrong one", "wrong two", "wrong three", RIGHT)
    with pytest.raises(SecretKeyError, match="wrong passphrase"):
        KeyRing(tmp_path).load(record.key_id)
    assert typist.typed == [RIGHT]


def test_a_key_is_derived_once(
    record: KeyRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PASSPHRASE_VARIABLE, RIGHT)
    derived: list[ScryptCost] = []
    derive = keycrypt.derive

    def counted(passphrase: str, salt: bytes, cost: ScryptCost) -> bytearray:
        derived.append(cost)
        return derive(passphrase, salt, cost)

    monkeypatch.setattr(keycrypt, "derive", counted)
    opened = KeyRing(tmp_path).newest("direct")
    for purpose in ("manifest", "canaries", "rows"):
        opened.derive(purpose)
    opened.key()
    opened.secret_bytes()
    assert derived == [CHEAP]


def test_a_new_passphrase_is_asked_for_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    typist = Typist(monkeypatch, RIGHT, RIGHT)
    assert Passphrases().new() == PASSPHRASE
    assert len(typist.prompts) == 2
    Typist(monkeypatch, RIGHT, "a slip of it", RIGHT, RIGHT)
    assert Passphrases().new() == PASSPHRASE
    Typist(monkeypatch, *(RIGHT, "a slip of it") * 3)
    with pytest.raises(UsageError, match="no new passphrase was chosen in 3 tries"):
        Passphrases().new()


def test_a_new_passphrase_that_is_unfit_is_asked_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for unfit in ("", "seven77", "eight by\udcfftes"):
        typist = Typist(monkeypatch, unfit, RIGHT, RIGHT)
        assert Passphrases().new() == PASSPHRASE
        assert len(typist.prompts) == 3


def test_a_slip_that_is_no_text_is_a_wrong_passphrase(
    record: KeyRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Typist(monkeypatch, "\udcff", "", RIGHT)
    assert KeyRing(tmp_path).load(record.key_id).key_id == record.key_id


def test_a_variable_that_is_no_text_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSPHRASE_VARIABLE, "eight by\udcfftes")
    with pytest.raises(UsageError, match=f"{PASSPHRASE_VARIABLE} is not UTF-8"):
        Passphrases().given()


def test_too_little_memory_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def starved(**_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(keycrypt, "Scrypt", starved)
    with pytest.raises(SecretKeyError, match="needs 128 MiB"):
        keycrypt.derive(RIGHT, b"salt", keycrypt.OWASP)


def test_a_new_passphrase_that_is_soon_guessed_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(PASSPHRASE_VARIABLE, "seven77")
    with pytest.raises(UsageError, match="at least 8"):
        Passphrases().new()
    assert Passphrases().given() == SecretStr("seven77"), "an old one may be as short as it is"


# --- a real terminal ----------------------------------------------------------------------------


def at_a_terminal(arguments: Sequence[str], typed: Sequence[str], home: Path) -> tuple[int, str]:
    """Run `blindscore` at a terminal, typing a line at each colon; all that was to be seen."""
    ours, its = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "blindscore", *arguments],
        env=CLEAN_ENVIRONMENT | {"BLINDSCORE_HOME": str(home), "TERM": "dumb"},
        stdin=its,
        stdout=its,
        stderr=its,
        start_new_session=True,
    )
    os.close(its)
    seen, waiting = "", list(typed)
    with os.fdopen(ours, "r+b", buffering=0) as terminal:
        while True:
            try:
                chunk = terminal.read(4096)
            except OSError:  # the other end was closed
                break
            if not chunk:
                break
            seen += chunk.decode()
            if waiting and seen.endswith(": "):
                terminal.write(f"{waiting.pop(0)}\n".encode())
    return process.wait(60), seen


def test_what_is_typed_does_not_show(record: KeyRecord, tmp_path: Path) -> None:
    new = "eight more words"
    code, seen = at_a_terminal(("key", "protect", record.key_id), (RIGHT, new, new), tmp_path)
    assert code == 0, seen
    assert seen.count("assphrase") >= 2
    assert RIGHT not in seen
    assert new not in seen
    with passphrase_file(tmp_path, new) as file:
        opened = KeyRing(tmp_path, Passphrases(file)).load(record.key_id)
    assert opened.key().key_id == record.key_id


def test_giving_up_at_the_prompt_changes_nothing(record: KeyRecord, tmp_path: Path) -> None:
    path = KeyRing(tmp_path).files.path_of(record.key_id)
    before = path.read_bytes()
    code, seen = at_a_terminal(("key", "protect", record.key_id), (RIGHT, "\x04"), tmp_path)
    assert code != 0
    assert "Traceback" not in seen
    assert path.read_bytes() == before
