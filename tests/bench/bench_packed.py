"""What an image costs in the `packed` scheme, on one core, and where the time goes.

    python -m tests.bench.bench_packed

Times are CPU time of this process, the best of a few rounds, over the images of one full block, in
the preset that `produce` chooses for it and in the default one, and over those of one of few.
With the MNIST files the figures are those of the published model; else of random rows like them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from rich.console import Console
from rich.table import Table
from tenseal import sealapi
from tenseal.sealapi import util

from producer.schemes import Encoding
from producer.schemes.packed import SCHEME, PackedKey
from score.schemes.packed import PackedEvaluation, PackedEvaluator
from shared import bfv, container, packed, seal
from shared.coefficients import Words
from shared.params import PACKED_DEFAULT, PACKED_PRESETS
from tests.bench import mnist
from tests.bench.meter import one_core

T = TypeVar("T")

ROUNDS = 3
CALLS = 200
FEW = 128
PIECE_BYTES = 256 * 1024


def run() -> dict[str, float]:
    """Print microseconds of CPU and bytes an image, errors, and the parts of the times."""
    with one_core():
        task = mnist.task(PACKED_PRESETS[PACKED_DEFAULT].ring.degree)
        key, evaluator = SCHEME.generate(), PackedEvaluator(task.model)
        preset = mnist.preset(task.model)
        body, figures = stages(key, evaluator, task.rows, preset)
        figures |= parts(key, evaluator, body, task.rows, figures)
        found = {
            "block": figures,
            PACKED_DEFAULT: stages(key, evaluator, task.rows, PACKED_DEFAULT)[1],
            "few": stages(key, evaluator, task.rows[:FEW], PACKED_DEFAULT)[1],
        }
    show([f"full block, {preset}", f"full block, {PACKED_DEFAULT}", f"{FEW} images"], found)
    return {
        f"packed.{block}.{name}": value
        for block, figures in found.items()
        for name, value in figures.items()
    }


def stages(
    key: PackedKey, evaluator: PackedEvaluator, rows: np.ndarray, preset: str
) -> tuple[bytes, dict[str, float]]:
    """A request of all rows, and what an image of it costs."""
    images, features = rows.shape
    encoding = Encoding("container", features, 1.0, preset=preset)
    encrypt_us, body = best_us(lambda: b"".join(key.encrypt(rows, encoding)))
    evaluate_us, result = best_us(lambda: answer(evaluator, body))
    decrypt_us, scores = best_us(lambda: key.decrypt(result, rows=images))
    expected = evaluator.model.scores(rows)
    return body, {
        "encrypt_us": encrypt_us / images,
        "evaluate_us": evaluate_us / images,
        "decrypt_us": decrypt_us / images,
        "up_bytes": len(body) / images,
        "down_bytes": len(result) / images,
        "max_error": float(np.abs(scores - expected).max()),
        "error_bound": float(evaluator.describe()["presets"][preset]["error_bound"]),
        "mismatches": float((scores.argmax(axis=1) != expected.argmax(axis=1)).sum()),
    }


def parts(
    key: PackedKey,
    evaluator: PackedEvaluator,
    body: bytes,
    rows: np.ndarray,
    whole: dict[str, float],
) -> dict[str, float]:
    """Where the time of a full block goes, and what is left of each stage."""
    images, features = rows.shape
    used = int(evaluator.model.weights.any(axis=0).sum())
    found = client_parts(key, features, images) | scorer_parts(evaluator, body, used, images)
    for stage in ("encrypt", "evaluate"):
        known = sum(value for name, value in found.items() if name.startswith(f"{stage}."))
        found[f"{stage}.rest_us"] = whole[f"{stage}_us"] - known
    return found


def client_parts(key: PackedKey, features: int, images: int) -> dict[str, float]:
    """SEAL's share of an image's encryption."""
    parms_id = list(key._ring.fresh.parms_id)
    encrypt_us = call_us(lambda: key._encryptor.encrypt_zero_symmetric(parms_id))
    fresh = key._encryptor.encrypt_zero_symmetric(parms_id)
    each = (1 + features) / images
    return {
        "encrypt.seal_encrypt_us": encrypt_us * each,
        "encrypt.seal_save_us": call_us(lambda: seal.save(fresh)) * each,
    }


def scorer_parts(
    evaluator: PackedEvaluator, body: bytes, used: int, images: int
) -> dict[str, float]:
    """Shares of an image's evaluation: seeds, the product of matrices, masks, and the container."""
    header, payloads = container.read(body, max_frame_bytes=evaluator.max_frame_bytes)
    evaluation = evaluator.begin(header)
    evaluation.add(payloads[0])
    preset = evaluation._plan.preset
    seed, first = packed.read_features(preset, payloads[1], images)
    words = tuple(int(word) for word in np.frombuffer(seed, dtype="<u8"))
    parameters = evaluation._parameters
    sample_us = call_us(lambda: util.sample_poly_uniform(sealapi.Blake2xbPRNG(words), parameters))
    second = evaluation._expand(seed)
    expand_us = call_us(lambda: evaluation._expand(seed))
    product_us = call_us(lambda: evaluation._sums.add(0, first, second))
    encryptor = sealapi.Encryptor(evaluation._ring.context, evaluation._public_key)
    mask_us = call_us(lambda: mask(evaluation, encryptor), calls=20)
    each = used / images
    read_us, _ = best_us(lambda: read_in_pieces(body, evaluator.max_frame_bytes))
    return {
        "evaluate.seal_sample_us": sample_us * each,
        "evaluate.to_numpy_us": (expand_us - sample_us) * each,
        "evaluate.product_us": product_us * each,
        "evaluate.masks_us": mask_us * len(evaluation._plan.weights) / images,
        "evaluate.container_us": read_us / images,
    }


