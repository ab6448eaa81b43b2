"""`why`: the reason why a job is where it is, in words and in facts."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from runyard.core.claim import Claim, Vector, claim_of
from runyard.core.outcome import exit_text
from runyard.core.reactor import Reactor
from runyard.core.record import JobRecord, Replica
from runyard.model.job import Condition, Explanation
from runyard.model.node import Share
from runyard.model.state import ENDED, State, Why

#: Blockers listed at most: a person reads them.
MAX_BLOCKERS = 10


def explain(reactor: Reactor, record: JobRecord, now: float, reader: str | None = None) -> Explanation:
    """Why the live or ended job `record` is in its state at `now` (Unix seconds). With `reader`, only that owner's jobs
    are called by their names."""
    summary, blockers = record.reason or "", list[dict[str, Any]]()
    position = expected = None
    if record.state in ENDED:
        summary = f"It has {_ENDED_AS[record.state]}{f': {record.reason}' if record.reason else ''}."
    elif record.state is not State.PENDING:
        summary = _active(reactor, record)
    elif record.reason == Why.HELD:
        summary = f"It is held. Release it with: runyard release {record.id}"
        blockers = [{"kind": "hold"}]
    elif record.reason == Why.SCHEDULE:
        summary = f"Its next fire time is {_time(record.next_fire)}." if record.next_fire else "No fire time is left."
        blockers = [{"kind": "time", "at": _time(record.next_fire)}]
        expected = record.next_fire
    elif record.reason == Why.DEPENDENCY:
        summary, blockers = _dependencies(reactor, record)
    elif record.reason == Why.BACKOFF:
        waits = [r for r in record.replicas if r.due is not None]
        first = min(waits, key=_due)
        expected = first.due
        last = first.reason or exit_text(first)
        summary = f"Its last run ended ({last}); restart {first.restarts} is due at {_time(first.due)}."
        blockers = [{"kind": "time", "at": _time(first.due)}]
    else:
        index = next((i for i, r in enumerate(record.replicas) if reactor.scheduler.waits(record, i)), 0)
        position = reactor.scheduler.position(record, index)
        summary, blockers = _resources(reactor, record, reader)
        expected = reactor.scheduler.expected_start(record, index, now)
    return Explanation(
        job=str(record.id),
        state=record.state,
        reason=record.reason,
        summary=summary,
        blockers=blockers[:MAX_BLOCKERS],
        position=position,
        expected_start=None if expected is None else datetime.fromtimestamp(expected, UTC),
    )


_ENDED_AS = {
    State.SUCCEEDED: "succeeded",
    State.FAILED: "failed",
    State.CANCELLED: "been cancelled",
    State.TIMED_OUT: "run out of time",
}


def _active(reactor: Reactor, record: JobRecord) -> str:
    count = sum(replica.state is record.state for replica in record.replicas)
    nodes = sorted({share.node for replica in record.replicas for share in replica.shares})
    of = f"{count} of {len(record.replicas)} replicas" if len(record.replicas) > 1 else "It"
    verb = "are" if len(record.replicas) > 1 else "is"
    away = [name for name in nodes if not reactor.scheduler.pool.is_up(name)]
    if away:
        return f"{of} {verb} {record.state} on {', '.join(nodes)}; the agent of {', '.join(away)} can't be reached now."
    if record.state is State.STOPPING:
        stop = record.spec.stop
        return f"{of} {verb} stopping: {stop.signal} was sent, SIGKILL follows after {stop.grace:g} s."
    return f"{of} {verb} {record.state} on {', '.join(nodes)}."


def _dependencies(reactor: Reactor, record: JobRecord) -> tuple[str, list[dict[str, Any]]]:
    blockers: list[dict[str, Any]] = []
    for need in reactor.blocking(record):
        other = reactor.jobs.get(need.job)
        entry: dict[str, Any] = {"kind": "job", "ref": need.ref, "condition": need.condition}
        if other is not None:
            entry |= {"job": str(other.id), "name": other.spec.name, "state": other.state}
        blockers.append(entry)
    if not blockers:
        return "It is about to start.", blockers
    first = blockers[0]
    more = f", and for {len(blockers) - 1} more" if len(blockers) > 1 else ""
    state = f" (now {first['state']})" if "state" in first else ""
    return f"It waits until job {first['ref']}{state} {_WORDS[Condition(first['condition'])]}{more}.", blockers


_WORDS = {
    Condition.FINISHED: "has ended",
    Condition.SUCCEEDED: "has succeeded",
    Condition.FAILED: "has failed",
    Condition.STARTED: "has started",
    Condition.IDLE: "is idle",
}


def _resources(reactor: Reactor, record: JobRecord, reader: str | None) -> tuple[str, list[dict[str, Any]]]:
    scheduler = reactor.scheduler
    claim = claim_of(record.spec, reactor.policy)
    nodes = [(node, up) for node, up, *_ in scheduler.pool.nodes if node.executor == claim.executor]
    if not any(up for _, up in nodes):
        away = [{"kind": "node", "node": node.name, "state": "down"} for node, _ in nodes]
        return f"No node of executor {claim.executor!r} can be reached.", away
    if claim.light:
        limit = reactor.policy.max_running
        return f"Every node runs as many processes as it may ({limit}).", [{"kind": "limit", "max_running": limit}]
    slots = claim.exclusive or claim.each.slots > 1
    holders = [row for row in scheduler.pool.holders(claim.executor, slots=slots) if _in_the_way(claim, row[2])]

    def name_of(job: int) -> str | None:
        other = reactor.jobs[job]
        return other.spec.name if reader in (None, other.owner) else None

    blockers = [
        {
            "kind": "job",
            "job": str(run.job),
            "name": name_of(run.job),
            "owner": reactor.jobs[run.job].owner,
            "holds": [{"node": s.node, "cores": s.cores, "gpus": s.gpus, "memory": s.memory} for s in shares],
            "until": _time(until),
        }
        for run, until, shares in holders
    ]
    wanted = f"It waits for {_claim_text(claim)}"
    if not holders:
        return f"{wanted}. Jobs ahead of it in the queue hold reservations.", blockers
    run, _, shares = holders[0]
    name = name_of(run.job) or run.job
    more = f", and {len(holders) - 1} more runs are in its way" if len(holders) > 1 else ""
    return f"{wanted}; job {name} holds {'; '.join(map(_share_text, shares))}{more}.", blockers


def _in_the_way(claim: Claim, shares: list[Share]) -> bool:
    """Does the holder of these have any of what is wanted?"""
    each = claim.each
    return any(
        claim.exclusive
        or share.exclusive
        or bool(each.cores and share.cores)
        or bool(each.gpus and share.gpus)
        or bool(each.memory and share.memory)
        or not (each.cores or each.gpus or each.memory)
        for share in shares
    )


def _share_text(share: Share) -> str:
    if share.exclusive:
        return f"all of {share.node}"
    amount = Vector(len(share.cores), len(share.gpus), share.memory, share.tasks)
    return f"{_amount_text(amount) or 'a place'} of {share.node}"


def _claim_text(claim: Claim) -> str:
    parts = [text] if (text := _amount_text(claim.each)) else []
    if claim.exclusive:
        parts.append("a whole node" if claim.nodes == 1 else "whole nodes")
    text = ", ".join(parts) or "a place"
    return text if claim.nodes == 1 else f"{claim.nodes} nodes with {text} each"


def _amount_text(amount: Vector) -> str:
    named = ((amount.cores, "core"), (amount.gpus, "GPU"))
    parts = [f"{count} {what}{'' if count == 1 else 's'}" for count, what in named if count]
    if amount.memory:
        parts.append(f"{amount.memory} bytes of memory")
    if not parts and amount.slots > 1:
        parts.append(f"{amount.slots} process slots")
    return ", ".join(parts)


def _due(replica: Replica) -> float:
    return replica.due or 0.0


def _time(moment: float | None) -> str | None:
    return None if moment is None else datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds")
