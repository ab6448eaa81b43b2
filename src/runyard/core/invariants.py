"""What must be true of the engine after every input. Tests and the simulator call this all the time."""

from __future__ import annotations

from collections import Counter

from runyard.core.claim import Vector
from runyard.core.reactor import Reactor
from runyard.model.ids import RunKey
from runyard.model.node import Share
from runyard.model.state import ACTIVE, ENDED, LIVE, State, Why


def check_invariants(reactor: Reactor) -> None:
    """Raises AssertionError that says which rule is broken, by which job or node."""
    held = dict(reactor.scheduler.pool.held)
    for job, record in reactor.jobs.items():
        assert job == record.id
        assert record.state in LIVE, f"job {job} is {record.state} and still in memory"
        assert record.tally == Counter(replica.state for replica in record.replicas), f"job {job}: tally is off"
        assert record.version <= reactor.seq
        if record.state is State.PENDING:
            assert record.reason in set(Why), f"job {job} is pending without a reason: {record.reason!r}"
            assert not record.active, f"job {job} is pending, but has an active replica"
        else:
            assert record.active, f"job {job} is {record.state} without an active replica"
        if record.intent is not None:
            assert record.state is State.STOPPING, f"job {job} has intent {record.intent} while {record.state}"
        if record.spec.name is not None:
            assert job in reactor.roster.names[record.spec.name], f"job {job} is not in the index of names"
        for need in record.needs:
            assert need.job == 0 or need.job in reactor.jobs, f"job {job} waits for {need.job}, which has ended"
        for index, replica in enumerate(record.replicas):
            run = RunKey(job, index, replica.attempt)
            waits = reactor.scheduler.waits(record, index)
            if replica.state in ACTIVE:
                assert run in held, f"run {run} is {replica.state} but holds nothing"
                assert held.pop(run)[1] == replica.shares
                assert not waits, f"run {run} is {replica.state} and waits for resources"
            elif waits:
                assert replica.state is State.PENDING and not record.hold and record.armed, f"{run} must not wait"
            elif replica.state is State.PENDING and record.reason == Why.RESOURCES:
                raise AssertionError(f"replica {run} waits for resources but is not in the queue")
            else:
                assert replica.state in ENDED | {State.PENDING}
    assert not held, f"resources are held by runs that are not active: {list(held)[:5]}"
    for name, jobs in reactor.roster.names.items():
        assert all(reactor.jobs[job].spec.name == name for job in jobs)
    _check_nodes(reactor)


def _check_nodes(reactor: Reactor) -> None:
    scheduler, pool = reactor.scheduler, reactor.scheduler.pool
    on: dict[str, list[tuple[RunKey, Share]]] = {}
    for run, (_, shares) in pool.held.items():
        for share in shares:
            on.setdefault(share.node, []).append((run, share))
    for name, place in pool.places.items():
        held = on.get(name, [])
        used = Vector(0, 0, 0, 0)
        for run, share in held:
            assert not share.exclusive or len(held) == 1, f"{run} is exclusive on {name}, which others use too"
            used = used.plus(place.amount(share))
        cores = [core for _, share in held for core in share.cores]
        gpus = [gpu for _, share in held for gpu in share.gpus]
        assert place.free == place.total.minus(used), f"node {name}: the free amounts are off"
        assert len(cores) == len(set(cores)), f"node {name}: a core is given twice"
        assert len(gpus) == len(set(gpus)), f"node {name}: a GPU is given twice"
        assert min(place.free) >= 0, f"node {name} is overbooked"
        assert bin(place.cores).count("1") == len(place.node.cores) - len(cores)
        assert (place.level is not None) == place.up
        assert sorted(run for run, _ in held) == sorted(pool.runs_on(name)) == sorted(r.run for r in place.releases)
        assert sorted(place.releases) == place.releases
    assert sorted(scheduler._queue) == scheduler._queue
    assert set(scheduler._queue) == set(scheduler._claims)
    assert set(scheduler._light_order) == set(scheduler._light)
