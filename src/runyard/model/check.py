"""Takes job specifications in: decoding with every quantity spelling, and the rules that types can't say.

Every refusal is an `InvalidInput` whose `errors` name field, value and rule.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable
from typing import Any

import msgspec

from runyard.model.errors import InvalidInput
from runyard.model.flow import Flow
from runyard.model.job import Dependency, JobSpec, Lifecycle, ReportRule
from runyard.model.quantity import parse_duration, parse_size
from runyard.model.signals import signal_number

MAX_NAME = 255
MAX_ARGS = 4096
MAX_ARG_BYTES = 128 * 1024 - 1
"""Linux's MAX_ARG_STRLEN: one argument, or one `NAME=value` of the environment, can't be longer."""
MAX_ENV = 4096
MAX_LABELS = 64
MAX_GRAPH = 4 * 1024 * 1024
"""Bytes of a flow's document."""
MAX_UNIT_DIRS = 64
MAX_AFTER = 1000
MAX_REPLICAS = 10_000
MAX_SECONDS = 10 * 366 * 86400.0
MAX_PRIORITY = 1_000_000
MAX_RULES = 64
MAX_PATTERN = 1000

_decoder = msgspec.json.Decoder(JobSpec)
_QUANTITIES: dict[str, dict[str, Callable[[str], float]]] = {
    "": {"time_limit": parse_duration},
    "restart": dict.fromkeys(("delay", "max_delay", "reset_after"), parse_duration),
    "stop": dict.fromkeys(("grace", "after_failure"), parse_duration),
    "resources": {"memory": parse_size},
    "output": {"max_size": parse_size},
    "limits": dict.fromkeys(("file_size", "address_space", "core_size", "stack", "memory"), parse_size),
}
_UNKNOWN = re.compile(r"Object contains unknown field `(.*?)`(?: - at `\$\.?(.*)`)?")
_AT = re.compile(r"(.*) - at `\$\.?(.*)`")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_ENV_NAME = re.compile(r"[^=\0]+")
_PARTS: dict[str, type[msgspec.Struct]] = {
    name: field.type if isinstance(field.type, type) else field.type.__args__[0]
    for field in msgspec.structs.fields(JobSpec)
    for name in (field.name,)
    if name in ("flow", "schedule", "restart", "resources", "stop", "limits", "output", "report")
}

#: What the lists of a specification hold.
_ITEMS: dict[str, type[msgspec.Struct]] = {"after": Dependency, "report.rules": ReportRule}


def refuse(field: str, value: Any, rule: str) -> InvalidInput:
    """An `InvalidInput` about one field. Long values are cut."""
    shown = value if isinstance(value, int | float | bool | None) else str(value)[:200]
    return InvalidInput(f"{field}: {rule}", errors=[{"field": field, "value": shown, "rule": rule}])


def decode_spec(body: bytes | bytearray | memoryview) -> JobSpec:
    """The checked specification in a JSON body. Raises InvalidInput."""
    try:
        try:
            spec = _decoder.decode(body)
        except msgspec.ValidationError:
            return build_spec(msgspec.json.decode(body))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise explain_json(body, error) from None
    return check_spec(spec)


def explain_json(body: bytes | bytearray | memoryview, error: Exception) -> InvalidInput:
    """What is wrong with a body that msgspec can't read (`error`), and where."""
    raw = bytes(body)
    if not raw.strip():
        return InvalidInput("the body is empty; it must be JSON")
    try:
        # Slower, but it says line and column; and it takes a little more than JSON is.
        json.loads(raw)
    except UnicodeDecodeError as bad:
        return InvalidInput(f"the body is not UTF-8: byte {raw[bad.start]:#04x} at offset {bad.start} ({bad.reason})")
    except RecursionError:
        return InvalidInput("the body is nested too deeply")
    except ValueError as bad:
        return InvalidInput(f"the body is not JSON: {bad}")
    if _SURROGATE.search(raw):
        return InvalidInput(r"the body has half of a surrogate pair in a \u escape: that is no character of Unicode")
    return InvalidInput(f"the body is not JSON: {error}")


