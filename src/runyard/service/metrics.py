"""The server's own figures, in Prometheus's format."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from runyard.model.state import State


class Metrics:
    """One registry for each engine. Gauges are read at the moment of the scrape."""

    #: Litestar adds the character set.
    content_type = "text/plain; version=0.0.4"

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._commits = Histogram(
            "runyard_commit_seconds",
            "Time of one group commit, waiting for the disk included",
            registry=self.registry,
            buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0),
        )
        self._events = Counter("runyard_events", "Events appended", registry=self.registry)
        self._launches = Counter("runyard_launches", "Runs handed to executors", registry=self.registry)
        self._hooks = Counter(
            "runyard_hook_deliveries",
            "Deliveries of hooks: delivered, retried (attempts), given_up, expired (gaps)",
            ["hook", "outcome"],
            registry=self.registry,
        )
        self._jobs = Gauge("runyard_jobs", "Jobs in the store by state", ["state"], registry=self.registry)
        self._live = Gauge("runyard_live_jobs", "Jobs in the engine's memory", registry=self.registry)
        self._nodes = Gauge("runyard_node_up", "1 if the node's agent can be reached", ["node"], registry=self.registry)
        self._runs = Gauge("runyard_node_runs", "Runs on the node", ["node"], registry=self.registry)

    def committed(self, events: int, seconds: float) -> None:
        self._commits.observe(seconds)
        self._events.inc(events)

    def hook(self, name: str, outcome: str) -> None:
        self._hooks.labels(name, outcome).inc()

    def launched(self, count: int) -> None:
        if count:
            self._launches.inc(count)

    def render(
        self, counts: Callable[[], dict[State, int]], live: int, nodes: Iterable[tuple[str, bool, int]]
    ) -> bytes:
        """The exposition text. `nodes`: name, is it up, how many runs."""
        for state, count in counts().items():
            self._jobs.labels(state).set(count)
        self._live.set(live)
        for name, up, runs in nodes:
            self._nodes.labels(name).set(up)
            self._runs.labels(name).set(runs)
        return generate_latest(self.registry)
