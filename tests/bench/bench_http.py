"""Single rows in `direct` through the endpoint over HTTP: latency by number of callers."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import aiohttp
import numpy as np
import psutil
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

from deploy.local.stack import Stack
from producer.schemes import Encoding, client_scheme
from shared import blobnames
from shared.container import CONTENT_TYPE
from shared.settings import StorageSettings
from shared.storage import open_store
from tests.bench import mnist
from tests.commands import MNIST_MODEL

CALLERS = (1, 8, 32)
REQUESTS = 600
BODIES = 60


def run() -> dict[str, float]:
    """Print the table; returns the figures."""
    options = ("--trust-pickle", mnist.consent())
    with (
        tempfile.TemporaryDirectory(prefix="blindscore-bench-") as scratch,
        Stack(Path(scratch), MNIST_MODEL, serve_options=options) as stack,
    ):
        return asyncio.run(_measure(stack))


async def _measure(stack: Stack) -> dict[str, float]:
    key = client_scheme("direct").generate("speed")
    rows = mnist.images(BODIES)
    encoding = Encoding("bench", rows.shape[1], 1.0)
    bodies = [b"".join(key.encrypt(row[np.newaxis], encoding)) for row in rows]
    settings = StorageSettings(
        connection_string=SecretStr(stack.environment["BLINDSCORE_CONNECTION_STRING"]),
        container=stack.environment["BLINDSCORE_CONTAINER"],
    )
    async with open_store(settings) as store:
        await store.create(
            blobnames.key(key.key_id), key.evaluation_keys(), content_type="application/json"
        )
    table = Table(title="direct over HTTP, one row a request", title_justify="left")
    for heading in ("callers", "requests/s", "p50 ms", "p99 ms", "endpoint CPU ms", "of it lanes"):
        table.add_column(heading, justify="right")
    figures: dict[str, float] = {}
    server = psutil.Process(stack.pids()["serve"])
    async with aiohttp.ClientSession(f"{stack.endpoint}/") as session:
        await _load(session, bodies, callers=max(CALLERS), requests=100)
        for callers in CALLERS:
            parent_s, lanes_s = _cpu_s(server)
            started = time.perf_counter()
            latencies = await _load(session, bodies, callers=callers, requests=REQUESTS)
            rate = REQUESTS / (time.perf_counter() - started)
            parent_s, lanes_s = _cpu_s(server)[0] - parent_s, _cpu_s(server)[1] - lanes_s
            p50, p99 = (1000 * float(v) for v in np.percentile(latencies, (50, 99)))
            per_request = 1000 * (parent_s + lanes_s) / REQUESTS
            table.add_row(
                str(callers),
                f"{rate:,.0f}",
                f"{p50:.1f}",
                f"{p99:.1f}",
                f"{per_request:.2f}",
                f"{1000 * lanes_s / REQUESTS:.2f}",
            )
            figures |= {
                f"http.p50_ms_{callers}": p50,
                f"http.p99_ms_{callers}": p99,
                f"http.requests_per_s_{callers}": rate,
            }
    Console().print(f"{os.cpu_count()} cores, callers on the same machine")
    Console().print(table)
    return figures


async def _load(
    session: aiohttp.ClientSession, bodies: Sequence[bytes], *, callers: int, requests: int
) -> list[float]:
    """Seconds of each of `requests` requests, by `callers` that each wait for their answer."""
    latencies: list[float] = []
    numbers = iter(range(requests))

    async def call() -> None:
        for number in numbers:
            started = time.perf_counter()
            async with session.post(
                "score",
                data=bodies[number % len(bodies)],
                headers={"Content-Type": CONTENT_TYPE},
            ) as answer:
                body = await answer.read()
            latencies.append(time.perf_counter() - started)
            if answer.status != 200:
                raise RuntimeError(f"{answer.status}: {body[:300]!r}")

    async with asyncio.TaskGroup() as tasks:
        for _ in range(callers):
            tasks.create_task(call())
    return latencies


def _cpu_s(server: psutil.Process) -> tuple[float, float]:
    def used(process: psutil.Process) -> float:
        times = process.cpu_times()
        return float(times.user + times.system)

    return used(server), sum(used(child) for child in server.children(recursive=True))


if __name__ == "__main__":
    run()