def build_spec(raw: Any) -> JobSpec:
    """The checked specification in plain data (from TOML, or JSON already decoded). Raises InvalidInput."""
    if not isinstance(raw, dict):
        raise InvalidInput(f"a job is an object with at least `command` or `script`, not {type(raw).__name__}")
    try:
        return check_spec(msgspec.convert(_spelled_out(raw), JobSpec))
    except msgspec.ValidationError as error:
        raise explain_mismatch(str(error), raw) from None


def _spelled_out(raw: dict[str, Any]) -> dict[str, Any]:
    """`raw` with durations and sizes that were given as text turned into numbers."""
    result = dict(raw)
    for part, fields in _QUANTITIES.items():
        target = result if not part else result.get(part)
        if not isinstance(target, dict):
            continue
        if part:
            target = result[part] = dict(target)
        for name, parse in fields.items():
            value = target.get(name)
            if isinstance(value, str):
                try:
                    target[name] = parse(value)
                except ValueError as error:
                    raise refuse(f"{part}.{name}".lstrip("."), value, str(error)) from None
    return result


def explain_mismatch(message: str, raw: Any) -> InvalidInput:
    """Turns msgspec's message about a job specification into field, value and rule, with the nearest known field."""
    if unknown := _UNKNOWN.fullmatch(message):
        name, path = unknown.group(1), unknown.group(2) or ""
        struct = next((item for list_, item in _ITEMS.items() if path.startswith(list_)), _PARTS.get(path, JobSpec))
        known = [field.name for field in msgspec.structs.fields(struct)]
        # Comparing takes its time with long texts, which resemble none of ours anyway.
        near = difflib.get_close_matches(name, known, n=1) if len(name) <= MAX_NAME else []
        name = name[:MAX_NAME]
        hint = f"did you mean {near[0]!r}?" if near else f"known fields: {', '.join(known)}"
        return refuse(f"{path}.{name}".lstrip("."), name, f"unknown field; {hint}")
    located = _AT.fullmatch(message)
    rule, path = (located.group(1), located.group(2)) if located else (message, "")
    value = raw
    for key in re.findall(r"[^.\[\]]+", path):
        try:
            value = value[int(key) if isinstance(value, list) else key]
        except (LookupError, TypeError, ValueError):
            value = None
            break
    return refuse(path or "job", value if path else "", rule)


def check_spec(spec: JobSpec) -> JobSpec:
    """`spec` itself, if it keeps every rule. Raises InvalidInput."""
    _check_program(spec)
    if spec.name is not None:
        check_name("name", spec.name)
        if spec.name.isascii() and spec.name.isdigit():
            raise refuse("name", spec.name, "must not be a number: it would read as a job id")
        if "/" in spec.name:
            raise refuse("name", spec.name, "must not contain `/`: a name stands in addresses")
    if spec.env:
        _check_env(spec.env)
    if spec.labels:
        _check_labels(spec.labels)
    for field in ("cwd", "user", "group"):
        value = getattr(spec, field)
        if value is not None:
            _check_text(field, value, 4096)
    if spec.cwd is not None and not spec.cwd.startswith("/"):
        raise refuse("cwd", spec.cwd, "must be an absolute path: the server has no notion of where you are")
    if spec.umask is not None and not re.fullmatch("[0-7]{1,4}", spec.umask):
        raise refuse("umask", spec.umask, 'must be octal digits, such as "022"')
    _check_range("replicas", spec.replicas, 1, MAX_REPLICAS)
    _check_range("priority", spec.priority, -MAX_PRIORITY, MAX_PRIORITY)
    if spec.time_limit is not None:
        _check_range("time_limit", spec.time_limit, 0.001, MAX_SECONDS)
    if (spec.lifecycle is Lifecycle.CRON) != (spec.schedule is not None):
        raise refuse("schedule", spec.schedule, 'is needed with lifecycle "cron", and only there')
    if spec.schedule is not None:
        _check_text("schedule.cron", spec.schedule.cron, 1000)
        _check_text("schedule.timezone", spec.schedule.timezone, 100)
    if len(spec.after) > MAX_AFTER:
        raise refuse("after", len(spec.after), f"at most {MAX_AFTER} dependencies")
    for index, dependency in enumerate(spec.after):
        check_name(f"after[{index}]", dependency if isinstance(dependency, str) else dependency.job)
    _check_numbers(spec)
    if signal_number(spec.stop.signal) is None:
        raise refuse("stop.signal", spec.stop.signal, 'is no signal; for example "SIGTERM" or "SIGINT"')
    if spec.report.rules:
        _check_rules(spec.report.rules)
    if spec.report.tensorboard is not None:
        _check_text("report.tensorboard", spec.report.tensorboard, 4096)
        if not spec.report.tensorboard or (spec.cwd is None and not spec.report.tensorboard.startswith("/")):
            raise refuse("report.tensorboard", spec.report.tensorboard, "must be absolute, or relative to a `cwd`")
    return spec


