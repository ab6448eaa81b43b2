"""A Meproc task: the client's record checked, and turned into a job. Pure (spec/meproc.md, 2, 3, 10 and 20)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from runyard.api.meproc.schedule import engine_cron
from runyard.model.check import check_spec
from runyard.model.errors import InvalidInput
from runyard.model.job import (
    Condition,
    Dependency,
    JobSpec,
    Lifecycle,
    Missed,
    Output,
    Restart,
    RestartPolicy,
    Schedule,
    Stop,
)
from runyard.model.message import MAX_DEPTH, depth
from runyard.settings import Meproc

TYPES = frozenset({"once", "daemon", "cron", "melang", "coroutine"})
SCRIPTS = frozenset({"melang", "coroutine"})
RESERVED = "__coroutine__"
MAX_NAME = 255
#: The variable with the client's record, for scripts.
CONF = "MEPROC_CONF"

_PYTHON = re.compile(r".+\.py(:[A-Za-z_]\w*)?|[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
_MELANG = re.compile(r".+\.(m|mln)")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Refusal(Exception):
    """An answer that says no: the HTTP status, which is also `code`, and the exact `msg`."""

    def __init__(self, code: int, msg: str) -> None:
        super().__init__(msg)
        self.code = code
        self.msg = msg


BODY_REQUIRED = "JSON body is required"
INVALID_FIELD = "Invalid JSON field"
EXISTS = "Program exists, please stop it at first"
NOT_EXISTS = "Program not exists, please start it at first"
NAME_REQUIRED = "name is required"
START_FAILED = "Start failed"


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """The checked record. `given` is everything that the client sent: what is not ours is echoed as it came."""

    name: str
    cmd: str
    type: str
    replica: int = 1
    user: str | None = None
    group: str | None = None
    cron: str | None = None
    interval: int
    deps: list[str] = []
    given: dict[str, Any]


def read_task(body: bytes, settings: Meproc) -> Task:
    """The task in a POST's body. Raises Refusal with the original's texts, in the original's order of checks."""
    try:
        given = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Refusal(400, BODY_REQUIRED) from None
    if not given or not isinstance(given, dict | list):
        raise Refusal(400, BODY_REQUIRED)
    # What is echoed later is nested a little deeper then: it must not be more than can be written.
    if not isinstance(given, dict) or depth(given) > MAX_DEPTH:
        raise Refusal(400, INVALID_FIELD)
    name, cmd, kind = (_text(given, field, needed=True) for field in ("name", "cmd", "type"))
    if len(name.encode()) > MAX_NAME or _CONTROL.search(name) or "\0" in cmd or kind not in TYPES:
        raise Refusal(400, INVALID_FIELD)
    cron = _text(given, "cron")
    user, group = _text(given, "user"), _text(given, "group")
    replica = _integer(given, "replica", 1)
    interval = _integer(given, "interval", 3 if settings.interval_unit == "seconds" else 3000)
    deps = given.get("deps")
    if deps is None:
        deps = []
    if not isinstance(deps, list) or not all(isinstance(dep, str) for dep in deps) or len(deps) > 1000:
        raise Refusal(400, INVALID_FIELD)
    if replica > settings.max_replica:
        raise Refusal(400, INVALID_FIELD)
    if name == RESERVED:
        raise Refusal(400, f"name '{RESERVED}' is reserved")
    if interval <= 0:
        raise Refusal(400, "Interval must be a positive integer'")
    if replica <= 0:
        raise Refusal(400, "Replica must be a positive integer'")
    if kind == "cron":
        cron = cron or "* * * * *"
        try:
            engine_cron(cron, strict=settings.strict)
        except InvalidInput:
            raise Refusal(400, "Invalid cron format") from None
    elif settings.strict and "cron" in given:
        raise Refusal(400, "Type of cron job must be 'cron'")
    return Task(
        name=name,
        cmd=cmd,
        type=kind,
        replica=replica,
        user=user or None,
        group=group or None,
        cron=cron if kind == "cron" else None,
        interval=interval,
        deps=list(deps),
        given=given,
    )


def _text(given: dict[str, Any], field: str, *, needed: bool = False) -> str:
    value = given.get(field)
    if value is None and not needed:
        return ""
    if not isinstance(value, str) or (needed and not value):
        raise Refusal(400, INVALID_FIELD)
    if "\0" in value or len(value) > 128 * 1024:
        raise Refusal(400, INVALID_FIELD)
    return value


def _integer(given: dict[str, Any], field: str, default: int) -> int:
    value = given.get(field)
    if value is None:
        return default
    if isinstance(value, float) and value.is_integer() and abs(value) < 1 << 53:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) > 1 << 31:
        raise Refusal(400, INVALID_FIELD)
    return value


def job_of(
    task: Task,
    settings: Meproc,
    script_dir: str,
    melang: str | None,
    idle: Iterable[str] = (),
    predecessors: Iterable[int] = (),
) -> JobSpec:
    """The job that runs the task, once those called `idle` are idle and those with the ids `predecessors` have ended.

    `melang` is the path of a Melang interpreter, if there is one. Raises Refusal if the task can't be started at all.
    """
    seconds = task.interval if settings.interval_unit == "seconds" else task.interval / 1000
    parts: dict[str, Any] = _program(task, script_dir, melang)
    if task.type == "daemon":
        parts |= {
            "lifecycle": Lifecycle.SERVICE,
            "restart": Restart(policy=RestartPolicy.ALWAYS, delay=seconds, backoff=1.0, max_delay=seconds),
        }
    elif task.type == "cron":
        missed = Missed.ONCE if settings.cron_catchup else Missed.SKIP
        expression = engine_cron(task.cron or "", strict=settings.strict)
        parts |= {
            "lifecycle": Lifecycle.CRON,
            "schedule": Schedule(cron=expression, timezone=settings.timezone, missed=missed),
        }
    spec = JobSpec(
        **parts,
        user=task.user,
        group=task.group,
        replicas=task.replica,
        stop=Stop(grace=settings.stop_grace),
        output=Output(merge=True, max_size=settings.output_max),
    )
    try:
        check_spec(spec)
    except InvalidInput as error:
        raise Refusal(400, f"{START_FAILED}: {error.detail}") from None
    # Names are checked by `read_task`, by Meproc's own rules: they allow more than ours.
    after = [Dependency(job=name, condition=Condition.IDLE) for name in idle]
    after += [Dependency(job=str(job), condition=Condition.FINISHED) for job in predecessors]
    env = {"MEPROC_NAME": task.name, "MEPROC_REPLICA": str(task.replica)}
    if task.type in SCRIPTS:
        env[CONF] = msgspec.json.encode(task.given).decode()
    return msgspec.structs.replace(spec, name=task.name, after=after, env=env)


def _program(task: Task, script_dir: str, melang: str | None) -> dict[str, Any]:
    if task.type not in SCRIPTS:
        return {"script": task.cmd}
    if _PYTHON.fullmatch(task.cmd):
        return {"command": [task.cmd], "cwd": script_dir, "executor": "python"}
    if not _MELANG.fullmatch(task.cmd):
        raise Refusal(
            400, f"{START_FAILED}: a {task.type} task runs file.py, file.py:function, module:function, or file.m"
        )
    if melang is None:
        raise Refusal(400, f"{START_FAILED}: {task.cmd} needs a `melang` interpreter, and there is none on the PATH")
    return {"command": [melang, task.cmd], "cwd": script_dir}
