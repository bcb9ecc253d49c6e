"""Tables in text as data sets."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from producer.datasets import open_dataset, tables
from shared.errors import DatasetError
from tests.memory import traced_peak


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "table.csv"


def read(
    path: Path, text: str, *, label_column: str | None = None
) -> tuple[list[list[float]], list[str] | None]:
    """A table's rows, and its labels if it has any."""
    path.write_text(text)
    dataset = open_dataset(path, label_column=label_column)
    blocks = list(dataset.blocks(2))
    rows = [row for block in blocks for row in block.rows.tolist()]
    assert dataset.rows is None
    assert dataset.has_labels == (label_column is not None)
    assert all(len(row) == dataset.features for row in rows)
    if not dataset.has_labels:
        assert all(block.labels is None for block in blocks)
        return rows, None
    return rows, [label for b in blocks if b.labels is not None for label in b.labels.tolist()]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("1,2\n3,4\n-5e1,.5\n", id="no header"),
        pytest.param("a,b\n1,2\n3,4\n-50,0.5\n", id="header"),
        pytest.param("0,1\n1,2\n3,4\n-50,0.5\n", id="counted header"),
        pytest.param("\ufeffa,b\n1,2\n3,4\n-50,0.5\n", id="byte order mark"),
        pytest.param("a,b\r\n1,2\r\n3,4\r\n-50,0.5\r\n", id="carriage returns"),
        pytest.param("\n1,2\n\n3,4\n\n-50,0.5\n\n", id="blank lines"),
        pytest.param("1,2\n3,4\n-50,0.5", id="no last line end"),
        pytest.param('"a","b"\n"1","2"\n 3 , 4 \n-50,0.5\n', id="quotes and spaces"),
    ],
)
def test_numbers_become_rows(path: Path, text: str) -> None:
    assert read(path, text) == ([[1.0, 2.0], [3.0, 4.0], [-50.0, 0.5]], None)


@pytest.mark.parametrize(
    ("text", "label_column"),
    [
        pytest.param("a,kind,b\n1,x,2\n3,7,4\n5,y,6\n", "kind", id="by name"),
        pytest.param("a,kind,b\n1,x,2\n3,7,4\n5,y,6\n", "1", id="by number"),
        pytest.param("1,x,2\n3,7,4\n5,y,6\n", "1", id="no header"),
        pytest.param("1,2,x\n3,4,7.0\n5,6, y \n", "-1", id="the last"),
        pytest.param("x,1,2\n7,3,4\ny,5,6\n", "0", id="the first"),
        pytest.param("0,1,kind\n1,2,x\n3,4,7\n5,6,y\n", "kind", id="counted header, by name"),
        pytest.param("5,kind,6.5\n1,x,2\n3,7,4\n5,y,6\n", "kind", id="numbers as names"),
        pytest.param("0,1,2\n1,2,x\n3,4,7\n5,6,y\n", "2", id="counted header, by number"),
    ],
)
def test_a_column_of_labels_is_taken_out(path: Path, text: str, label_column: str) -> None:
    rows, labels = read(path, text, label_column=label_column)
    assert rows == [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]
    assert labels == ["x", "7", "y"]


def test_skipping_counts_rows_and_not_lines(path: Path) -> None:
    path.write_text("a,b\n\n1,2\n\n3,4\n5,6\n")
    blocks = list(open_dataset(path).blocks(2, skip=1))
    assert [(b.first_row, b.rows.tolist()) for b in blocks] == [(1, [[3.0, 4.0], [5.0, 6.0]])]


@pytest.mark.parametrize(
    ("text", "label_column", "told"),
    [
        ("1,2\n3,4\n5,six\n", None, "line 3: 'six' is not a number"),
        ("a,b\n1,2\n\n\n5,\n", None, "line 5: '' is not a number"),
        ("1,2\n3,4\n5,6,7\n", None, "line 3: 3 columns, not 2"),
        ("1,2\n3\n", None, "line 2: 1 columns, not 2"),
        ("1,2,cat\n3,4,dog\n", None, "line 1: 'cat' is not a number, and others are"),
        ("1,2;3\n", None, "line 1: '2;3' is not a number"),
        ("a,b\n1,2\n", "c", "has no column 'c' (a number below 2, or one of: a, b)"),
        ("a,b\n1,2\n", "2", "has no column '2'"),
        ("a,b\n1,2\n", "-3", "has no column '-3'"),
        ("a,b\n1, \n", "b", "line 2: the label is empty"),
        ("a\nx\n", "a", "no column besides the labels"),
        ("", None, "is empty"),
        ("\n\n", None, "is empty"),
        ("a,b\n", None, "a header and no rows"),
        ('1,2\n"3\n4,5\n', None, "line 3: 1 columns, not 2"),
        ("1,2\n3,1e999\n", None, "row 1, feature 1 (counted from 0) is inf"),
        ("1,2\nnan,3\n", None, "row 1, feature 0 (counted from 0) is nan"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(
    path: Path, text: str, label_column: str | None, told: str
) -> None:
    with pytest.raises(DatasetError) as refusal:
        read(path, text, label_column=label_column)
    assert told in str(refusal.value)
    assert "table.csv" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_file_with_a_wrong_line_does_not_stay_open(path: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    refusals = []
    for rows, names in (("1,2\n3,x\n5,6\n", "a\nb\nc\n"), ("1,2\n3,4\n5,6\n", "a\nb,b\nc\n")):
        path.write_text(rows)
        labels.write_text(names)
        with pytest.raises(DatasetError) as refusal:
            list(open_dataset(path, labels=labels).blocks(1))
        refusals.append(refusal)  # its traceback holds on to all that was going on
    assert [file.path for file in psutil.Process().open_files() if "csv" in file.path] == []


def test_bytes_that_are_no_text(path: Path) -> None:
    path.write_bytes(b"1,2\n\xff\xfe,3\n")
    with pytest.raises(DatasetError, match=r"table\.csv is not text in UTF-8"):
        list(open_dataset(path).blocks(1))


def test_a_file_without_line_ends(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MAX_LINE_CHARACTERS", 1000)
    path.write_text("1," * 1000)
    with pytest.raises(DatasetError, match="a line of over 1,000 characters"):
        open_dataset(path)


def test_a_cell_beyond_the_csv_modules_limit(path: Path) -> None:
    path.write_text("1,2\n" + "1" * 140_000 + ",2\n")
    with pytest.raises(DatasetError, match=r"table\.csv, line 2: field larger"):
        list(open_dataset(path).blocks(1))


def test_memory_stays_flat(path: Path) -> None:
    line = ",".join(["0.125"] * 100) + "\n"
    path.write_text(line * 5_000)
    dataset = open_dataset(path)
    with traced_peak() as peak:
        count = sum(len(block.rows) for block in dataset.blocks(50))
    assert count == 5_000
    assert peak.bytes < 10 * 50 * 100 * 8