def mask(evaluation: PackedEvaluation, encryptor: sealapi.Encryptor) -> Words:
    zero = sealapi.Ciphertext()
    encryptor.encrypt_zero(zero)
    return bfv.polynomials(evaluation._ring, zero)


def read_in_pieces(body: bytes, max_frame_bytes: int) -> int:
    reader = container.Reader(max_frame_bytes=max_frame_bytes)
    pieces = (body[at : at + PIECE_BYTES] for at in range(0, len(body), PIECE_BYTES))
    return sum(len(frame.payload) for piece in pieces for frame in reader.feed(piece))


def answer(evaluator: PackedEvaluator, body: bytes) -> bytes:
    """The response to a request that arrives in pieces, as at the endpoint."""
    reader = container.Reader(max_frame_bytes=evaluator.max_frame_bytes)
    evaluation: PackedEvaluation | None = None
    for at in range(0, len(body), PIECE_BYTES):
        for frame in reader.feed(body[at : at + PIECE_BYTES]):
            if evaluation is None and reader.header is not None:
                evaluation = evaluator.begin(reader.header)
            if evaluation is not None:
                evaluation.add(frame.payload)
    reader.close()
    return b"".join(container.write(*evaluation.finish())) if evaluation is not None else b""


def best_us(function: Callable[[], T]) -> tuple[float, T]:
    """The least CPU time of a few calls, and the last one's result."""
    best = float("inf")
    for _ in range(ROUNDS):
        started = time.process_time()
        value = function()
        best = min(best, time.process_time() - started)
    return best * 1e6, value


def call_us(function: Callable[[], object], *, calls: int = CALLS) -> float:
    """The least CPU time of one of many calls in a row."""

    def repeat() -> None:
        for _ in range(calls):
            function()

    return best_us(repeat)[0] / calls


def show(titles: list[str], found: dict[str, dict[str, float]]) -> None:
    """A line for each figure of the first, parts below their whole."""
    first = next(iter(found.values()))
    table = Table("packed, one core, an image", *titles)
    for name in sorted(first, key=lambda name: name.replace("_us", "").split(".")):
        part = name.partition(".")[2]
        cells = [f"{figures[name]:.3g}" if name in figures else "" for figures in found.values()]
        table.add_row(f"  {part}" if part else name, *cells)
    Console().print(table)


if __name__ == "__main__":
    run()
