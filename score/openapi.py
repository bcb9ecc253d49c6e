"""What the endpoint answers, as an OpenAPI 3.1 document (`GET /openapi.json`).

Statuses and codes are read off the error classes, so that the two can't differ.
"""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus

from score.openapi_schemas import FINGERPRINT, Json, schemas
from score.problems import CONTENT_TYPE as PROBLEM_TYPE
from shared import container, errors
from shared.errors import BlindscoreError

NOT_READY = "not_ready"

SCORING: tuple[type[BlindscoreError], ...] = (
    BlindscoreError,
    errors.MalformedRequest,
    errors.KeyExpired,
    errors.KeyHostNotAllowed,
    errors.KeyUnknown,
    errors.RequestTimeout,
    errors.BodyTooLarge,
    errors.UnsupportedMediaType,
    errors.CiphertextError,
    errors.FeatureCountError,
    errors.EvaluationKeysError,
    errors.RateLimited,
    errors.Overloaded,
    errors.EvaluationTimeout,
    errors.StorageError,
    errors.StorageUnavailable,
    errors.AccessDenied,
)
"""What a request to score may run into, besides `Unauthorized`."""

_ERRORS = (
    "Errors are problem documents (RFC 9457) with a stable `code`. A path that is none is answered "
    "404, `not_found`; another method 405, `method_not_allowed`, with `Allow`."
)
_STRANGERS = (
    " Before either, a request without an accepted token is answered 401, `unauthorized`, unless "
    "its path is `/` or `/ready`."
)
_RETRY_STATUSES = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)


def document(*, metrics: bool, tokens: bool) -> Json:
    """The document of an endpoint that answers `/metrics` here too, and asks for tokens, or not."""
    paths: Json = {
        "/score": {"post": _score()},
        "/model": {"get": _get("model", "What is scored here, and how.", _json("Model"))},
        "/openapi.json": {"get": _get("openapi", "This document.", _json("Document"))},
    }
    if metrics:
        paths["/metrics"] = {"get": _get("metrics", "For Prometheus.", _text())}
    for path in paths.values():
        for operation in path.values():
            _guard(operation, tokens=tokens)
    paths["/"] = {"get": _get("health", "This process answers.", _text("Healthy"))}
    paths["/ready"] = {"get": _ready()}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "blindscore",
            "version": "1",
            "summary": "Scores encrypted rows with a linear model.",
            "description": _ERRORS + (_STRANGERS if tokens else ""),
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "paths": paths,
        "components": {
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
            "schemas": schemas(),
        },
    }


def problem_responses(classes: Iterable[type[BlindscoreError]]) -> Json:
    """Responses by status, each with the codes that it may have."""
    codes: dict[int, list[str]] = {}
    texts: dict[int, list[str]] = {}
    for cls in classes:
        codes.setdefault(cls.http_status, []).append(cls.code)
        told = " ".join((cls.__doc__ or "").split("\n\n")[0].split())
        texts.setdefault(cls.http_status, []).append(f"`{cls.code}`: {told}")
    return {
        str(status): _problem(status, codes[status], "\n\n".join(texts[status]))
        for status in sorted(codes)
    }


def _problem(status: int, codes: list[str], description: str) -> Json:
    schema = {
        "allOf": [
            {"$ref": "#/components/schemas/Problem"},
            {"properties": {"status": {"const": status}, "code": {"enum": sorted(codes)}}},
        ]
    }
    headers: Json = {}
    if status in _RETRY_STATUSES:
        headers["Retry-After"] = _header({"type": "integer", "minimum": 1}, "Seconds to wait.")
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = _header({"const": "Bearer"}, "How to show who you are.")
    return {
        "description": description,
        "headers": headers,
        "content": {PROBLEM_TYPE: {"schema": schema}},
    }


def _get(name: str, summary: str, content: Json) -> Json:
    return {
        "operationId": name,
        "summary": summary,
        "responses": {"200": {"description": summary, "content": content}},
    }


def _guard(operation: Json, *, tokens: bool) -> None:
    """What the endpoint's door adds to an operation behind it."""
    operation["security"] = [{"bearer": []}] if tokens else []
    classes = (errors.Unauthorized, BlindscoreError) if tokens else (BlindscoreError,)
    operation["responses"].update(problem_responses(classes))


def _ready() -> Json:
    operation = _get("ready", "Requests are welcome.", _text("Ready"))
    operation["responses"]["503"] = _problem(
        503, [NOT_READY], "`not_ready`: No evaluator is up, or the endpoint is about to end."
    )
    return operation


def _score() -> Json:
    """The one operation that computes."""
    return {
        "operationId": "score",
        "summary": "Score encrypted rows.",
        "description": "A key owner's evaluation keys lie in the storage account, under the key "
        "id.",
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": {"$ref": "#/components/schemas/EiRequest"}},
                container.CONTENT_TYPE: {
                    "schema": {
                        "description": "A blindscore container: header, then one frame for each "
                        "ciphertext."
                    }
                },
            },
        },
        "responses": {
            "200": {
                "description": "Encrypted scores.",
                "headers": {
                    "X-Blindscore-Model": _header(FINGERPRINT, "Fingerprint of the model."),
                    "X-Blindscore-Rows": _header({"type": "integer", "minimum": 1}, "Rows scored."),
                    "Repr-Digest": _header({"type": "string"}, "SHA-256 of the body (RFC 9530)."),
                },
                "content": {
                    "application/json": {"schema": {"$ref": "#/components/schemas/EiResponse"}},
                    container.CONTENT_TYPE: {"schema": {"description": "A blindscore container."}},
                },
            },
            **problem_responses(SCORING),
        },
    }


def _header(schema: Json, description: str) -> Json:
    return {"description": description, "required": True, "schema": schema}


def _json(schema: str) -> Json:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


def _text(constant: str | None = None) -> Json:
    schema: Json = {"type": "string"} if constant is None else {"const": constant}
    return {"text/plain": {"schema": schema}}
