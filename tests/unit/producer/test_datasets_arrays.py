"""numpy's files as data sets."""

from __future__ import annotations

import io
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from producer.datasets import open_dataset
from shared.errors import DatasetError
from tests.memory import traced_peak

Array = npt.NDArray[Any]


def rows_of(path: Path, *, skip: int = 0, rows_per_block: int = 4) -> Array:
    blocks = open_dataset(path).blocks(rows_per_block, skip=skip)
    return np.concatenate([block.rows for block in blocks])


def labels_of(path: Path) -> list[str]:
    blocks = open_dataset(path).blocks(4)
    return [label for b in blocks if b.labels is not None for label in b.labels.tolist()]


def refused(path: Path) -> str:
    with pytest.raises(DatasetError) as refusal:
        rows_of(path)
    assert path.name in str(refusal.value)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


NUMBERS = np.arange(-15, 15).reshape(10, 3)
ARRAYS = [
    pytest.param(NUMBERS.astype(np.float64), id="float64"),
    pytest.param(NUMBERS.astype(np.float32), id="float32"),
    pytest.param(NUMBERS.astype(np.float16), id="float16"),
    pytest.param(NUMBERS.astype(">f8"), id="big-endian"),
    pytest.param(NUMBERS.astype(np.int8), id="int8"),
    pytest.param(NUMBERS > 0, id="bool"),
    pytest.param(np.asfortranarray(NUMBERS.astype(np.float64)), id="by column"),
    pytest.param(np.arange(120, dtype=np.uint8).reshape(10, 4, 3), id="images"),
    pytest.param(np.asfortranarray(np.arange(120.0).reshape(10, 4, 3)), id="images by column"),
    pytest.param(NUMBERS[:, :1], id="one feature"),
    pytest.param(NUMBERS[:1], id="one row"),
]


@pytest.mark.parametrize("array", ARRAYS)
@pytest.mark.parametrize("kind", ["npy", "npz", "npz, compressed"])
@pytest.mark.parametrize("skip", [0, 5])
def test_any_numbers_become_rows(tmp_path: Path, array: Array, kind: str, skip: int) -> None:
    path = tmp_path / f"a.{kind[:3]}"
    if kind == "npy":
        np.save(path, array)
    else:
        (np.savez_compressed if "compressed" in kind else np.savez)(path, x=array)
    dataset = open_dataset(path)
    assert dataset.rows == len(array)
    if skip < len(array):
        rows = rows_of(path, skip=skip)
        assert rows.dtype == np.float64
        assert np.array_equal(rows, array.reshape(len(array), -1).astype(np.float64)[skip:])
        assert dataset.features == rows.shape[1]


@pytest.mark.parametrize("rows", ["x", "X", "data", "images", "anything"])
@pytest.mark.parametrize("labels", ["y", "labels", "target"])
def test_arrays_of_an_archive_are_found_by_name(tmp_path: Path, rows: str, labels: str) -> None:
    arrays: dict[str, Any] = {labels: np.arange(10), rows: NUMBERS}
    np.savez(tmp_path / "d.npz", **arrays)
    assert np.array_equal(rows_of(tmp_path / "d.npz"), NUMBERS)
    assert labels_of(tmp_path / "d.npz") == [str(i) for i in range(10)]


@pytest.mark.parametrize(
    ("labels", "texts"),
    [
        (np.array([3, 5], dtype=np.uint8), ["3", "5"]),
        (np.array([3.0, 5.0]), ["3", "5"]),
        (np.array([3.25, -5.0]), ["3.25", "-5"]),
        (np.array([[3], [5]]), ["3", "5"]),
        (np.array(["cat", "3.0"]), ["cat", "3"]),
        (np.array([b"cat", b"dog"]), ["cat", "dog"]),
        (np.array([True, False]), ["True", "False"]),
    ],
)
def test_labels_become_text(tmp_path: Path, labels: Array, texts: list[str]) -> None:
    np.savez(tmp_path / "d.npz", x=NUMBERS[:2], y=labels)
    assert labels_of(tmp_path / "d.npz") == texts


def test_other_arrays_beside_the_rows_are_left_alone(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=NUMBERS, names=np.array(["a", "b", "c"]))
    assert np.array_equal(rows_of(tmp_path / "d.npz"), NUMBERS)
    assert not open_dataset(tmp_path / "d.npz").has_labels


