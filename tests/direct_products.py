"""What tests need to look inside of the `direct` scheme: its requests, and its products whole."""

from __future__ import annotations

from typing import Any

import numpy as np

from producer.rows import Rows
from producer.schemes import Encoding
from producer.schemes.direct import DirectKey
from score.schemes.direct import DirectEvaluation, DirectEvaluator
from score.schemes.direct_plan import Product
from shared import bfv, container
from shared.coefficients import Words
from shared.container import Header


def request(key: DirectKey, rows: Rows, *, input_bound: float = 1.0) -> bytes:
    """A request body for `rows`, shape (rows, features)."""
    encoding = Encoding(container="runs", features=rows.shape[1], input_bound=input_bound)
    return b"".join(key.encrypt(rows, encoding))


def frames(body: bytes) -> tuple[Header, list[bytes]]:
    return container.read(body, max_frame_bytes=1 << 20)


def begun(evaluator: DirectEvaluator, body: bytes) -> tuple[DirectEvaluation, list[bytes]]:
    """A request's evaluation, and the ciphertexts that it is still to be given."""
    header, payloads = frames(body)
    return evaluator.begin(header), payloads


def whole_products(key: DirectKey, evaluator: DirectEvaluator, rows: Rows) -> list[Any]:
    """A request's masked products as SEAL ciphertexts, without dropping what isn't a score.

    Their coefficients are rounded as in a response; intercepts are not added.
    """
    evaluation, payloads = begun(evaluator, request(key, rows))
    products = []

    def keep(product: Product, mask: Any) -> bytes:
        products.append(evaluation._masked(evaluation._sum(product.weights), mask))
        return b""

    setattr(evaluation, "_score", keep)  # noqa: B010 - a method, to mypy
    for payload in payloads:
        evaluation.add(payload)
    ring = bfv.ring(key.preset)
    return [bfv.ciphertext(ring, rounded(key, bfv.polynomials(ring, item))) for item in products]


def rounded(key: DirectKey, polynomials: Words) -> Words:
    """Coefficients as they are after a response, shape (2, N)."""
    packed = bfv.pack(key.preset, polynomials.ravel())
    return bfv.unpack(bfv.ring(key.preset), packed, what="test").reshape(polynomials.shape)


def decrypted(key: DirectKey, polynomials: Words) -> np.ndarray:
    """Every coefficient of a ciphertext's plaintext, shape (N,)."""
    from tenseal import sealapi

    plain = sealapi.Plaintext()
    key._decryptor.decrypt(bfv.ciphertext(bfv.ring(key.preset), polynomials), plain)
    plain.resize(key.preset.ring.degree)
    return np.array([plain[i] for i in range(key.preset.ring.degree)], dtype=np.int64)
