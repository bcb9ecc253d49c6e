"""What `/metrics` tells of a worker: jobs, requests and times; never a run, a job or a key."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS_S = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)


class Metrics:
    """Counters of one worker, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.jobs = Counter(
            "blindscore_worker_jobs",
            "Deliveries by what became of them: scored, done_already, failed, handed_back.",
            ["outcome"],
            registry=self._registry,
        )
        self.requests = Counter(
            "blindscore_worker_requests",
            "Attempts by what they told of the endpoint.",
            ["outcome"],
            registry=self._registry,
        )
        self.sent = Counter(
            "blindscore_worker_sent_bytes",
            "Bytes of request bodies that were answered.",
            registry=self._registry,
        )
        self.score = Histogram(
            "blindscore_worker_score_seconds",
            "From a request to its answer's first byte.",
            buckets=BUCKETS_S,
            registry=self._registry,
        )

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Have `read` asked whenever somebody looks."""
        gauge = Gauge(f"blindscore_worker_{name}", text, registry=self._registry)
        gauge.set_function(read)

    def exposition(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self._registry)
