"""The documents that clients see, made from the engine's records. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from runyard.core.record import JobRecord, Replica
from runyard.model.event import Event
from runyard.model.ids import f58
from runyard.model.job import JobDoc, RunDoc
from runyard.model.signals import signal_name


def job_doc(record: JobRecord) -> JobDoc:
    spec = record.spec
    return JobDoc(
        id=str(record.id),
        f58=f58(record.id),
        name=spec.name,
        kind=record.kind,
        origin=record.origin,
        owner=record.owner,
        labels=spec.labels,
        state=record.state,
        reason=record.reason,
        priority=record.priority,
        hold=record.hold,
        submitted_at=_utc(record.submitted_at),
        started_at=moment(record.started_at),
        ended_at=moment(record.ended_at),
        next_fire_at=moment(record.next_fire),
        exit_code=record.exit_code,
        signal=signal_name(record.signal),
        restarts=record.restarts,
        version=record.version,
        runs=[run_doc(index, replica) for index, replica in enumerate(record.replicas) if replica.attempt],
        spec=spec,
    )


def run_doc(index: int, replica: Replica) -> RunDoc:
    shares = replica.shares
    return RunDoc(
        replica=index,
        attempt=replica.attempt,
        state=replica.ended_as or replica.state,
        reason=replica.reason,
        node=",".join(share.node for share in shares) or None,
        pid=replica.pid,
        cores=[core for share in shares for core in share.cores],
        gpus=[gpu for share in shares for gpu in share.gpus],
        started_at=moment(replica.started_at),
        ended_at=moment(replica.ended_at),
        exit_code=replica.exit_code,
        signal=signal_name(replica.signal),
        cpu_seconds=replica.cpu_seconds,
        max_rss=replica.max_rss,
    )


def event_doc(event: Event) -> dict[str, Any]:
    """An event as JSON-ready data: ids as text, for they pass 2^53."""
    return {
        "seq": event.seq,
        "at": _utc(event.at),
        "type": event.type,
        "job": str(event.job) if event.job else None,
        "state": event.state,
        "replica": event.replica if event.attempt else None,
        "attempt": event.attempt or None,
        "data": event.data,
    }


def moment(at: float | None) -> datetime | None:
    """Unix seconds as the UTC time of the documents."""
    return None if at is None else _utc(at)


def _utc(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)
