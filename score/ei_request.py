"""One JSON request in the `encrypted-inference` 0.9 wire format, as a state machine."""

from __future__ import annotations

import base64
import binascii
import hashlib
import time
from typing import Any

import orjson

from score.answers import Answer, Done, More, NeedBlob, NeedKeys
from score.loaded import LoadedKeyRing
from score.schemes import EiEvaluator, LoadedKeys
from score.settings import EngineOptions
from shared import blobnames
from shared.errors import BodyTooLarge, CiphertextError, MalformedRequest

FIELDS = {"data", "batch", "key_id", "container", "conn_str"}
MAX_TEXT_CHARS = 4096
MAX_COMMAS = 65_536
"""Base64 has none, so this bounds the values that parsing makes of a hostile body."""

Row = list[bytes]


class EiRequest:
    """Collects a body, then evaluates its rows as one batch.

    `{"data": [base64…], "key_id", "container", "conn_str"?}` is one row and answered with a list
    of results; `{"batch": [[base64…], …], …}` is several and answered with a list of such lists.
    """

    def __init__(self, evaluator: EiEvaluator, ring: LoadedKeyRing, options: EngineOptions) -> None:
        self._evaluator = evaluator
        self._ring = ring
        self._options = options
        self._body = bytearray()
        self._rows: list[Row] = []
        self._is_batch = False

    def feed(self, piece: bytes, *, last: bool) -> Answer:
        """Take the next piece; the whole body is parsed after the last one."""
        self._body += piece
        if len(self._body) > self._options.max_json_bytes:
            raise BodyTooLarge(f"JSON body is over {self._options.max_json_bytes} bytes")
        if not last:
            return More()
        fields = _parse(self._body)
        self._body = bytearray()
        self._is_batch = "batch" in fields
        rows = _rows(fields)
        if len(rows) > self._options.max_batch:
            raise BodyTooLarge(
                f"batch has {len(rows)} rows", remedy=f"send at most {self._options.max_batch}"
            )
        self._rows = [_ciphertexts(row) for row in rows]
        return NeedKeys(
            scheme="ei",
            key_id=_key_id(fields),
            container=_container(fields),
            conn_str=_text(fields, "conn_str") if "conn_str" in fields else "",
        )

    def use_keys(self, version: str, blob: bytes | None) -> Answer:
        """Evaluate, once the keys are here."""
        keys, load_s = self._ring.ei(self._evaluator, version, blob)
        if keys is None:
            return NeedBlob()
        return self._evaluate(keys, load_s)

    def _evaluate(self, keys: LoadedKeys, load_s: float) -> Done:
        started = time.perf_counter()
        results = self._evaluator.evaluate(self._rows, keys)
        evaluate_s = time.perf_counter() - started
        texts = [[base64.b64encode(result).decode("ascii") for result in row] for row in results]
        body = orjson.dumps(texts if self._is_batch else texts[0])
        return Done(
            body=body,
            sha256=hashlib.sha256(body).digest(),
            content_type="application/json",
            scheme="ei",
            rows=len(results),
            load_s=load_s,
            evaluate_s=evaluate_s,
        )


def _parse(body: bytes | bytearray) -> dict[str, Any]:
    if body.count(b",") > MAX_COMMAS:
        raise MalformedRequest(f"body has over {MAX_COMMAS} values")
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise MalformedRequest(f"body is not JSON: {error.msg} at {error.pos}") from None
    if not isinstance(fields, dict):
        raise MalformedRequest("body is not a JSON object")
    if surplus := fields.keys() - FIELDS:
        # The names are the caller's bytes: count them, don't echo them.
        raise MalformedRequest(f"{len(surplus)} fields besides {', '.join(sorted(FIELDS))}")
    if ("data" in fields) == ("batch" in fields):
        raise MalformedRequest("either data or batch is needed")
    return fields


def _rows(fields: dict[str, Any]) -> list[list[str]]:
    rows = fields["batch"] if "batch" in fields else [fields["data"]]
    if not isinstance(rows, list) or not rows:
        raise MalformedRequest("batch is not a list of rows")
    for row in rows:
        if not isinstance(row, list) or not row or not all(isinstance(text, str) for text in row):
            raise MalformedRequest("a row is not a list of base64 strings")
    return rows


def _ciphertexts(row: list[str]) -> Row:
    try:
        ciphertexts = [binascii.a2b_base64(text, strict_mode=True) for text in row]
    except ValueError as error:  # binascii.Error, and text that is not ASCII
        raise MalformedRequest("a ciphertext is not base64") from error
    if not all(ciphertexts):
        raise CiphertextError("a ciphertext is empty")
    return ciphertexts


def _text(fields: dict[str, Any], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or len(value) > MAX_TEXT_CHARS:
        raise MalformedRequest(f"{name} is not a short string")
    return value


def _key_id(fields: dict[str, Any]) -> str:
    key_id = _text(fields, "key_id")
    if not blobnames.is_key_id(key_id):
        raise MalformedRequest("key_id is not a key id (16 to 64 of a-z and 0-9)")
    return key_id


def _container(fields: dict[str, Any]) -> str:
    container = _text(fields, "container")
    if not blobnames.is_container(container):
        raise MalformedRequest("container is not a container name")
    return container
