"""What a worker can be told: every limit, every wait, and where its endpoint is."""

from __future__ import annotations

import ipaddress
import os
import re
import secrets
import socket
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from shared.errors import UsageError

TOKEN_VARIABLE = "BLINDSCORE_ENDPOINT_TOKEN"  # noqa: S105 - a variable's name
CONN_STR_VARIABLE = "BLINDSCORE_ENDPOINT_CONN_STR"
MIB = 1024 * 1024

EndpointFormat = Literal["auto", "blindscore", "seeds"]


class WorkerSettings(BaseModel):
    """A worker's settings; the two secrets come from the environment or a file alone."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    endpoint: str = "http://127.0.0.1:8080"
    """Base URL, or the URL of `/score` itself."""
    endpoint_format: EndpointFormat = "auto"
    token: SecretStr = SecretStr("")
    conn_str: SecretStr = SecretStr("")
    """Storage connection string for the seeds' score.py, which loads the keys with it."""

    allow_plain_http: bool = False
    """Send a secret unencrypted to another machine."""

    max_concurrency: Annotated[int, Field(ge=1, le=1024)] = 8
    min_concurrency: PositiveInt = 1
    lease_s: Annotated[float, Field(ge=3, le=7 * 24 * 3600)] = 60.0
    max_deliveries: PositiveInt = 10
    grace_s: NonNegativeFloat = 25.0
    exit_when_idle_s: NonNegativeFloat = 0.0
    """Stop once the queue has been empty for so long; 0: never."""

    max_attempts: PositiveInt = 5
    retry_base_s: PositiveFloat = 0.5
    retry_cap_s: PositiveFloat = 30.0
    job_budget_s: PositiveFloat = 600.0
    """No attempt starts later than this after a job's first one."""

    breaker_failures: PositiveInt = 10
    """So many failed requests in a row, and the endpoint counts as down."""
    breaker_pause_s: PositiveFloat = 5.0
    """Before it is asked whether it is back; doubles up to a minute."""

    request_timeout_s: PositiveFloat = 120.0
    connect_timeout_s: PositiveFloat = 10.0
    wait_endpoint_s: NonNegativeFloat = 30.0
    max_result_mb: PositiveInt = 1024
    max_batch_mb: PositiveInt = 64
    """The largest JSON batch taken apart, in memory, for an endpoint that takes single rows."""

    health_port: Annotated[int, Field(ge=0, le=65535)] = 0
    """Where probes and Prometheus may ask; 0: nowhere."""
    health_host: str = "127.0.0.1"

    @field_validator("endpoint")
    @classmethod
    def _http_url(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("not an http or https URL")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError(f"no credentials or query in the URL (a token: {TOKEN_VARIABLE})")
        return value.rstrip("/").removesuffix("/score")

    @model_validator(mode="after")
    def _seeds_need_the_connection_string(self) -> Self:
        if self.endpoint_format == "seeds" and not self.conn_str.get_secret_value():
            raise ValueError(f"--endpoint-format seeds needs {CONN_STR_VARIABLE}")
        return self

    @model_validator(mode="after")
    def _limits_are_in_order(self) -> Self:
        if self.min_concurrency > self.max_concurrency:
            raise ValueError("--min-concurrency is over --max-concurrency")
        return self

    @model_validator(mode="after")
    def _no_secret_over_an_open_wire(self) -> Self:
        if self.allow_plain_http or urlsplit(self.endpoint).scheme != "http":
            return self
        for variable, secret in ((TOKEN_VARIABLE, self.token), (CONN_STR_VARIABLE, self.conn_str)):
            if secret.get_secret_value() and not _is_this_machine(self.endpoint):
                raise ValueError(
                    f"{variable} would travel unencrypted: use an https --endpoint "
                    "(or --allow-plain-http, on a network you trust)"
                )
        return self

    @property
    def max_result_bytes(self) -> int:
        return self.max_result_mb * MIB

    @property
    def max_batch_bytes(self) -> int:
        return self.max_batch_mb * MIB


def worker_settings(*, token_file: Path | None = None, **options: Any) -> WorkerSettings:
    """Settings from options and the environment. Raises `UsageError`, naming the option."""
    token = os.environ.get(TOKEN_VARIABLE, "")
    if token_file is not None:
        try:
            token = token_file.read_text(encoding="ascii").strip()
        except (OSError, ValueError) as error:
            raise UsageError(
                f"--endpoint-token-file {token_file} is unreadable: {error}"
            ) from error
    if not re.fullmatch(r"[\x21-\x7e]*", token):
        raise UsageError(f"{TOKEN_VARIABLE} holds characters that no bearer token has")
    try:
        return WorkerSettings(
            token=SecretStr(token),
            conn_str=SecretStr(os.environ.get(CONN_STR_VARIABLE, "")),
            **options,
        )
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = "--" + str(first["loc"][0]).replace("_", "-") + ": " if first["loc"] else ""
        raise UsageError(where + first["msg"].removeprefix("Value error, ")) from error


def _is_this_machine(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def new_worker_id() -> str:
    """Names this process in logs, results and failure records: host, process, and a random part."""
    host = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname()) or "host"
    return f"{host}-{os.getpid()}-{secrets.token_hex(3)}"
