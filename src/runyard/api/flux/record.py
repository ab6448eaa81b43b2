"""A job as Flux shows it: the detailed record, with its full set of keys in every state. Pure.

What is not known yet is the empty text, never null: clients wait for `returncode` to be something else
(spec/flux-restful.md, 5).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from runyard.api.flux.submission import MISSING_FOLDER, OPTION, asked_argv, asked_folder
from runyard.core.record import JobRecord, Replica
from runyard.model.ids import f58
from runyard.model.job import Dependency
from runyard.model.state import ACTIVE, ENDED, State, Why

#: Priority 0 is Flux's usual urgency; 0 is a job that is held.
URGENCY, MAX_URGENCY = 16, 31
#: What Flux says of a job that its time limit has ended, whichever signal that took: SIGALRM is its first.
TIMED_OUT = 142
NO_EXCEPTION = ("", "", "", "")

RESULTS = {
    State.SUCCEEDED: "COMPLETED",
    State.FAILED: "FAILED",
    State.CANCELLED: "CANCELED",
    State.TIMED_OUT: "TIMEOUT",
}
_STATES = {State.STARTING: "RUN", State.RUNNING: "RUN", State.STOPPING: "CLEANUP"}
_PENDING = {Why.DEPENDENCY: "DEPEND", Why.SCHEDULE: "DEPEND", Why.HELD: "PRIORITY"}
#: Groups of states, by the name that Flux has for them.
GROUPS = {
    "pending": frozenset({"DEPEND", "PRIORITY", "SCHED"}),
    "running": frozenset({"RUN", "CLEANUP"}),
    "active": frozenset({"DEPEND", "PRIORITY", "SCHED", "RUN", "CLEANUP"}),
    "inactive": frozenset({"INACTIVE"}),
}
#: What the agent's reasons say when the program can't be started: the status that a shell has for it, and its words.
_NOT_FOUND = re.compile(r"there is no program|names an interpreter that does not exist")
_NOT_EXECUTABLE = re.compile(r"is not executable|is a folder, not a program|is no program that|can't execute")


def state_of(record: JobRecord) -> str:
    if record.state in ENDED:
        return "INACTIVE"
    return _STATES.get(record.state) or _PENDING.get(record.reason or "", "SCHED")  # type: ignore[call-overload]


def name_of(record: JobRecord) -> str:
    """The job's name: that of its program, unless it has one of its own."""
    if record.spec.name is not None:
        return record.spec.name
    program = next(iter(asked_argv(record.spec)), record.kind)
    return os.path.basename(program) or program


def priority_of(record: JobRecord) -> int:
    return 0 if record.hold else min(max(URGENCY + record.priority, 1), MAX_URGENCY)


def brief(record: JobRecord) -> dict[str, Any]:
    """The entry of a plain list."""
    return {"id": record.id, "f58": f58(record.id), "name": name_of(record), "state": state_of(record)}


def detailed(record: JobRecord, userid: int, ranks: Mapping[str, int], now: float) -> dict[str, Any]:
    """The detailed record at `now` (Unix seconds). `userid` is the owner's uid, `ranks` the nodes' numbers by name."""
    spec, need = record.spec, record.spec.resources
    first = record.replicas[0]
    state, ended = state_of(record), record.state in ENDED
    launched, over = _launched(record.replicas), _last(record.replicas)
    nodes = list(dict.fromkeys(share.node for replica in record.replicas for share in replica.shares))
    numbers = sorted(ranks.get(node, 0) for node in nodes)
    waitstatus, returncode = _status(record, first) if ended else ("", "")
    occurred, severity, kind, note = exception_of(record) if ended else NO_EXCEPTION
    result = RESULTS[record.state] if ended else ""
    limit = spec.time_limit or 0.0
    asked_cores = need.tasks * need.cores_per_task * len(record.replicas)
    return {
        "id": record.id,
        "id_str": str(record.id),
        "f58": f58(record.id),
        "userid": userid,
        "user": record.owner,
        "urgency": priority_of(record),
        "priority": priority_of(record) if state not in ("DEPEND", "PRIORITY") else "",
        "t_submit": record.submitted_at,
        "t_depend": record.submitted_at,
        "t_run": _known(launched),
        "t_cleanup": _known(over if launched is not None else record.ended_at),
        "t_inactive": _known(record.ended_at),
        "state": state,
        "name": name_of(record),
        "command": asked_argv(spec),
        "cwd": asked_folder(spec) or "",
        "workdir": asked_folder(spec) or "",
        "ntasks": need.tasks * len(record.replicas),
        "ncores": sum(len(share.cores) for replica in record.replicas for share in replica.shares) or asked_cores,
        "nnodes": len(nodes) or need.nodes or "",
        "duration": limit,
        "ranks": id_set(numbers) if nodes else "",
        "nodelist": host_list(nodes),
        "expiration": (launched + limit if limit else 0.0) if launched is not None else "",
        "annotations": annotations_of(record, ranks),
        "dependencies": [item.job if isinstance(item, Dependency) else item for item in spec.after],
        "success": record.state is State.SUCCEEDED if ended else "",
        "exception_occurred": occurred,
        "exception_severity": severity,
        "exception_type": kind,
        "exception_note": note,
        "result": result,
        "status": result or state,
        "waitstatus": waitstatus,
        "returncode": returncode,
        "runtime": _runtime(launched, record, now),
        "exception": {"occurred": occurred, "severity": severity, "type": kind, "note": note},
        "option_flags": {key[len(OPTION) :]: spec.labels[key] for key in spec.labels if key.startswith(OPTION)},
        "kind": record.kind,
        "origin": record.origin,
        "reason": record.reason or "",
    }


