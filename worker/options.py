"""The options of `blindscore work`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from shared.cli import option
from worker.settings import CONN_STR_VARIABLE, TOKEN_VARIABLE


def _in(panel: str, flag: str, help_: str, **options: Any) -> Any:
    return option(flag, help_, rich_help_panel=panel, **options)


ENDPOINT, QUEUE, PACE = "Endpoint", "Queue", "Concurrency"
RETRIES, LIMITS, PROBES = "Retries", "Limits", "Probes"

EndpointUrl = Annotated[str, _in(ENDPOINT, "--endpoint", "URL of the scoring endpoint.")]
EndpointFormat = Annotated[
    str,
    _in(
        ENDPOINT,
        "--endpoint-format",
        "`blindscore`: takes bodies as they are. `seeds`: a score.py that takes one row a "
        f"request, and the storage connection string in {CONN_STR_VARIABLE} with it. "
        "`auto`: ask the endpoint.",
    ),
]
EndpointTokenFile = Annotated[
    Path | None,
    _in(
        ENDPOINT,
        "--endpoint-token-file",
        f"File with the endpoint's bearer token (or set {TOKEN_VARIABLE}).",
    ),
]
AllowPlainHttp = Annotated[
    bool,
    _in(
        ENDPOINT,
        "--allow-plain-http",
        "Send the token, or the connection string, unencrypted to another machine.",
    ),
]
WaitEndpointS = Annotated[
    float,
    _in(ENDPOINT, "--wait-endpoint-s", "How long to wait at the start for the endpoint to answer."),
]
ConnectTimeoutS = Annotated[float, _in(ENDPOINT, "--connect-timeout-s", "Limit of one connection.")]
RequestTimeoutS = Annotated[
    float,
    _in(
        ENDPOINT,
        "--request-timeout-s",
        "Limit of one request, from connecting to the last byte of its answer.",
    ),
]

LeaseS = Annotated[
    float,
    _in(
        QUEUE,
        "--lease-s",
        "How long a message stays invisible to others; renewed every third of it. "
        "After a crash, others wait this long.",
    ),
]
MaxDeliveries = Annotated[
    int,
    _in(
        QUEUE,
        "--max-deliveries",
        "A message that was worked on in so many deliveries goes to the dead letters. Those that "
        "nobody saw, or that failed by no fault of the job's, don't count.",
    ),
]
ExitWhenIdleS = Annotated[
    float,
    _in(
        QUEUE,
        "--exit-when-idle-s",
        "Stop once the queue has been empty for so long; 0: never.",
    ),
]
GraceS = Annotated[
    float,
    _in(
        QUEUE,
        "--grace-s",
        "After SIGTERM or Ctrl-C: time for jobs in flight to finish. What is left then goes back "
        "to the queue, which takes up to 5 s more. A second signal ends the worker at once.",
    ),
]

MinConcurrency = Annotated[
    int, _in(PACE, "--min-concurrency", "Jobs worked on at a time, at least.")
]
MaxConcurrency = Annotated[
    int,
    _in(
        PACE,
        "--max-concurrency",
        "And at most. In between it is as many as the endpoint can take: one more after each "
        "round of answers, fewer after 429, 503 or a timeout.",
    ),
]
BreakerFailures = Annotated[
    int,
    _in(
        PACE,
        "--breaker-failures",
        "After so many failed requests in a row the endpoint counts as down: messages go back to "
        "the queue, and none are taken until it says that it is ready.",
    ),
]
BreakerPauseS = Annotated[
    float,
    _in(
        PACE,
        "--breaker-pause-s",
        "Time before it is asked for the first time; doubles up to a minute.",
    ),
]

MaxAttempts = Annotated[
    int,
    _in(
        RETRIES,
        "--max-attempts",
        "Attempts a delivery; then the message is handed back, for later.",
    ),
]
RetryBaseS = Annotated[
    float,
    _in(
        RETRIES,
        "--retry-base-s",
        "Upper bound of the first wait between attempts; it doubles each time.",
    ),
]
RetryCapS = Annotated[float, _in(RETRIES, "--retry-cap-s", "Upper bound of any such wait.")]
JobBudgetS = Annotated[
    float,
    _in(RETRIES, "--job-budget-s", "No attempt starts later than this after a job's first."),
]

MaxResultMb = Annotated[int, _in(LIMITS, "--max-result-mb", "Largest answer accepted, MiB.")]
MaxBatchMb = Annotated[
    int,
    _in(
        LIMITS,
        "--max-batch-mb",
        "Largest JSON batch taken apart for an endpoint of single rows, MiB (in memory).",
    ),
]

HealthPort = Annotated[
    int,
    _in(
        PROBES,
        "--health-port",
        "Answer GET /live (200, or 503 when a restart would help), /ready (200 while it takes "
        "jobs) and /metrics (Prometheus) here; 0: don't.",
    ),
]
HealthHost = Annotated[
    str,
    _in(PROBES, "--health-host", "Address to do so on; 0.0.0.0 for probes from outside."),
]
