"""What an endpoint's answer means, from its status and headers alone. Pure."""

from __future__ import annotations

import base64
import binascii
import email.utils
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from http import HTTPStatus

from shared.errors import EndpointError, Unauthorized

JSON = "application/json"
PROBLEM = "application/problem+json"
MODEL_HEADER = "X-Blindscore-Model"
DIGEST_HEADER = "Repr-Digest"
MAX_DETAIL = 300

UNREACHABLE, TIMED_OUT, DISCONNECTED = "unreachable", "timeout", "disconnected"
"""Reasons of an `EndpointError` without an answer."""

_PASSING = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS}
_CODE = re.compile(r"[a-z][a-z0-9_]{0,63}")
_MODEL = re.compile(r"[A-Za-z0-9._:+/=-]{1,128}")
_SHA256_MEMBER = re.compile(r"(?:^|,)\s*sha-256=:([^:]*):")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")

Headers = Mapping[str, str]
"""Case-insensitive, as HTTP libraries hand them out."""


def media_type(content_type: str) -> str:
    """`Application/JSON; charset=utf-8` → `application/json`."""
    return content_type.partition(";")[0].strip().lower()


def is_passing(status: int) -> bool:
    """Whether the same request may succeed later.

    408, 429 and 5xx say so. A redirect, which is never followed, and an answer that is not one
    (a proxy's page with status 200) come from something between us and the endpoint.
    """
    return status in _PASSING or not HTTPStatus.BAD_REQUEST <= status < 500


def refusal(status: int, headers: Headers, body: bytes, *, now: datetime) -> EndpointError:
    """The error of an answer that is not a result.

    `body` is the beginning of it. Only a problem document (RFC 9457) is quoted: any other page
    may repeat the request, and with it a credential.
    """
    code, detail = "", ""
    if media_type(headers.get("Content-Type", "")) == PROBLEM:
        code, detail = _problem(body)
    said = ": ".join(part for part in (code, detail) if part)
    page = media_type(headers.get("Content-Type", "")) or "no content type"
    return EndpointError(
        f"the endpoint answered {status}, {said or page}",
        retryable=is_passing(status),
        status=status,
        reason=code,
        retry_after_s=retry_after_s(headers.get("Retry-After", ""), now=now),
    )


def unauthorized(variable: str) -> Unauthorized:
    """A 401 is about the worker, not about the job it carries."""
    return Unauthorized(
        "the endpoint does not accept this worker's bearer token", remedy=f"set {variable}"
    )


def retry_after_s(value: str, *, now: datetime) -> float | None:
    """Seconds to wait by a `Retry-After` header (RFC 9110 §10.2.3): a number, or a date."""
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        when = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (when.replace(tzinfo=when.tzinfo or UTC) - now).total_seconds())


def announced_sha256(headers: Headers) -> str:
    """The SHA-256, in hex, that `Repr-Digest` (RFC 9530) announces; empty without one.

    Raises `EndpointError` for one that can't be read.
    """
    member = _SHA256_MEMBER.search(headers.get(DIGEST_HEADER, ""))
    if member is None:
        return ""
    try:
        digest = base64.b64decode(member[1], validate=True)
    except binascii.Error:
        digest = b""
    if len(digest) != 32:
        raise EndpointError(f"the endpoint's {DIGEST_HEADER} is unreadable", retryable=True)
    return digest.hex()


def announced_model(headers: Headers) -> str:
    """The fingerprint of the model that answered; empty when the endpoint announces none.

    Raises `EndpointError` for one that can't be kept in a result's metadata.
    """
    model = headers.get(MODEL_HEADER, "")
    if model and not _MODEL.fullmatch(model):
        raise EndpointError(f"the endpoint's {MODEL_HEADER} is unusable", retryable=True)
    return model


def _problem(body: bytes) -> tuple[str, str]:
    """Code and detail of a problem document, made fit for a log line."""
    try:
        fields = json.loads(body)
    except ValueError:
        return "", ""
    if not isinstance(fields, dict):
        return "", ""
    code, detail = str(fields.get("code", "")), str(fields.get("detail", ""))
    if not _CODE.fullmatch(code):
        code = ""
    return code, _CONTROL.sub(" ", detail)[:MAX_DETAIL]
