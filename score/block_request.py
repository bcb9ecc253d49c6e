"""One request in our container format, evaluated frame by frame as it arrives."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping

from score.answers import Answer, Done, More, NeedBlob, NeedKeys
from score.loaded import LoadedKeyRing
from score.schemes import BlockEvaluation, ContainerEvaluator
from score.settings import EngineOptions
from shared import container
from shared.container import Header
from shared.errors import BodyTooLarge, MalformedRequest, UnsupportedMediaType


class BlockRequest:
    """Multiplies ciphertexts while the rest is on its way; keys are only checked.

    Nothing is held of a body but the frame that is incomplete and the sums so far.
    """

    def __init__(
        self,
        evaluators: Mapping[str, ContainerEvaluator],
        ring: LoadedKeyRing,
        options: EngineOptions,
    ) -> None:
        self._evaluators = evaluators
        self._ring = ring
        self._options = options
        self._reader = container.Reader(
            max_frame_bytes=max(evaluator.max_frame_bytes for evaluator in evaluators.values())
        )
        self._evaluator: ContainerEvaluator | None = None
        self._evaluation: BlockEvaluation | None = None
        self._keys_asked = False
        self._complete = False
        self._evaluate_s = 0.0

    def feed(self, piece: bytes, *, last: bool) -> Answer:
        """Evaluate the frames that `piece` completes."""
        for frame in self._reader.feed(piece):
            evaluator, evaluation = self._begun()
            if len(frame.payload) > evaluator.max_frame_bytes:
                raise BodyTooLarge(f"frame {frame.index} is over {evaluator.max_frame_bytes} bytes")
            started = time.perf_counter()
            evaluation.add(frame.payload)
            self._evaluate_s += time.perf_counter() - started
        if last:
            self._reader.close()
            self._complete = True
        if self._reader.header is not None and not self._keys_asked:
            self._begun()
            self._keys_asked = True
            return NeedKeys(scheme=self._reader.header.scheme, key_id=self._reader.header.key_id)
        return self._done() if self._complete else More()

    def use_keys(self, version: str, blob: bytes | None) -> Answer:
        """Check the keys; the response, when the body was complete already."""
        evaluator, _ = self._begun()
        if not self._ring.block(evaluator, version, self._header().key_id, blob):
            return NeedBlob()
        return self._done() if self._complete else More()

    def _header(self) -> Header:
        header = self._reader.header
        if header is None:
            raise MalformedRequest("container has no header yet")
        return header

    def _begun(self) -> tuple[ContainerEvaluator, BlockEvaluation]:
        """The evaluation, started at the first call after the header is in."""
        if self._evaluator is None or self._evaluation is None:
            header = self._header()
            evaluator = self._evaluators.get(header.scheme)
            if evaluator is None:
                raise UnsupportedMediaType(
                    f"scheme {header.scheme} is not offered",
                    remedy=f"one of {', '.join(sorted(self._evaluators))}",
                )
            if header.rows > self._options.max_rows:
                raise BodyTooLarge(
                    f"container has {header.rows} rows",
                    remedy=f"send at most {self._options.max_rows}",
                )
            self._evaluator, self._evaluation = evaluator, evaluator.begin(header)
        return self._evaluator, self._evaluation

    def _done(self) -> Done:
        evaluator, evaluation = self._begun()
        started = time.perf_counter()
        header, payloads = evaluation.finish()
        body = b"".join(container.write(header, payloads))
        return Done(
            body=body,
            sha256=hashlib.sha256(body).digest(),
            content_type=container.CONTENT_TYPE,
            scheme=evaluator.name,
            rows=self._header().rows,
            load_s=0.0,
            evaluate_s=self._evaluate_s + time.perf_counter() - started,
        )
