"""A report on the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table

from producer.report import Confusion, Report, Spread

MAX_CONFUSION_LABELS = 20
MAX_LISTED = 10


def show(report: Report, console: Console) -> None:
    """Print the report."""
    console.print(Panel(Group(*_parts(report)), title=f"run {report.run}", expand=False))


def _parts(report: Report) -> Iterator[RenderableType]:
    yield _facts(report)
    if report.confusion is not None and len(report.confusion.labels) <= MAX_CONFUSION_LABELS:
        yield _confusion(report.confusion)
    if report.latency_ms is not None:
        yield _latency(report)
    for failure in (report.failures + report.missing)[:MAX_LISTED]:
        last = failure.first_row + failure.rows - 1
        yield (
            f"[red]rows {failure.first_row}-{last}[/] (job {failure.job}): "
            f"{failure.code}: {failure.reason}"
        )
    hidden = len(report.failures) + len(report.missing) - MAX_LISTED
    if hidden > 0:
        yield f"[red]and {hidden} more jobs, see report.json[/]"


def _facts(report: Report) -> Table:
    table = Table.grid(padding=(0, 2))
    scored = f"{report.rows_scored:,} of {report.rows:,} in {report.jobs:,} jobs"
    table.add_row("rows scored", scored if not report.rows_unscored else f"[red]{scored}[/]")
    if report.accuracy is not None:
        table.add_row("accuracy", f"{report.accuracy:.4f}")
    if report.root_mean_square_error is not None:
        table.add_row("root mean square error", f"{report.root_mean_square_error:.6g}")
    if (agreement := report.agreement) is not None:
        same = agreement.rows - agreement.mismatches
        table.add_row(
            "same prediction as plaintext",
            f"{same:,} of {agreement.rows:,}, largest score error {agreement.max_error:.1e}",
        )
    table.add_row("scheme, key", f"{report.scheme}, {report.key_id[:16]}…")
    table.add_row("model", f"{report.model[:16]}…" if report.model else "not announced")
    table.add_row(
        "throughput",
        f"{report.rows_per_s:,.1f} rows/s over {report.wall_s:,.1f} s, "
        f"{report.workers} worker{'s' if report.workers != 1 else ''}",
    )
    if report.retried_jobs:
        table.add_row("jobs tried more than once", f"{report.retried_jobs:,}")
    return table


def _confusion(confusion: Confusion) -> Table:
    table = Table(title="actual (down) and predicted (across)", title_justify="left")
    table.add_column("")
    for label in confusion.labels:
        table.add_column(label, justify="right")
    for index, (label, counts) in enumerate(zip(confusion.labels, confusion.counts, strict=True)):
        cells = [_count(count, diagonal=column == index) for column, count in enumerate(counts)]
        table.add_row(label, *cells)
    return table


def _count(count: int, *, diagonal: bool) -> str:
    if count == 0:
        return "[dim]·[/]"
    return f"[bold]{count}[/]" if diagonal else f"[yellow]{count}[/]"


def _latency(report: Report) -> Table:
    table = Table(title="a job's time, ms", title_justify="left")
    table.add_column("")
    for name in ("p50", "p95", "p99", "max"):
        table.add_column(name, justify="right")
    rows: list[tuple[str, Spread | None]] = [
        ("waiting in the queue", report.waiting_ms),
        ("scoring", report.scoring_ms),
        ("enqueued to scored", report.latency_ms),
    ]
    for name, spread in rows:
        if spread is not None:
            cells = (spread.p50, spread.p95, spread.p99, spread.max)
            table.add_row(name, *(f"{cell:,.0f}" for cell in cells))
    return table
