"""Progress on standard error, where a person is watching; nothing where a file or pipe is."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class RowProgress:
    """A bar that counts rows. A context manager."""

    def __init__(self, title: str, *, total: int | None) -> None:
        console = Console(stderr=True)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("rows"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._title = title
        self._task = self._progress.add_task(title, total=total)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def add(self, rows: int) -> None:
        self._progress.advance(self._task, rows)

    def waiting(self, depth: int | None) -> None:
        """Say that a queue of `depth` jobs has to drain first; None: go on."""
        note = "" if depth is None else f", waiting: {depth:,} jobs in the queue"
        self._progress.update(self._task, description=self._title + note)

    def set(self, rows: int, *, total: int | None) -> None:
        self._progress.update(self._task, completed=rows, total=total)
