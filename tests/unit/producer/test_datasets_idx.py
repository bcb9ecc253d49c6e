"""MNIST's files: read, checked, and found or fetched."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import structlog.testing

from producer.datasets import idx, mnist, open_dataset
from producer.datasets.download import fetch
from shared.errors import DatasetError, UsageError
from tests.unit.producer.idxfiles import IMAGES, LABELS, digits, idx_bytes, pixels, write_folder

MNIST = Path(__file__).parents[3] / ".." / "shared" / "data" / "mnist"

Damage = Callable[[bytes], bytes]


def test_images_are_scaled_rows_with_their_labels(tmp_path: Path) -> None:
    write_folder(tmp_path, 13)
    dataset = open_dataset("mnist", data_dir=tmp_path)
    blocks = list(dataset.blocks(5))
    assert (dataset.rows, dataset.features, dataset.has_labels) == (13, 12, True)
    assert dataset.input_bound == 1.0
    assert np.array_equal(
        np.concatenate([block.rows for block in blocks]), pixels(13).reshape(13, 12) / 255
    )
    labels = [label for block in blocks if block.labels is not None for label in block.labels]
    assert labels == [str(digit) for digit in digits(13)]


def test_skipping_reaches_the_same_rows(tmp_path: Path) -> None:
    write_folder(tmp_path, 13)
    block = next(open_dataset("mnist", data_dir=tmp_path).blocks(2, skip=9))
    assert np.array_equal(block.rows, pixels(13)[9:11].reshape(2, 12) / 255)
    assert block.labels is not None
    assert block.labels.tolist() == ["9", "0"]


@pytest.mark.parametrize(
    ("images", "labels"),
    [(IMAGES, LABELS), ("t10k-images.idx3-ubyte", "t10k-labels.idx1-ubyte")],
)
def test_files_may_be_decompressed_and_dotted(tmp_path: Path, images: str, labels: str) -> None:
    (tmp_path / images).write_bytes(idx_bytes(pixels(3)))
    (tmp_path / labels).write_bytes(idx_bytes(digits(3)))
    assert open_dataset("mnist", data_dir=tmp_path, download=False).rows == 3


def test_the_training_split_has_files_of_its_own(tmp_path: Path) -> None:
    write_folder(tmp_path, 3)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx_bytes(pixels(5)))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx_bytes(digits(5)))
    assert open_dataset("mnist", data_dir=tmp_path, split="train").rows == 5
    with pytest.raises(UsageError, match="unknown split 'all' of mnist"):
        open_dataset("mnist", data_dir=tmp_path, split="all")


def test_images_and_labels_must_be_as_many(tmp_path: Path) -> None:
    write_folder(tmp_path, 5, labels=4)
    with pytest.raises(DatasetError, match=r"5 images, .*4 labels"):
        open_dataset("mnist", data_dir=tmp_path)


def test_images_that_are_not_mnists_are_pointed_out(tmp_path: Path) -> None:
    write_folder(tmp_path, 3)
    with structlog.testing.capture_logs() as logs:
        open_dataset("mnist", data_dir=tmp_path)
    assert [(entry["log_level"], entry["event"]) for entry in logs] == [
        ("warning", "these are not the published MNIST test images")
    ]


def test_the_published_images_are_known(tmp_path: Path) -> None:
    if not MNIST.is_dir():
        pytest.skip("needs the MNIST test files in ../shared/data/mnist")
    with structlog.testing.capture_logs() as logs:
        dataset = open_dataset("mnist", data_dir=MNIST, download=False)
    assert not logs
    assert (dataset.rows, dataset.features) == (10_000, 784)
    first = next(dataset.blocks(5))
    assert first.labels is not None
    assert first.labels.tolist() == ["7", "2", "1", "0", "4"]


class TestDamage:
    """Whatever is wrong with a file, one line names it and says what to do."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        write_folder(tmp_path, 300)
        return tmp_path

    @pytest.mark.parametrize(
        "damage",
        [
            pytest.param(lambda data: data[:-9], id="trailer cut off"),
            pytest.param(lambda data: data[: len(data) // 2], id="half"),
            pytest.param(lambda data: data[:5], id="gzip header cut off"),
            pytest.param(lambda data: b"", id="empty"),
            pytest.param(lambda data: b"<html>not found</html>", id="a web page"),
            pytest.param(
                lambda data: data[:600] + bytes([data[600] ^ 0x55]) + data[601:], id="bits flipped"
            ),
            pytest.param(
                lambda data: data[:-6] + bytes([data[-6] ^ 1]) + data[-5:], id="checksum wrong"
            ),
            pytest.param(lambda data: data + b"more", id="surplus after gzip"),
        ],
    )
    def test_of_the_archive(self, folder: Path, damage: Damage) -> None:
        path = folder / f"{IMAGES}.gz"
        path.write_bytes(damage(path.read_bytes()))
        self.refused(folder, IMAGES)

    @pytest.mark.parametrize(
        "damage",
        [
            pytest.param(lambda data: data[:-1], id="a byte short"),
            pytest.param(lambda data: data + b"\0", id="a byte too many"),
            pytest.param(lambda data: data[:10], id="header cut off"),
            pytest.param(lambda data: b"\0\0\x0d\x03" + data[4:], id="floats"),
            pytest.param(lambda data: b"\0\0\x08\x01" + data[4:], id="labels, not images"),
            pytest.param(lambda data: data[:4] + b"\0\0\0\0" + data[8:], id="no images"),
            pytest.param(lambda data: data[:4] + bytes(12), id="no images and no pixels"),
            pytest.param(lambda data: data[:4] + b"\xff" * 12 + data[16:], id="huge"),
            pytest.param(lambda data: data[:8] + b"\0\1\0\0\0\1\0\0" + data[16:], id="wide"),
        ],
    )
    @pytest.mark.parametrize("packed", [True, False])
    def test_of_the_content(self, folder: Path, damage: Damage, packed: bool) -> None:
        path = folder / f"{IMAGES}.gz"
        data = damage(gzip.decompress(path.read_bytes()))
        path.write_bytes(gzip.compress(data) if packed else data)
        self.refused(folder, IMAGES)

    def test_images_too_large_for_memory(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(idx, "MAX_ITEM_BYTES", 11)
        self.refused(folder, IMAGES)

    def test_of_the_labels(self, folder: Path) -> None:
        path = folder / f"{LABELS}.gz"
        path.write_bytes(path.read_bytes()[:-12])
        self.refused(folder, LABELS)

    def refused(self, folder: Path, name: str) -> None:
        with pytest.raises(DatasetError) as refusal:
            open_dataset("mnist", data_dir=folder)
        told = str(refusal.value)
        assert f"{name}.gz is not an intact idx file" in told
        assert "download it again" in told
        assert "\n" not in told


class TestFetching:
    CONTENT = b"the file" * 1000
    SHA256 = hashlib.sha256(CONTENT).hexdigest()

    @pytest.fixture
    def url(self, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
        served = tmp_path_factory.mktemp("served")
        (served / "file.gz").write_bytes(self.CONTENT)
        with _serving(served) as base:
            yield f"{base}/file.gz"

    def test_brings_the_file(self, url: str, tmp_path: Path) -> None:
        target = tmp_path / "new" / "file.gz"
        assert fetch(url, target, sha256=self.SHA256, limit_bytes=10_000) == target
        assert target.read_bytes() == self.CONTENT

    def test_another_file_is_not_kept(self, url: str, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match=f"SHA-256 {self.SHA256}, not 0000"):
            fetch(url, tmp_path / "file.gz", sha256="0" * 64, limit_bytes=10_000)
        assert not list(tmp_path.iterdir())

    def test_too_large_a_file_is_not_kept(self, url: str, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match="over 7,999 bytes"):
            fetch(url, tmp_path / "file.gz", sha256=self.SHA256, limit_bytes=7_999)
        assert not list(tmp_path.iterdir())

    def test_no_such_file(self, url: str, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match=r"can't download .*/other: .*put it into "):
            fetch(f"{url}/other", tmp_path / "file.gz", sha256=self.SHA256, limit_bytes=10_000)

    def test_no_network_says_what_to_put_where(self, tmp_path: Path) -> None:
        target = tmp_path / "new" / "file.gz"
        with pytest.raises(DatasetError) as refusal:
            fetch("http://127.0.0.1:9/file.gz", target, sha256=self.SHA256, limit_bytes=10)
        assert str(refusal.value) == (
            "can't download http://127.0.0.1:9/file.gz: Connection refused "
            f"(download it elsewhere and put it into {target.parent})"
        )
        assert not target.parent.exists()

    def test_missing_files_are_named_when_not_downloaded(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match=r"has no t10k-images-idx3-ubyte\.gz \(download htt"):
            open_dataset("mnist", data_dir=tmp_path, download=False)

    def test_mnist_fetches_what_is_missing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        served, folder = tmp_path / "served", tmp_path / "data"
        served.mkdir()
        write_folder(served, 3)
        for name in (IMAGES, LABELS):
            digest = hashlib.sha256((served / f"{name}.gz").read_bytes()).hexdigest()
            monkeypatch.setitem(mnist.GZIP_SHA256, name, digest)
        with _serving(served) as base:
            monkeypatch.setattr(mnist, "MIRROR", f"{base}/")
            assert open_dataset("mnist", data_dir=folder).rows == 3
        assert sorted(path.name for path in folder.iterdir()) == [f"{IMAGES}.gz", f"{LABELS}.gz"]


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        pass


@contextmanager
def _serving(folder: Path) -> Iterator[str]:
    """A web server on this machine; its address."""
    handler = partial(_Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
