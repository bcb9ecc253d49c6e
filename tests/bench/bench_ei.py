"""How fast the endpoint's side of `encrypted-inference` 0.9 is, against the SDK's own.

    python -m tests.bench.bench_ei

All in one run on one pinned core, from base64 texts to base64 texts. Times are processor time,
which on an idle core is the time that passes. The SDK's server takes some ten seconds for its one
image.
"""

from __future__ import annotations

import base64
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from encrypted.inference.eiserver import EIServer
from rich.console import Console
from rich.table import Table

from score.schemes import EiEvaluator, LoadedKeys
from score.schemes.ei.evaluator import SealEiEvaluator
from score.schemes.ei.native import NativeEvaluator
from shared.linear import LinearModel
from tests.bench import mnist
from tests.bench.meter import one_core
from tests.sdk_client import SdkClient, sdk_client

BATCHES = (1, 4, 16)
REPEATS = 7

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table; ratios are to the SDK's server."""

    name: str
    ms: float
    """An image."""
    ratio: float


def run() -> dict[str, float]:
    """Measure; prints a table and returns the figures by the names they are recorded under."""
    with one_core():
        task = mnist.task(max(BATCHES))
        client = sdk_client()
        rows = client.encrypt(task.rows)
        texts = [_texts(row) for row in rows]
        sdk_s, sdk_answer = _timed(_sdk_server(task.model, client, texts[0]), repeats=1)
        lines = [Line("EIServer.predict, 1 image", 1e3 * sdk_s, 1.0)]

        def add(name: str, seconds: float, images: int) -> float:
            ratio = sdk_s * images / seconds
            lines.append(Line(name, 1e3 * seconds / images, ratio))
            return ratio

        native = NativeEvaluator(task.model)
        native_s, _ = _timed(_served(native, native.load_keys(client.keys), texts[:1]), repeats=2)
        add("native library, no copies, 1 image", native_s, 1)
        seal = SealEiEvaluator(task.model)
        key_s, keys = _timed(lambda: seal.load_keys(client.keys), repeats=3)
        ratios, error = {}, 0.0
        for count in BATCHES:
            seconds, answer = _timed(_served(seal, keys, texts[:count]), repeats=REPEATS)
            ratios[count] = add(f"evaluator, {count} at once", seconds, count)
            error = max(error, _error(client, task, answer))
            if count in (BATCHES[0], BATCHES[-1]):
                add(f"evaluator, {count} at once, keys cold", seconds + key_s, count)
    figures = {
        "ei.score_ratio_single": ratios[1],
        "ei.score_ratio_batch4": ratios[4],
        "ei.score_ratio_batch16": ratios[16],
        "ei.cold_key_s": key_s,
        "ei.response_bytes_ratio": sum(map(len, answer[0])) / sum(map(len, sdk_answer)),
        "ei.max_error": error,
    }
    _print(task, lines, figures)
    return figures


def _texts(ciphertexts: Sequence[bytes]) -> list[str]:
    return [base64.b64encode(data).decode() for data in ciphertexts]


def _sdk_server(model: LinearModel, client: SdkClient, row: list[str]) -> Callable[[], list[str]]:
    server = EIServer(model.weights, model.intercept)
    return lambda: list(server.predict(row, client.keys))


def _served(
    evaluator: EiEvaluator, keys: LoadedKeys, rows: list[list[str]]
) -> Callable[[], list[list[str]]]:
    def serve() -> list[list[str]]:
        decoded = [[base64.b64decode(text) for text in row] for row in rows]
        return [_texts(results) for results in evaluator.evaluate(decoded, keys)]

    return serve


def _timed(function: Callable[[], T], *, repeats: int) -> tuple[float, T]:
    """Median processor seconds of a call; of several, the first is not counted."""
    if repeats > 1:
        function()
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        result = function()
        seconds.append(time.process_time() - start)
    return statistics.median(seconds), result


def _error(client: SdkClient, task: mnist.Task, answer: list[list[str]]) -> float:
    """Largest error of a score that the SDK's client decrypts."""
    scores = client.decrypt([[base64.b64decode(text) for text in row] for row in answer])
    return float(np.abs(scores - task.model.scores(task.rows[: len(answer)])).max())


def _print(task: mnist.Task, lines: list[Line], figures: dict[str, float]) -> None:
    table = Table("", "ms an image", "times EIServer", title=f"ei: {task.name}, one core")
    for line in lines:
        table.add_row(line.name, f"{line.ms:,.1f}", f"{line.ratio:,.1f}")
    console = Console()
    console.print(table)
    for name, value in figures.items():
        console.print(f"{name} = {value:.4g}")


if __name__ == "__main__":
    run()
