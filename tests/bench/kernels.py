"""What encryption and evaluation in scheme `packed` take by themselves."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from multiprocessing.synchronize import Barrier

from threadpoolctl import threadpool_limits

from producer.schemes import Encoding, client_scheme
from score.schemes.packed import PackedEvaluator
from tests.bench import mnist
from tests.bench.meter import CORES
from tests.scoring import respond

BLOCK = 4096
ROUNDS = 5

_together: Barrier
"""Of the processes that measure."""


def kernels_cpu_s(count: int) -> float:
    """Processor seconds to encrypt and evaluate the blocks of so many images, nothing around it.

    With every core at it, as in the pipeline: what one core does is slower then.
    """
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(CORES)
    full, last = divmod(count, BLOCK)
    with context.Pool(CORES, initializer=_prepare, initargs=(barrier,)) as pool:
        full_s = statistics.mean(pool.map(_kernels, [BLOCK] * CORES, chunksize=1))
        last_s = statistics.mean(pool.map(_kernels, [last] * CORES, chunksize=1)) if last else 0.0
    return full * full_s + last_s


def _prepare(barrier: Barrier) -> None:
    global _together  # noqa: PLW0603 - a barrier reaches a pool's process in no other way
    _together = barrier
    threadpool_limits(1)


def _kernels(rows: int) -> float:
    """One core's processor seconds for a block of so many rows."""
    model, images = mnist.published_model(), mnist.images(rows)
    key = client_scheme("packed").generate()
    evaluator = PackedEvaluator(model)
    encoding = Encoding("bench", model.features, 1.0, preset=mnist.preset(model))
    seconds = []
    for _ in range(ROUNDS):
        _together.wait()
        start = time.process_time()
        respond(evaluator, b"".join(key.encrypt(images, encoding)))
        seconds.append(time.process_time() - start)
    return statistics.median(seconds)
