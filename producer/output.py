"""predictions.csv and report.json: what a collected run leaves for its owner.

Scores are read back job by job and in row order, so a report over a million rows takes the memory
of one block.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Protocol

import numpy as np
import numpy.typing as npt

from producer import disk
from producer.disclosure import EVERYTHING, Disclosure
from producer.report import Report, summarise
from producer.results import Collected
from producer.rows import Rows, StoredRows
from producer.schemes import Scores
from producer.table import PredictionsTable
from producer.tally import Tally
from shared.errors import RunError
from shared.messages import JobEntry
from shared.predictions import label_texts, predict


class PlaintextModel(Protocol):
    """A model in the clear, to compare encrypted scores with."""

    @property
    def fingerprint(self) -> str: ...
    @property
    def link(self) -> str: ...
    @property
    def labels(self) -> tuple[str, ...]: ...
    def scores(self, rows: Rows) -> Scores: ...


class DataBlock(Protocol):
    """A block of the data set that was scored."""

    @property
    def first_row(self) -> int: ...
    @property
    def stored(self) -> StoredRows: ...
    @property
    def labels(self) -> npt.NDArray[np.generic] | None: ...


def write(
    collected: Collected,
    folder: Path,
    *,
    link: str,
    labels: tuple[str, ...],
    blocks: Iterable[DataBlock] | None = None,
    model: PlaintextModel | None = None,
    disclosure: Disclosure = EVERYTHING,
) -> Report:
    """Write predictions.csv and report.json into `folder`; returns the report.

    `blocks` is the data set that was scored, block by block as it was submitted: with its labels
    there is an accuracy, with `model` an agreement. What is counted and written is made from scores
    as `disclosure` tells them; with labels only, errors of scores are in the report that is
    returned, and not in the file. Raises `RunError`.
    """
    tally = Tally(link, labels)
    with disk.whole(folder / "predictions.csv") as file:
        _write_rows(file, collected, tally, blocks, model, disclosure=disclosure)
    report = summarise(collected, tally, disclosure)
    kept_back = {"agreement": {"max_error"}} if disclosure.labels_only else {}
    with disk.whole(folder / "report.json") as file:
        file.write(f"{report.model_dump_json(indent=1, exclude=kept_back)}\n".encode())
    return report


def _write_rows(
    file: IO[bytes],
    collected: Collected,
    tally: Tally,
    blocks: Iterable[DataBlock] | None,
    model: PlaintextModel | None,
    *,
    disclosure: Disclosure,
) -> None:
    table: PredictionsTable | None = None
    for entry, block in _in_order(collected.manifest.jobs, blocks):
        exact = collected.scores(entry.job)
        if exact is None:
            continue
        tally.undecided += disclosure.undecided(exact)
        scores = disclosure.told(exact)
        predictions = predict(scores, tally.link, tally.labels)
        given = block.labels if block is not None else None
        actual = label_texts(given) if given is not None else None
        table = table or PredictionsTable(
            file,
            link=tally.link,
            classes=scores.shape[1],
            with_labels=actual is not None,
            disclosure=disclosure,
        )
        table.add(entry.first_row, scores, predictions, actual)
        if actual is not None:
            tally.add_labels(predictions, actual)
        if model is not None and block is not None:
            tally.add_plaintext(scores, model.scores(block.stored.rows))


def _in_order(
    jobs: Sequence[JobEntry], blocks: Iterable[DataBlock] | None
) -> Iterator[tuple[JobEntry, DataBlock | None]]:
    """Each job with its block. Raises `RunError` when these aren't the blocks of the run."""
    if blocks is None:
        yield from ((entry, None) for entry in jobs)
        return
    data = iter(blocks)
    for entry in jobs:
        block = next(data, None)
        if block is None or (block.first_row, len(block.stored)) != (entry.first_row, entry.rows):
            raise _changed(entry.first_row)
        yield entry, block
    if (block := next(data, None)) is not None:
        raise _changed(block.first_row)


def _changed(row: int) -> RunError:
    return RunError(
        f"the data set does not match the run at row {row}",
        remedy="has it changed since it was produced? collect without it: --no-dataset",
    )
