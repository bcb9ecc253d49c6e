"""The tutorial's client against the tutorial's score.py: the system that blindscore grew from."""

from __future__ import annotations

import http.client
import json
import urllib.error
from urllib.parse import urlsplit

import numpy as np
import pytest

from tests.interop.conftest import NewSeedsClient, SeedsServer

ERROR = 1e-4  # of a score; what is measured is below 3e-6


def test_the_published_client_gets_its_prediction(
    seeds_server: SeedsServer, seeds_client: NewSeedsClient
) -> None:
    """One image through the published system: about 15 seconds."""
    row = seeds_server.rows[0]
    scores = seeds_client(seeds_server.url).predict(row)
    assert scores.shape == (10,)
    assert np.abs(scores - seeds_server.model.scores(row)).max() < ERROR
    assert np.argmax(scores) == seeds_server.labels[0]


def test_the_published_score_py_fails_on_a_key_it_can_not_find(
    seeds_server: SeedsServer, seeds_client: NewSeedsClient
) -> None:
    client = seeds_client(seeds_server.url)
    body = json.loads(client.request(seeds_server.rows[0])) | {"key_id": "a" * 32}
    with pytest.raises(urllib.error.HTTPError) as failure:
        client.run(json.dumps(body).encode())
    with failure.value as answer:
        assert answer.code >= 400


def test_the_server_is_healthy_between_requests(seeds_server: SeedsServer) -> None:
    connection = http.client.HTTPConnection(urlsplit(seeds_server.url).netloc, timeout=30)
    try:
        connection.request("GET", "/")
        assert connection.getresponse().read() == b"Healthy"
    finally:
        connection.close()
