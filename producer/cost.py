"""What work costs, as far as it decides anything: which scheme, and whether processes are worth it.

The constants are processor milliseconds on one core, encrypting, scoring and decrypting together,
as `make bench` measures them. Their ratio decides, so the machine they come from hardly matters.
"""

from __future__ import annotations

from collections.abc import Callable

from shared import ei, packed
from shared.direct import Layout
from shared.params import PACKED_DEFAULT, PACKED_PRESETS

DIRECT_ROWS = 16
"""Rows in a job of `direct`, which cost by job, by ciphertext, by product and by score."""
DIRECT_JOB_MS = 1.0
DIRECT_CIPHERTEXT_MS = 0.7
DIRECT_PRODUCT_MS = 0.95
DIRECT_SCORE_MS = 0.02
DIRECT_DEGREE = 4096

PACKED = PACKED_PRESETS[PACKED_DEFAULT]
"""Of jobs of `packed`, which cost by ciphertext, by feature and by class; rows share these."""
PACKED_CIPHERTEXT_MS = 0.75
PACKED_FEATURE_MS = 0.03
PACKED_CLASS_MS = 2.2

EI_CIPHERTEXT_MS = 21.0
"""To encrypt one, which is all that is asked of it here."""

START_MS = 600.0
"""Two processes take half of that to start, and then leave half of the work."""


def direct_cost_ms(rows: int, features: int, classes: int) -> float:
    """Work of `direct`: it grows with the rows."""
    layout = Layout(DIRECT_DEGREE, features)
    return _in_jobs(rows, DIRECT_ROWS, lambda count: _direct_job_ms(layout, count, classes))


def _direct_job_ms(layout: Layout, rows: int, classes: int) -> float:
    groups = layout.groups(rows)
    products = sum(layout.products(group, classes) for group in groups)
    return (
        DIRECT_JOB_MS
        + layout.parts * (len(groups) * DIRECT_CIPHERTEXT_MS + products * DIRECT_PRODUCT_MS)
        + rows * classes * DIRECT_SCORE_MS
    )


def packed_cost_ms(rows: int, features: int, classes: int) -> float:
    """Work of `packed`: it grows with the blocks of 4,096 rows, and with parts of the last one."""
    return _in_jobs(
        rows, PACKED.ring.degree, lambda count: _packed_block_ms(count, features, classes)
    )


def _packed_block_ms(rows: int, features: int, classes: int) -> float:
    ciphertexts = 1 + len(packed.ciphertexts(PACKED, rows=rows, features=range(features)))
    return (
        ciphertexts * PACKED_CIPHERTEXT_MS
        + features * PACKED_FEATURE_MS
        + classes * PACKED_CLASS_MS
    )


def _in_jobs(rows: int, rows_per_job: int, job_ms: Callable[[int], float]) -> float:
    """Work of full jobs and one of the rest, where `job_ms` is that of a job of so many rows."""
    jobs, rest = divmod(rows, rows_per_job)
    return jobs * job_ms(rows_per_job) + (job_ms(rest) if rest else 0.0)


def is_little(scheme: str, *, rows: int | None, features: int) -> bool:
    """Whether so many rows (None: unknown) are encrypted before processes for it have started."""
    if rows is None:
        return False
    match scheme:
        case "direct":
            work_ms = rows * -(-features // DIRECT_DEGREE) * DIRECT_CIPHERTEXT_MS
        case "packed":
            work_ms = packed_cost_ms(rows, features, classes=0)
        case _:
            work_ms = rows * -(-features // ei.SLOTS) * EI_CIPHERTEXT_MS
    return work_ms < START_MS


def is_worth_processes(wanted: int, scheme: str, *, rows: int | None, features: int) -> bool:
    """Whether rows are encrypted in processes: if so many are `wanted`, or for -1 if it pays."""
    if wanted >= 0:
        return wanted > 0
    return not is_little(scheme, rows=rows, features=features)
