"""What the pages show of jobs and events. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from runyard.api.flux.submission import asked_argv
from runyard.core.record import JobRecord
from runyard.model.event import Event
from runyard.model.ids import f58
from runyard.model.job import JobSpec
from runyard.model.signals import signal_name
from runyard.model.state import ENDED, State

#: Characters of a command in the table.
_COMMAND = 120


class Row(msgspec.Struct, kw_only=True):
    """A job in the table, and at the head of its page. Times are texts in UTC."""

    id: str
    f58: str
    name: str
    command: str
    state: State
    reason: str
    owner: str
    origin: str
    kind: str
    submitted: str
    started: str
    ended: str
    took: str
    exit: str
    live: bool
    stoppable: bool
    """By the one who looks."""


def row(record: JobRecord, now: float, may_change: bool) -> Row:
    live = record.state not in ENDED
    over = record.ended_at if not live else now
    took = "" if record.started_at is None or over is None else duration(over - record.started_at)
    command = command_text(record.spec)
    return Row(
        id=str(record.id),
        f58=f58(record.id),
        name=record.spec.name or command[:_COMMAND] or record.kind,
        command=command,
        state=record.state,
        reason=record.reason or "",
        owner=record.owner,
        origin=record.origin,
        kind=record.kind,
        submitted=moment(record.submitted_at),
        started=moment(record.started_at),
        ended=moment(record.ended_at),
        took=took,
        exit=_exit(record),
        live=live,
        stoppable=live and may_change and record.state is not State.STOPPING,
    )


def command_text(spec: JobSpec) -> str:
    """What runs, in one line."""
    return " ".join((spec.script or " ".join(asked_argv(spec))).split())


def event_line(event: Event) -> dict[str, Any]:
    """An event on a job's page."""
    facts = ", ".join(f"{key} {value}" for key, value in (event.data or {}).items() if value is not None)
    return {"at": moment(event.at), "type": event.type, "attempt": event.attempt or "", "facts": facts}


def moment(at: float | None) -> str:
    """Unix seconds as a time of day in UTC; empty for None."""
    return "" if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")


def duration(seconds: float) -> str:
    """`0.4 s`, `12 s`, `3 min 5 s`, `2 h 10 min`, `4 d 3 h`."""
    if seconds < 10:
        return f"{max(seconds, 0.0):.1f} s"
    whole = int(seconds)
    for unit, size, lower, low in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // low} {lower}"
    return f"{whole} s"


def _exit(record: JobRecord) -> str:
    if record.signal is not None:
        return signal_name(record.signal) or ""
    return "" if record.exit_code is None else str(record.exit_code)
