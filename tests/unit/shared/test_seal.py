"""The file that SEAL's objects pass through: in memory where it can be, and empty of secrets."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from tenseal import sealapi

from producer.schemes import client_scheme
from shared import bfv, seal
from shared.errors import CiphertextError
from shared.params import DIRECT_PRESETS

RING = bfv.ring(DIRECT_PRESETS["speed"])


def scratch_bytes() -> bytes:
    fd = seal._scratch.fd
    return os.pread(fd, os.fstat(fd).st_size, 0)


def secret_key() -> Any:
    return sealapi.KeyGenerator(RING.context).secret_key()


def load(data: bytes, *, secret: bool = True) -> Any:
    return seal.load(sealapi.SecretKey(), RING.context, data, what="a key", secret=secret)


@pytest.fixture(params=["memory", "nameless", "named"])
def scratch(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> seal._Scratch:
    """Each of the three files, where this system has it."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    if request.param != "memory":
        monkeypatch.setattr(seal, "_memory_file", lambda: None)
    if request.param == "named":
        monkeypatch.setattr(seal, "_nameless_file", lambda: None)
    scratch = seal._Scratch()
    monkeypatch.setattr(seal, "_scratch", scratch)
    assert len(list(tmp_path.iterdir())) == (1 if request.param == "named" else 0)
    return scratch


def test_what_is_saved_loads(scratch: seal._Scratch) -> None:
    """Also a short object after a long one."""
    key = secret_key()
    saved = seal.save(key, secret=True)
    plain = sealapi.Plaintext("1x^2 + 3")
    short = seal.save(plain)
    assert len(short) < len(saved)
    again = load(saved)
    assert seal.save(again) == saved
    loaded = seal.load(sealapi.Plaintext(), RING.context, short, what="a plaintext")
    assert loaded.to_string() == plain.to_string()


def test_no_secret_stays_behind(scratch: seal._Scratch) -> None:
    saved = seal.save(secret_key(), secret=True)
    assert scratch_bytes() == b""
    load(saved)
    assert scratch_bytes() == b""
    load(saved, secret=False)
    assert scratch_bytes() == (b"" if scratch.may_stay else saved), "seen, if it were there"


def test_nothing_at_all_stays_in_a_file_that_may_outlive_its_process(
    scratch: seal._Scratch,
) -> None:
    """From the random part of an encryption under the secret key, the values can be told."""
    encryptor = sealapi.Encryptor(RING.context, secret_key())
    seal.save(encryptor.encrypt_zero_symmetric())
    assert (scratch_bytes() == b"") == scratch.may_stay


def test_no_secret_stays_behind_when_seal_refuses_it(scratch: seal._Scratch) -> None:
    saved = bytearray(seal.save(secret_key(), secret=True))
    saved[40] ^= 0xFF
    with pytest.raises(CiphertextError, match="a key was refused by SEAL"):
        load(bytes(saved))
    assert scratch_bytes() == b""


def test_on_a_disk_zeros_are_written_over_a_secret(
    scratch: seal._Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the file is cut, which alone would leave its blocks as they were."""
    before_cuts: list[bytes] = []
    truncate = os.ftruncate

    def watched(fd: int, size: int) -> None:
        before_cuts.append(scratch_bytes())
        truncate(fd, size)

    monkeypatch.setattr(os, "ftruncate", watched)
    seal.save(secret_key(), secret=True)
    assert before_cuts[-1]
    assert not any(before_cuts[-1])


@pytest.mark.parametrize("scheme", ["direct", "packed"])
def test_schemes_leave_no_secret_behind(scheme: str) -> None:
    key = client_scheme(scheme).generate()
    secret = key.export_secret()
    assert scratch_bytes() == b""
    again = client_scheme(scheme).load(secret)
    assert scratch_bytes() == b""
    assert again.export_secret() == secret


NAMED = """
import sys, tempfile
tempfile.tempdir = sys.argv[1]
from shared import seal
seal._memory_file = seal._nameless_file = lambda: None
seal._scratch = seal._Scratch()
print(seal._scratch.path)
"""


def test_a_file_with_a_name_goes_with_its_process(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", NAMED, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert str(tmp_path) in done.stdout
    assert list(tmp_path.iterdir()) == []
    gc.collect()


def test_where_opening_a_descriptor_is_duplicating_it_there_is_a_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As on macOS: the second write to /dev/fd/N goes on where the first one ended."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    write = Path.write_bytes

    def appending(path: Path, data: bytes) -> int:
        if str(path).startswith("/dev/fd/"):
            return os.write(int(path.name), data)
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", appending)
    assert seal._nameless_file() is None
    assert list(tmp_path.iterdir()) == []


FORKED = """
import os
from shared import seal
parents = os.fstat(seal._scratch.fd).st_ino
if os.fork() == 0:
    os._exit(os.fstat(seal._scratch.fd).st_ino == parents)
print(os.waitstatus_to_exitcode(os.wait()[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
def test_a_fork_has_a_file_of_its_own() -> None:
    """In one file, two processes would read each other's objects."""
    done = subprocess.run(
        [sys.executable, "-c", FORKED], capture_output=True, text=True, check=True
    )
    assert done.stdout == "0\n"
