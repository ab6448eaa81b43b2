"""Services of the K12AI door: which programs do a framework's tasks (`[services.NAME]`, spec/k12ai.md, 3.8)."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from runyard.model.errors import ConfigError
from runyard.model.hook import is_address
from runyard.model.job import ReportRule
from runyard.model.quantity import parse_duration, parse_size

PHASES = ("train", "evaluate", "predict", "runcode")
#: What may stand in braces in a command or variable.
FIELDS = ("config", "cache", "phase", "op", "user", "uuid", "python", "code_file")
#: What a name in a path or name may consist of: services, users, projects.
SAFE_NAME = re.compile(r"[A-Za-z0-9._*-]{1,128}")
MAX_SERVICES, MAX_WORDS = 1000, 256
_FIELD = re.compile(r"\{([^{}]*)\}")


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What each task gets, and may use at most."""

    memory: int = 0
    """Bytes that a task reserves and that its process tree is kept to; 0 means no bound."""
    cores: int = 0
    gpus: int = 0
    timeout_s: float = 0.0
    """Seconds after which a task is ended; 0 means never."""


class Resume(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the framework goes on from where it was stopped."""

    flag: str = ""
    """Dotted name of the parameter that says so: set to true on `train.resume`, and to false on other starts."""
    ckpt: str = ""
    """File or folder of the checkpoints, below the project's cache; `train.start` removes it."""


class Memstat(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a task is expected to need, in MiB."""

    cpu_MB: float = 6000.0
    gpu_MB: float = 6000.0


class Service(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One service. A task of it becomes a job that runs the command of its phase."""

    commands: dict[str, list[str]] = {}
    """By phase: a program and its arguments, with fields in braces. A phase without one is not implemented."""
    env: dict[str, str] = {}
    """Variables of each task, with the same fields."""
    cwd: str = ""
    """Where tasks run; empty means the project's cache folder."""
    limits: Limits = Limits()
    resume: Resume = Resume()
    required: list[str] = []
    """Dotted names of parameters that each start must have."""
    images: bool = False
    """`predict.start` needs `_k12.predict_images`; they are unpacked into the folder `images` of the project."""
    model: str = ""
    """File or folder that training leaves, below the cache: without it there is no evaluate or predict."""
    schema: str = ""
    """A JSON or YAML file with the form of the parameters, or a folder of them, one for each task."""
    memstat: Memstat = Memstat()
    says_running: bool = False
    """Its programs report themselves that they are running; else the server says it when the process is there."""
    report: list[ReportRule] = []
    """Rules that make metrics out of lines of output, as in a job's `report.rules`."""
    executor: str = "local"
    priority: int = 0
    agent: str = ""
    """Address of a gateway elsewhere that has this service: tasks run there, and are relayed."""


def read_services(value: Any, where: str, folder: str = "") -> dict[str, Service]:
    """The services in plain data: tables by name, or the same as JSON text. `where` names it in errors; relative paths
    start in `folder`. Raises ConfigError."""
    if isinstance(value, str):
        try:
            value = msgspec.json.decode(value)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise ConfigError(f"{where}: expected a JSON object of services: {error}") from None
    if not isinstance(value, dict) or not all(isinstance(table, dict) for table in value.values()):
        raise ConfigError(f"{where}: services are tables; write [services.NAME], and its keys below")
    if len(value) > MAX_SERVICES:
        raise ConfigError(f"{where}: {len(value)} services, at most {MAX_SERVICES} are taken")
    return {name: read_service(name, table, f"{where}.{name}", folder) for name, table in value.items()}


def read_service(name: str, table: Mapping[str, Any], where: str, folder: str = "") -> Service:
    """The checked record of one service. Raises ConfigError."""
    if not is_safe(name):
        raise ConfigError(f"{where}: the name of a service has 1 to 128 letters, digits, `.`, `_`, `-`")
    table = dict(table)
    limits = table.get("limits")
    if isinstance(limits, dict):
        table["limits"] = _limits(limits, f"{where}.limits")
    try:
        service = msgspec.convert(table, Service)
    except msgspec.ValidationError as error:
        known = ", ".join(Service.__struct_fields__)
        raise ConfigError(f"{where}: {error}; a service has {known}") from None
    _check(service, where)
    cwd = os.path.abspath(os.path.join(folder, os.path.expanduser(service.cwd))) if service.cwd else ""
    schema = os.path.abspath(os.path.join(folder, os.path.expanduser(service.schema))) if service.schema else ""
    return msgspec.structs.replace(service, cwd=cwd, schema=schema)


def is_safe(name: str) -> bool:
    """Whether a name can be part of a path."""
    return SAFE_NAME.fullmatch(name) is not None and ".." not in name and name != "."


def unknown_fields(text: str) -> list[str]:
    """Fields in braces that nobody knows. `{{` and `}}` stand for braces."""
    plain = text.replace("{{", "").replace("}}", "")
    return [field for field in _FIELD.findall(plain) if field not in FIELDS]


def _limits(table: dict[str, Any], where: str) -> dict[str, Any]:
    table = dict(table)
    for key, parse in (("memory", parse_size), ("timeout_s", parse_duration)):
        if isinstance(table.get(key), str):
            try:
                table[key] = parse(table[key])
            except ValueError as error:
                raise ConfigError(f"{where}.{key}: {error}") from None
    return table


def _check(service: Service, where: str) -> None:
    if bool(service.commands) == bool(service.agent):
        raise ConfigError(f"{where}: exactly one of commands and agent must be given")
    for phase, command in service.commands.items():
        if phase not in PHASES:
            raise ConfigError(f"{where}.commands.{phase}: there is no such phase; there are {', '.join(PHASES)}")
        if not command or not command[0] or len(command) > MAX_WORDS:
            raise ConfigError(f"{where}.commands.{phase}: must name a program and up to {MAX_WORDS - 1} arguments")
        for word in command:
            _check_template(word, f"{where}.commands.{phase}")
    for name, text in service.env.items():
        if not name or "=" in name or "\0" in name:
            raise ConfigError(f"{where}.env: {name!r} can't be the name of a variable")
        _check_template(text, f"{where}.env.{name}")
    for key, path in (("model", service.model), ("resume.ckpt", service.resume.ckpt)):
        if path and (os.path.isabs(path) or ".." in path.split("/")):
            raise ConfigError(f"{where}.{key} = {path!r}: must be a path below the project's cache, without `..`")
    limits = service.limits
    if not (0 <= limits.memory < 1 << 60 and 0 <= limits.cores <= 100_000 and 0 <= limits.gpus <= 10_000):
        raise ConfigError(f"{where}.limits: memory, cores and gpus must not be negative, nor beyond reason")
    if not 0 <= limits.timeout_s <= 10 * 366 * 86400:
        raise ConfigError(f"{where}.limits.timeout_s: must be from 0 (no limit) to ten years")
    if service.agent and not is_address(service.agent):
        raise ConfigError(f"{where}.agent: must be an address such as http://10.0.0.5:8119")


def _check_template(text: str, where: str) -> None:
    if "\0" in text:
        raise ConfigError(f"{where}: contains a NUL byte")
    if unknown := unknown_fields(text):
        raise ConfigError(f"{where}: there is no field {{{unknown[0]}}}; there are {', '.join(FIELDS)}")
