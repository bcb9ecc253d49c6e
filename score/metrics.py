"""What `/metrics` tells: requests, rows and times; never a key id, a caller or a score."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from score.keycache import KeyCache
from score.pool import Pool

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS_S = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
OK = "ok"


class Metrics:
    """Counters of one endpoint, in a registry of their own."""

    def __init__(self, pool: Pool, keys: KeyCache) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "blindscore_requests",
            "Requests by scheme (empty when refused before it was known) and outcome.",
            ["scheme", "code"],
            registry=self._registry,
        )
        self.rows = Counter("blindscore_rows", "Rows scored.", ["scheme"], registry=self._registry)
        self.received = Counter(
            "blindscore_received_bytes", "Bytes of request bodies.", registry=self._registry
        )
        self.stages = Histogram(
            "blindscore_stage_seconds",
            "Time of answered requests: waiting for an evaluator, fetching keys, loading keys, "
            "evaluating, and in all.",
            ["stage"],
            buckets=BUCKETS_S,
            registry=self._registry,
        )
        self._registry.register(_Live(pool, keys))

    def exposition(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self._registry)


class _Live(Collector):
    """Numbers that the pool and the cache keep themselves, read when they are asked for."""

    def __init__(self, pool: Pool, keys: KeyCache) -> None:
        self._pool = pool
        self._keys = keys

    def collect(self) -> Iterator[Metric]:
        pool, keys = self._pool, self._keys
        for name, text, level in (
            ("lanes", "Evaluator processes up.", len(pool.pids)),
            ("lanes_busy", "Evaluators held by a request.", pool.busy),
            ("waiting", "Requests in line.", pool.waiting),
            ("key_cache_bytes", "Bytes of key blobs kept, and of keeping them.", keys.nbytes),
        ):
            yield GaugeMetricFamily(f"blindscore_{name}", text, value=level)
        for name, text, count in (
            ("lane_restarts", "Evaluators replaced.", pool.restarts),
            ("key_cache_hits", "Keys found in the cache.", keys.hits),
            ("key_cache_misses", "Keys looked up in storage.", keys.misses),
        ):
            yield CounterMetricFamily(f"blindscore_{name}", text, value=count)
