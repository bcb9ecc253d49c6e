"""predictions.csv: a line a row, with its label where there is one, its prediction and its scores.

Comma-separated values as in RFC 4180. Lines are formatted a block at a time: Python's own csv
writer takes twice to three times as long for rows of numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import IO

from producer.disclosure import EVERYTHING, Disclosure
from producer.schemes import Scores
from producer.tally import Labels
from shared.predictions import Predictions

_QUOTED = re.compile(r'[",\r\n]')


class PredictionsTable:
    """Writes the table into an open file, block by block."""

    def __init__(
        self,
        file: IO[bytes],
        *,
        link: str,
        classes: int,
        with_labels: bool,
        disclosure: Disclosure = EVERYTHING,
    ) -> None:
        self._file = file
        self._with_labels = with_labels and not disclosure.labels_only
        self._with_scores = not disclosure.labels_only
        # the scores of a regressor with several outputs are its prediction already
        self._with_prediction = not (link == "identity" and classes > 1)
        score = disclosure.score_format
        prediction = score if link == "identity" else "%s"
        columns = {"row": "%d"}
        columns |= {"label": "%s"} if self._with_labels else {}
        columns |= {"prediction": prediction} if self._with_prediction else {}
        columns |= {f"score_{k}": score for k in range(classes)} if self._with_scores else {}
        self._line = ",".join(columns.values()) + "\r\n"
        self._file.write((",".join(columns) + "\r\n").encode())

    def add(
        self, first_row: int, scores: Scores, predictions: Predictions, actual: Labels | None
    ) -> None:
        """Write consecutive rows; `scores` has shape (rows, classes), the others (rows,).

        `scores` are as they may be told, see `Disclosure.told`.
        """
        columns: list[Iterable[object]] = [range(first_row, first_row + scores.shape[0])]
        if self._with_labels and actual is not None:
            columns.append(_cells(actual.tolist()))
        if self._with_prediction:
            values = predictions.tolist()
            columns.append(_cells(values) if predictions.dtype.kind == "U" else values)
        if self._with_scores:
            columns.extend(scores.T.tolist())
        line = self._line
        lines = [line % cells for cells in zip(*columns, strict=True)]
        self._file.write("".join(lines).encode())


def _cells(texts: list[str]) -> list[str]:
    """Texts as the table has them: in quotes where they need it."""
    cells = {text: _cell(text) for text in set(texts)}
    return [cells[text] for text in texts]


def _cell(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if _QUOTED.search(text) else text
