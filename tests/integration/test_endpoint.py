"""`blindscore serve` as a process, over Azurite: real keys, real ciphertexts, signals."""

from __future__ import annotations

import base64
import json
import os
import secrets
import signal
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from azure.storage.blob import ContainerClient

from deploy.local.azurite import Azurite
from producer.schemes import Encoding, client_scheme
from shared import blobnames
from shared.settings import CONNECTION_STRING_VARIABLE, DEFAULT_API_VERSION
from tests.commands import refuse
from tests.integration.endpoints import MODEL, WITHIN_S, Running, saved, serving
from tests.sdk_client import SdkClient, sdk_client

ERROR = 1e-4
CONTAINER = f"endpoint-{secrets.token_hex(6)}"
ROWS = np.array([[0.1, 0.2, 0.3, 0.4], [1.0, 0.0, 0.5, 0.25], [0.0, 0.0, 0.0, 1.0]])
KEY_ID = "s" * 32
CREDENTIALS: dict[str, Any] = {
    name: f"credential-in-{name}"
    for name in (
        "BLINDSCORE_ENDPOINT_TOKEN",
        "BLINDSCORE_PASSPHRASE",
        "AZURE_CLIENT_SECRET",
        "AZURE_CLIENT_CERTIFICATE_PASSWORD",
        "AZURE_PASSWORD",
        "IDENTITY_HEADER",
    )
}
"""What else may be in an endpoint's environment."""


@pytest.fixture(scope="module")
def blobs(azurite: Azurite) -> Iterator[ContainerClient]:
    """The endpoint's container, as its clients see it."""
    with ContainerClient.from_connection_string(
        azurite.connection_string, CONTAINER, api_version=DEFAULT_API_VERSION
    ) as container:
        container.create_container()
        yield container


@pytest.fixture(scope="module")
def client(blobs: ContainerClient) -> SdkClient:
    """The SDK's client; its keys lie where it puts them: at the container's root."""
    client = sdk_client()
    blobs.upload_blob(KEY_ID, client.keys)
    return client