class TestRefused:
    def test_it_is_not_clear_which_array_holds_the_rows(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "d.npz", one=NUMBERS, two=NUMBERS)
        assert "holds the arrays one, two (name the one with the rows x" in refused(
            tmp_path / "d.npz"
        )

    def test_an_archive_without_arrays(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:
            archive.writestr("readme.txt", "nothing")
        assert "(none)" in refused(tmp_path / "d.npz")

    @pytest.mark.parametrize(
        "array",
        [
            np.zeros(3),
            np.array(1.0),
            np.zeros((0, 3)),
            np.zeros((3, 0)),
            np.zeros((2, 2), dtype=np.complex128),
            np.array([["a", "b"]]),
            np.zeros((2, 2), dtype=[("a", "f8")]),
            np.zeros((2, 2), dtype="M8[s]"),
        ],
        ids=lambda array: f"{array.dtype} {array.shape}",
    )
    def test_what_is_no_table_of_numbers(self, tmp_path: Path, array: Array) -> None:
        np.save(tmp_path / "a.npy", array)
        refused(tmp_path / "a.npy")

    def test_python_objects_are_never_loaded(self, tmp_path: Path) -> None:
        trap = tmp_path / "sprung"

        class Trap:
            def __reduce__(self) -> tuple[object, ...]:
                return (Path.touch, (trap,))

        objects = np.empty((1, 1), dtype=object)
        objects[0, 0] = Trap()
        np.save(tmp_path / "a.npy", objects)
        np.savez(tmp_path / "a.npz", x=objects)
        np.savez(tmp_path / "b.npz", x=NUMBERS[:1], y=objects)
        for name in ("a.npy", "a.npz", "b.npz"):
            assert "Python objects" in refused(tmp_path / name)
        assert not trap.exists()

    @pytest.mark.parametrize("cut", [1, 40, 239, 300, 366])
    def test_an_array_cut_short(self, tmp_path: Path, cut: int) -> None:
        np.save(tmp_path / "a.npy", NUMBERS)
        data = (tmp_path / "a.npy").read_bytes()
        (tmp_path / "a.npy").write_bytes(data[:-cut])
        assert "is damaged" in refused(tmp_path / "a.npy")

    def test_more_than_the_header_announces(self, tmp_path: Path) -> None:
        np.save(tmp_path / "a.npy", NUMBERS)
        with (tmp_path / "a.npy").open("ab") as file:
            file.write(b"\0")
        assert "is damaged: 369 bytes, its header announces 368" in refused(tmp_path / "a.npy")

    @pytest.mark.parametrize("cut", [1, 200, 500])
    def test_an_archive_cut_short(self, tmp_path: Path, cut: int) -> None:
        np.savez(tmp_path / "a.npz", x=NUMBERS)
        data = (tmp_path / "a.npz").read_bytes()
        (tmp_path / "a.npz").write_bytes(data[:-cut])
        assert "is damaged" in refused(tmp_path / "a.npz")

    def test_an_archive_with_flipped_bits(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "a.npz", x=NUMBERS)
        data = bytearray((tmp_path / "a.npz").read_bytes())
        data[data.index(np.int64(-15).tobytes())] ^= 0xFF
        (tmp_path / "a.npz").write_bytes(data)
        assert "array 'x', is damaged" in refused(tmp_path / "a.npz")

    @pytest.mark.parametrize("shape", ["(-2, -184)", "(10, 10**9)", "('a', 2)", "9"])
    def test_a_header_that_lies(self, tmp_path: Path, shape: str) -> None:
        header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}\n".encode()
        data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(368)
        (tmp_path / "a.npy").write_bytes(data)
        refused(tmp_path / "a.npy")

    @pytest.mark.parametrize("name", ["a.npy", "a.npz"])
    @pytest.mark.parametrize("content", [b"", b"<html>", bytes(500)])
    def test_another_format(self, tmp_path: Path, name: str, content: bytes) -> None:
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name)

    @pytest.mark.parametrize("name", ["a.npy", "a.npz"])
    def test_a_folder(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).mkdir()
        assert "can't read" in refused(tmp_path / name)

    def test_labels_of_another_shape(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "d.npz", x=NUMBERS, y=np.zeros((10, 2)))
        assert "not one label a row" in refused(tmp_path / "d.npz")


@pytest.mark.parametrize("order", ["C", "F"])
def test_memory_stays_flat_in_an_archive(tmp_path: Path, order: str) -> None:
    """24 MB of bytes, 192 MB as float64, are read in pieces and without unpacking in memory."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": order == "F", "shape": (40_000, 600)}
    )
    path = tmp_path / "d.npz"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("x.npy", "w") as member,
    ):
        member.write(header.getvalue())
        for _ in range(24):
            member.write(bytes(1_000_000))
    dataset = open_dataset(path)
    with traced_peak() as peak:
        count = sum(len(block.rows) for block in dataset.blocks(500))
    assert count == 40_000
    assert peak.bytes < 5 * 500 * 600 * 8


def test_no_temporary_file_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    np.savez(tmp_path / "d.npz", x=np.asfortranarray(NUMBERS))
    blocks = open_dataset(tmp_path / "d.npz").blocks(2)
    next(blocks)
    assert not list((tmp_path / "scratch").iterdir())


@pytest.mark.parametrize("dtype", ["u1", ">i2", "<f4", "<f8"])
def test_rows_stay_as_narrow_as_they_are_stored(tmp_path: Path, dtype: str) -> None:
    values = np.arange(6).reshape(3, 2).astype(dtype)
    np.save(tmp_path / "d.npy", values)
    block = next(open_dataset(tmp_path / "d.npy", scale=4.0).blocks(2))
    assert block.stored.values.dtype == values.dtype
    assert np.array_equal(block.rows, values[:2].astype(np.float64) / 4)
