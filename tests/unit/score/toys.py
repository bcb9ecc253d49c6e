"""Evaluators whose ciphertexts are plain text, some of which make the process misbehave.

They stand in for the schemes where a test is about the machinery around them. `build` is named in
the processes that a pool starts, so it has to be importable there.
"""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from score.evaluators import Evaluators
from score.schemes import BlockEvaluation, Json, LoadedKeys
from score.settings import EngineOptions
from shared import container
from shared.container import Header
from shared.errors import CiphertextError, EvaluationKeysError, FeatureCountError, ModelError
from shared.linear import LinearModel

MODEL = LinearModel(np.array([[1.0, 2.0, 3.0, 4.0]]), np.array([0.5]))
HOSTILE_MODEL = LinearModel(np.array([[666.0]]), np.array([0.0]))
KEY_BLOB = b"toy keys"
KEY_ID = hashlib.sha256(KEY_BLOB).hexdigest()
BAD_BLOB = b"not keys at all"
BAD_KEY_ID = hashlib.sha256(BAD_BLOB).hexdigest()

SEGFAULT, OUT_OF_MEMORY, HANG, BUG, BAD = b"segfault", b"oom", b"hang", b"bug", b"bad"
PID = b"pid"
CALLERS_WORDS = "what a caller sent"


def obey(ciphertext: bytes) -> bytes:
    """What "evaluating" one ciphertext does."""
    if ciphertext == SEGFAULT:
        os.kill(os.getpid(), signal.SIGSEGV)
    if ciphertext == OUT_OF_MEMORY:
        os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does
    if ciphertext == HANG:
        time.sleep(600)
    if ciphertext == BUG:
        raise ZeroDivisionError(CALLERS_WORDS)
    if ciphertext == BAD:
        raise CiphertextError("a ciphertext is bad")
    return str(os.getpid()).encode() if ciphertext == PID else ciphertext.upper()


@dataclass
class ToyKeys:
    """Counts how often they are loaded, over all keys of the process."""

    blob: bytes
    nbytes: int
    load: int


class ToyEi:
    """One class; a row has one ciphertext. The result is the upper-cased text and the load."""

    loads = 0

    def describe(self) -> Json:
        return {"evaluator": "toy"}

    def load_keys(self, blob: bytes) -> LoadedKeys:
        if blob == BAD_BLOB:
            raise EvaluationKeysError("not toy keys")
        self.loads += 1
        return ToyKeys(blob, len(blob), self.loads)

    def evaluate(self, rows: Sequence[Sequence[bytes]], keys: LoadedKeys) -> list[list[bytes]]:
        assert isinstance(keys, ToyKeys)
        if any(len(row) != 1 for row in rows):
            raise FeatureCountError("a toy row has one ciphertext")
        return [[obey(row[0]) + b" by load %d" % keys.load] for row in rows]


class ToyBlock:
    """Sums up what came, in order."""

    def __init__(self, header: Header) -> None:
        self._header = header
        self._texts: list[bytes] = []

    def add(self, payload: bytes) -> None:
        self._texts.append(obey(payload))

    def finish(self) -> tuple[Header, Iterable[bytes]]:
        header = self._header.model_copy(update={"frames": 1})
        return header, [b"+".join(self._texts)]


class ToyPacked:
    """One frame a feature."""

    def __init__(
        self, features: int, *, name: str = "packed", max_frame_bytes: int = 2 * 1024 * 1024
    ) -> None:
        self.name = name
        self.max_frame_bytes = max_frame_bytes
        self._features = features

    def describe(self) -> Json:
        return {"degree": 4096, "prime_bits": [60]}

    def check_keys(self, blob: bytes) -> None:
        if blob == BAD_BLOB:
            raise EvaluationKeysError("not toy keys")

    def begin(self, header: Header) -> BlockEvaluation:
        if header.features != self._features:
            raise FeatureCountError(f"rows have {header.features} features, not {self._features}")
        return ToyBlock(header)


def build(model: LinearModel, _: EngineOptions) -> Evaluators:
    """The toys, for any model but one."""
    if model.fingerprint == HOSTILE_MODEL.fingerprint:
        raise ModelError("no scheme can score this model")
    return Evaluators(
        ei=ToyEi(), blocks={"packed": ToyPacked(model.features)}, refused={"direct": "too precise"}
    )


def packed_body(
    *payloads: bytes,
    key_id: str = KEY_ID,
    rows: int = 3,
    scheme: str = "packed",
    features: int = MODEL.features,
) -> bytes:
    """A request body of the toy container scheme."""
    header = Header(
        scheme=scheme,
        parameters={"degree": 4096},
        rows=rows,
        features=features,
        key_id=key_id,
        frames=len(payloads),
    )
    return b"".join(container.write(header, payloads))