def _check_program(spec: JobSpec) -> None:
    if (spec.command is not None) + (spec.script is not None) + (spec.flow is not None) != 1:
        raise refuse("command", spec.command, "exactly one of `command`, `script` and `flow` must be given")
    if spec.flow is not None:
        check_flow(spec.flow)
        _check_host(spec)
        return
    if spec.script is not None:
        if not spec.script.strip():
            raise refuse("script", spec.script, "must not be empty")
        _check_text("script", spec.script, MAX_ARG_BYTES, lines=True)
        return
    command = spec.command or []
    if not command or not command[0]:
        raise refuse("command", command, 'must name a program, for example ["python", "train.py"]')
    if len(command) > MAX_ARGS:
        raise refuse("command", len(command), f"at most {MAX_ARGS} arguments")
    for index, argument in enumerate(command):
        _check_text(f"command[{index}]", argument, MAX_ARG_BYTES, lines=True)


def check_flow(flow: Flow) -> None:
    """What can be said of a flow without looking into its document. Raises InvalidInput."""
    if (flow.graph is None) == (flow.path is None):
        raise refuse("flow", flow.path, "exactly one of `flow.graph` and `flow.path` must be given")
    if flow.graph is not None:
        if not flow.graph.strip():
            raise refuse("flow.graph", flow.graph, "must not be empty")
        _check_text("flow.graph", flow.graph, MAX_GRAPH, lines=True)
    if len(flow.arguments) > MAX_ARGS:
        raise refuse("flow.arguments", len(flow.arguments), f"at most {MAX_ARGS} arguments")
    for name, value in flow.arguments.items():
        check_name("flow.arguments", name)
        _check_text(f"flow.arguments.{name}", value, MAX_ARG_BYTES, lines=True)
    if len(flow.unit_dirs) > MAX_UNIT_DIRS:
        raise refuse("flow.unit_dirs", len(flow.unit_dirs), f"at most {MAX_UNIT_DIRS} folders")
    paths = [("flow.path", flow.path), ("flow.trace", flow.trace)]
    paths += [(f"flow.unit_dirs[{index}]", folder) for index, folder in enumerate(flow.unit_dirs)]
    for field, path in paths:
        if path is None:
            continue
        _check_text(field, path, 4096)
        if not path.startswith("/"):
            raise refuse(field, path, "must be an absolute path: the server has no notion of where you are")


def _check_host(spec: JobSpec) -> None:
    """A flow has a process of the server's own: what is said of processes must suit that one."""
    if spec.executor != "local":
        raise refuse("executor", spec.executor, "must be `local` for a flow")
    for field in ("user", "group"):
        if getattr(spec, field) is not None:
            raise refuse(field, getattr(spec, field), "can't be given with `flow`: flows run as the server's account")
    if spec.replicas != 1:
        raise refuse("replicas", spec.replicas, "must be 1 for a flow: its addresses and files can't be shared")
    if spec.resources.tasks != 1:
        raise refuse("resources.tasks", spec.resources.tasks, "must be 1 for a flow: it is one process")


def _check_env(env: dict[str, str]) -> None:
    if len(env) > MAX_ENV:
        raise refuse("env", len(env), f"at most {MAX_ENV} variables")
    for name, value in env.items():
        if not _ENV_NAME.fullmatch(name):
            raise refuse("env", name, "a variable's name must not be empty or contain `=` or NUL")
        _check_text(f"env.{name}", name + "=" + value, MAX_ARG_BYTES, lines=True)


def _check_labels(labels: dict[str, str]) -> None:
    if len(labels) > MAX_LABELS:
        raise refuse("labels", len(labels), f"at most {MAX_LABELS} labels")
    for name, value in labels.items():
        check_name("labels", name)
        if "=" in name:
            raise refuse("labels", name, "a label's name must not contain `=`")
        _check_text(f"labels.{name}", value, 1024)


