"""A report on the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from producer.report import Failure, Gap, Report, Spread
from producer.tally import Confusion

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
    unscored = [*map(_gap, report.missing), *map(_failure, report.failures)]
    yield from unscored[:MAX_LISTED]
    if len(unscored) > MAX_LISTED:
        yield f"[red]and {len(unscored) - MAX_LISTED:,} more, see report.json[/]"


def _gap(gap: Gap) -> str:
    return f"[red]rows {gap}[/] (jobs {gap.first_job} to {gap.last_job}): no result yet"


def _failure(failure: Failure) -> str:
    last = failure.first_row + failure.rows - 1
    why = escape(f"{failure.code}: {failure.reason}")  # others wrote it: no markup of theirs
    return f"[red]rows {failure.first_row}-{last}[/] (job {failure.job}): {why}"


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
    if report.rounded_digits is not None:
        table.add_row("scores rounded to", _rounding(report))
    table.add_row("scheme, key", f"{report.scheme}, {report.key_id[:16]}…")
    table.add_row("model", f"{report.model[:16]}…" if report.model else "not announced")
    table.add_row(
        "throughput",
        f"{report.rows_per_s:,.1f} rows/s over {report.wall_s:,.1f} s, "
        f"{report.workers} worker{'s' if report.workers != 1 else ''}",
    )
    if report.canaries:
        count = report.failure_codes.get("canary", 0)
        noticed = f"[red]noticed something in {count:,} jobs[/]" if count else "noticed nothing"
        table.add_row("canaries", f"{report.canaries} a job, {noticed}")
    if report.retried_jobs:
        table.add_row("jobs tried more than once", f"{report.retried_jobs:,}")
    return table


def _rounding(report: Report) -> str:
    decimals = f"{report.rounded_digits} decimals"
    if not report.undecided:
        return decimals
    return f"{decimals}; of {report.undecided:,} scores, the error may have decided the last"


def _confusion(confusion: Confusion) -> Table:
    table = Table(title="actual (down) and predicted (across)", title_justify="left")
    table.add_column("")
    labels = [escape(label) for label in confusion.labels]  # a model's or a data set's
    for label in labels:
        table.add_column(label, justify="right")
    for index, (label, counts) in enumerate(zip(labels, confusion.counts, strict=True)):
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
