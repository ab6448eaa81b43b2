"""What a project is made of: the definition that somebody gives, checked, with its steps written out.

Units: durations are seconds. Source: spec/tango.md 2 and 4.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any

import msgspec

from runyard.model.check import build_spec, check_name, refuse
from runyard.model.errors import InvalidInput
from runyard.model.job import Dependency, JobSpec
from runyard.model.quantity import Duration, parse_duration
from runyard.project.container import USER_EDIT, canonical, deploy_container, known
from runyard.project.wire import UrlStyle, address_of

MAX_STEPS, MAX_INPUTS, MAX_INFO, MAX_TEXT = 100, 32, 100, 4096
#: Of an id that comes from the network and becomes a folder's name (spec 4.1).
_SAFE = re.compile(r"[A-Za-z0-9_@-][A-Za-z0-9._@-]{0,99}")
_CONTAINER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
#: The largest integer that all readers of JSON know. TOML has larger ones, and NaN and infinities.
_LARGEST = 1 << 53
_INPUT = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


class ProjectType(StrEnum):
    AUTO = "auto"
    """A success starts the next step."""
    MANUAL = "manual"
    """A person starts each step."""


class Chain(StrEnum):
    """The document's own steps, by generation of the protocol (spec 2.4)."""

    SEED = "seed"
    """labelling, bms, vis2code, backbone_nas or neck_nas, code_gen, deploy."""
    G3 = "g3"
    """bms, yoloe or autonn_resnet by task, vis2code, code_gen, deploy."""
    G4 = "g4"
    """autonn, code_gen, user_edit, deploy; autonn_cl alone for continual learning of a segmentation."""


class NasType(StrEnum):
    BACKBONE = "bb_nas"
    NECK = "neck_nas"


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class Step(_Part, frozen=True):
    """One step: a container's task. At most one of `url`, `command` and `job` says who does it."""

    container: str
    """Its id in the protocol, an alias of it, or a name of your own."""
    url: str | None = None
    """Of a remote member. Without any of the three, its address comes from the configuration."""
    command: list[str] | None = None
    """A local job, which is presented as a member."""
    job: dict[str, Any] | None = None
    """A local job with more than a command: a job specification."""
    after: list[str] | None = None
    """Containers whose steps come before; None means the step above."""
    needs: list[str | Dependency] = []
    """Ordinary jobs that come before."""
    when: dict[str, str | list[str]] = {}
    """Fields of the project and their values; if one of them differs, the step is passed over."""
    inputs: dict[str, str] = {}
    """Given to the member: remote ones get them as parameters of `start`, local ones as variables."""
    optional: bool = False
    """Its failure does not fail the project."""
    manual: bool = False
    """It waits for `advance` in an automatic project too."""
    url_style: UrlStyle = UrlStyle.AUTO
    retries: int = 0
    """New tries after a failure."""
    start_retries: int = 0
    """New calls of `start` while the member can't be reached."""
    time_limit: Duration | None = None
    concurrency: int | None = None
    """Projects that the member takes at once; None means 1."""
    report_authoritative: bool | None = None
    """A polled `completed` counts only after a report had time to come; None means the container's habit."""
    running_is_done: Duration | None = None
    """A `running` that is stable for so long counts as success; None means the container's habit."""

    @property
    def confirm(self) -> bool:
        """Nobody does it: it waits for a person's word."""
        return self.container == USER_EDIT and self.url is None and not self.local

    @property
    def local(self) -> bool:
        return self.command is not None or self.job is not None

    @property
    def waits_for_report(self) -> bool:
        return (
            known(self.container).report_authoritative
            if self.report_authoritative is None
            else self.report_authoritative
        )

    @property
    def done_after(self) -> float | None:
        return known(self.container).running_is_done if self.running_is_done is None else self.running_is_done


