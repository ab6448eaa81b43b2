"""How records lie in rows. Everything here is pure: values in, tuples or records out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from runyard.core.record import JobRecord, Live, Replica
from runyard.model.event import Event
from runyard.model.job import JobSpec, Lifecycle, RunDoc
from runyard.model.node import Share
from runyard.model.signals import signal_name
from runyard.model.state import BY_CODE, CODE, ENDED, State
from runyard.store import tables

#: Characters of a job's command that are kept for searching.
COMMAND_TEXT = 1000
#: How many columns of `jobs`, the last ones, change in a job's life.
CHANGING = 11

_Row = Sequence[Any]
Values = tuple[Any, ...]

_json = msgspec.json.Encoder()
_pack = msgspec.msgpack.Encoder()
_spec_decoder = msgspec.json.Decoder(JobSpec)
_live_decoder = msgspec.msgpack.Decoder(Live)
#: All that is kept of it when the job has ended: when a start was asked for last.
_moment_decoder = msgspec.msgpack.Decoder(float | None)
_shares_decoder = msgspec.json.Decoder(list[Share])
_data_decoder = msgspec.json.Decoder(dict[str, Any])

_spec_defaults = [
    (field.name, field.default if field.default is not msgspec.NODEFAULT else field.default_factory())
    for field in msgspec.structs.fields(JobSpec)
    if not field.required
]


class _Labels(msgspec.Struct):
    labels: dict[str, str] = {}


_labels_decoder = msgspec.json.Decoder(_Labels)


def encode_spec(spec: JobSpec) -> bytes:
    """JSON without what is left at its default: a twentieth of the size for most jobs.

    So a default of `JobSpec` is part of the stored form: changing one takes a migration (a test holds them fixed).
    """
    return _json.encode({name: value for name, default in _spec_defaults if (value := getattr(spec, name)) != default})


def labels_of(spec: bytes) -> dict[str, str]:
    return _labels_decoder.decode(spec).labels


def command_text(spec: JobSpec) -> str:
    if spec.flow is not None:
        text = spec.flow.path or spec.flow.graph or ""
    else:
        text = spec.script if spec.script is not None else " ".join(spec.command or ())
    return text[:COMMAND_TEXT]


# Rows to write, in the order of the tables' columns -----------------------------------------------------------------


def job_values(record: JobRecord) -> Values:
    """What changes in a job's life, and last its id."""
    return (
        CODE[record.state],
        record.reason,
        record.priority,
        record.hold,
        record.started_at,
        record.ended_at,
        record.exit_code,
        record.signal,
        record.restarts,
        record.version,
        _pack.encode(record.armed_at if record.state in ENDED else record.live),
        record.id,
    )


def birth_values(record: JobRecord) -> Values:
    """What never changes: stands between the id and what `job_values` gives."""
    return (
        record.spec.name,
        record.kind,
        record.origin,
        record.owner,
        record.submitted_at,
        command_text(record.spec),
    )


def run_values(job: int, index: int, replica: Replica) -> Values:
    return (
        job,
        replica.attempt,
        index,
        CODE[replica.ended_as or replica.state],
        replica.reason,
        _json.encode(replica.shares) if replica.shares else None,
        replica.pid,
        replica.started_at,
        replica.ended_at,
        replica.exit_code,
        replica.signal,
        replica.cpu_seconds,
        replica.max_rss,
    )


def event_values(event: Event) -> Values:
    seq, at, type, job, state, replica, attempt, data = msgspec.structs.astuple(event)
    code = None if state is None else CODE[state]
    return seq, at, type, job, code, replica, attempt, None if data is None else _json.encode(data)


RECORD_COLUMNS = (
    *(column for column in tables.jobs.c if column.name not in ("name", "command")),
    tables.specs.c.spec,
)

# Rows that were read ------------------------------------------------------------------------------------------------


def event_of(row: _Row) -> Event:
    seq, at, type, job, state, replica, attempt, data = row
    return Event(
        seq,
        at,
        type,
        job,
        None if state is None else BY_CODE[state],
        replica,
        attempt,
        None if data is None else _data_decoder.decode(data),
    )


def record_of(row: _Row) -> JobRecord:
    """A job from `RECORD_COLUMNS`. An ended one still lacks what its runs tell: see `add_run`."""
    id, kind, origin, owner, submitted_at, state, reason, priority, hold, *rest, live, spec = row
    started_at, ended_at, exit_code, signal, restarts, version = rest
    record = JobRecord(
        id=id,
        spec=_spec_decoder.decode(spec),
        kind=kind,
        origin=origin,
        owner=owner,
        submitted_at=submitted_at,
        state=BY_CODE[state],
        reason=reason,
        priority=priority,
        hold=bool(hold),
        started_at=started_at,
        ended_at=ended_at,
        exit_code=exit_code,
        signal=signal,
        restarts=restarts,
        version=version,
    )
    if record.state in ENDED:
        record.armed_at = None if live is None else _moment_decoder.decode(live)
        record.armed = record.spec.lifecycle is not Lifecycle.CRON
        record.replicas = [Replica(state=record.state) for _ in range(record.spec.replicas)]
    else:
        part = _live_decoder.decode(live)
        record.needs, record.intent = part.needs, part.intent
        record.armed, record.armed_at = part.armed, part.armed_at
        record.next_fire, record.backlog, record.replicas = part.next_fire, part.backlog, part.replicas
    return record


def add_run(record: JobRecord, row: _Row) -> None:
    """Gives an ended job the last run of one replica, a row of `runs`. A replica that never ran stays as it is."""
    _, attempt, index, state, reason, shares, pid, started_at, ended_at, exit_code, signal, cpu, rss = row
    if index < len(record.replicas):
        record.replicas[index] = Replica(
            state=BY_CODE[state],
            ended_as=BY_CODE[state],
            attempt=attempt,
            pid=pid,
            shares=_shares_decoder.decode(shares) if shares else [],
            started_at=started_at,
            ended_at=ended_at,
            exit_code=exit_code,
            signal=signal,
            reason=reason,
            cpu_seconds=cpu,
            max_rss=rss,
        )


def run_doc(row: _Row) -> RunDoc:
    """A run as clients see it, from a row of `runs`."""
    _, attempt, index, state, reason, shares, pid, started_at, ended_at, exit_code, signal, cpu, rss = row
    held = _shares_decoder.decode(shares) if shares else []
    return RunDoc(
        replica=index,
        attempt=attempt,
        state=BY_CODE[state],
        reason=reason,
        node=",".join(share.node for share in held) or None,
        pid=pid,
        cores=[core for share in held for core in share.cores],
        gpus=[gpu for share in held for gpu in share.gpus],
        started_at=_utc(started_at),
        ended_at=_utc(ended_at),
        exit_code=exit_code,
        signal=signal_name(signal),
        cpu_seconds=cpu,
        max_rss=rss,
    )


def state_codes(states: Iterable[State]) -> list[int]:
    return sorted(CODE[state] for state in set(states))


def _utc(at: float | None) -> datetime | None:
    return None if at is None else datetime.fromtimestamp(at, UTC)
