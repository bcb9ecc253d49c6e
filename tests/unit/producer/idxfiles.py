"""Small idx files in MNIST's layout, and a folder of them."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt

IMAGES = "t10k-images-idx3-ubyte"
LABELS = "t10k-labels-idx1-ubyte"


def idx_bytes(values: npt.NDArray[np.uint8]) -> bytes:
    header = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    return header + values.tobytes()


def pixels(count: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, 4, 3), dtype=np.uint8)


def digits(count: int) -> npt.NDArray[np.uint8]:
    return np.arange(count, dtype=np.uint8) % 10


def write_folder(folder: Path, count: int, *, labels: int | None = None) -> None:
    """The two gzip-compressed files of a test split with `count` images of 4 × 3."""
    (folder / f"{IMAGES}.gz").write_bytes(gzip.compress(idx_bytes(pixels(count))))
    own = digits(count if labels is None else labels)
    (folder / f"{LABELS}.gz").write_bytes(gzip.compress(idx_bytes(own)))
