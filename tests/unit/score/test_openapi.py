"""The endpoint's description of itself says all that there is."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from score import openapi
from score.settings import EndpointOptions
from shared import errors
from shared.errors import BlindscoreError
from tests.unit.score.served import TOKENS, serving

ELSEWHERE = {
    errors.UsageError,  # the command line's
    errors.DatasetError,
    errors.ModelError,
    errors.SecretKeyError,
    errors.RunError,
    errors.MessageError,  # the queue's
    errors.QueueNotFound,
    errors.LeaseLost,
    errors.BlobNotFound,  # answered as `key_unknown`
    errors.BlobExists,  # nothing is written
    errors.EndpointError,  # a worker's
    errors.CorruptInput,
}
"""Errors that no request to the endpoint ends in."""


def endpoint_errors() -> list[type[BlindscoreError]]:
    """Those of the packages that the endpoint consists of, but `ELSEWHERE`."""
    return [
        cls
        for cls in vars(errors).values()
        if isinstance(cls, type) and issubclass(cls, BlindscoreError) and cls not in ELSEWHERE
    ]


def codes(operation: dict[str, Any], status: int) -> list[str]:
    response = operation["responses"][str(status)]
    schema = response["content"]["application/problem+json"]["schema"]
    return list(schema["allOf"][1]["properties"]["code"]["enum"])


@pytest.mark.parametrize("cls", endpoint_errors())
def test_every_error_is_described_with_its_status(cls: type[BlindscoreError]) -> None:
    score = openapi.document(metrics=True, tokens=True)["paths"]["/score"]["post"]
    assert cls.code in codes(score, cls.http_status)
    assert f"`{cls.code}`" in score["responses"][str(cls.http_status)]["description"]


@pytest.mark.parametrize("metrics_elsewhere", [False, True])
async def test_every_route_is_described_and_every_description_is_a_route(
    *, metrics_elsewhere: bool
) -> None:
    options = EndpointOptions(tokens=TOKENS, metrics_elsewhere=metrics_elsewhere)
    async with serving(options=options) as served:
        app = served.endpoint.runner().app
        routes = {
            (route.resource.canonical, route.method.lower())
            for route in app.router.routes()
            if route.resource is not None and route.method != "HEAD"  # GET without a body
        }
        answer = await served.get("/openapi.json", Authorization=f"Bearer {TOKENS[0]}")
        document = json.loads(answer.body)
        assert answer.headers["Content-Type"] == "application/json"
    described = {
        (path, method) for path, operations in document["paths"].items() for method in operations
    }
    assert described == routes
    assert ("/metrics", "get") in described or metrics_elsewhere


@pytest.mark.parametrize("tokens", [True, False])
def test_what_needs_a_token_says_so(*, tokens: bool) -> None:
    document = openapi.document(metrics=True, tokens=tokens)
    assert ("401, `unauthorized`" in document["info"]["description"]) == tokens
    for path, operations in document["paths"].items():
        for operation in operations.values():
            guarded = tokens and path not in {"/", "/ready"}
            assert ("401" in operation["responses"]) == guarded
            assert bool(operation.get("security")) == guarded


def test_the_description_is_one_document() -> None:
    """Every reference leads somewhere; names are unique."""
    document = openapi.document(metrics=True, tokens=False)
    text = json.dumps(document, separators=(",", ":"))
    assert document["openapi"] == "3.1.0"
    for reference in re.findall(r'"\$ref":"#/components/schemas/(\w+)"', text):
        assert reference in document["components"]["schemas"]
    names = re.findall(r'"operationId":"(\w+)"', text)
    assert len(names) == len(set(names)) == 6
