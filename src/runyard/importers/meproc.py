"""Meproc's tasks: one record, an array of records, an object of records by name, or a whole answer of GET /proc."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from runyard.importers.report import Entry, Report
from runyard.model.errors import InvalidInput

#: What the server writes into its records: their present state, no configuration.
_STATE = ("start_time", "last_time", "run_flag", "running")
_KNOWN = frozenset({"name", "cmd", "type", "replica", "user", "group", "cron", "interval", "deps", *_STATE})
_TYPES = ("once", "daemon", "cron", "melang", "coroutine")
_PYTHON = re.compile(r"\S.*\.py(?::\w+)?|[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_MOST = 10**9
#: `interval` counts in these many seconds, and what it is if the record has none.
UNITS = {"seconds": (1.0, 3), "milliseconds": (0.001, 3000)}


def read_meproc(text: str, unit: str = "seconds") -> Report:
    """The jobs for the tasks in `text`, those first on which others depend.

    `unit` is that of `interval`: Meproc's documentation says seconds, its releases since November 2023 count in
    milliseconds. Raises InvalidInput if `text` is not JSON, or nothing in which Meproc keeps tasks.
    """
    try:
        document = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise InvalidInput(f"not valid JSON: {error}") from None
    report = Report(format="meproc")
    tasks = _tasks(document)
    for index in _in_order(tasks):
        task = tasks[index]
        name = task.get("name") if isinstance(task, dict) else None
        entry = report.entry(f"task {index + 1}", name if isinstance(name, str) else "")
        try:
            _take(report, entry, task, *UNITS[unit])
        except ValueError as error:
            entry.error = str(error)
    return report


def _tasks(document: Any) -> list[Any]:
    if isinstance(document, dict):
        data = document.get("data", document)
        if isinstance(data, dict) and "tasks" in data and "cmd" not in data:
            # An empty set of tasks is printed as an empty array.
            data = data["tasks"]
        if isinstance(data, list):
            return data
        if isinstance(data, dict):
            if "cmd" in data or "type" in data:
                return [data]
            return [{"name": name} | task if isinstance(task, dict) else task for name, task in data.items()]
    elif isinstance(document, list):
        return document
    raise InvalidInput(
        "this holds no Meproc tasks: expected a record with name, cmd and type, an array of records, "
        "an object of records by name, or the answer of GET /proc"
    )


def _in_order(tasks: list[Any]) -> list[int]:
    """Indices: dependencies before those who wait for them, else as they came. They are submitted in this order."""
    places = {
        task["name"]: index
        for index, task in enumerate(tasks)
        if isinstance(task, dict) and isinstance(task.get("name"), str)
    }
    placed: dict[int, None] = {}
    entered: set[int] = set()
    for index in range(len(tasks)):
        # A stack of its own, for chains may be long. A circle is entered once.
        stack = [index]
        while stack:
            top = stack[-1]
            task = tasks[top]
            deps = task.get("deps") if isinstance(task, dict) and top not in entered else None
            entered.add(top)
            waiting = [
                places[dep]
                for dep in (deps if isinstance(deps, list) else ())
                if isinstance(dep, str) and places.get(dep, top) not in entered
            ]
            if waiting:
                stack += reversed(waiting)
            else:
                placed.setdefault(stack.pop())
    return list(placed)


def _take(report: Report, entry: Entry, task: Any, scale: float, usual: int) -> None:
    """Raises ValueError for what Meproc itself would refuse."""
    if not isinstance(task, dict):
        raise ValueError(f"a task is an object, not {type(task).__name__}")
    name, cmd, kind = (_text(task, field, needed=True) for field in ("name", "cmd", "type"))
    if kind not in _TYPES:
        raise ValueError(f"type: {kind!r} is none of {', '.join(_TYPES)}")
    mapped, ignored = entry.mapped, entry.ignored
    job: dict[str, Any] = {"name": name}
    mapped["name"] = "name"
    if kind in ("melang", "coroutine"):
        if not _PYTHON.fullmatch(cmd):
            raise ValueError(
                f"type: {cmd!r} is a Melang script, and there is no Melang interpreter here; "
                "rewrite it in Python, or run it as a `once` task with cmd `melang SCRIPT`"
            )
        job |= {"command": [cmd], "executor": "python"}
        mapped |= {"cmd": "command", "type": 'executor "python"'}
    else:
        job["script"] = cmd
        mapped |= {"cmd": "script", "type": f"lifecycle {'service' if kind == 'daemon' else kind}"}
    if task.get("replica") is not None:
        job["replicas"] = _whole(task, "replica")
        mapped["replica"] = "replicas"
    for field in ("user", "group"):
        if value := _text(task, field):
            job[field] = value
            mapped[field] = field
    if deps := _names(task, "deps"):
        job["after"] = [{"job": dep, "condition": "idle"} for dep in deps]
        mapped["deps"] = "after, condition idle"
    interval = usual if task.get("interval") is None else _whole(task, "interval")
    if kind == "daemon":
        seconds = interval * scale
        job["lifecycle"] = "service"
        job["restart"] = {"policy": "always", "delay": seconds, "backoff": 1.0, "max_delay": seconds}
        mapped["interval"] = f"restart.delay {seconds:g} s"
        if scale == 1.0 and interval >= 1000:
            entry.warnings.append(
                f"interval {interval} is read as seconds; if it means milliseconds, import with --interval-unit"
            )
    elif task.get("interval") is not None:
        ignored["interval"] = f"means nothing for type {kind}"
    if kind == "cron":
        job |= {"lifecycle": "cron", "schedule": _schedule(entry, _text(task, "cron") or "* * * * *")}
    elif task.get("cron"):
        ignored["cron"] = f"means nothing for type {kind}"
    elif kind != "daemon" and task.get("last_time"):
        entry.warnings.append("it has run there already; imported, it runs again")
    for field in _STATE:
        if field in task:
            ignored[field] = "is state of the old server"
    for field in task.keys() - _KNOWN:
        ignored[field] = "is no field of Meproc's"
    report.take(entry, job)


def _schedule(entry: Entry, cron: str) -> dict[str, str]:
    fields = cron.split()
    if len(fields) > 5 and not cron.lstrip().startswith("@"):
        entry.warnings.append(f"cron {cron!r} has {len(fields)} fields; Meproc reads five, and so only these are taken")
    entry.mapped["cron"] = "schedule.cron"
    return {"cron": " ".join(fields[:5]), "overlap": "skip", "missed": "skip"}


def _text(task: dict[str, Any], field: str, *, needed: bool = False) -> str:
    value = task.get(field)
    if value is None and not needed:
        return ""
    if not isinstance(value, str) or (needed and not value):
        raise ValueError(f"{field}: must be a text{' that is not empty' if needed else ''}, not {value!r}")
    return value


def _whole(task: dict[str, Any], field: str) -> int:
    value = task[field]
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1 or not 1 <= value <= _MOST:
        raise ValueError(f"{field}: must be a whole number from 1 to {_MOST}, not {str(value)[:50]}")
    return int(value)


def _names(task: dict[str, Any], field: str) -> list[str]:
    value = task.get(field) or []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"{field}: must be an array of names, not {value!r}")
    return value
