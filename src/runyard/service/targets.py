"""Which runs are up on this host, for whoever measures them."""

from __future__ import annotations

from runyard.service.engine import Engine
from runyard.telemetry.runs import Target

#: Executors whose runs are processes of this host.
_HERE = frozenset({"local", "python"})


def local_runs(engine: Engine) -> list[Target]:
    """For the event loop's thread."""
    reactor = engine.reactor
    pool = reactor.scheduler.pool
    found: list[Target] = []
    for name, place in pool.places.items():
        if place.node.executor not in _HERE:
            continue
        for run in pool.runs_on(name):
            record = reactor.jobs.get(run.job)
            if record is None or run.replica >= len(record.replicas):
                continue
            replica = record.replicas[run.replica]
            if replica.attempt == run.attempt and replica.pid:
                found.append(Target(run, replica.pid))
    return found
