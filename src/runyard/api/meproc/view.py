"""What GET /proc shows of a job: the task's record, and its live processes. Pure (spec/meproc.md, 3 and 7)."""

from __future__ import annotations

from typing import Any

from runyard.api.meproc.task import Task
from runyard.core.record import JobRecord
from runyard.model.job import Lifecycle
from runyard.model.state import ACTIVE, LIVE, State, Why

_TYPES = {Lifecycle.ONCE: "once", Lifecycle.SERVICE: "daemon", Lifecycle.CRON: "cron"}
_WITH_PROCESS = frozenset({State.RUNNING, State.STOPPING})


def task_of(record: JobRecord) -> Task:
    """A job that came in by another door, in this one's words."""
    spec = record.spec
    return Task(
        name=spec.name or str(record.id),
        cmd=spec.script if spec.script is not None else " ".join(spec.command or ()),
        type=_TYPES[spec.lifecycle],
        replica=spec.replicas,
        user=spec.user,
        group=spec.group,
        cron=spec.schedule.cron if spec.schedule is not None else None,
        interval=max(1, int(spec.restart_rule.delay)),
        given={},
    )


def task_record(task: Task, record: JobRecord | None, last_time: int) -> dict[str, Any]:
    """The record under `tasks`: what the client gave, then what the server owns. `last_time` was shown before."""
    shown = {"name": task.name, "cmd": task.cmd, "type": task.type} | task.given
    shown |= {"deps": task.deps, "interval": task.interval, "replica": task.replica}
    shown["last_time"] = launched(record) or last_time
    if task.cron is not None:
        shown["cron"] = task.cron
    else:
        shown.pop("cron", None)
    shown |= {
        "run_flag": _is_waiting(record),
        "start_time": _requested(record),
        "running": _running(task, record),
        "user": task.user,
        "group": task.group,
    }
    return shown


def processes(task: Task, record: JobRecord | None) -> list[dict[str, Any]]:
    """The entries under `running`: one for each process."""
    if record is None or record.state not in LIVE:
        return []
    return [
        {"command": task.cmd, "pid": replica.pid, "alias": f"{task.name}:{index}"}
        for index, replica in enumerate(record.replicas)
        if replica.state in _WITH_PROCESS and replica.pid
    ]


def launched(record: JobRecord | None) -> int:
    """When replicas were launched last, relaunches of a daemon not counted; 0 if never."""
    return int(record.started_at) if record is not None and record.started_at is not None else 0


def last_run(record: JobRecord) -> int:
    """When one of the present or last runs began; 0 if none has. Those of a daemon may be relaunches."""
    return int(max((replica.started_at or 0.0 for replica in record.replicas), default=0.0))


def _requested(record: JobRecord | None) -> int:
    if record is None:
        return 0
    if record.armed_at is not None:
        return int(record.armed_at)
    if record.state in LIVE:
        return 0
    return int(record.started_at or record.submitted_at)


def is_held(record: JobRecord | None) -> bool:
    """Does the job wait for others to be idle?"""
    return record is not None and record.state is State.PENDING and record.reason == Why.DEPENDENCY


def _is_waiting(record: JobRecord | None) -> bool:
    """Accepted for running, but not launched yet."""
    return (
        record is not None
        and record.state is State.PENDING
        and record.armed
        and record.reason not in (Why.BACKOFF, Why.SCHEDULE)
    )


def _running(task: Task, record: JobRecord | None) -> int:
    if record is None or record.state not in LIVE:
        return 0
    if task.type == "daemon":
        return 0 if _is_waiting(record) else task.replica
    return sum(replica.state in ACTIVE for replica in record.replicas)
