"""A request to run something, in each shape that the generations of clients send. Pure (spec/flux-restful.md, 1.8)."""

from __future__ import annotations

import ast
import json
import re
import shlex
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from runyard.api.flux.answer import Refused, invalid, unprocessable
from runyard.api.flux.parameter import Parameters
from runyard.model.check import check_spec
from runyard.model.errors import InvalidInput
from runyard.model.job import JobSpec, Output, Resources, Stop

#: Labels under which a job keeps its shell options, and the working folder that was asked for but is not there.
OPTION, MISSING_FOLDER = "flux.option.", "flux.missing-workdir"
#: Bytes of `envars` in a query at most.
_MAX_ENVARS = 64 * 1024
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_FIELDS = (
    "command", "num_tasks", "cores_per_task", "gpus_per_task", "num_nodes", "exclusive", "option_flags", "envars",
    "workdir", "runtime", "is_launcher",
)  # fmt: skip
#: Runs the job where Flux runs one whose folder is missing, and says so on its stderr.
_ELSEWHERE = (
    'echo "flux-shell: WARN: Could not change dir to $0: No such file or directory. Going to /tmp" >&2; exec "$@"'
)


class Server(msgspec.Struct, frozen=True):
    """What the rules must know of the server: how many nodes it has, and whether they have GPUs."""

    nodes: int = 1
    gpus: bool = False


class Submission(msgspec.Struct, kw_only=True):
    argv: list[str]
    num_tasks: int = 1
    cores_per_task: int = 1
    gpus_per_task: int | None = None
    num_nodes: int | None = None
    exclusive: bool = False
    option_flags: dict[str, str] = {}
    envars: dict[str, str] = {}
    workdir: str | None = None
    runtime: float = 0.0
    """Seconds; 0 is no limit."""
    is_launcher: bool = False


def read_submission(
    query: Mapping[str, Any],
    body: bytes,
    server: Server,
    option_flags: Mapping[str, str] = MappingProxyType({}),
    restricted: bool = False,
) -> Submission:
    """What the request asks for. `option_flags` are the server's own, which the request's own win over; `restricted`
    refuses variables that are not for those who work under an account of their own.

    Raises Refused: 422 for what can't be read, 400 with every rule that is broken.
    """
    given = _gather(query, _object(body))
    command = given.get("command")
    if command is None or command == []:
        raise Refused(400, {"Message": "A 'command' is minimally required."})
    errors: list[str] = []
    asked = Submission(argv=_argv(command, given.place, errors))
    asked.is_launcher = given.boolean("is_launcher") or False
    _read_resources(given, server, asked, errors)
    asked.option_flags = dict(option_flags) | _flags(given.get("option_flags"), errors)
    asked.runtime = given.duration("runtime") or 0.0
    if asked.runtime < 0:
        errors.append(f"Runtime must be >= 0, found {asked.runtime:g}")
    asked.envars = _environment(given.get("envars"), restricted, errors)
    asked.workdir = given.text("workdir")
    if asked.workdir is not None and not asked.workdir.startswith("/"):
        errors.append(f"workdir must be an absolute path, {asked.workdir[:200]} is invalid.")
    if errors:
        raise invalid(errors)
    return asked


def job_of(asked: Submission, user: str | None = None, *, missing_folder: bool = False) -> JobSpec:
    """The job that does it. With `missing_folder`, it runs in `/tmp` and says that its folder is not there.

    Raises Refused (400).
    """
    labels = {OPTION + key: value for key, value in asked.option_flags.items()}
    argv, cwd = asked.argv, asked.workdir
    if missing_folder and cwd is not None:
        labels[MISSING_FOLDER] = cwd
        argv, cwd = ["/bin/sh", "-c", _ELSEWHERE, cwd, *argv], "/tmp"
    # A launcher's own jobs need the room; it only watches them.
    resources = Resources() if asked.is_launcher else Resources(
        nodes=asked.num_nodes or 0,
        tasks=asked.num_tasks,
        cores_per_task=asked.cores_per_task,
        gpus_per_task=asked.gpus_per_task or 0,
        exclusive=asked.exclusive,
    )  # fmt: skip
    try:
        return check_spec(
            JobSpec(
                command=argv,
                env=asked.envars,
                cwd=cwd,
                user=user,
                resources=resources,
                time_limit=asked.runtime or None,
                labels=labels,
                # Flux has one output, in which both streams stand as they came.
                output=Output(merge=True),
                stop=Stop(grace=5.0),
            )
        )
    except InvalidInput as error:
        raise invalid([error.detail]) from None


def asked_argv(spec: JobSpec) -> list[str]:
    """The command as it was asked for; empty for a job that is no command."""
    if spec.command is None and spec.script is None:
        return []
    return spec.argv[4:] if MISSING_FOLDER in spec.labels else spec.argv


def asked_folder(spec: JobSpec) -> str | None:
    return spec.labels.get(MISSING_FOLDER, spec.cwd)


def read_flags(text: str) -> dict[str, str]:
    """Shell options in a text such as `-ompi=openmpi@5,k=v`; what is not of that form is left out."""
    return _flags(" ".join(word.removeprefix("-o") for word in re.split(r"[,\s]+", text)), [])


