"""An evaluator process: one engine at the end of a pipe, which one request at a time holds.

Its parent may stop it at any time, and hostile bytes may kill it: nothing of value is in here but
the model. It ends when its pipe does, and at the latest when its parent does.
"""

from __future__ import annotations

import os
import resource
import signal
import threading
import traceback
from multiprocessing import connection, parent_process
from multiprocessing.connection import Connection

import msgpack

from score.answers import Answer, Done, More, Ready, Reply, encode, failed
from score.engine import Build, Engine, Evaluation
from score.settings import EngineOptions
from shared.errors import BlindscoreError
from shared.linear import LinearModel

PLACE_FRAMES = 8


def feed(content_type: str, piece: bytes, *, last: bool) -> bytes:
    """The order to take a piece of a body; `content_type` with the first piece, else empty."""
    return bytes(msgpack.packb(["feed", content_type, piece, last]))


def use_keys(version: str, blob: bytes | None) -> bytes:
    """The order to go on with these keys."""
    return bytes(msgpack.packb(["use_keys", version, blob]))


def drop() -> bytes:
    """The order to forget the request."""
    return bytes(msgpack.packb(["drop"]))


def main(pipe: Connection, model: LinearModel, options: EngineOptions, build: Build) -> None:
    """Serve orders from `pipe` until it closes."""
    _settle_in()
    try:
        engine = Engine(model, options, build)
    except BlindscoreError as error:
        pipe.send_bytes(encode(failed(error)))
        return
    schemes = {name: dict(described) for name, described in engine.describe().items()}
    pipe.send_bytes(encode(Ready(schemes=schemes, refused=engine.refused)))
    _serve(pipe, engine)


def _serve(pipe: Connection, engine: Engine) -> None:
    seat = _Seat(engine)
    while True:
        try:
            order = msgpack.unpackb(pipe.recv_bytes())
        except EOFError:
            return
        try:
            reply: Reply = seat.obey(order)
        except BlindscoreError as error:
            seat.clear()
            reply = failed(error)
        except Exception as error:
            # Not an error we know: nothing in this process is to be trusted any more. What the
            # error says may repeat the request, so only its name and its place are told.
            reply = failed(BlindscoreError(f"an evaluator failed: {type(error).__name__}"))
            place = "".join(traceback.format_tb(error.__traceback__)[-PLACE_FRAMES:])
            pipe.send_bytes(encode(reply.model_copy(update={"place": place})))
            raise SystemExit(1) from error
        if isinstance(reply, Done):
            seat.clear()
        pipe.send_bytes(encode(reply))


class _Seat:
    """The one request that an evaluator process works on."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._evaluation: Evaluation | None = None

    def clear(self) -> None:
        self._evaluation = None

    def obey(self, order: list[object]) -> Answer:
        """Carry out one order; raises what the evaluation raises."""
        match order:
            case ["feed", str(content_type), bytes(piece), bool(last)]:
                if content_type:
                    self._evaluation = self._engine.begin(content_type)
                return self._current().feed(piece, last=last)
            case ["use_keys", str(version), bytes() | None as blob]:
                return self._current().use_keys(version, blob)
            case ["drop"]:
                self.clear()
                return More()
        raise BlindscoreError("an evaluator was given an unknown order")

    def _current(self) -> Evaluation:
        if self._evaluation is None:
            raise BlindscoreError("an evaluator was given an order out of turn")
        return self._evaluation


def _settle_in() -> None:
    """Leave signals to the parent, which drains first; leave no memory image behind."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
    os._exit(1)
