"""Projects: make, list, show, start, stop, advance, delete; their members, telemetry and files."""

from __future__ import annotations

import asyncio
import tomllib
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from litestar import Response, delete, get, post
from litestar.openapi.spec import OpenAPIMediaType, Operation, Reference, RequestBody
from litestar.params import PathParameter, QueryParameter

from runyard.api.access import caller_of, permitted
from runyard.api.answer import JsonAnswer
from runyard.api.context import AnyRequest, context_of, json_object
from runyard.api.native.jobs import Cursor, Limit, says
from runyard.api.problem import refusal
from runyard.auth.caller import Caller, Role
from runyard.model.check import explain_json, refuse
from runyard.model.errors import InvalidInput, NotFound, RunyardError, Unavailable
from runyard.model.ids import MAX_ID, parse_job_id
from runyard.model.job import Dependency, JobSpec
from runyard.model.project import MemberList, ProjectDoc, ProjectList
from runyard.project.definition import Project, build_project, local_spec
from runyard.project.wire import BadReport, bare, read_report
from runyard.service.live_project import Live
from runyard.service.projectfolder import read_files
from runyard.service.projects import Projects, project_job

TOML = "application/toml"

_encoder = msgspec.json.Encoder()

Ref = Annotated[str, PathParameter(description="Id of the project's job, or the project's name.")]


class StartRequest(msgspec.Struct, kw_only=True):
    fresh: bool = False
    """From the first step on, whatever has been done."""


class AdvanceRequest(msgspec.Struct, kw_only=True):
    container: str | None = None
    """The step to start or to confirm; null means the next one."""


class ReportRequest(msgspec.Struct, kw_only=True):
    container: str
    status: str
    """As in the protocol: `success` or `failed`."""


class ProjectMetrics(msgspec.Struct):
    containers: dict[str, dict[str, Any]]
    """The last update of each kind, by container; and `progress`."""


class ProjectFiles(msgspec.Struct):
    folder: str
    files: dict[str, Any]


@dataclass
class _ProjectBody(Operation):
    def __post_init__(self) -> None:
        body = OpenAPIMediaType(Reference("#/components/schemas/Project"))
        self.request_body = RequestBody({"application/json": body, TOML: body}, required=True)


@dataclass
class _StartBody(Operation):
    def __post_init__(self) -> None:
        self.request_body = _body("StartRequest", required=False)


@dataclass
class _AdvanceBody(Operation):
    def __post_init__(self) -> None:
        self.request_body = _body("AdvanceRequest", required=False)


@dataclass
class _ReportBody(Operation):
    def __post_init__(self) -> None:
        self.request_body = _body("ReportRequest", required=True)


def _body(name: str, required: bool) -> RequestBody:
    return RequestBody(
        {"application/json": OpenAPIMediaType(Reference(f"#/components/schemas/{name}"))}, required=required
    )


_REFUSED = refusal("The definition is refused.")
_MISSING = refusal("There is no such project.")
_WRONG_STATE = refusal("The project's state does not allow this.")


def _projects(request: AnyRequest) -> Projects:
    projects = context_of(request).projects
    if projects is None:
        raise Unavailable("this server has no projects")
    return projects


def _json(value: Any, status: int = 200) -> Response[bytes]:
    return JsonAnswer(_encoder.encode(value), status)


def _shown(request: AnyRequest, live: Live, status: int = 200) -> Response[bytes]:
    projects = _projects(request)
    return _json(projects.document(live, projects.record(live)), status)


def _find(request: AnyRequest, ref: str, caller: Caller) -> Live:
    projects = _projects(request)
    number = parse_job_id(ref)
    live = projects.coordination.live.get(number) if number is not None else None
    live = live or projects.named(ref, caller.name)
    if live is None:
        raise NotFound(f"there is no project {ref!r}: give the id of its job, or its name")
    return live


def _seen(request: AnyRequest, ref: str) -> Live:
    caller = caller_of(request)
    live = _find(request, ref, caller)
    caller.must_see(live.owner)
    return live


def _own(request: AnyRequest, ref: str) -> Live:
    caller = caller_of(request)
    live = _find(request, ref, caller)
    caller.must_change(live.owner)
    return live


