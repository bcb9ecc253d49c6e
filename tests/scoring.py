"""The endpoint's part of a job, in this process."""

from __future__ import annotations

from score.schemes import ContainerEvaluator
from shared import container


def respond(evaluator: ContainerEvaluator, body: bytes) -> bytes:
    """The response to a request's body."""
    header, payloads = container.read(body, max_frame_bytes=evaluator.max_frame_bytes)
    evaluation = evaluator.begin(header)
    for payload in payloads:
        evaluation.add(payload)
    return b"".join(container.write(*evaluation.finish()))
