"""A worker's settings: one clear line for each that can't work, and no secret in sight."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shared.errors import UsageError
from worker.settings import (
    CONN_STR_VARIABLE,
    TOKEN_VARIABLE,
    new_worker_id,
    worker_settings,
)


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    monkeypatch.delenv(CONN_STR_VARIABLE, raising=False)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"max_concurrency": 0}, "--max-concurrency"),
        ({"max_concurrency": 2, "min_concurrency": 3}, "--min-concurrency"),
        ({"lease_s": 1.0}, "--lease-s"),
        ({"lease_s": 7 * 24 * 3600 + 1.0}, "--lease-s"),  # Azure's limit
        ({"max_attempts": 0}, "--max-attempts"),
        ({"endpoint_format": "xml"}, "--endpoint-format"),
        ({"endpoint": "ftp://host"}, "--endpoint"),
        ({"endpoint": "host:8080"}, "--endpoint"),
        ({"endpoint_format": "seeds"}, CONN_STR_VARIABLE),
    ],
)
def test_what_can_not_work_is_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        worker_settings(**options)


def test_a_credential_in_the_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(UsageError, match=TOKEN_VARIABLE) as caught:
        worker_settings(endpoint="https://user:hunter2@host")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("given", ["http://h:1", "http://h:1/", "http://h:1/score"])
def test_the_endpoint_is_a_base_url(given: str) -> None:
    assert worker_settings(endpoint=given).endpoint == "http://h:1"


def test_secrets_come_from_the_environment_and_do_not_show(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, "t0ken")
    monkeypatch.setenv(CONN_STR_VARIABLE, "AccountKey=secret")
    settings = worker_settings(endpoint_format="seeds")
    assert settings.token.get_secret_value() == "t0ken"
    assert settings.conn_str.get_secret_value() == "AccountKey=secret"
    assert "t0ken" not in repr(settings)
    assert "AccountKey" not in repr(settings)


def test_a_token_file_wins_over_the_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, "old")
    file = tmp_path / "token"
    file.write_text("n3w\n")
    assert worker_settings(token_file=file).token.get_secret_value() == "n3w"


def test_an_unusable_token_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="missing"):
        worker_settings(token_file=tmp_path / "missing")
    monkeypatch.setenv(TOKEN_VARIABLE, "two lines\nX-Header: 1")
    with pytest.raises(UsageError, match=TOKEN_VARIABLE):
        worker_settings()


def test_worker_ids_differ_and_fit_metadata() -> None:
    first, second = new_worker_id(), new_worker_id()
    assert first != second
    assert first.isascii()
    assert " " not in first


OPEN_WIRES = [
    "http://scorer:8080",
    "HTTP://scorer:8080",
    "http://10.0.0.7/score",
    "http://127.0.0.1.example.org",
    "http://localhost.example.org",
    "http://[2001:db8::1]:80",
]


@pytest.mark.parametrize("endpoint", OPEN_WIRES)
@pytest.mark.parametrize("variable", [TOKEN_VARIABLE, CONN_STR_VARIABLE])
def test_no_secret_goes_unencrypted_to_another_machine(
    variable: str, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "hunter2")
    with pytest.raises(UsageError, match=f"{variable}.*--allow-plain-http") as caught:
        worker_settings(endpoint=endpoint)
    assert "hunter2" not in str(caught.value)
    assert worker_settings(endpoint=endpoint, allow_plain_http=True).endpoint


@pytest.mark.parametrize(
    "endpoint", ["https://scorer", "http://127.0.0.1:8080", "http://localhost", "http://[::1]:8080"]
)
def test_https_and_this_machine_get_secrets(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, "t0ken")
    assert worker_settings(endpoint=endpoint).endpoint == endpoint


@pytest.mark.parametrize("endpoint", OPEN_WIRES)
def test_without_a_secret_plain_http_is_fine(endpoint: str) -> None:
    assert worker_settings(endpoint=endpoint).endpoint