def _check_rules(rules: list[ReportRule]) -> None:
    # Loaded with the first rule only.
    import re2

    if len(rules) > MAX_RULES:
        raise refuse("report.rules", len(rules), f"at most {MAX_RULES} rules")
    options = re2.Options()
    options.log_errors = False
    for number, rule in enumerate(rules):
        where = f"report.rules[{number}].pattern"
        _check_text(where, rule.pattern, MAX_PATTERN)
        try:
            groups = re2.compile(rule.pattern, options).groupindex
        except re2.error as error:
            text = error.args[0].decode(errors="replace") if isinstance(error.args[0], bytes) else str(error)
            raise refuse(where, rule.pattern, f"is no regular expression of RE2: {text}") from None
        if not groups.keys() - {"step"}:
            raise refuse(where, rule.pattern, "needs a named group for each metric, such as `loss=(?P<loss>\\S+)`")
        if rule.category is not None:
            check_name(f"report.rules[{number}].category", rule.category)


def _check_numbers(spec: JobSpec) -> None:
    resources, stop, limits, restart = spec.resources, spec.stop, spec.limits, spec.restart
    _check_range("resources.nodes", resources.nodes, 0, 100_000)
    _check_range("resources.tasks", resources.tasks, 1, 10_000_000)
    _check_range("resources.cores_per_task", resources.cores_per_task, 0, 100_000)
    _check_range("resources.gpus_per_task", resources.gpus_per_task, 0, 10_000)
    _check_range("resources.memory", resources.memory, 0, 1 << 60)
    _check_range("stop.grace", stop.grace, 0.0, 86400.0)
    _check_range("stop.after_failure", stop.after_failure, 0.0, MAX_SECONDS)
    if restart is not None:
        _check_range("restart.delay", restart.delay, 0.0, MAX_SECONDS)
        _check_range("restart.max_delay", restart.max_delay, 0.0, MAX_SECONDS)
        _check_range("restart.reset_after", restart.reset_after, 0.0, MAX_SECONDS)
        _check_range("restart.backoff", restart.backoff, 1.0, 1000.0)
        if restart.max is not None:
            _check_range("restart.max", restart.max, 0, 1_000_000_000)
    if spec.output.max_size is not None:
        _check_range("output.max_size", spec.output.max_size, 4096, 1 << 60)
    for name in ("cpu_time", "file_size", "open_files", "processes", "address_space", "core_size", "stack", "memory"):
        value = getattr(limits, name)
        if value is not None:
            _check_range(f"limits.{name}", value, 0 if name == "core_size" else 1, 1 << 62)
    if limits.nice is not None:
        _check_range("limits.nice", limits.nice, -20, 19)
    if limits.cpus is not None:
        _check_range("limits.cpus", limits.cpus, 0.01, 100_000.0)


def check_name(field: str, text: str) -> None:
    """A name: 1 to 255 characters, nothing unprintable, no space around it. Raises InvalidInput."""
    if not 1 <= len(text) <= MAX_NAME:
        raise refuse(field, text, f"must have 1 to {MAX_NAME} characters")
    if not text.isprintable() or text != text.strip():
        raise refuse(field, text, "must be printable, with no space around it")


def _check_text(field: str, text: str, most: int, *, lines: bool = False) -> None:
    if "\0" in text:
        raise refuse(field, text, "must not contain NUL bytes: no program can receive them")
    if not text.isascii():
        try:
            size = len(text.encode())
        except UnicodeEncodeError:
            raise refuse(field, ascii(text), "must be text that UTF-8 can carry: it has a lone surrogate") from None
    else:
        size = len(text)
    if size > most:
        raise refuse(field, size, f"must be at most {most} bytes long")
    if not lines and any(char in text for char in "\n\r"):
        raise refuse(field, text, "must be a single line")


def _check_range(field: str, value: float, low: float, high: float) -> None:
    # Written so that NaN fails it too.
    if not low <= value <= high:
        raise refuse(field, value, f"must be between {_plain(low)} and {_plain(high)}")


def _plain(number: float) -> str:
    return str(int(number)) if float(number).is_integer() else f"{number:g}"
