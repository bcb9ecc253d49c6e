"""MNIST's four idx files, and those that share its format and names (Fashion-MNIST, KMNIST)."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

import structlog

from producer.datasets.download import fetch
from producer.datasets.idx import IdxFile, open_idx
from producer.datasets.stream import Chunk, Labels
from producer.rows import StoredRows
from shared.errors import DatasetError, UsageError
from shared.predictions import label_texts

LARGEST_PIXEL = 255.0
PREFIXES = {"train": "train", "test": "t10k"}
TEST_IMAGES_SHA256 = "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"
"""Of the published test images, decompressed."""

MIRROR = "https://ossci-datasets.s3.amazonaws.com/mnist/"
GZIP_SHA256 = {
    "train-images-idx3-ubyte": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
"""Of each published file, compressed."""
MAX_DOWNLOAD_BYTES = 16 << 20

log = structlog.get_logger()


class Mnist:
    """A split of MNIST, pixels scaled to [0, 1]."""

    bound = 1.0
    has_labels = True

    def __init__(self, folder: Path, split: str, *, download: bool) -> None:
        if split not in PREFIXES:
            raise UsageError(
                f"unknown split {split!r} of mnist", remedy=f"one of {', '.join(PREFIXES)}"
            )
        prefix = PREFIXES[split]
        images = _file(folder, f"{prefix}-images-idx3-ubyte", download=download)
        labels = _file(folder, f"{prefix}-labels-idx1-ubyte", download=download)
        self._images = open_idx(images, dimensions=3)
        self._labels = open_idx(labels, dimensions=1)
        if self._images.items != self._labels.items:
            raise DatasetError(
                f"{images} holds {self._images.items:,} images, "
                f"{labels} {self._labels.items:,} labels",
                remedy="take both from the same data set",
            )
        if split == "test" and self._images.sha256 != TEST_IMAGES_SHA256:
            log.warning("these are not the published MNIST test images", path=str(images))
        self.rows = self._images.items
        self.features = self._images.item_bytes

    def chunks(self, start: int, size: int) -> Generator[Chunk]:
        labels = _texts(self._labels, start, size)
        for pixels, texts in zip(self._images.read(start, size), labels, strict=True):
            yield StoredRows(pixels, LARGEST_PIXEL), texts


def _texts(file: IdxFile, start: int, size: int) -> Iterator[Labels]:
    for items in file.read(start, size):
        yield label_texts(items[:, 0])


def _file(folder: Path, name: str, *, download: bool) -> Path:
    """The file of that name, or of a usual variant of it; downloaded where there is none."""
    dotted = name.replace("-idx", ".idx")
    variants = [name, f"{name}.gz", dotted, f"{dotted}.gz"]
    for variant in variants:
        if (folder / variant).is_file():
            return folder / variant
    archive = f"{name}.gz"
    if not download:
        raise DatasetError(
            f"{folder} has no {archive}", remedy=f"download {MIRROR}{archive} into it"
        )
    return fetch(
        MIRROR + archive,
        folder / archive,
        sha256=GZIP_SHA256[name],
        limit_bytes=MAX_DOWNLOAD_BYTES,
    )
