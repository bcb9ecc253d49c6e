"""What an endpoint allows and how much it uses; every number has its unit in its name."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from shared.errors import UsageError
from shared.settings import StorageSettings

MB = 1024 * 1024
EI_EVALUATORS = ("seal", "native", "sdk")
SCHEMES = ("ei", "direct", "packed")
EI_INPUT_BOUND = 256.0
"""Features of pixels and of scaled data are within it."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What one evaluator process is told; it knows neither storage nor tokens."""

    schemes: tuple[str, ...] = ()
    """Schemes to offer; empty for all that the model allows."""
    ei_evaluator: str = EI_EVALUATORS[0]
    ei_input_bound: float = EI_INPUT_BOUND
    """The largest feature that rows in the `ei` format may have. Nothing can check it; scores of
    larger ones may wrap around, unless `ei_evaluator` is another than `seal`."""
    announce_zero_features: bool = False
    """Publish which features the model uses, so that the others need not be encrypted."""
    max_rows: int = 1_000_000
    """Rows in one container."""
    max_batch: int = 64
    """Rows in one JSON request."""
    max_json_bytes: int = 64 * MB
    loaded_keys_bytes: int = 256 * MB
    """Keys kept loaded for the next request of the same key id."""

    def __post_init__(self) -> None:
        if self.ei_evaluator not in EI_EVALUATORS:
            raise UsageError(
                f"unknown evaluator {self.ei_evaluator!r}",
                remedy=f"one of {', '.join(EI_EVALUATORS)}",
            )
        if not 0 < self.ei_input_bound < math.inf:
            raise UsageError(f"an input bound of {self.ei_input_bound:g} is none")
        for scheme in self.schemes:
            if scheme not in SCHEMES:
                raise UsageError(
                    f"unknown scheme {scheme!r}", remedy=f"one of {', '.join(SCHEMES)}"
                )


@dataclass(frozen=True, slots=True)
class KeyOptions:
    """How evaluation keys are fetched and kept."""

    cache_bytes: int = 256 * MB
    ttl_s: float = 30.0
    """A key is looked up again when its last look is older: a deleted key is then unknown."""
    max_key_bytes: int = 64 * MB
    fetch_s: float = 30.0
    """Longest a request waits for storage."""
    allowed_hosts: tuple[str, ...] = ()
    """Blob endpoints that a `conn_str` in a request may name besides the scorer's own."""


@dataclass(frozen=True, slots=True)
class EndpointOptions:
    """What the HTTP side allows a caller."""

    tokens: tuple[str, ...] = field(default=(), repr=False)
    """Accepted bearer tokens; empty for an open endpoint."""
    max_body_bytes: int = 1024 * MB
    piece_s: float = 30.0
    """Longest a caller may take for each MiB of its body."""
    body_s: float = 300.0
    """Longest it may take for all of it: after the first MiB it holds an evaluator meanwhile."""
    rate_per_s: float = 0.0
    """`/score` requests of one caller, in the long run; 0: any number."""
    burst: int = 10
    """How many of those may come at once."""
    max_per_caller: int = 0
    """`/score` requests of one caller in progress; 0: any number."""
    metrics_elsewhere: bool = False
    """`/metrics` is answered on a listener of its own only."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """A certificate chain and its private key, both PEM."""

    cert: Path
    key: Path


@dataclass(frozen=True, slots=True)
class PoolOptions:
    """How many evaluator processes there are, and how long requests wait for or hold one."""

    processes: int
    max_waiting: int = 64
    """Requests beyond those being evaluated; one more is answered 503."""
    exec_s: float = 300.0
    """Longest one request may compute before its evaluator is stopped."""
    start_s: float = 300.0
    """Longest an evaluator may take to be ready."""


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """One endpoint, in all its parts."""

    engine: EngineOptions
    pool: PoolOptions
    keys: KeyOptions
    endpoint: EndpointOptions
    storage: StorageSettings
    tls: TlsFiles | None = None
    token_file: Path | None = None
    """Read again on SIGHUP."""
    fixed_tokens: tuple[str, ...] = field(default=(), repr=False)
    """Accepted besides those of the file: the environment's."""
    grace_s: float = 25.0
    """How long requests in flight may take to finish after SIGTERM."""
