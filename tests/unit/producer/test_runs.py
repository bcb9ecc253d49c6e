"""What is kept of a run on its owner's disk, and for whom."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from producer.journal import Encryption
from producer.runs import RunFolder, known_runs
from shared.errors import RunError
from shared.messages import JobEntry
from tests.unit.producer.pipeline import RUN, World


def encryption(job: str, *, sha256: str = "a" * 64) -> Encryption:
    return Encryption(JobEntry(job=job, first_row=3, rows=2, sha256=sha256), "tag")


def test_a_record_is_read_back_and_is_its_owners_alone(tmp_path: Path) -> None:
    world = World(tmp_path, canaries=1)
    world.folder.create(world.record)
    assert world.folder.read() == world.record
    assert list(known_runs(tmp_path)) == [world.record]
    assert stat.S_IMODE(world.folder.path.stat().st_mode) == 0o700
    assert [path.name for path in world.folder.path.iterdir()] == ["run.json"]


def test_unknown_and_impossible_runs_are_told(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="unknown run run-1") as told:
        RunFolder(tmp_path, RUN).read()
    assert "status" in told.value.remedy
    with pytest.raises(RunError, match="not a run id"):
        RunFolder(tmp_path, "../keys")


def test_a_run_whose_record_was_never_finished_is_unknown(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, RUN)
    folder.path.mkdir(parents=True)
    (folder.path / "run.json.unfinished").write_text("{")
    assert folder.find() is None
    assert list(known_runs(tmp_path)) == []


def test_a_damaged_record_is_told(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.folder.create(world.record)
    (world.folder.path / "run.json").write_text("{}")
    with pytest.raises(RunError, match="not a run record"):
        world.folder.read()


def test_a_damaged_record_does_not_hide_the_others(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.folder.create(world.record)
    damaged = RunFolder(tmp_path, "run-0")
    damaged.path.mkdir()
    (damaged.path / "run.json").write_text("{}")
    with capture_logs() as logged:
        assert list(known_runs(tmp_path)) == [world.record]
    assert [str(damaged.path) in entry["why"] for entry in logged] == [True]


def test_a_folder_of_runs_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("not a folder")
    with pytest.raises(RunError, match="runs: Not a directory"):
        list(known_runs(tmp_path))


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    world = World(tmp_path)
    world.folder.create(world.record)
    return world.folder


def test_a_journal_remembers(folder: RunFolder) -> None:
    with folder.journal() as journal:
        assert journal.jobs == 0
        journal.add_encryption(encryption("000000"))
        journal.add_encryption(encryption("000001"))
        journal.add_encryption(encryption("000001", sha256="b" * 64))
        journal.add_enqueued("000000")
    with folder.journal() as journal:
        assert journal.jobs == 2
        assert journal.encryptions("000000") == [encryption("000000")]
        assert [e.entry.sha256[0] for e in journal.encryptions("000001")] == ["a", "b"]
        assert journal.is_enqueued("000000")
        assert not journal.is_enqueued("000001")
        assert journal.encryptions("000002") == []


def test_a_line_torn_at_any_byte_was_never_written(folder: RunFolder) -> None:
    with folder.journal() as journal:
        journal.add_encryption(encryption("000000"))
        journal.add_encryption(encryption("000001"))
    log = folder.path / "encrypted"
    whole = log.read_bytes()
    for length in range(len(whole) // 2, len(whole)):
        log.write_bytes(whole[:length])
        with folder.journal() as journal:
            assert journal.jobs == 1
            journal.add_encryption(encryption("000002"))
        with folder.journal() as journal:
            assert journal.encryptions("000000") == [encryption("000000")]
            assert journal.encryptions("000001") == []
            assert journal.encryptions("000002") == [encryption("000002")]


@pytest.mark.parametrize("line", ["000001 3 2 abc tag", "000001 3 0 " + "a" * 64 + " t", "\x00"])
def test_a_line_that_is_not_ours_is_told(folder: RunFolder, line: str) -> None:
    (folder.path / "encrypted").write_text(f"{line}\n")
    with pytest.raises(RunError, match="encrypted is damaged"), folder.journal():
        pass


def test_a_journal_is_for_one_process_at_a_time(folder: RunFolder) -> None:
    with folder.journal(), pytest.raises(RunError, match="another process"), folder.journal():
        pass
    with folder.journal():
        pass