@post(
    "/projects",
    operation_class=_ProjectBody,
    responses={201: says(ProjectDoc, "The project is stored, durably."), 400: _REFUSED, 409: _WRONG_STATE},
    summary="Make a project",
)
async def create_project(
    request: AnyRequest, start: Annotated[bool, QueryParameter(description="Start it at once.")] = False
) -> Response[bytes]:
    """Takes a definition, as JSON or TOML. Without `steps` it is the document's own chain of containers."""
    caller = caller_of(request)
    caller.must_submit()
    project = build_project(_decoded(await request.body(), request.headers.get("content-type", "")), caller.name)
    if caller.role is Role.USER and project.user_id != caller.name:
        # It names the folder, and what members keep for a user.
        raise caller.refused(f"user_id must be {caller.name!r}: only admins make projects for others")
    project, job = await _permitted(request, caller, project)
    live = await _projects(request).create(project, job, caller.name, start)
    return _shown(request, live, 201)


def _decoded(body: bytes, kind: str) -> Any:
    if kind.partition(";")[0].strip().lower() in (TOML, "text/toml"):
        try:
            return tomllib.loads(body.decode())
        except (ValueError, RecursionError) as error:
            # More than what is wrong with TOML or UTF-8: Python reads no integer of thousands of digits.
            raise InvalidInput(f"the body is not TOML: {error}") from None
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise explain_json(body, error) from None


async def _permitted(request: AnyRequest, caller: Caller, project: Project) -> tuple[Project, JobSpec]:
    """The project, and its job, as the caller may submit them: each job that it will submit is looked at now."""
    service = context_of(request).service
    steps = []
    for step in project.steps:
        for need in step.needs:
            other = await service.look_up(need.job if isinstance(need, Dependency) else need, caller.name)
            if other is None:
                raise refuse(f"steps.{step.container}.needs", need, "no such job: give the id or the name of one")
            if caller.role is Role.USER:
                caller.must_see(other.owner)
        if step.local:
            wanted = local_spec(step)
            (spec,) = await permitted(request, [wanted])
            if isinstance(spec, RunyardError):
                raise spec
            # It runs in the project's folder, not in the account's home.
            spec = msgspec.structs.replace(spec, cwd=wanted.cwd)
            step = msgspec.structs.replace(step, command=None, job=_plain(spec), needs=[])
        steps.append(step)
    (job,) = await permitted(request, [project_job(project)])
    if isinstance(job, RunyardError):
        raise job
    return msgspec.structs.replace(project, steps=steps), job


def _plain(spec: JobSpec) -> dict[str, Any]:
    """A specification as somebody would write it: without what is as it always is."""
    default = JobSpec()
    plain: dict[str, Any] = {
        field: msgspec.to_builtins(getattr(spec, field))
        for field in spec.__struct_fields__
        if getattr(spec, field) != getattr(default, field)
    }
    return plain