class Project(_Part, frozen=True):
    """A definition with its steps written out (`build_project`)."""

    name: str
    user_id: str
    project_id: str | None = None
    """What members call it; None means the job's id."""
    description: str = ""
    project_type: ProjectType = ProjectType.AUTO
    target: str = "pc"
    nas_type: NasType = NasType.BACKBONE
    visualiser: bool = False
    """With the step `vis2code` in the document's chain."""
    labelling: bool = False
    """With the step `labelling` in the document's chain."""
    user_editing: bool = False
    """With the step `user_edit` in the G4 chain."""
    task_type: str = "detection"
    learning_type: str = "normal"
    dataset: str | None = None
    chain: Chain = Chain.SEED
    steps: list[Step] = []
    """Empty means the chain."""
    info: dict[str, str | int | float | bool] = {}
    """More keys for project_info.yaml."""
    after: list[str | Dependency] = []
    """Ordinary jobs that come before the project."""
    labels: dict[str, str] = {}
    priority: int = 0
    time_limit: Duration | None = None
    parallel: int = 1
    """Steps that may run at once, as far as their `after` allows it."""
    heartbeat: Duration | None = None
    """Between two questions to a member; None means the configured one."""
    max_missed_beats: int | None = None
    """After so many without an answer the step has failed; 0 means never, None the configured number."""


_PROJECT_FIELDS = [field.name for field in msgspec.structs.fields(Project)]
_STEP_FIELDS = [field.name for field in msgspec.structs.fields(Step)]
_UNKNOWN = re.compile(r"Object contains unknown field `(.*?)`(?: - at `\$\.?(.*)`)?")
_AT = re.compile(r"(.*) - at `\$\.?(.*)`")


def build_project(raw: Any, user: str) -> Project:
    """The checked definition in plain data, its steps written out and its containers under their own ids. `user` is the
    `user_id` of one that names none. Raises InvalidInput that says field, value and rule."""
    if not isinstance(raw, dict):
        raise InvalidInput(f"a project is an object with at least a `name`, not {type(raw).__name__}")
    given = {"user_id": re.sub(r"[^A-Za-z0-9._@-]", "_", user).lstrip(".") or "user"} | raw
    given = _spelled_out(given)
    try:
        project = msgspec.convert(given, Project)
    except msgspec.ValidationError as error:
        raise _explained(str(error)) from None
    _check_fields(project)
    steps = project.steps or chain_steps(project)
    return msgspec.structs.replace(project, steps=_checked_steps(project, steps))


def _spelled_out(raw: dict[str, Any]) -> dict[str, Any]:
    """With durations that were given as text turned into seconds."""

    def read(table: dict[str, Any], names: Iterable[str], where: str) -> dict[str, Any]:
        result = dict(table)
        for name in names:
            if isinstance(result.get(name), str):
                try:
                    result[name] = parse_duration(result[name])
                except ValueError as error:
                    raise refuse(where + name, result[name], str(error)) from None
        return result

    result = read(raw, ("time_limit", "heartbeat"), "")
    if isinstance(raw.get("steps"), list):
        result["steps"] = [
            read(step, ("time_limit", "running_is_done"), f"steps[{index}].") if isinstance(step, dict) else step
            for index, step in enumerate(raw["steps"])
        ]
    return result


