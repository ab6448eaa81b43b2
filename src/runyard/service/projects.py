"""The projects: made, found, shown, started, stopped, taken away; and what their members report.

A project is a job of the executor `project`. Its definition, its coordinator's state and the last telemetry of its
members are kept with the jobs, and leave with them.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from runyard.core.inputs import Note, Tick
from runyard.core.record import JobRecord
from runyard.model.check import build_spec, refuse
from runyard.model.errors import ConfigError, Conflict, NotFound, RunyardError, TooLarge, Unavailable
from runyard.model.job import Explanation, JobDoc, JobSpec
from runyard.model.message import METRICS, NewMessage
from runyard.model.project import ProjectDoc, Readiness, StepDoc
from runyard.model.state import ENDED, State
from runyard.project.container import CONTAINERS, canonical, known
from runyard.project.definition import Project, Step
from runyard.project.files import project_folder
from runyard.project.http import Timeouts
from runyard.project.member import Member
from runyard.project.state import Advance, Phase, ProjectState, Reported, shown
from runyard.project.steps import Timing
from runyard.project.update import MAX_KINDS, PROGRESS, numbers_of
from runyard.project.wire import STATUS_REQUEST, BadReport, Kind, MemberState, Report, address_of
from runyard.service import projectfolder
from runyard.service.coordination import STATES, Coordination, read_state
from runyard.service.live_project import Live
from runyard.service.service import PROJECT, Service
from runyard.service.stepjobs import ORIGIN
from runyard.settings import Tango
from runyard.store.batch import Batch
from runyard.store.output import OutputFiles

#: Where the store keeps definitions and telemetry, by the projects' jobs.
DEFINITIONS, TELEMETRY = "tango", "tango-metrics"
MAX_PROJECTS = 100_000
#: How a project stands by the state of its job, where that says it.
_TOLD = {
    State.PENDING: Phase.READY,
    State.SUCCEEDED: Phase.COMPLETED,
    State.FAILED: Phase.FAILED,
    State.TIMED_OUT: Phase.FAILED,
    State.CANCELLED: Phase.STOPPED,
}


class _Kept(msgspec.Struct):
    project: Project
    owner: str


class Projects:
    """All methods are for the event loop's thread."""

    def __init__(self, settings: Tango, output: OutputFiles, folder: Path, node: str) -> None:
        """`folder` is the server's data folder, `node` this host's name."""
        self.settings = settings
        self.shared = Path(settings.shared or folder / "tango").absolute()
        self._addresses = addresses(settings.members, os.environ)
        if settings.docker_host:
            _check_address("doors.tango.docker_host", f"http://{settings.docker_host}:1")
        timing = Timing(max(settings.heartbeat, 0.05), settings.max_missed_beats, settings.stop_grace)
        timeouts = Timeouts(max(settings.connect_timeout, 0.05), max(settings.read_timeout, 0.05))
        self.coordination = Coordination(f"{node}-projects", output, self.shared, timing, timeouts, self.address)
        self.coordination.on_deleted = self._deleted
        self._by_wire: dict[tuple[str, str], int] = {}
        self._metrics: dict[int, dict[str, Any]] = {}
        self._creating: set[tuple[str, str, str]] = set()
        self._checks: set[asyncio.Task[None]] = set()

    def attach(self, service: Service) -> None:
        """Loads the projects. Before the engine starts."""
        self._service = service
        self.coordination.attach(service)
        service.explainers[PROJECT] = self._explain
        store = service.engine.store
        kept = store.door_records(DEFINITIONS)
        if not kept:
            return
        states = store.door_records(STATES)
        self._metrics = {int(key): msgspec.json.decode(body) for key, body in store.door_records(TELEMETRY).items()}
        for key, body in kept.items():
            found = msgspec.json.decode(body, type=_Kept)
            state = read_state(states[key]) if key in states else ProjectState()
            self._add(Live(int(key), found.project, found.owner, state, self.coordination.timing))

    def _add(self, live: Live) -> None:
        self.coordination.live[live.job] = live
        self._by_wire[live.project.user_id, live.wire_id] = live.job

    @property
    def _live(self) -> dict[int, Live]:
        return self.coordination.live

    # Addresses ----------------------------------------------------------------------------------------------------

    def address(self, step: Step) -> str:
        """Where the member of a step listens, if the step does not say it. Raises InvalidInput."""
        given = self._addresses.get(step.container.lower())
        if given is not None:
            return given
        container = known(step.container)
        if not container.port:
            variable = f"TANGO_{_variable(step.container)}_URL"
            rule = f"nobody knows where it is: give `url`, `command` or `job`, [doors.tango] members, or {variable}"
            raise refuse("steps", step.container, rule)
        return f"http://{self.settings.docker_host or container.host}:{container.port}"

    # Making -------------------------------------------------------------------------------------------------------

    async def create(self, project: Project, job: JobSpec, owner: str, start: bool) -> Live:
        """Makes a project whose job is `job` (`project_job`), and starts it if wanted.

        Raises Conflict if the user has one of that name or id.
        """
        for step in project.steps:
            if not step.local and not step.confirm and step.url is None:
                self.address(step)
        if len(self._live) >= MAX_PROJECTS:
            raise TooLarge(f"there are {len(self._live)} projects: delete some that are over")
        keys = {("name", project.user_id, project.name)}
        if project.project_id is not None:
            keys.add(("id", project.user_id, project.project_id))
        if keys & self._creating or any(
            live.project.user_id == project.user_id
            and (live.project.name == project.name or live.wire_id == project.project_id)
            and self._is_there(live)
            for live in list(self._live.values())
        ):
            raise Conflict(
                f"user {project.user_id!r} has a project of the name {project.name!r}, or of the same project_id: "
                "delete it, or take another"
            )
        made: list[Live] = []

        def keep(batch: Batch, outcome: JobDoc | RunyardError) -> None:
            if isinstance(outcome, JobDoc):
                live = Live(int(outcome.id), project, owner, ProjectState(), self.coordination.timing)
                self._add(live)
                made.append(live)
                batch.keep_for_door(DEFINITIONS, outcome.id, msgspec.json.encode(_Kept(project, owner)))

        self._creating |= keys
        try:
            outcome = await self._service.submit(
                [job], lambda outcomes: outcomes[0], origin=ORIGIN, owner=owner, kind=PROJECT, keep=keep
            )
        except BaseException:
            for live in made:
                self._forget(live.job)
            raise
        finally:
            self._creating -= keys
        if isinstance(outcome, RunyardError):
            raise outcome
        live = made[0]
        # The job is held until the folder is there.
        try:
            await self._set_up(live)
        except Unavailable:
            await self.delete(live)
            raise
        self.coordination.announce()
        # If a job that comes before it has failed already, so has the project.
        if start and live.job in self._service.engine.reactor.jobs:
            await self._service.amend(self.record(live), None, False)
        task = asyncio.create_task(self._check(live))
        self._checks.add(task)
        task.add_done_callback(self._checks.discard)
        return live

    async def _set_up(self, live: Live) -> None:
        """Makes its folder. Raises Unavailable if that can't be done."""
        folder, account = self.folder(live), self.record(live).spec.user
        try:
            await asyncio.to_thread(projectfolder.set_up, folder, live.project, account)
        except (OSError, LookupError) as error:
            raise Unavailable(f"the project's folder {folder} can't be made ([doors.tango] shared): {error}") from None

    async def _check(self, live: Live) -> None:
        """The check of readiness, for the record (the document asks for it before any `start`)."""
        members = await self.readiness(live)
        facts = [{"container": member.container, "ready": member.ready, "said": member.said} for member in members]
        if live.job in self._live and not self._service.engine.closing:
            self._service.engine.put(Note(facts=[("project.readiness", {"members": facts})], job=live.job))

    def folder(self, live: Live) -> Path:
        """The project's part of the shared folder."""
        return project_folder(self.shared, live.project.user_id, live.wire_id)

    # Finding and showing ------------------------------------------------------------------------------------------

    def of(self, record: JobRecord) -> Live:
        """The project that a job is. Raises NotFound."""
        live = self._live.get(record.id)
        if live is None:
            raise NotFound(f"job {record.id} is no project")
        return live

    def all(self) -> list[Live]:
        """Newest first."""
        return [self._live[job] for job in sorted(self._live, reverse=True)]

    def named(self, ref: str, owner: str | None) -> Live | None:
        """The newest project of that name; with `owner`, one of that owner's first."""
        found = [live for live in self.all() if live.project.name == ref]
        return next((live for live in found if live.owner == owner), found[0] if found else None)

    def record(self, live: Live) -> JobRecord:
        """Its job. Raises NotFound if that was removed."""
        engine = self._service.engine
        record = engine.find(live.job)
        if record is None:
            self._deleted(live.job)
            raise NotFound(f"there is no job {live.job}")
        return record

    def _is_there(self, live: Live) -> bool:
        """Its job has not been removed by retention."""
        try:
            self.record(live)
        except NotFound:
            return False
        return True

    def document(self, live: Live, record: JobRecord) -> ProjectDoc:
        state = live.state
        why = self.coordination.why_waiting
        waits = {name: why(live, name) or text for name, text in live.coordinator.waiting_for()}
        phase, reason = state.phase, state.reason
        # The coordinator does not know of a job that waits, or that has ended without having been started.
        told = _TOLD.get(record.state, phase)
        if told is not phase or record.state is State.PENDING:
            phase, reason = told, record.reason
        begun = [(step.begun_at, name) for name, step in state.steps.items() if step.begun_at is not None]
        return ProjectDoc(
            id=str(live.job),
            name=live.project.name,
            user_id=live.project.user_id,
            project_id=live.wire_id,
            description=live.project.description,
            project_type=live.project.project_type,
            target=live.project.target,
            owner=live.owner,
            status=shown(phase),
            phase=phase,
            reason=reason,
            state=record.state,
            container=max(begun)[1] if begun else None,
            waits_for=[f"{name}: {text}" for name, text in waits.items()],
            created_at=_utc(record.submitted_at),
            started_at=None if record.started_at is None else _utc(record.started_at),
            ended_at=None if record.ended_at is None else _utc(record.ended_at),
            folder=str(self.folder(live)),
            steps=[self._step_document(live, step, waits.get(step.container)) for step in live.project.steps],
        )

    def _step_document(self, live: Live, step: Step, waits_for: str | None) -> StepDoc:
        state = live.state.steps[step.container]
        watch = live.coordinator.steps.watches.get(step.container)
        return StepDoc(
            container=step.container,
            status=shown(state.phase),
            phase=state.phase,
            reason=state.reason,
            kind=_kind(step),
            url=self._url(step),
            job=None if state.job is None else str(state.job),
            after=step.after or [],
            optional=step.optional,
            run=state.run,
            waits_for=waits_for,
            reachable=None if watch is None or step.local else watch.reachable,
            missed_beats=0 if watch is None else watch.missed,
            started_at=None if state.begun_at is None else _utc(state.begun_at),
            ended_at=None if state.ended_at is None else _utc(state.ended_at),
        )

    def _url(self, step: Step) -> str | None:
        if step.local or step.confirm:
            return None
        try:
            return step.url or self.address(step)
        except RunyardError:
            # The configuration that knew it has been changed.
            return None

    def _explain(self, record: JobRecord, explanation: Explanation) -> Explanation:
        live = self._live.get(record.id)
        if live is None or record.state in ENDED or record.state in (State.PENDING, State.STARTING):
            return explanation
        waits = live.coordinator.waiting_for()
        if not waits:
            return explanation
        blockers: list[dict[str, Any]] = []
        for container, text in waits:
            step, state = live.coordinator.steps.defined[container], live.state.steps[container]
            entry: dict[str, Any] = {"kind": "member", "container": container, "state": str(state.phase)}
            entry["detail"] = self.coordination.why_waiting(live, container) or text
            if state.job is not None:
                entry["job"] = str(state.job)
            elif (url := self._url(step)) is not None:
                entry["url"] = url
            blockers.append(entry)
        first = blockers[0]
        more = f", and for {len(blockers) - 1} more" if len(blockers) > 1 else ""
        summary = f"It is {record.state}, and waits for {first['container']}: {first['detail']}{more}."
        return msgspec.structs.replace(explanation, summary=summary, blockers=blockers)

    async def readiness(self, live: Live) -> list[Readiness]:
        """Asks all members whether they are ready, at the same time."""
        return list(await asyncio.gather(*(self._ready(step) for step in live.project.steps)))

    async def _ready(self, step: Step) -> Readiness:
        url = self._url(step)
        if url is None:
            ready = step.local or step.confirm
            said = "starts when it is its turn" if ready else "nobody knows where it is"
            return Readiness(container=step.container, kind=_kind(step), url=None, ready=ready, said=said)
        reply = await Member(self.coordination.client, url, step.url_style).call(STATUS_REQUEST)
        ready = reply.kind is Kind.STATE and reply.state is MemberState.READY
        said = str(reply.state) if reply.kind is Kind.STATE else reply.text or str(reply.kind)
        return Readiness(container=step.container, kind="remote", url=url, ready=ready, said=said)

    # Acting -------------------------------------------------------------------------------------------------------

    async def start(self, live: Live, fresh: bool = False) -> None:
        """Starts a project that waits for it, or has ended: then behind the steps that have completed, or with `fresh`
        (and after a success) from the beginning. Raises Conflict."""
        record = self.record(live)
        await self._set_up(live)
        if record.id not in self._service.engine.reactor.jobs:
            if fresh:
                for step in live.state.steps.values():
                    step.phase = Phase.READY
                await self._service.engine.ask(Tick(), lambda batch: self.coordination.save(live, batch))
            await self._service.restart(record)
            # One that had ended before it was ever started comes back as it was: held.
            record = self.record(live)
        elif not record.hold:
            raise Conflict(f"project {live.project.name!r} is started already: it is {record.state}")
        if record.hold:
            await self._service.amend(record, None, False)

    async def stop(self, live: Live) -> None:
        """Stops the project and its members. Raises Conflict if it has ended."""
        await self._service.cancel(self.record(live))

    async def advance(self, live: Live, container: str | None = None) -> None:
        """Starts the next step, or that of a container; confirms a step that waits for a person. Raises Conflict."""
        if container is not None:
            container = self._step_of(live, container)
        await self.coordination.feed(live, Advance(container=container))

    async def delete(self, live: Live) -> None:
        """Removes the project with its job and its folder. Raises Conflict while a member is at work."""
        record = self.record(live)
        if record.id in self._service.engine.reactor.jobs:
            if record.state is not State.PENDING:
                raise Conflict(f"project {live.project.name!r} is {record.state}: stop it first")
            await self._service.cancel(record)
            record = self.record(live)
        await self._service.delete(record)
        self._deleted(live.job)
        await asyncio.to_thread(shutil.rmtree, self.folder(live), ignore_errors=True)

    def _deleted(self, job: int) -> None:
        """Its job is gone, by whatever door."""
        if job not in self._live:
            return
        self._forget(job)

        def finish(batch: Batch) -> None:
            for door in (DEFINITIONS, STATES, TELEMETRY):
                batch.keep_for_door(door, str(job), None)

        if not self._service.engine.closing:
            task = asyncio.ensure_future(self._unkeep(finish))
            self._checks.add(task)
            task.add_done_callback(self._checks.discard)

    async def _unkeep(self, finish: Any) -> None:
        try:
            await self._service.engine.ask(Tick(), finish)
        except RunyardError:
            # The records of jobs that are gone are passed over, and removed the next time they are met.
            return

    def _forget(self, job: int) -> None:
        live = self._live.pop(job)
        if live.timer is not None:
            live.timer.cancel()
        self._by_wire.pop((live.project.user_id, live.wire_id), None)
        self._metrics.pop(job, None)

    # Reports ------------------------------------------------------------------------------------------------------

    def addressed(self, user: str, project: str) -> Live:
        """The project that a member means. Raises NotFound."""
        job = self._by_wire.get((user, project))
        if job is None:
            raise NotFound(f"there is no project {project!r} of user {user!r}")
        return self._live[job]

    async def report(self, report: Report) -> Live:
        """Takes a member's report in, durably. Raises NotFound, BadReport."""
        live = self.addressed(report.user, report.project)
        container = self._step_of(live, report.container)
        if live.coordinator.steps.defined[container].confirm:
            raise BadReport(f"{container} waits for a person, who says so with credentials")
        await self.report_step(live, container, report.status, report.word)
        return live

    async def report_step(self, live: Live, container: str, status: MemberState | None, word: str) -> None:
        """As `report`, of a project that is known. Raises BadReport."""
        event = Reported(container=self._step_of(live, container), status=status, word=word)
        await self.coordination.feed(live, event)

    async def update(
        self, user: str, project: str, container: str, kind: str, content: dict[str, Any]
    ) -> NewMessage | None:
        """Takes a member's telemetry in: an event, and kept as the last of its kind. Returns its numbers, for the
        curves of the project. Raises NotFound, BadReport."""
        live = self.addressed(user, project)
        name = self._step_of(live, container)
        values = self._metrics.setdefault(live.job, {}).setdefault(name, {})
        if kind not in values and len(values) >= MAX_KINDS:
            raise BadReport(f"there are {MAX_KINDS} kinds of updates of {name} already")
        data = {"container": name, "update": kind, "values": content}
        values[kind] = content
        key = str(live.job)

        def finish(batch: Batch) -> None:
            batch.keep_for_door(TELEMETRY, key, msgspec.json.encode(self._metrics.get(live.job, {})))

        await self._service.engine.ask(Note(facts=[("project.metrics", data)], job=live.job), finish)
        body = numbers_of(name, kind, content)
        return None if body is None else NewMessage(live.job, METRICS, body, self._service.engine.clock(), "http")

    def metrics(self, live: Live) -> dict[str, Any]:
        """The last update of each kind, by container; and `progress`, by the kinds that have come."""
        found: dict[str, Any] = {}
        for container, values in self._metrics.get(live.job, {}).items():
            marks = [PROGRESS[kind] for kind in values if kind in PROGRESS]
            found[container] = values | ({"progress": max(marks)} if marks else {})
        return found

    def _step_of(self, live: Live, name: str) -> str:
        """The project's step that a member means by its name. Raises BadReport."""
        steps = live.state.steps
        if name in steps:
            return name
        found = canonical(name, live.project.target)
        if found in steps:
            return found
        raise BadReport(f"project {live.project.name!r} has no step {name[:100]!r}; it has {', '.join(steps)}")