@get("/projects", responses={200: says(ProjectList, "A page, newest first."), 400: _REFUSED}, summary="List projects")
async def list_projects(
    request: AnyRequest,
    user_id: Annotated[str | None, QueryParameter(description="Of this user only.")] = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Response[bytes]:
    """The projects that the caller may see, newest first."""
    caller, projects = caller_of(request), _projects(request)
    before = MAX_ID
    if cursor is not None:
        number = parse_job_id(cursor) if cursor.isdigit() else None
        if number is None:
            raise refuse("cursor", cursor, "must be the `next` of an earlier page")
        before = number
    items: list[ProjectDoc] = []
    more = False
    for live in projects.all():
        if live.job >= before or not caller.may_see(live.owner) or user_id not in (None, live.project.user_id):
            continue
        if len(items) == limit:
            more = True
            break
        try:
            items.append(projects.document(live, projects.record(live)))
        except NotFound:
            # Its job has been removed by retention.
            continue
    return _json(ProjectList(items=items, next=items[-1].id if more else None))


@get("/projects/{ref:str}", responses={200: says(ProjectDoc, "The project."), 404: _MISSING}, summary="Show a project")
async def show_project(request: AnyRequest, ref: Ref) -> Response[bytes]:
    """The project with its steps, and what it waits for."""
    return _shown(request, _seen(request, ref))


@delete(
    "/projects/{ref:str}",
    responses={204: says(None, "It is gone."), 404: _MISSING, 409: _WRONG_STATE},
    summary="Delete a project",
)
async def delete_project(request: AnyRequest, ref: Ref) -> None:
    """Removes a project at which nobody works, with its job and its shared folder."""
    await _projects(request).delete(_own(request, ref))


@post(
    "/projects/{ref:str}/start",
    status_code=200,
    operation_class=_StartBody,
    responses={200: says(ProjectDoc, "It is started."), 404: _MISSING, 409: _WRONG_STATE},
    summary="Start a project",
)
async def start_project(request: AnyRequest, ref: Ref) -> Response[bytes]:
    """Starts a project, or goes on with one that has failed or was stopped: behind the steps that have completed."""
    live = _own(request, ref)
    fresh = json_object(await request.body(), frozenset({"fresh"})).get("fresh", False)
    if not isinstance(fresh, bool):
        raise refuse("fresh", fresh, "must be true or false")
    await _projects(request).start(live, fresh)
    return _shown(request, live)


@post(
    "/projects/{ref:str}/stop",
    status_code=200,
    responses={200: says(ProjectDoc, "It is stopped, or stopping."), 404: _MISSING, 409: _WRONG_STATE},
    summary="Stop a project",
)
async def stop_project(request: AnyRequest, ref: Ref) -> Response[bytes]:
    """Stops the members that are at work, and with them the project."""
    live = _own(request, ref)
    json_object(await request.body(), frozenset())
    await _projects(request).stop(live)
    return _shown(request, live)


@post(
    "/projects/{ref:str}/advance",
    status_code=200,
    operation_class=_AdvanceBody,
    responses={200: says(ProjectDoc, "It goes on."), 404: _MISSING, 409: _WRONG_STATE},
    summary="Go on to the next step",
)
async def advance_project(request: AnyRequest, ref: Ref) -> Response[bytes]:
    """Starts the next step of a project that waits for a person, or confirms a step that is a person's."""
    live = _own(request, ref)
    container = json_object(await request.body(), frozenset({"container"})).get("container")
    if container is not None and not isinstance(container, str):
        raise refuse("container", container, "must be the name of a step")
    try:
        await _projects(request).advance(live, container)
    except BadReport as error:
        raise refuse("container", container, str(error)) from None
    return _shown(request, live)


@post(
    "/projects/{ref:str}/report",
    status_code=200,
    operation_class=_ReportBody,
    responses={200: says(ProjectDoc, "It is taken."), 400: _REFUSED, 404: _MISSING},
    summary="Report in a member's place",
)
async def report_project(request: AnyRequest, ref: Ref) -> Response[bytes]:
    """What a member would say with `status_report`."""
    live = _own(request, ref)
    fields = json_object(await request.body(), frozenset({"container", "status"}))
    given = {name: fields.get(name) for name in ("container", "status")}
    for name, value in given.items():
        if not isinstance(value, str) or not bare(value):
            raise refuse(name, value, "must be given, as a text")
    try:
        report = read_report(
            {
                "container_id": str(given["container"]),
                "user_id": live.project.user_id,
                "project_id": live.wire_id,
                "status": str(given["status"]),
            }
        )
        await _projects(request).report_step(live, report.container, report.status, report.word)
    except BadReport as error:
        raise InvalidInput(str(error)) from None
    return _shown(request, live)


@get(
    "/projects/{ref:str}/members",
    responses={200: says(MemberList, "What they say now."), 404: _MISSING},
    summary="Ask the members whether they are ready",
)
async def list_members(request: AnyRequest, ref: Ref) -> Response[bytes]:
    """Calls `status_request` with empty ids at each member of the project, and shows what they say."""
    return _json(MemberList(await _projects(request).readiness(_seen(request, ref))))


@get(
    "/projects/{ref:str}/metrics",
    responses={200: says(ProjectMetrics, "The last of each kind."), 404: _MISSING},
    summary="Show the members' telemetry",
)
async def show_metrics(request: AnyRequest, ref: Ref) -> Response[bytes]:
    """What members told with `status_update`; earlier ones are events of the type `project.metrics`."""
    return _json(ProjectMetrics(_projects(request).metrics(_seen(request, ref))))


@get(
    "/projects/{ref:str}/files",
    responses={200: says(ProjectFiles, "Those that are there."), 404: _MISSING},
    summary="Show the project's shared files",
)
async def show_files(request: AnyRequest, ref: Ref) -> Response[bytes]:
    """project_info.yaml and what members write for each other, read from the project's folder."""
    projects, live = _projects(request), _seen(request, ref)
    found = await asyncio.to_thread(read_files, projects.folder(live))
    return _json(ProjectFiles(str(projects.folder(live)), found))


PROJECT_ROUTES = [
    create_project,
    list_projects,
    show_project,
    delete_project,
    start_project,
    stop_project,
    advance_project,
    report_project,
    list_members,
    show_metrics,
    show_files,
]