def exception_of(record: JobRecord) -> tuple[Any, Any, str, str]:
    """Whether an exception ended the job, and its severity, type and note. Of a job that has ended."""
    if record.state is State.CANCELLED:
        return True, 0, "cancel", ""
    if record.state is State.TIMED_OUT:
        return True, 0, "timeout", "resource allocation expired"
    if record.state is State.SUCCEEDED:
        return False, "", "", ""
    bad = _worst(record)
    if not bad.attempt:
        return True, 0, "alloc", "unsatisfiable request" if not record.spec.after else record.reason or ""
    if bad.exit_code is None and bad.signal is None:
        return True, 0, "exec", _start_failure(record, bad)
    return False, "", "", ""


def wait_status(exit_code: int | None, signal: int | None, *, timed_out: bool = False) -> int | None:
    """As wait(2) has it for the job's shell, which reports a task that a signal ended as 128 and its number."""
    if timed_out and signal is not None:
        return TIMED_OUT << 8
    if signal is not None:
        return (128 + signal) << 8
    return None if exit_code is None else exit_code << 8


def id_set(numbers: Sequence[int]) -> str:
    """`0`, `[0-2]`, `[0,3-4]`: sorted numbers as Flux writes them."""
    text = ",".join(f"{low}-{high}" if high > low else str(low) for low, high in _spans(numbers))
    return f"[{text}]" if not text.isdigit() and text else text


def host_list(names: Iterable[str]) -> str:
    """`vm`, `node[0-3]`: names that differ in their last number stand together."""
    groups: dict[str, list[str]] = {}
    for name in names:
        stem = name.rstrip("0123456789")
        groups.setdefault(stem, []).append(name[len(stem) :])
    parts = []
    for stem, ends in groups.items():
        plain = sorted({int(end) for end in ends if end and (end == "0" or end[0] != "0")})
        parts += [stem + end for end in ends if not end or (end != "0" and end[0] == "0")]
        if plain:
            parts.append(stem + (id_set(plain) if len(plain) > 1 else str(plain[0])))
    return ",".join(parts)


# The parts ------------------------------------------------------------------------------------------------------------


def _status(record: JobRecord, first: Replica) -> tuple[Any, Any]:
    """`waitstatus` and `returncode` of a job that has ended; of several replicas, the worst one's."""
    bad = _worst(record)
    status = wait_status(bad.exit_code, bad.signal, timed_out=record.state is State.TIMED_OUT)
    if status is not None:
        return status, status >> 8
    if record.state is State.CANCELLED:
        return "", -128
    code = _start_status(bad) if bad.attempt else None
    return ("", 1) if code is None else (code << 8, code)


def _worst(record: JobRecord) -> Replica:
    return next((r for r in record.replicas if r.state is not State.SUCCEEDED), record.replicas[0])


def _start_status(replica: Replica) -> int | None:
    reason = replica.reason or ""
    return 127 if _NOT_FOUND.search(reason) else 126 if _NOT_EXECUTABLE.search(reason) else None


def _start_failure(record: JobRecord, replica: Replica) -> str:
    reason = replica.reason or record.reason or ""
    words = {127: "No such file or directory", 126: "Permission denied"}.get(_start_status(replica) or 0)
    if words is None:
        return reason
    host = replica.shares[0].node if replica.shares else ""
    return f"task 0 (host {host}): start failed: {next(iter(asked_argv(record.spec)), record.kind)}: {words}"


def annotations_of(record: JobRecord, ranks: Mapping[str, int]) -> dict[str, Any]:
    parts = []
    for replica in record.replicas:
        for share in replica.shares:
            cores = f"core{id_set(share.cores)}" if share.cores else ""
            gpus = f"gpu{id_set(share.gpus)}" if share.gpus else ""
            held = ",".join(filter(None, (cores, gpus)))
            parts.append(f"rank{ranks.get(share.node, 0)}" + (f"/{held}" if held else ""))
    found: dict[str, Any] = {"sched": {"resource_summary": " ".join(parts)}} if parts else {}
    missing = record.spec.labels.get(MISSING_FOLDER)
    if missing is not None:
        found["user"] = {"warning": f"there is no folder {missing}: the job runs in /tmp"}
    return found


def _runtime(launched: float | None, record: JobRecord, now: float) -> float:
    if launched is None:
        return 0.0
    over = _last(record.replicas) if record.state in ENDED or not _up(record) else None
    return max(0.0, (now if over is None else over) - launched)


def _up(record: JobRecord) -> bool:
    return any(replica.state in ACTIVE for replica in record.replicas)


def _launched(replicas: Sequence[Replica]) -> float | None:
    """When the first run was launched. The store keeps only when it had started."""
    found = [replica.started_at if replica.launched_at is None else replica.launched_at for replica in replicas]
    return min((at for at in found if at is not None), default=None)


def _last(replicas: Sequence[Replica]) -> float | None:
    return max((replica.ended_at for replica in replicas if replica.ended_at is not None), default=None)


def _known(value: Any) -> Any:
    return "" if value is None else value


def _spans(numbers: Sequence[int]) -> list[tuple[int, int]]:
    spans: list[tuple[int, int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1] = (spans[-1][0], number)
        else:
            spans.append((number, number))
    return spans
