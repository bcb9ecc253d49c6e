"""How long one encrypted row takes in the `direct` scheme, against `encrypted-inference` 0.9.

    python -m tests.bench.bench_direct

All in one run on one pinned core, one row a request, from numbers to request body to response body
to scores. Times are processor time, which on an idle core is the time that passes. Rows are taken
in batches, whose medians are compared: the table has the fastest batch, when others disturbed the
core least, and the median over all rows beside it. The SDK's server takes some ten seconds for its
one image.
"""

from __future__ import annotations

import base64
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
from encrypted.inference.eiserver import EIServer
from rich.console import Console
from rich.table import Table
from tenseal import sealapi

from producer.schemes.direct import SCHEME
from score.schemes.direct import DirectEvaluator
from shared import bfv, container, seal
from tests.bench import mnist
from tests.bench.meter import one_core
from tests.direct_products import request
from tests.scoring import respond
from tests.sdk_client import Rows, sdk_client

ROWS = 1000
BATCH = 50
PROFILED_ROWS = 200

WATCHED: dict[str, tuple[Any, str]] = {
    "SEAL: encrypt": (sealapi.Encryptor, "encrypt_symmetric"),
    "SEAL: to NTT form": (sealapi.Evaluator, "transform_to_ntt_inplace"),
    "SEAL: multiply": (sealapi.Evaluator, "multiply_plain"),
    "SEAL: add": (sealapi.Evaluator, "add_inplace"),
    "SEAL: from NTT form": (sealapi.Evaluator, "transform_from_ntt_inplace"),
    "SEAL: switch the modulus": (sealapi.Evaluator, "mod_switch_to_next_inplace"),
    "SEAL: decrypt": (sealapi.Decryptor, "decrypt"),
    "load, with expanding a seed": (seal, "load"),
    "save, with compression": (seal, "save"),
    "container: read": (container, "read"),
    "draw a mask": (bfv, "small_polynomial"),
}

T = TypeVar("T")
Times = tuple[float, float, float]
"""Milliseconds of encrypting, scoring and decrypting a row."""


@dataclass(frozen=True, slots=True)
class Line:
    """What one row costs in one system."""

    name: str
    encrypt_ms: float
    score_ms: float
    decrypt_ms: float
    up_bytes: float
    down_bytes: float
    mismatches: float
    max_error: float
    median_ms: float
    """In all, over all rows; the others are of the fastest batch."""

    @property
    def total_ms(self) -> float:
        return self.encrypt_ms + self.score_ms + self.decrypt_ms


def run() -> dict[str, float]:
    """Measure; prints tables and returns the figures by the names they are recorded under."""
    with one_core():
        task = mnist.task(ROWS)
        sdk = _sdk(task)
        speed, precision = (_direct(task, preset) for preset in ("speed", "precision"))
        profile = {preset: _profile(task, preset) for preset in ("speed", "precision")}
    figures = {
        "direct.score_ratio": sdk.score_ms / speed.score_ms,
        "direct.encrypt_ratio": sdk.encrypt_ms / speed.encrypt_ms,
        "direct.decrypt_ratio": sdk.decrypt_ms / speed.decrypt_ms,
        "direct.total_ms": speed.total_ms,
        "direct.median_total_ms": speed.median_ms,
        "direct.request_bytes": speed.up_bytes,
        "direct.response_bytes": speed.down_bytes,
        "direct.mismatches": speed.mismatches,
        "direct.max_error": speed.max_error,
        "direct.precision_total_ms": precision.total_ms,
        "direct.precision_mismatches": precision.mismatches,
        "direct.precision_max_error": precision.max_error,
    }
    _print(task, [sdk, speed, precision], profile, figures)
    return figures


def _sdk(task: mnist.Task) -> Line:
    """The unmodified SDK on one image."""
    client, row = sdk_client(), task.rows[:1]
    keys = client.keys
    client.encrypt(row)  # its first call prepares what the others reuse
    encrypt_ms, (ciphertexts,) = _timed(partial(client.encrypt, row))
    server = EIServer(task.model.weights, task.model.intercept)
    texts = [base64.b64encode(data).decode() for data in ciphertexts]
    score_ms, answer = _timed(lambda: list(server.predict(texts, keys)))
    results = [base64.b64decode(text) for text in answer]
    decrypt_ms, scores = _timed(lambda: client.decrypt([results]))
    return Line(
        name="encrypted-inference 0.9",
        encrypt_ms=encrypt_ms,
        score_ms=score_ms,
        decrypt_ms=decrypt_ms,
        up_bytes=sum(map(len, texts)),
        down_bytes=sum(map(len, answer)),
        median_ms=encrypt_ms + score_ms + decrypt_ms,
        **_errors(task, scores),
    )