def project_job(project: Project) -> JobSpec:
    """The job that a project is, held until somebody starts it. Raises InvalidInput."""
    raw: dict[str, Any] = {
        "command": [PROJECT, project.name],
        "name": project.name,
        "executor": PROJECT,
        "hold": True,
        "labels": project.labels,
        "priority": project.priority,
        "after": msgspec.to_builtins(project.after),
    }
    if project.time_limit is not None:
        raw["time_limit"] = project.time_limit
    return build_spec(raw)


def addresses(configured: Iterable[str], env: Mapping[str, str]) -> dict[str, str]:
    """By container, in lower case: the addresses of the configuration, and those of `TANGO_<CONTAINER>_URL`.

    Raises ConfigError.
    """
    found: dict[str, str] = {}
    for item in configured:
        name, equals, url = item.partition("=")
        if not equals:
            raise ConfigError(f"doors.tango.members: {item!r} must be written container=http://host:port")
        found[(canonical(name.strip()) or name.strip()).lower()] = url.strip()
    by_variable = {_variable(name): name for name in CONTAINERS}
    for name, value in env.items():
        if name.startswith("TANGO_") and name.endswith("_URL") and name != "TANGO_PM_URL" and value:
            middle = name.removeprefix("TANGO_").removesuffix("_URL")
            found[by_variable.get(middle.upper(), middle.lower())] = value
    for name, url in found.items():
        _check_address(name, url)
    return found


def _check_address(name: str, url: str) -> None:
    try:
        address_of(url)
    except ValueError as error:
        raise ConfigError(f"the address {url!r} of {name} {error}") from None


def _variable(container: str) -> str:
    return "".join(char if char.isalnum() else "_" for char in container).upper()


def _kind(step: Step) -> str:
    return "person" if step.confirm else "local" if step.local else "remote"


def _utc(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)
