"""The jobs of projects: those of local steps, and ordinary ones that steps wait for."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from runyard.core.dependencies import Verdict, judge
from runyard.core.record import JobRecord
from runyard.model.errors import Conflict, RunyardError
from runyard.model.event import Event
from runyard.model.job import Condition, Dependency, JobDoc, JobSpec
from runyard.model.state import ENDED, State
from runyard.project import state as project
from runyard.project.definition import Step, local_spec
from runyard.project.files import project_folder
from runyard.project.places import Claim
from runyard.project.wire import Kind, Reply
from runyard.service.feed import Selection
from runyard.service.live_project import Live
from runyard.store.batch import Batch

if TYPE_CHECKING:
    from runyard.service.coordination import Coordination

ORIGIN = "tango"
_MOVES = frozenset({"job.deleted", *(f"job.{state}" for state in State)})


class StepJobs:
    """All methods are for the event loop's thread."""

    def __init__(self, coordination: Coordination) -> None:
        self._all = coordination
        #: Jobs of local steps.
        self._children: dict[int, Claim] = {}
        #: Ordinary jobs that steps wait for.
        self._needed: dict[int, set[Claim]] = {}

    def forget(self) -> None:
        self._children.clear()
        self._needed.clear()

    async def submit(self, live: Live, effect: project.SubmitJob) -> None:
        """Submits a local step's job; with it, in one transaction, goes the state that knows it."""
        container, run = effect.container, effect.run
        service = self._all.service
        try:
            spec = self._spec(live, live.coordinator.steps.defined[container])
            if effect.previous is not None:
                # A service that an earlier run has left behind gives way.
                await self.cancel(effect.previous)
                if service.engine.record(effect.previous) is not None:
                    last = Dependency(job=str(effect.previous), condition=Condition.FINISHED)
                    spec = msgspec.structs.replace(spec, after=[*spec.after, last])

            def keep(batch: Batch, outcome: JobDoc | RunyardError) -> None:
                if isinstance(outcome, JobDoc):
                    self._all.put(live, project.JobTaken(container=container, run=run, job=int(outcome.id)))
                    self._all.save(live, batch)

            outcome = await service.submit(
                [spec], lambda outcomes: outcomes[0], origin=ORIGIN, owner=live.owner, keep=keep
            )
            if isinstance(outcome, RunyardError):
                raise outcome
        except RunyardError as error:
            if error.status < 500:
                refused = Reply(Kind.NO, text=error.detail)
                self._all.put(live, project.StartReply(container=container, run=run, reply=refused))

    def _spec(self, live: Live, step: Step) -> JobSpec:
        """The job of a local step: in the project's folder, with what it has to know as variables."""
        spec = local_spec(step)
        shared = self._all.shared
        folder = project_folder(shared, live.project.user_id, live.wire_id)
        given = {
            "TANGO_USER_ID": live.project.user_id,
            "TANGO_PROJECT_ID": live.wire_id,
            "TANGO_CONTAINER": step.container,
            "TANGO_PROJECT_DIR": str(folder),
            "TANGO_SHARED": str(shared),
        }
        given |= {f"TANGO_INPUT_{name.upper()}": value for name, value in step.inputs.items()}
        labels = {"project": str(live.job), "container": step.container}
        return msgspec.structs.replace(
            spec,
            name=spec.name or f"{live.project.name}.{step.container}"[:255],
            cwd=spec.cwd or str(folder),
            env=given | spec.env,
            labels=labels | spec.labels,
            time_limit=spec.time_limit or step.time_limit,
        )

    async def cancel(self, job: int) -> None:
        """Ends a step's job, if it has not ended."""
        service = self._all.service
        record = service.engine.record(job)
        if record is not None:
            with suppress(Conflict):
                await service.cancel(record)

    def watch(self, live: Live, effect: project.WatchJob) -> None:
        """Tells the project of the job as it stands, and from then on whenever it moves."""
        engine = self._all.service.engine
        self._children[effect.job] = Claim(live.job, effect.container, effect.run)
        record = engine.find(effect.job)
        if record is None:
            gone = project.JobMoved(
                container=effect.container, run=effect.run, state=State.FAILED, reason="its job is gone"
            )
            self._all.put(live, gone)
        elif record.state is State.RUNNING or (record.state in ENDED and engine.record(effect.job) is None):
            self._moved(record)

    async def obstacle(self, live: Live, step: Step, run: int) -> project.Denied | str | None:
        """What stands in the way of a remote step: a job that it needs, in words, or for ever; None if nothing does."""
        for need in step.needs:
            ref, condition = (need, Condition.SUCCEEDED) if isinstance(need, str) else (need.job, need.condition)
            record = await self._all.service.look_up(ref, live.owner)
            if record is None:
                return project.Denied(container=step.container, run=run, reason=f"it needs job {ref}, which is gone")
            verdict = judge(condition, record.state, record.started_at is not None)
            if verdict is Verdict.NEVER:
                reason = f"it needs job {ref}, which {record.state}"
                return project.Denied(container=step.container, run=run, reason=reason)
            if verdict is Verdict.WAIT:
                self._needed.setdefault(record.id, set()).add(Claim(live.job, step.container, run))
                return f"it needs job {ref}, which is {record.state}"
        return None

    async def follow(self) -> None:
        """Listens to what becomes of the jobs, for ever."""
        feed = self._all.service.engine.feed
        async for events in feed.follow(feed.last, Selection(types=_MOVES)):
            for event in events:
                self._heard(event)

    def _heard(self, event: Event) -> None:
        if event.type == "job.deleted":
            self._all.on_deleted(event.job)
        if event.job in self._children:
            engine = self._all.service.engine
            record = engine.find(event.job)
            # What has moved on since will be heard of as well.
            if record is not None and event.state is record.state:
                self._moved(record)
        for claim in self._needed.pop(event.job, ()):
            self._all.try_again(claim)

    def _moved(self, record: JobRecord) -> None:
        claim = self._children[record.id]
        if record.state in ENDED:
            del self._children[record.id]
        live = self._all.live.get(claim.project)
        if live is not None:
            reason = record.reason or (None if record.exit_code is None else f"exit code {record.exit_code}")
            moved = project.JobMoved(container=claim.container, run=claim.run, state=record.state, reason=reason)
            self._all.put(live, moved)