def _direct(task: mnist.Task, preset: str) -> Line:
    """Every row in a request of its own, each timed."""
    key, evaluator = SCHEME.generate(preset), DirectEvaluator(task.model)
    scores = np.empty((len(task.rows), task.model.classes))
    times: list[Times] = []
    up = down = 0
    for index in range(len(task.rows)):
        row = task.rows[index : index + 1]
        encrypt_ms, body = _timed(partial(request, key, row))
        score_ms, response = _timed(partial(respond, evaluator, body))
        decrypt_ms, found = _timed(partial(key.decrypt, response, rows=1))
        times.append((encrypt_ms, score_ms, decrypt_ms))
        scores[index], up, down = found[0], max(up, len(body)), max(down, len(response))
    fastest = min((_medians(batch) for batch in _batches(times)), key=sum)
    return Line(
        name=f"direct, {preset}",
        encrypt_ms=fastest[0],
        score_ms=fastest[1],
        decrypt_ms=fastest[2],
        up_bytes=up,
        down_bytes=down,
        median_ms=sum(_medians(times)),
        **_errors(task, scores),
    )


def _batches(times: list[Times]) -> list[list[Times]]:
    return [times[first : first + BATCH] for first in range(0, len(times), BATCH)]


def _medians(times: list[Times]) -> Times:
    encrypt, score, decrypt = zip(*times, strict=True)
    return statistics.median(encrypt), statistics.median(score), statistics.median(decrypt)


def _errors(task: mnist.Task, scores: Rows) -> dict[str, float]:
    true = task.model.scores(task.rows[: len(scores)])
    mismatches = scores.argmax(axis=1) != true.argmax(axis=1)
    return {
        "mismatches": float(mismatches.sum()),
        "max_error": float(np.abs(scores - true).max()),
    }


def _profile(task: mnist.Task, preset: str) -> dict[str, dict[str, float]]:
    """By stage and call, µs a row spent in it; what is in none of them is Python and numpy."""
    key, evaluator = SCHEME.generate(preset), DirectEvaluator(task.model)
    stages: dict[str, dict[str, float]] = {"encrypt": {}, "score": {}, "decrypt": {}}
    with _watched() as spent:

        def stage(name: str, function: Callable[[], T]) -> T:
            spent.clear()
            total_ms, result = _timed(function)
            spent["Python and numpy"] = total_ms - sum(spent.values())
            for call, ms in spent.items():
                stages[name][call] = stages[name].get(call, 0.0) + 1000 * ms / PROFILED_ROWS
            return result

        for index in range(PROFILED_ROWS):
            row = task.rows[index : index + 1]
            body = stage("encrypt", partial(request, key, row))
            response = stage("score", partial(respond, evaluator, body))
            stage("decrypt", partial(key.decrypt, response, rows=1))
    return stages


@contextmanager
def _watched() -> Iterator[dict[str, float]]:
    """Milliseconds spent in each of `WATCHED`, while it lasts."""
    spent: dict[str, float] = {}

    def timing(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            ms, result = _timed(lambda: function(*arguments, **options))
            spent[name] = spent.get(name, 0.0) + ms
            return result

        return call

    originals = {name: getattr(*where) for name, where in WATCHED.items()}
    for name, where in WATCHED.items():
        setattr(*where, timing(name, originals[name]))
    try:
        yield spent
    finally:
        for name, where in WATCHED.items():
            setattr(*where, originals[name])


def _timed(function: Callable[[], T]) -> tuple[float, T]:
    """Processor milliseconds of a call, and what it returned."""
    start = time.process_time()
    result = function()
    return 1e3 * (time.process_time() - start), result


def _print(
    task: mnist.Task,
    lines: list[Line],
    profile: dict[str, dict[str, dict[str, float]]],
    figures: dict[str, float],
) -> None:
    console = Console(width=120)
    table = Table(title=f"direct: {task.name}, one row a request, one core")
    headings = (
        "encrypt ms",
        "score ms",
        "decrypt ms",
        "in all",
        "median",
        "bytes up",
        "bytes down",
    )
    for heading in ("", *headings, "wrong", "largest error"):
        table.add_column(heading, justify="right" if heading else "left")
    for line in lines:
        table.add_row(
            line.name,
            *(f"{ms:,.2f}" for ms in (line.encrypt_ms, line.score_ms, line.decrypt_ms)),
            f"{line.total_ms:,.2f}",
            f"{line.median_ms:,.2f}",
            *(f"{size:,.0f}" for size in (line.up_bytes, line.down_bytes)),
            f"{line.mismatches:.0f}",
            f"{line.max_error:.1e}",
        )
    console.print(table)
    for preset, stages in profile.items():
        table = Table("stage", "call", "µs a row", title=f"where the time goes: {preset}")
        for stage, calls in stages.items():
            for call, us in sorted(calls.items(), key=lambda item: -item[1]):
                table.add_row(stage, call, f"{us:,.0f}")
            table.add_section()
        console.print(table)
    for name, value in figures.items():
        console.print(f"{name} = {value:.4g}")


if __name__ == "__main__":
    run()
