"""Events in Flux's words, made of ours. Pure (RFC 21 of the Flux framework; spec/flux-restful.md, 5.1 and 11).

One event of ours is none, one or several of Flux's, and where a reader stands in such a group is part of its cursor:
`seq.place`. What an event becomes depends on it and on its job alone, so a reader may go on from any cursor.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from runyard.api.flux.record import annotations_of, exception_of, priority_of, wait_status
from runyard.core.record import JobRecord
from runyard.model.event import Event
from runyard.model.ids import f58
from runyard.model.signals import signal_number
from runyard.model.state import ENDED

NAMES = ("submit", "depend", "priority", "alloc", "start", "finish", "release", "free", "clean", "exception")
#: The job's state after each.
_STATES = {
    "submit": "DEPEND",
    "depend": "PRIORITY",
    "priority": "SCHED",
    "alloc": "RUN",
    "start": "RUN",
    "finish": "CLEANUP",
    "exception": "CLEANUP",
    "release": "CLEANUP",
    "free": "CLEANUP",
    "clean": "INACTIVE",
}
_CURSOR = re.compile(r"(\d{1,18})(?:\.(\d))?", re.ASCII)
_ENDINGS = frozenset(f"job.{state}" for state in ENDED)

Entry = tuple[str, dict[str, Any]]


class Cursor(NamedTuple):
    """Behind that entry of the event `seq`; behind all of them without a place."""

    seq: int
    place: int | None = None

    @property
    def after(self) -> int:
        """The `seq` behind which to read on: an event of which not everything was read is read again."""
        return self.seq if self.place is None else self.seq - 1

    def passed(self, seq: int, index: int) -> bool:
        return self.place is not None and seq == self.seq and index <= self.place


def read_cursor(text: str) -> Cursor | None:
    """None if the text is no cursor."""
    found = _CURSOR.fullmatch(text)
    return None if found is None else Cursor(int(found[1]), None if found[2] is None else int(found[2]))


def entries(event: Event, record: JobRecord, userid: int, ranks: Mapping[str, int]) -> list[dict[str, Any]]:
    """What Flux says when this happens to this job."""
    return [
        {
            "timestamp": event.at,
            "name": name,
            "context": context,
            "jobid": record.id,
            "f58": f58(record.id),
            "user": record.owner,
            "state": _STATES[name],
        }
        for name, context in _entries(event, record, userid, ranks)
    ]


def _entries(event: Event, record: JobRecord, userid: int, ranks: Mapping[str, int]) -> Iterator[Entry]:
    data = event.data or {}
    waited = bool(record.spec.after) or record.spec.schedule is not None or record.spec.hold
    if event.type == "job.submitted":
        yield "submit", {"userid": userid, "urgency": priority_of(record), "flags": 0, "version": 1}
        if not waited:
            yield from _ready(record)
    elif event.type == "job.starting":
        if waited:
            yield from _ready(record)
        yield "alloc", {"annotations": annotations_of(record, ranks)}
    elif event.type == "job.amended" and ("priority" in data or "hold" in data):
        yield "priority", {"priority": priority_of(record)}
    elif event.type == "run.started":
        yield "start", {}
    elif event.type == "job.stopping" and data.get("reason") == "cancel":
        yield "exception", {"type": "cancel", "severity": 0, "note": ""}
    elif event.type == "run.exited":
        status = wait_status(data.get("exit_code"), signal_number(data.get("signal") or ""))
        yield "finish", {"status": "" if status is None else status}
    elif event.type in _ENDINGS:
        yield from _ending(event, record)


def _ready(record: JobRecord) -> Iterator[Entry]:
    yield "depend", {}
    yield "priority", {"priority": priority_of(record)}


def _ending(event: Event, record: JobRecord) -> Iterator[Entry]:
    launched = any(replica.attempt for replica in record.replicas)
    if record.state in ENDED:
        occurred, severity, kind, note = exception_of(record)
        # That a running job is being cancelled was said when that began.
        if occurred and not (kind == "cancel" and launched):
            yield "exception", {"type": kind, "severity": severity, "note": note}
    if launched:
        yield "release", {"ranks": "all", "final": True}
        yield "free", {}
    yield "clean", {}