# The parts ------------------------------------------------------------------------------------------------------------


def _object(body: bytes) -> dict[str, Any]:
    if not body.strip():
        return {}
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise unprocessable("json_invalid", ["body"], f"JSON decode error: {error}", None) from None
    if not isinstance(value, dict):
        raise unprocessable("dict_type", ["body"], "Input should be a valid dictionary", value)
    return value


def _gather(query: Mapping[str, Any], body: dict[str, Any]) -> Parameters:
    """The query wins. Beside a query with a command, the body is the environment, as a whole or as its only key."""
    values: dict[str, Any] = {name: query[name] for name in _FIELDS if query.get(name)}
    if "command" not in values:
        here = {name: body[name] for name in _FIELDS if name in body}
        return Parameters(here | values, "body" if here else "query")
    if body:
        inner = body.get("envars")
        values.setdefault("envars", inner if len(body) == 1 and isinstance(inner, dict) else body)
    return Parameters(values)


def _argv(command: Any, place: str, errors: list[str]) -> list[str]:
    """A list is taken as it is; a text is split as a shell would, without running one."""
    if isinstance(command, list):
        if all(isinstance(word, str | int | float) and not isinstance(word, bool) for word in command):
            return [str(word) for word in command]
    elif isinstance(command, str):
        try:
            words = shlex.split(command)
        except ValueError as error:
            errors.append(str(error))
            return []
        if not words:
            errors.append("'command' is required.")
        return words
    raise unprocessable("string_type", [place, "command"], "Input should be a text, or a list of texts", command)


def _read_resources(given: Parameters, server: Server, asked: Submission, errors: list[str]) -> None:
    tasks, cores, gpus, nodes = map(given.integer, ("num_tasks", "cores_per_task", "gpus_per_task", "num_nodes"))
    asked.num_tasks = 1 if tasks is None else tasks
    asked.cores_per_task = 1 if cores is None else cores
    asked.gpus_per_task, asked.num_nodes = gpus, nodes
    asked.exclusive = given.boolean("exclusive") or False
    if nodes is not None and nodes > server.nodes:
        errors.append(f"The server only has {server.nodes} nodes, you requested {nodes}")
    if gpus and not server.gpus:
        errors.append("This server does not support gpus: gpus_per_task cannot be set.")
    if gpus is not None and gpus < 1:
        errors.append("Parameter gpus_per_task must be >= 1")
    if asked.num_tasks < 1:
        errors.append("task count must be a integer >= 1")
    if asked.cores_per_task < 1:
        errors.append("cores per task must be an integer >= 1")
    if nodes is not None and nodes < 1:
        errors.append("node count must be an integer >= 1")
    elif nodes is not None and nodes > asked.num_tasks:
        errors.append("node count must not be greater than task count")
    if asked.exclusive and nodes is None:
        errors.append("exclusive can only be set with a node count")


def _flags(given: Any, errors: list[str]) -> dict[str, str]:
    if given is None:
        return {}
    if isinstance(given, str):
        pairs: list[tuple[str, Any]] = []
        for item in re.split(r"[,\s]+", given.strip()):
            key, found, value = item.partition("=")
            if found and key:
                pairs.append((key, value))
            elif item:
                errors.append(f"Please provide options as key=value, {item[:200]} is invalid.")
    elif isinstance(given, dict):
        pairs = list(given.items())
    else:
        errors.append(f"Please provide option args as a dictionary, type {type(given)} is invalid.")
        return {}
    flags = {}
    for key, value in pairs:
        if key.startswith("-"):
            errors.append(f"Please provide keys without -o, {key[:200]} is invalid.")
        elif isinstance(value, dict | list | None):
            errors.append(f"Please provide options as texts, the value of {key[:200]} is invalid.")
        else:
            flags[key] = str(value)
    return flags


def _environment(given: Any, restricted: bool, errors: list[str]) -> dict[str, str]:
    if isinstance(given, str):
        given = _literal(given)
    if given is None:
        return {}
    if not isinstance(given, dict):
        errors.append("Environment variables must be key/value pairs (dict)")
        return {}
    found = {}
    for name, value in given.items():
        if not isinstance(name, str) or isinstance(value, dict | list | set | tuple | None):
            errors.append("Environment variables must be key/value pairs (dict)")
            return {}
        if not _ENV_NAME.fullmatch(name):
            errors.append(f"Environment variables have names of letters, digits and _, {name[:200]} is invalid.")
        elif restricted and (name.startswith("LD_") or name in ("FLUX_SECRET_KEY", "FLUX_TOKEN")):
            errors.append(f"Environment variable {name} cannot be set on this server.")
        else:
            try:
                found[name] = str(value)
            except ValueError:
                # A literal in hexadecimal digits may be a number that is too long to be written in decimal ones.
                errors.append(f"Environment variables are texts, the number {name[:200]} is too long.")
    return found


def _literal(text: str) -> Any:
    """A JSON object, or the literal of a Python dict, which the released client sends. Read, never evaluated."""
    if len(text) > _MAX_ENVARS:
        return text
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
    return text
