"""Data sets as a user names them: blocks, limits, labels beside them, and opening them again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from producer.datasets import Dataset, open_dataset, reopen
from producer.datasets.digits import split_rows
from shared.errors import DatasetError, UsageError
from tests.memory import traced_peak


def all_rows(dataset: Dataset, rows_per_block: int = 7) -> np.ndarray:
    return np.concatenate([block.rows for block in dataset.blocks(rows_per_block)])


def all_labels(dataset: Dataset, rows_per_block: int = 7) -> list[str]:
    labels: list[str] = []
    for block in dataset.blocks(rows_per_block):
        assert block.labels is not None
        assert len(block.labels) == len(block.rows)
        labels += block.labels.tolist()
    return labels


@pytest.fixture
def rows_file(tmp_path: Path) -> Path:
    """Ten rows of three features: row r holds 3r, 3r + 1, 3r + 2."""
    path = tmp_path / "rows.npy"
    np.save(path, np.arange(30.0).reshape(10, 3))
    return path


class TestDigits:
    def test_train_and_test_share_no_row_and_lose_none(self) -> None:
        count = 1797
        train, test = split_rows(count, "train"), split_rows(count, "test")
        assert sorted([*train, *test]) == list(range(count))
        assert (len(train), len(test)) == (1257, 540)

    def test_the_split_never_changes(self) -> None:
        """A model trained by an older version must not meet its own training rows."""
        assert split_rows(1797, "test")[:5].tolist() == [271, 848, 95, 1098, 916]

    def test_rows_are_the_held_out_images_scaled_with_their_labels(self) -> None:
        pixels, digits = load_digits(return_X_y=True)
        held_out = split_rows(len(digits), "test")
        dataset = open_dataset("digits")
        assert (dataset.rows, dataset.features, dataset.has_labels) == (540, 64, True)
        assert np.array_equal(all_rows(dataset), pixels[held_out] / 16)
        assert all_labels(dataset) == [str(digit) for digit in digits[held_out]]
        assert dataset.input_bound == 1.0

    def test_all_are_in_their_own_order(self) -> None:
        dataset = open_dataset("digits", split="all", limit=3)
        assert all_labels(dataset) == ["0", "1", "2"]

    def test_an_unknown_split(self) -> None:
        with pytest.raises(UsageError, match=r"unknown split 'validation' \(one of train, test"):
            open_dataset("digits", split="validation")


class TestBlocks:
    def test_all_but_the_last_are_full(self, rows_file: Path) -> None:
        blocks = list(open_dataset(rows_file).blocks(4))
        assert [(b.first_row, len(b.rows)) for b in blocks] == [(0, 4), (4, 4), (8, 2)]
        assert blocks[1].rows[0].tolist() == [12.0, 13.0, 14.0]
        assert blocks[0].labels is None

    def test_skipping_rows_starts_the_count_there(self, rows_file: Path) -> None:
        blocks = list(open_dataset(rows_file).blocks(4, skip=3))
        assert [(b.first_row, b.rows[0, 0]) for b in blocks] == [(3, 9.0), (7, 21.0)]

    @pytest.mark.parametrize(("skip", "sizes"), [(0, [4, 2]), (5, [1]), (6, []), (99, [])])
    def test_a_limit_ends_them_early(self, rows_file: Path, skip: int, sizes: list[int]) -> None:
        dataset = open_dataset(rows_file, limit=6)
        assert dataset.rows == 6
        assert [len(block.rows) for block in dataset.blocks(4, skip=skip)] == sizes

    def test_a_limit_beyond_the_end_changes_nothing(self, rows_file: Path) -> None:
        assert open_dataset(rows_file, limit=11).rows == 10

    @pytest.mark.parametrize("limit", [0, -1])
    def test_a_limit_without_rows(self, rows_file: Path, limit: int) -> None:
        with pytest.raises(UsageError, match="limit"):
            open_dataset(rows_file, limit=limit)

    def test_blocks_of_no_rows_are_a_mistake(self, rows_file: Path) -> None:
        with pytest.raises(ValueError, match="0 rows"):
            next(open_dataset(rows_file).blocks(0))

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_a_value_that_is_not_finite_is_named(self, tmp_path: Path, value: float) -> None:
        rows = np.zeros((10, 3))
        rows[8, 1] = value
        np.save(tmp_path / "x.npy", rows)
        with pytest.raises(DatasetError, match=r"x\.npy: row 8, feature 1 .* is -?(nan|inf)"):
            all_rows(open_dataset(tmp_path / "x.npy"))

    def test_memory_stays_flat(self, tmp_path: Path) -> None:
        path = tmp_path / "large.npy"
        large = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(40_000, 784))
        del large  # a sparse file: 31 MB of zeros, 251 MB as float64
        dataset = open_dataset(path)
        with traced_peak() as peak:
            count = sum(len(block.rows) for block in dataset.blocks(512))
        assert count == 40_000
        assert peak.bytes < 5 * 512 * 784 * 8


class TestInputBound:
    def test_is_the_largest_magnitude_in_the_limit(self, tmp_path: Path) -> None:
        np.save(tmp_path / "x.npy", np.array([[1.0, -8.0], [2.0, 3.0], [99.0, 0.0]]))
        assert open_dataset(tmp_path / "x.npy", limit=2).input_bound == 8.0

    def test_follows_the_scale(self, tmp_path: Path) -> None:
        np.save(tmp_path / "x.npy", np.array([[51, 255]], dtype=np.uint8))
        dataset = open_dataset(tmp_path / "x.npy", scale=255)
        assert all_rows(dataset).tolist() == [[0.2, 1.0]]
        assert dataset.input_bound == 1.0

    def test_is_positive_for_rows_of_zeros(self, tmp_path: Path) -> None:
        np.save(tmp_path / "x.npy", np.zeros((2, 2)))
        assert open_dataset(tmp_path / "x.npy").input_bound > 0

    def test_measuring_it_finds_bad_rows_before_anything_is_sent(self, tmp_path: Path) -> None:
        (tmp_path / "x.csv").write_text("1,2\n3,oops\n")
        with pytest.raises(DatasetError, match="line 2"):
            _ = open_dataset(tmp_path / "x.csv").input_bound


class TestLabelsInTheirOwnFile:
    def test_an_array(self, rows_file: Path, tmp_path: Path) -> None:
        np.save(tmp_path / "y.npy", np.arange(10.0))
        dataset = open_dataset(rows_file, labels=tmp_path / "y.npy")
        assert all_labels(dataset) == [str(i) for i in range(10)]

    @pytest.mark.parametrize("header", ["", "label\n", "Target\n"])
    def test_lines(self, rows_file: Path, tmp_path: Path, header: str) -> None:
        (tmp_path / "y.txt").write_text(header + "".join(f"class {i}\n" for i in range(10)))
        dataset = open_dataset(rows_file, labels=tmp_path / "y.txt")
        assert all_labels(dataset) == [f"class {i}" for i in range(10)]
        skipped = next(dataset.blocks(2, skip=4))
        assert skipped.labels is not None
        assert skipped.labels.tolist() == ["class 4", "class 5"]

    def test_replaces_the_labels_inside_an_archive(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "d.npz", x=np.zeros((2, 2)), y=np.array([1, 2]))
        (tmp_path / "y.csv").write_text("7\n8\n")
        assert all_labels(open_dataset(tmp_path / "d.npz", labels=tmp_path / "y.csv")) == ["7", "8"]

    def test_an_array_of_another_length(self, rows_file: Path, tmp_path: Path) -> None:
        np.save(tmp_path / "y.npy", np.arange(9))
        with pytest.raises(DatasetError, match=r"y\.npy has 9 labels for 10 rows"):
            open_dataset(rows_file, labels=tmp_path / "y.npy")

    @pytest.mark.parametrize("rows_per_block", [3, 5, 10, 20])
    def test_too_few_lines(self, rows_file: Path, tmp_path: Path, rows_per_block: int) -> None:
        (tmp_path / "y.txt").write_text("a\n" * 9)
        dataset = open_dataset(rows_file, labels=tmp_path / "y.txt")
        with pytest.raises(DatasetError, match=r"y\.txt ends after 9 labels"):
            all_labels(dataset, rows_per_block)

    @pytest.mark.parametrize("rows_per_block", [3, 5, 10, 20])
    def test_too_many_lines(self, rows_file: Path, tmp_path: Path, rows_per_block: int) -> None:
        (tmp_path / "y.txt").write_text("a\n" * 11)
        dataset = open_dataset(rows_file, labels=tmp_path / "y.txt")
        with pytest.raises(DatasetError, match=r"y\.txt has more labels than there are rows"):
            all_labels(dataset, rows_per_block)

    def test_a_line_with_two(self, rows_file: Path, tmp_path: Path) -> None:
        (tmp_path / "y.csv").write_text("1\n2,3\n")
        with pytest.raises(DatasetError, match=r"y\.csv, line 2: not one label"):
            all_labels(open_dataset(rows_file, labels=tmp_path / "y.csv"))

    def test_rows_are_no_labels(self, rows_file: Path) -> None:
        with pytest.raises(DatasetError, match="not one label a row"):
            open_dataset(rows_file, labels=rows_file)

    def test_another_kind_of_file(self, rows_file: Path, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="not a file of labels"):
            open_dataset(rows_file, labels=tmp_path / "y.json")


class TestOpeningAgain:
    def test_gives_the_same_rows(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "x.csv").write_text("a,b,kind\n1,2,x\n3,4,y\n5,6,x\n")
        monkeypatch.chdir(tmp_path)
        first = open_dataset("x.csv", label_column="kind", scale=2.0, limit=2)
        record = json.loads(json.dumps(first.spec))
        monkeypatch.chdir("/")
        again = reopen(record)
        assert all_rows(again).tolist() == [[0.5, 1.0], [1.5, 2.0]]
        assert all_labels(again) == ["x", "y"]
        assert again.spec == first.spec

    def test_keeps_the_split(self) -> None:
        dataset = reopen(open_dataset("digits", split="train", limit=9).spec)
        assert np.array_equal(
            all_rows(dataset), all_rows(open_dataset("digits", split="train", limit=9))
        )

    def test_refuses_a_file_that_has_changed(self, rows_file: Path) -> None:
        spec = open_dataset(rows_file).spec
        np.save(rows_file, np.zeros((11, 3)))
        with pytest.raises(DatasetError, match=r"rows\.npy has changed"):
            reopen(spec)

    def test_refuses_a_file_that_is_gone(self, rows_file: Path) -> None:
        spec = open_dataset(rows_file).spec
        rows_file.unlink()
        with pytest.raises(DatasetError, match=r"rows\.npy: No such file"):
            reopen(spec)

    def test_refuses_another_record(self) -> None:
        with pytest.raises(DatasetError, match="record"):
            reopen({"dataset": "digits", "version": 2})


class TestOptionsThatDontFit:
    def test_an_unknown_name(self) -> None:
        with pytest.raises(UsageError, match=r"unknown data set 'cifar' \(one of digits, mnist"):
            open_dataset("cifar")

    def test_mnist_without_a_folder(self) -> None:
        with pytest.raises(UsageError, match="--data-dir"):
            open_dataset("mnist")

    @pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
    def test_a_scale_that_divides_by_nothing(self, rows_file: Path, scale: float) -> None:
        with pytest.raises(UsageError, match="scale"):
            open_dataset(rows_file, scale=scale)

    def test_a_scale_for_pixels_that_are_scaled(self) -> None:
        with pytest.raises(UsageError, match="--scale"):
            open_dataset("digits", scale=16.0)

    def test_labels_for_a_data_set_that_has_its_own(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="has its labels"):
            open_dataset("digits", labels=tmp_path / "y.npy")

    def test_a_split_of_a_file(self, rows_file: Path) -> None:
        with pytest.raises(UsageError, match="no splits"):
            open_dataset(rows_file, split="train")

    def test_a_label_column_of_an_array(self, rows_file: Path) -> None:
        with pytest.raises(UsageError, match="--label-column"):
            open_dataset(rows_file, label_column="0")
