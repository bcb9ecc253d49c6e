"""What gets scored: built-in data sets, and files of rows. See `open_dataset`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, ValidationError

from producer.datasets.arrays import ArrayLabels, ArrayRows
from producer.datasets.labels import Labelled, LabelSource, open_labels
from producer.datasets.mnist import Mnist
from producer.datasets.stored import open_npy, open_npz, path_bytes
from producer.datasets.stream import Block, Dataset, Labels, Source
from producer.datasets.tables import Table
from shared.errors import DatasetError, UsageError

__all__ = ["Block", "Dataset", "Labels", "Source", "open_dataset", "reopen"]

BUILT_IN = ("digits", "mnist")
SUFFIXES = (".npy", ".npz", ".csv")


class _Spec(BaseModel):
    """Everything that it takes to open a data set again."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    dataset: str
    data_dir: str | None = None
    split: str | None = None
    labels: str | None = None
    label_column: str | None = None
    scale: float = 1.0
    limit: int | None = None
    file_bytes: int | None = None
    """Size of the file then: a changed file is another data set."""


def open_dataset(
    name_or_path: str | Path,
    *,
    data_dir: str | Path | None = None,
    split: str = "test",
    labels: str | Path | None = None,
    label_column: str | None = None,
    scale: float = 1.0,
    limit: int | None = None,
    download: bool = True,
) -> Dataset:
    """A data set to stream: `digits`, `mnist`, or a file.

    - `digits`: scikit-learn's, pixels / 16; `split` is `test` (540 rows), `train` (1,257) or `all`.
    - `mnist`: idx files in `data_dir`, pixels / 255; `split` is `test` or `train`. Missing ones are
      downloaded unless `download` is False.
    - `.npy`: an array (rows, features); further dimensions are flattened.
    - `.npz`: rows in `x`, `X`, `data` or `images` or the only array, labels in `y`, `labels` or
      `target`.
    - `.csv`: comma-separated numbers, with or without a header; labels in `label_column`, a name or
      a number from 0 on.

    For files: `labels` may name another file with the labels, `scale` divides every value (8-bit
    pixels are not scaled unless it says so), and there is no `split`. With `limit`, only the first
    rows count.

    Raises `DatasetError`, and `UsageError` for options that don't fit together.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"a limit of {limit} rows", remedy="1 or more")
    if not (math.isfinite(scale) and scale > 0):
        raise UsageError(f"a scale of {scale}", remedy="a positive number")
    name = str(name_or_path)
    known = _Spec(
        dataset=name if name in BUILT_IN else _absolute(name),
        data_dir=_absolute(data_dir) if data_dir is not None and name == "mnist" else None,
        split=split if name in BUILT_IN else None,
        labels=None if labels is None else _absolute(labels),
        label_column=label_column,
        scale=scale,
        limit=limit,
    )
    if name in BUILT_IN:
        source = _built_in(known, split, download=download)
    elif split == "train":
        raise UsageError("a file has no splits", remedy="leave out --split")
    else:
        source = _file(known)
        known = known.model_copy(update={"file_bytes": path_bytes(Path(known.dataset))})
    return Dataset(source, name=name, spec=known.model_dump(exclude_none=True), limit=limit)


def reopen(spec: Mapping[str, Any]) -> Dataset:
    """The data set whose `spec` this was. Raises `DatasetError`, also when its file has changed."""
    try:
        known = _Spec.model_validate(spec)
    except ValidationError as error:
        raise DatasetError("the record of the data set is unusable") from error
    if known.file_bytes is not None and path_bytes(Path(known.dataset)) != known.file_bytes:
        raise DatasetError(f"{known.dataset} has changed since it was first opened")
    return open_dataset(
        known.dataset,
        data_dir=known.data_dir,
        split=known.split or "test",
        labels=known.labels,
        label_column=known.label_column,
        scale=known.scale,
        limit=known.limit,
    )


def _absolute(path: str | Path) -> str:
    return str(Path(path).expanduser().absolute())


def _built_in(spec: _Spec, split: str, *, download: bool) -> Source:
    if spec.labels is not None or spec.label_column is not None:
        raise UsageError(
            f"{spec.dataset} has its labels", remedy="leave out the options for labels"
        )
    if spec.scale != 1.0:
        raise UsageError(f"{spec.dataset} is scaled to 0 to 1", remedy="leave out --scale")
    if spec.dataset == "digits":
        # scikit-learn takes a second to import, which no other data set needs
        return cast("Source", import_module("producer.datasets.digits").Digits(split))
    if spec.data_dir is None:
        raise UsageError("mnist needs a folder for its files", remedy="name one with --data-dir")
    return Mnist(Path(spec.data_dir), split, download=download)


def _file(spec: _Spec) -> Source:
    path = Path(spec.dataset)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UsageError(
            f"unknown data set {path.name!r}",
            remedy=f"one of {', '.join(BUILT_IN)}, or a file: {', '.join(SUFFIXES)}",
        )
    if spec.label_column is not None and (suffix != ".csv" or spec.labels is not None):
        raise UsageError("--label-column goes with a .csv file, and without --labels")
    beside: LabelSource | None = None
    if suffix == ".csv":
        rows: Source = Table(path, label_column=spec.label_column, scale=spec.scale)
    elif suffix == ".npy":
        rows = ArrayRows(open_npy(path), scale=spec.scale)
    else:
        array, labels = open_npz(path)
        rows = ArrayRows(array, scale=spec.scale)
        beside = ArrayLabels(labels) if labels is not None and spec.labels is None else None
    if spec.labels is not None:
        beside = open_labels(Path(spec.labels))
    return rows if beside is None else Labelled(rows, beside)
