"""`blindscore key` where it needs no account: lists, shows, protects."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import combinations
from pathlib import Path

import pytest
import structlog
import typer
from typer.testing import CliRunner, Result

from producer import cli_keygen, keyphrase, keyseal
from producer.cli_key import key as app
from producer.keycrypt import OWASP
from producer.keylife import NewKey, blob_metadata, choose_locker, successor
from producer.keyphrase import NEW_PASSPHRASE_VARIABLE, PASSPHRASE_VARIABLE, Passphrases
from producer.keyrecord import KeyRecord, PassphraseLock
from producer.keys import KeyRing, new_record
from producer.keyseal import under_passphrase
from producer.runs import RunFolder, RunRecord
from producer.schemes import SCHEME_NAMES, client_scheme
from producer.schemes.direct import SCHEME
from shared.errors import BlindscoreError, RunError, SecretKeyError, UsageError
from shared.settings import CONNECTION_STRING_VARIABLE
from tests.commands import CLEAN_ENVIRONMENT
from tests.unit.producer.keymaking import CHEAP, PASSPHRASE, locked_key, passphrase_file

RIGHT = PASSPHRASE.get_secret_value()
NEW = "another eight words"
NOWHERE = (
    "AccountName=a;AccountKey=YQ==;BlobEndpoint=http://127.0.0.1:1/a;"
    "QueueEndpoint=http://127.0.0.1:1/a"
)
"""An account that a command must not come to ask."""
START = datetime(2026, 1, 1, 12, 30, tzinfo=UTC)
LOCKER = partial(under_passphrase, passphrase=PASSPHRASE, cost=CHEAP)


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for variable in (PASSPHRASE_VARIABLE, NEW_PASSPHRASE_VARIABLE):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(keyphrase, "_can_ask", lambda: False)
    yield
    structlog.reset_defaults()  # commands have it write to where nobody listens any more


@pytest.fixture
def ring(tmp_path: Path) -> KeyRing:
    return KeyRing(tmp_path)


def invoke(ring: KeyRing, *arguments: str, **variables: str) -> Result:
    home = str(ring.files.path.parent)
    return CliRunner().invoke(app, arguments, env={"BLINDSCORE_HOME": home} | variables)


def run(ring: KeyRing, *arguments: str, **variables: str) -> str:
    """A command that must succeed; its standard output."""
    result = invoke(ring, *arguments, **variables)
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(ring: KeyRing, *arguments: str, **variables: str) -> BlindscoreError:
    """A command that must fail with an error of ours."""
    result = invoke(ring, *arguments, **variables)
    assert isinstance(result.exception, BlindscoreError), result.output
    assert result.exception.exit_code != 0
    return result.exception


def add(ring: KeyRing, *, locked: bool) -> KeyRecord:
    record = new_record(SCHEME.generate(), locker=LOCKER if locked else keyseal.unlocked)
    ring.files.add(record)
    return record


def opens_with(
    ring: KeyRing, key_id: str, passphrase: str, monkeypatch: pytest.MonkeyPatch
) -> bool:
    with monkeypatch.context() as patched:
        patched.setenv(PASSPHRASE_VARIABLE, passphrase)
        try:
            return ring.load(key_id).key().key_id == key_id
        except SecretKeyError:
            return False


# --- list and show ------------------------------------------------------------------------------


def test_keys_are_listed_without_being_opened(ring: KeyRing) -> None:
    for name, locker, expires_at in (
        ("a", keyseal.unlocked, None),
        ("b", LOCKER, START + timedelta(days=1)),
    ):
        record = locked_key(locker, key_id=name * 64)
        ring.files.add(record.model_copy(update={"expires_at": expires_at}))
    table = run(ring, "list", "--local")
    for said in ("a" * 8, "b" * 8, "2026-01-01", "never", "expired", "passphrase", "none"):
        assert said in table
    first, second = json.loads(run(ring, "list", "--local", "--json"))
    assert first == {
        "key_id": "a" * 64,
        "problem": None,
        "scheme": "direct",
        "preset": "precision",
        "created_at": "2026-01-01T12:30:00+00:00",
        "expires_at": None,
        "expired": False,
        "protection": "none",
        "published": None,
        "runs": 0,
        "runs_not_collected": 0,
    }
    assert (second["expires_at"], second["expired"]) == ("2026-01-02T12:30:00+00:00", True)


def test_no_keys_are_told(ring: KeyRing) -> None:
    assert "blindscore keygen makes one" in run(ring, "list", "--local")
    assert json.loads(run(ring, "list", "--local", "--json")) == []


def run_of(key_id: str, name: str, home: Path) -> RunFolder:
    folder = RunFolder(home, name)
    folder.create(
        RunRecord(
            run=name,
            scheme="direct",
            key_id=key_id,
            container="blindscore",
            queue="blindscore-jobs",
            dataset={},
            features=4,
            input_bound=1.0,
            rows_per_job=4,
            created_at=START,
        )
    )
    return folder


def test_what_is_damaged_does_not_hide_the_rest(ring: KeyRing, tmp_path: Path) -> None:
    """One key file that says nothing, one that says nonsense, and the record of a run."""
    record = add(ring, locked=False)
    run_of(record.key_id, "run-1", tmp_path)
    (run_of(record.key_id, "run-2", tmp_path).path / "run.json").write_text("{}")
    ring.files.path_of("0" * 64).write_text("")
    fields = json.loads(locked_key(keyseal.unlocked, key_id="9" * 64).encode())
    early = fields | {"created_at": "0001-01-01T00:00:00+14:00"}
    ring.files.path_of("9" * 64).write_text(json.dumps(early))
    for path in ring.files.path.glob("*.key"):
        path.chmod(0o600)

    healthy, *others = json.loads(run(ring, "list", "--local", "--json"))
    assert (healthy["key_id"], healthy["problem"]) == (record.key_id, None)
    assert healthy["runs"] == 1
    assert {(each["key_id"], each["scheme"]) for each in others} == {
        ("0" * 64, None),
        ("9" * 64, None),
    }
    assert all(str(ring.files.path_of(each["key_id"])) in each["problem"] for each in others)

    listed = invoke(ring, "list", "--local")
    assert listed.exit_code == 0
    assert listed.stdout.count("unusable") == 2
    for damaged in (*(each["problem"] for each in others), "run-2/run.json is not a run record"):
        assert damaged in listed.stderr


def test_no_key_is_made_where_its_runs_cannot_be_read(ring: KeyRing, tmp_path: Path) -> None:
    """Else each try leaves one more."""
    record = add(ring, locked=False)
    (tmp_path / "runs").write_text("not a folder")
    told = refused(ring, "rotate", record.key_id, **{CONNECTION_STRING_VARIABLE: NOWHERE})
    assert isinstance(told, RunError)


def test_a_secret_that_cannot_be_deleted_stays_published(ring: KeyRing, tmp_path: Path) -> None:
    path = ring.files.path_of(add(ring, locked=False).key_id)
    path.symlink_to(path.rename(tmp_path / "elsewhere"))
    forget = ("forget", path.stem, "--secret", "--yes")
    told = refused(ring, *forget, **{CONNECTION_STRING_VARIABLE: NOWHERE})
    assert f"is a link to {tmp_path / 'elsewhere'}" in str(told)


def test_what_is_public_of_a_key_is_shown(ring: KeyRing, tmp_path: Path) -> None:
    record = add(ring, locked=True)
    secret = record.secret.get_secret_value()
    assert isinstance(record.lock, PassphraseLock)
    run_of(record.key_id, "run-1", tmp_path).mark_collected(START)
    run_of(record.key_id, "run-2", tmp_path)
    run_of("e" * 64, "run-3", tmp_path)
    said = run(ring, "show", record.key_id[:10], "--local")
    assert secret[:32] not in said
    shown = json.loads(said)
    assert shown["key_id"] == record.key_id
    assert shown["lock"] == {
        "kind": "passphrase",
        "cipher": "AES-256-GCM",
        "kdf": "scrypt",
        "n": CHEAP.n,
        "r": CHEAP.r,
        "p": CHEAP.p,
    }
    assert shown["file"] == str(ring.files.path_of(record.key_id))
    at = START.isoformat()
    assert shown["runs"] == [
        {"run": "run-1", "created_at": at, "collected_at": at},
        {"run": "run-2", "created_at": at, "collected_at": None},
    ]
    assert shown["runs_not_collected"] == 1


def test_an_unknown_key_is_told(ring: KeyRing) -> None:
    assert "blindscore key list" in str(refused(ring, "show", "3f9a", "--local"))


def test_a_mark_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="can't write"):
        RunFolder(tmp_path, "run-1").mark_collected(START)


# --- protect ------------------------------------------------------------------------------------


def test_protection_is_added_changed_and_removed(
    ring: KeyRing, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plain = add(ring, locked=False)
    key_id = plain.key_id
    secret = ring.load(key_id).secret_bytes()

    said = run(ring, "protect", key_id, BLINDSCORE_PASSPHRASE=RIGHT)
    assert said == f"key {key_id}: protection none → passphrase\n"
    lock = ring.files.record(key_id).lock
    assert isinstance(lock, PassphraseLock)
    assert lock.cost == OWASP
    assert opens_with(ring, key_id, RIGHT, monkeypatch)

    file = tmp_path / "new"
    file.write_text(f"{NEW}\n")
    variables = {PASSPHRASE_VARIABLE: RIGHT}
    run(ring, "protect", key_id, "--new-passphrase-file", str(file), **variables)
    assert opens_with(ring, key_id, NEW, monkeypatch)
    assert not opens_with(ring, key_id, RIGHT, monkeypatch)

    run(ring, "protect", key_id, "--remove", BLINDSCORE_PASSPHRASE=NEW)
    run(ring, "protect", key_id, "--remove")
    assert ring.load(key_id).secret_bytes() == secret
    assert ring.files.record(key_id) == plain


KILLED = """
import os, signal, sys
from pathlib import Path
import blindscore
Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
sys.argv[1:] = ["key", "protect", sys.argv[1]]
blindscore.main()
"""


def test_killed_before_its_file_is_replaced_the_old_one_stays(
    ring: KeyRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = add(ring, locked=False)
    environment = {"BLINDSCORE_HOME": str(ring.files.path.parent), PASSPHRASE_VARIABLE: RIGHT}
    done = subprocess.run(
        [sys.executable, "-c", KILLED, plain.key_id],
        env=CLEAN_ENVIRONMENT | environment,
        timeout=60,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    (leftover,) = ring.files.path.glob("*.unfinished")
    assert leftover.stat().st_mode & 0o777 == 0o600
    assert ring.files.record(plain.key_id) == plain
    assert ring.load(plain.key_id).key().key_id == plain.key_id
    run(ring, "protect", plain.key_id, BLINDSCORE_PASSPHRASE=RIGHT)
    assert not leftover.exists()
    assert opens_with(ring, plain.key_id, RIGHT, monkeypatch)


def test_only_who_has_the_passphrase_changes_it(ring: KeyRing) -> None:
    record = add(ring, locked=True)
    variables = {PASSPHRASE_VARIABLE: "wrong horse", NEW_PASSPHRASE_VARIABLE: NEW}
    for options in ((), ("--remove",)):
        assert "wrong passphrase" in str(
            refused(ring, "protect", record.key_id, *options, **variables)
        )
        assert ring.files.record(record.key_id) == record


def test_a_locked_key_wants_a_new_passphrase_of_its_own(ring: KeyRing) -> None:
    """The one that opens it is not taken for the new one."""
    record = add(ring, locked=True)
    told = refused(ring, "protect", record.key_id, BLINDSCORE_PASSPHRASE=RIGHT)
    assert "set BLINDSCORE_NEW_PASSPHRASE, or use --new-passphrase-file" in str(told)
    assert ring.files.record(record.key_id) == record


def test_contradictions_are_refused(ring: KeyRing) -> None:
    record = add(ring, locked=False)
    ways = (("--remove",), ("--vault", "https://v.example"), ("--new-passphrase-file", "file"))
    for one, other in combinations(ways, 2):
        told = refused(ring, "protect", record.key_id, *one, *other)
        assert f"{one[0]}" in str(told)
        assert "contradict each other" in str(told)
    for passphrase in (("--passphrase",), ("--passphrase-file", "file")):
        with pytest.raises(UsageError, match=f"--vault and {passphrase[0]} contradict"):
            make_key_by("--vault", "https://v.example", *passphrase)


def test_an_option_goes_before_a_variable(
    ring: KeyRing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    defaults = under_passphrase.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "cost", CHEAP)  # there are eight of them
    vault = {"BLINDSCORE_VAULT": "https://v.example"}
    plain = add(ring, locked=False)
    with passphrase_file(tmp_path) as file:
        for option in ("--passphrase-file", "--new-passphrase-file"):
            said = run(ring, "protect", plain.key_id, option, str(file), **vault)
            assert said.endswith("none → passphrase\n")
            for _ in range(2):  # the second time there is nothing to open
                opening = ("--passphrase-file", str(file))
                run(ring, "protect", plain.key_id, "--remove", *opening, **vault)
            assert ring.files.record(plain.key_id) == plain
        assert make_key_by("--passphrase-file", str(file), **vault).protection == "passphrase"
    assert make_key_by("--passphrase", **vault, BLINDSCORE_PASSPHRASE=RIGHT).protection == (
        "passphrase"
    )


def make_key_by(*options: str, **variables: str) -> KeyRecord:
    """A record as `keygen` would keep it, given these options."""
    made: list[KeyRecord] = []

    def make(new: NewKey, *_: object) -> tuple[KeyRecord, Path]:
        made.append(locked_key(new.locker))
        return made[-1], Path("/a[/b]:key:")

    app = typer.Typer()
    app.command()(cli_keygen.keygen)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(cli_keygen, "make_key", make)
        account = {CONNECTION_STRING_VARIABLE: NOWHERE, "BLINDSCORE_ALLOW_ACCOUNT_KEY": "1"}
        done = CliRunner().invoke(app, ["--scheme", "direct", *options], env=account | variables)
    if done.exception:
        raise done.exception
    return made[0]


def test_paths_are_told_as_they_are(capfd: pytest.CaptureFixture[str]) -> None:
    """Brackets and colons are no markup."""
    cli_keygen.tell(locked_key(keyseal.unlocked), Path("/a[/b]:key:"))
    assert "secret key for direct in /a[/b]:key:; " in capfd.readouterr().err


def test_a_passphrase_is_no_argument() -> None:
    """A process list would show it: the flag that asks for one takes no value."""
    assert CliRunner().invoke(app, ["protect", "k", "--passphrase", RIGHT]).exit_code == 2


# --- making others ------------------------------------------------------------------------------


def test_a_new_key_is_locked_as_its_maker_says(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_locker("", Passphrases(), ask=False) is keyseal.unlocked
    with pytest.raises(UsageError, match="no new passphrase was given"):
        choose_locker("", Passphrases(), ask=True)
    monkeypatch.setenv(PASSPHRASE_VARIABLE, RIGHT)
    for ask in (True, False):
        record = locked_key(choose_locker("", Passphrases(), ask=ask))
        assert record.protection == "passphrase"


@pytest.mark.parametrize("scheme", SCHEME_NAMES)
def test_a_successor_has_the_same_scheme_and_preset(scheme: str, ring: KeyRing) -> None:
    """Also of a key whose file is too old to name the preset."""
    preset = {"ei": "", "direct": "speed", "packed": "n2048"}[scheme]
    record = new_record(client_scheme(scheme).generate(preset))
    old = record.model_copy(update={"version": 1, "preset": None})
    for each in (record, old):
        assert successor(each, ring) == NewKey(scheme, preset)


def test_a_successor_lives_as_long(ring: KeyRing) -> None:
    made_at, lifetime = START + timedelta(microseconds=700_000), timedelta(days=90)
    record = new_record(SCHEME.generate(), now=made_at, expires_at=START + lifetime)
    assert successor(record, ring).lifetime == lifetime
    assert successor(record, ring, days=1).lifetime == timedelta(days=1)
    assert successor(record, ring, days=0).lifetime is None


def test_a_key_blob_says_in_utc_when_its_key_expires() -> None:
    record = new_record(SCHEME.generate())
    assert blob_metadata(record) == {"scheme": "direct"}
    elsewhere = datetime.fromisoformat("2026-03-01T01:00:00+02:00")
    assert blob_metadata(record.model_copy(update={"expires_at": elsewhere})) == {
        "scheme": "direct",
        "expires_at": "2026-02-28T23:00:00+00:00",
    }