def _explained(message: str) -> InvalidInput:
    if unknown := _UNKNOWN.fullmatch(message):
        name, path = unknown.group(1), unknown.group(2) or ""
        fields = _STEP_FIELDS if path.startswith("steps") else _PROJECT_FIELDS
        near = difflib.get_close_matches(name, fields, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known fields: {', '.join(fields)}"
        return refuse(f"{path}.{name}".lstrip("."), name, f"unknown field; {hint}")
    located = _AT.fullmatch(message)
    rule, path = (located.group(1), located.group(2)) if located else (message, "")
    return refuse(path or "project", "", rule)


def _check_fields(project: Project) -> None:
    check_name("name", project.name)
    check_identity("user_id", project.user_id)
    if project.project_id is not None:
        check_identity("project_id", project.project_id)
    if len(project.description.encode("utf-8", "replace")) > MAX_TEXT:
        raise refuse("description", len(project.description), f"must be at most {MAX_TEXT} bytes long")
    for field in ("target", "task_type", "learning_type", "dataset"):
        value = getattr(project, field)
        if value is not None:
            check_name(field, value)
    if len(project.info) > MAX_INFO:
        raise refuse("info", len(project.info), f"at most {MAX_INFO} keys")
    for key, value in project.info.items():
        if not _INPUT.fullmatch(key):
            raise refuse("info", key, "a key has letters, digits and underscores only")
        if isinstance(value, str) and (len(value) > MAX_TEXT or not value.isprintable()):
            raise refuse(f"info.{key}", value, f"must be printable, and at most {MAX_TEXT} characters long")
        if isinstance(value, float) and not math.isfinite(value):
            raise refuse(f"info.{key}", str(value), "must be a finite number")
        if isinstance(value, int) and abs(value) > _LARGEST:
            raise refuse(f"info.{key}", "", f"an integer must be at most {_LARGEST}")
    if len(project.steps) > MAX_STEPS:
        raise refuse("steps", len(project.steps), f"at most {MAX_STEPS} steps")
    if not 1 <= project.parallel <= MAX_STEPS:
        raise refuse("parallel", project.parallel, f"must be between 1 and {MAX_STEPS}")
    if project.heartbeat is not None and not 0.05 <= project.heartbeat <= 3600:
        raise refuse("heartbeat", project.heartbeat, "must be between 0.05 and 3600 seconds")
    if project.max_missed_beats is not None and not 0 <= project.max_missed_beats <= 1_000_000:
        raise refuse("max_missed_beats", project.max_missed_beats, "must be between 0 and 1000000")


def check_identity(field: str, text: str) -> None:
    """An id that goes over the wire and names a folder. Raises InvalidInput."""
    if not _SAFE.fullmatch(text):
        raise refuse(field, text, "must be 1 to 100 of A-Z a-z 0-9 . _ @ -, not beginning with a dot")


def _checked_steps(project: Project, steps: list[Step]) -> list[Step]:
    result: list[Step] = []
    seen: set[str] = set()
    for index, step in enumerate(steps):
        name = f"steps[{index}]"
        container = canonical(step.container, project.target) or step.container
        if not _CONTAINER.fullmatch(container):
            raise refuse(f"{name}.container", step.container, "must be 1 to 64 of A-Z a-z 0-9 . _ -")
        if container in seen:
            raise refuse(f"{name}.container", step.container, "is there already: a container has one step")
        seen.add(container)
        _check_step(name, step)
        before = [result[-1].container] if step.after is None and result else step.after or []
        after = [canonical(other, project.target) or other for other in before]
        result.append(msgspec.structs.replace(step, container=container, after=after))
    for index, step in enumerate(result):
        for other in step.after or []:
            if other not in seen:
                raise refuse(f"steps[{index}].after", other, f"no such step; there are: {', '.join(sorted(seen))}")
    circle = _circle({step.container: step.after or [] for step in result})
    if circle:
        raise refuse("steps", " -> ".join(circle), "the steps would wait for each other")
    return result


def _check_step(name: str, step: Step) -> None:
    given = [field for field in ("url", "command", "job") if getattr(step, field) is not None]
    if len(given) > 1:
        raise refuse(f"{name}.{given[1]}", given, "at most one of `url`, `command` and `job` says who does the step")
    if step.url is not None:
        try:
            address_of(step.url)
        except ValueError as error:
            raise refuse(f"{name}.url", step.url, str(error)) from None
    if step.local:
        try:
            local_spec(step)
        except InvalidInput as error:
            detail = error.fields.get("errors") or [{"field": "job", "value": "", "rule": error.detail}]
            raise refuse(f"{name}.{detail[0]['field']}", detail[0]["value"], detail[0]["rule"]) from None
    if len(step.inputs) > MAX_INPUTS:
        raise refuse(f"{name}.inputs", len(step.inputs), f"at most {MAX_INPUTS} inputs")
    for key, value in step.inputs.items():
        if not _INPUT.fullmatch(key) or key in ("user_id", "project_id", "userid", "projectid"):
            raise refuse(f"{name}.inputs", key, "is no name for an input: letters, digits and underscores, not the ids")
        if len(value) > MAX_TEXT or "\0" in value:
            raise refuse(f"{name}.inputs.{key}", value, f"must be at most {MAX_TEXT} characters, without NUL")
    for key in step.when:
        if key in ("steps", "info", "after", "labels") or key not in _PROJECT_FIELDS:
            raise refuse(f"{name}.when", key, "is no field of a project that has one value")
    for field, low, high in (("retries", 0, 1000), ("start_retries", 0, 1_000_000), ("concurrency", 1, 1_000_000)):
        value = getattr(step, field)
        if value is not None and not low <= value <= high:
            raise refuse(f"{name}.{field}", value, f"must be between {low} and {high}")
    for field in ("time_limit", "running_is_done"):
        value = getattr(step, field)
        if value is not None and not 0.001 <= value <= 10 * 366 * 86400:
            raise refuse(f"{name}.{field}", value, "must be a time between a millisecond and ten years")


def local_spec(step: Step) -> JobSpec:
    """The job of a local step as its definition says it. Raises InvalidInput."""
    raw: dict[str, Any] = dict(step.job) if step.job is not None else {"command": step.command}
    for field in ("hold", "schedule"):
        if raw.get(field):
            raise refuse(f"job.{field}", raw[field], "can't be given: the project starts this job when it is its turn")
    if raw.get("lifecycle", "once") not in ("once", "service"):
        raise refuse("job.lifecycle", raw["lifecycle"], "must be `once`, or `service` with `running_is_done`")
    if raw.get("lifecycle") == "service" and step.done_after is None:
        raise refuse("running_is_done", None, "must be given for a service: it never ends, and so never succeeds")
    after = [*raw.get("after", []), *step.needs] if isinstance(raw.get("after", []), list) else raw["after"]
    return build_spec(raw | {"after": msgspec.to_builtins(after)})


def condition_met(project: Project, step: Step) -> bool:
    """Does the step belong to this project?"""
    for key, wanted in step.when.items():
        value = getattr(project, key)
        text = str(value).lower() if not isinstance(value, bool) else ("true" if value else "false")
        if text not in [str(item).lower() for item in (wanted if isinstance(wanted, list) else [wanted])]:
            return False
    return True


def chain_steps(project: Project) -> list[Step]:
    """The steps of the document's own chain for this project (spec 2.4)."""
    names: list[str] = []
    if project.chain is Chain.SEED:
        names += ["labelling"] if project.labelling else []
        names += ["bms"]
        names += ["vis2code"] if project.visualiser else []
        names += ["backbone_nas" if project.nas_type is NasType.BACKBONE else "neck_nas", "code_gen"]
    elif project.chain is Chain.G3:
        names += ["bms", "autonn_resnet" if project.task_type == "classification" else "yoloe"]
        names += ["vis2code"] if project.visualiser else []
        names += ["code_gen"]
    elif project.task_type == "segmentation" and project.learning_type == "continual_learning":
        return [Step(container="autonn_cl")]
    else:
        names += ["autonn", "code_gen"]
        names += [USER_EDIT] if project.user_editing else []
    deploy = deploy_container(project.target)
    if project.chain is Chain.SEED and deploy == "k8s_deploy":
        # The document's eight ids have no container for Kubernetes.
        deploy = "cloud_deploy"
    return [Step(container=name) for name in [*names, deploy]]


def _circle(edges: Mapping[str, list[str]]) -> list[str] | None:
    """The steps of one circle, in order; None if there is none."""
    done: set[str] = set()
    for root in edges:
        path, stack = [root], [iter(edges[root])]
        while stack and root not in done:
            following = next(stack[-1], None)
            if following is None:
                done.add(path.pop())
                stack.pop()
            elif following in path:
                return [*path[path.index(following) :], following]
            elif following not in done:
                path.append(following)
                stack.append(iter(edges[following]))
    return None