@pytest.fixture(scope="module")
def endpoint(
    azurite: Azurite, blobs: ContainerClient, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("endpoint")
    with serving(folder, azurite, CONTAINER, "--key-ttl-s", "0.2", **CREDENTIALS) as running:
        yield running


def request(client: SdkClient, rows: Any, **fields: Any) -> bytes:
    """The JSON of one row (a vector), or of a batch."""
    encrypted = [
        [base64.b64encode(text).decode() for text in row]
        for row in client.encrypt(np.atleast_2d(rows))
    ]
    data = {"data": encrypted[0]} if np.ndim(rows) == 1 else {"batch": encrypted}
    return json.dumps({**data, "key_id": KEY_ID, "container": CONTAINER, **fields}).encode()


def decrypted(client: SdkClient, body: bytes) -> Any:
    """Scores, shape (rows, classes)."""
    results = json.loads(body)
    rows = results if isinstance(results[0], list) else [results]
    return client.decrypt([[base64.b64decode(text) for text in row] for row in rows])


def test_a_row_of_the_sdks_client_is_scored(endpoint: Running, client: SdkClient) -> None:
    status, headers, body = endpoint.post(request(client, ROWS[0]))
    assert status == 200, body
    assert np.abs(decrypted(client, body) - MODEL.scores(ROWS[:1])).max() < ERROR
    assert headers["X-Blindscore-Model"] == MODEL.fingerprint


def test_a_batch_is_scored_row_by_row(endpoint: Running, client: SdkClient) -> None:
    status, _, body = endpoint.post(request(client, ROWS))
    assert status == 200, body
    assert np.abs(decrypted(client, body) - MODEL.scores(ROWS)).max() < ERROR


def test_a_request_may_bring_its_own_conn_str_to_the_same_account(
    endpoint: Running, client: SdkClient, azurite: Azurite
) -> None:
    """As the published client does, in a container of its own."""
    name = f"theirs-{secrets.token_hex(4)}"
    with ContainerClient.from_connection_string(
        azurite.connection_string, name, api_version=DEFAULT_API_VERSION
    ) as theirs:
        theirs.create_container()
        theirs.upload_blob(KEY_ID, client.keys)
    fields = {"container": name, "conn_str": azurite.connection_string}
    status, _, body = endpoint.post(request(client, ROWS[0], **fields))
    assert status == 200, body
    assert np.abs(decrypted(client, body) - MODEL.scores(ROWS[:1])).max() < ERROR
    status, _, body = endpoint.post(request(client, ROWS[0], container=name))
    assert (status, json.loads(body)["code"]) == (403, "key_host_not_allowed")


def test_a_conn_str_with_a_wrong_key_is_refused(
    endpoint: Running, client: SdkClient, azurite: Azurite
) -> None:
    account_key = base64.b64encode(b"not the key").decode()
    fields = [
        f"AccountKey={account_key}" if field.startswith("AccountKey=") else field
        for field in azurite.connection_string.split(";")
    ]
    status, _, body = endpoint.post(request(client, ROWS[0], conn_str=";".join(fields)))
    assert (status, json.loads(body)["code"]) == (403, "key_host_not_allowed")
    assert account_key not in body.decode()


def test_keys_of_another_client_give_an_answer_that_nobody_can_read(
    endpoint: Running, client: SdkClient, blobs: ContainerClient
) -> None:
    other = "o" * 32
    blobs.upload_blob(blobnames.key(other), SdkClient().keys)
    status, _, body = endpoint.post(request(client, ROWS[0], key_id=other))
    assert status == 200
    assert np.abs(decrypted(client, body) - MODEL.scores(ROWS[:1])).max() > 1


def test_a_deleted_key_is_unknown_within_its_ttl(
    endpoint: Running, client: SdkClient, blobs: ContainerClient
) -> None:
    short_lived = "d" * 32
    blobs.upload_blob(blobnames.key(short_lived), client.keys)
    body = request(client, ROWS[0], key_id=short_lived)
    assert endpoint.post(body)[0] == 200
    blobs.delete_blob(blobnames.key(short_lived))
    deadline_s = time.monotonic() + WITHIN_S
    while (answer := endpoint.post(body))[0] == 200:
        assert time.monotonic() < deadline_s
    assert (answer[0], json.loads(answer[2])["code"]) == (404, "key_unknown")


@pytest.mark.parametrize("scheme", ["packed", "direct"])
def test_a_container_is_scored(endpoint: Running, blobs: ContainerClient, scheme: str) -> None:
    key = client_scheme(scheme).generate()
    body = b"".join(key.encrypt(ROWS, Encoding(CONTAINER, features=4, input_bound=1.0)))
    blobs.upload_blob(blobnames.key(key.key_id), key.evaluation_keys())
    status, _, body = endpoint.post(body, client_scheme(scheme).content_type)
    assert status == 200, body
    errors = key.decrypt(body, rows=len(ROWS)) - MODEL.scores(ROWS)
    assert np.abs(errors).max() < 1e-3


@pytest.mark.parametrize("damage", ["flip", "cut", "garbage"])
def test_damaged_ciphertexts_are_refused_and_hurt_nobody(
    endpoint: Running, client: SdkClient, damage: str
) -> None:
    fields = json.loads(request(client, ROWS[0]))
    ciphertext = bytearray(base64.b64decode(fields["data"][0]))
    if damage == "flip":
        ciphertext[40] ^= 0xFF
    elif damage == "cut":
        del ciphertext[-100:]
    else:
        ciphertext[:] = os.urandom(len(ciphertext))
    fields["data"] = [base64.b64encode(ciphertext).decode()]
    status, _, body = endpoint.post(json.dumps(fields).encode())
    assert (status, json.loads(body)["code"]) == (422, "bad_ciphertext")
    status, _, body = endpoint.post(request(client, ROWS[0]))
    assert status == 200


def test_the_model_is_announced(endpoint: Running) -> None:
    model = json.loads(endpoint.get("/model"))
    assert (model["features"], model["classes"]) == (4, 1)
    assert set(model["schemes"]) == {"ei", "direct", "packed"}
    assert endpoint.get("/ready") == b"Ready"


@pytest.mark.parametrize("evaluator", ["native", "sdk"])
def test_the_reference_evaluators_answer_the_same(
    azurite: Azurite, client: SdkClient, tmp_path: Path, evaluator: str
) -> None:
    options = ("--ei-evaluator", evaluator, "--offer", "ei", "--processes", "1")
    with serving(tmp_path, azurite, CONTAINER, *options) as running:
        status, _, body = running.post(request(client, ROWS[0]))
        assert status == 200, body
        assert np.abs(decrypted(client, body) - MODEL.scores(ROWS[:1])).max() < ERROR
        assert set(json.loads(running.get("/model"))["schemes"]) == {"ei"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_request_in_flight_is_finished_before_the_end(
    azurite: Azurite, client: SdkClient, tmp_path: Path, number: signal.Signals
) -> None:
    """The signal comes when half of the body has been sent."""
    with serving(tmp_path, azurite, CONTAINER) as running:
        body = request(client, ROWS[0])
        connection = HTTPConnection(running.url.removeprefix("http://"), timeout=WITHIN_S)
        connection.putrequest("POST", "/score")
        connection.putheader("Content-Type", "application/json")
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body[:1000])
        running.get("/")  # so that the request is in progress, too
        running.process.send_signal(number)
        _until_refused(running)
        connection.send(body[1000:])
        answer = connection.getresponse()
        assert answer.status == 200
        assert decrypted(client, answer.read()).shape == (1, 1)
        connection.close()
        assert running.process.wait(WITHIN_S) == 0
    assert "Traceback" not in (tmp_path / "serve.log").read_text()


def test_a_second_signal_ends_it_at_once(azurite: Azurite, tmp_path: Path) -> None:
    with serving(tmp_path, azurite, CONTAINER) as running:
        connection = HTTPConnection(running.url.removeprefix("http://"), timeout=WITHIN_S)
        connection.putrequest("POST", "/score")
        connection.putheader("Content-Type", "application/json")
        connection.putheader("Content-Length", "1000")
        connection.endheaders(b"{")
        running.get("/")
        running.process.send_signal(signal.SIGTERM)
        _until_refused(running)
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(WITHIN_S) == 128 + signal.SIGTERM
        connection.close()


def test_a_port_in_use(endpoint: Running, azurite: Azurite, tmp_path: Path) -> None:
    model = saved(tmp_path)
    port = endpoint.url.rsplit(":", 1)[1]
    told = refuse(
        *("serve", "--model", str(model), "--port", port),
        environment={CONNECTION_STRING_VARIABLE: azurite.connection_string},
    )
    assert f"port {port} on 127.0.0.1 is in use" in told


def test_no_credential_is_in_any_process_that_evaluates(
    endpoint: Running, azurite: Azurite
) -> None:
    """Evaluators parse hostile bytes; nothing is in the environment or arguments of theirs, nor of
    the process that they are forked from."""
    account_key = azurite.connection_string.split("AccountKey=")[1].split(";")[0]
    children = _descendants(endpoint.process.pid)
    assert len(children) >= 2
    for pid in children:
        for where in ("environ", "cmdline"):
            told = Path(f"/proc/{pid}/{where}").read_bytes()
            found = [text for text in (account_key, "credential-in") if text.encode() in told]
            assert found == []


def test_callers_at_the_same_time_each_get_their_own_answer(
    endpoint: Running, client: SdkClient
) -> None:
    bodies = [request(client, row) for row in ROWS] * 3
    answers: dict[int, bytes] = {}

    def call(index: int) -> None:
        answers[index] = endpoint.post(bodies[index])[2]

    threads = [threading.Thread(target=call, args=(index,)) for index in range(len(bodies))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, answer in answers.items():
        expected = MODEL.scores(ROWS[[index % 3]])
        assert np.abs(decrypted(client, answer) - expected).max() < ERROR


def _until_refused(running: Running) -> None:
    """Wait until the endpoint takes no more connections."""
    deadline_s = time.monotonic() + WITHIN_S
    while time.monotonic() < deadline_s:
        try:
            running.get("/")
        except OSError:
            return
    raise AssertionError("the endpoint still takes connections")


def _descendants(pid: int) -> list[int]:
    found = [
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]
    return found + [grandchild for child in found for grandchild in _descendants(child)]
