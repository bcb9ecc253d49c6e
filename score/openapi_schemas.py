"""JSON schemas of what callers send and get, for the endpoint's OpenAPI document."""

from __future__ import annotations

from typing import Any

from score.ei_request import MAX_TEXT_CHARS
from shared import blobnames

Json = dict[str, Any]

BASE64_PATTERN = "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"
FINGERPRINT = {"type": "string", "pattern": blobnames.SHA256_PATTERN}


def schemas() -> Json:
    """By the names that references use."""
    ciphertext = {"type": "string", "contentEncoding": "base64", "pattern": BASE64_PATTERN}
    row = {"type": "array", "minItems": 1, "items": {**ciphertext, "minLength": 4}}
    names = {
        "key_id": {"type": "string", "pattern": blobnames.KEY_ID_PATTERN},
        "container": {"type": "string", "pattern": blobnames.CONTAINER_PATTERN},
        "conn_str": {
            "type": "string",
            "maxLength": MAX_TEXT_CHARS,
            "description": "Storage that the endpoint allows; leave it out.",
        },
    }
    return {
        "Problem": {
            "type": "object",
            "properties": {
                "type": {"const": "about:blank"},
                "title": {"type": "string"},
                "status": {"type": "integer"},
                "detail": {"type": "string"},
                "code": {"type": "string", "description": "Stable; for programs."},
            },
            "required": ["type", "title", "status", "detail", "code"],
            "additionalProperties": False,
        },
        "EiRequest": {
            "description": "Rows in the format of encrypted-inference 0.9.",
            "oneOf": [
                _object({"data": row, **names}, "conn_str"),
                _object(
                    {"batch": {"type": "array", "minItems": 1, "items": row}, **names}, "conn_str"
                ),
            ],
        },
        "EiResponse": {
            "description": "One result for each class; for a batch, a list of such lists.",
            "type": "array",
            "items": {"anyOf": [ciphertext, {"type": "array", "items": ciphertext}]},
        },
        "Model": {
            "type": "object",
            "properties": {
                "features": {"type": "integer", "minimum": 1},
                "classes": {"type": "integer", "minimum": 1},
                "labels": {"type": "array"},
                "link": {"type": "string"},
                "fingerprint": FINGERPRINT,
                "schemes": {"type": "object", "additionalProperties": {"type": "object"}},
                "max_body_bytes": {"type": "integer", "minimum": 1},
            },
            "required": ["features", "classes", "labels", "link", "fingerprint", "schemes"],
        },
        "Document": {"type": "object", "required": ["openapi", "info", "paths"]},
    }


def _object(properties: Json, *optional: str) -> Json:
    return {
        "type": "object",
        "properties": properties,
        "required": sorted(properties.keys() - set(optional)),
        "additionalProperties": False,
    }
