"""One request from its first byte to its response, across the lane that evaluates it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from score.answers import Answer, Done, NeedBlob, NeedKeys
from score.keycache import KeyCache
from score.keystore import KeyStore
from score.lane import Lane
from score.pool import Pool
from score.upload import Upload
from shared.errors import BlindscoreError


@dataclass(slots=True)
class Course:
    """How a request went, as far as it went."""

    scheme: str = ""
    stages_s: dict[str, float] = field(default_factory=dict)


class Scoring:
    """Leads requests through the pool, with keys from the cache."""

    def __init__(self, pool: Pool, store: KeyStore, keys: KeyCache) -> None:
        self._pool = pool
        self._store = store
        self._keys = keys

    async def score(self, content_type: str, upload: Upload, course: Course) -> Done:
        """Evaluate a body. A lane is taken only once its first MiB, or all of it, is here.

        Raises the errors of `Upload.next`, `Pool`, `KeyStore` and `Evaluation`.
        """
        with self._pool.place():
            piece = await upload.next()
            waiting_since_s = time.perf_counter()
            async with self._pool.lease() as lane:
                course.stages_s["wait"] = time.perf_counter() - waiting_since_s
                while True:
                    answer = await lane.feed(content_type, piece.data, last=piece.last)
                    if isinstance(answer, NeedKeys):
                        answer = await self._give_keys(lane, answer, course)
                    if isinstance(answer, Done):
                        break
                    if piece.last:
                        raise BlindscoreError("an evaluator answered out of turn")
                    content_type = ""
                    piece = await upload.next()
        course.stages_s |= {"load": answer.load_s, "evaluate": answer.evaluate_s}
        return answer

    async def _give_keys(self, lane: Lane, need: NeedKeys, course: Course) -> Answer:
        course.scheme = need.scheme
        started_s = time.perf_counter()
        key = await self._keys.get(self._store.source(need))
        course.stages_s["keys"] = time.perf_counter() - started_s
        answer = await lane.use_keys(key.version, None)
        if isinstance(answer, NeedBlob):
            answer = await lane.use_keys(key.version, key.data)
        return answer
