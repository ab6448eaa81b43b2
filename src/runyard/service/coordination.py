"""The executor of projects: it runs their coordinators, and does what these ask for.

A coordinator's state is on disk before anything follows from it: the events that tell of a change, and the changed
state, are one transaction. Effects come after that, in order. After a crash the state is loaded, and the coordinator
finds out what became of the calls that were under way (`runyard.project.coordinator`).
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from runyard.core.inputs import Cancel, Note
from runyard.executors.protocol import Report, Synced
from runyard.model import wire as agent
from runyard.model.errors import RunyardError, Unavailable
from runyard.model.node import Node
from runyard.model.state import State
from runyard.project import state as project
from runyard.project.coordinator import Coordinator
from runyard.project.definition import Step
from runyard.project.files import LOG, project_folder
from runyard.project.http import Client, Timeouts
from runyard.project.member import Member
from runyard.project.places import Claim, Places
from runyard.project.state import Phase, ProjectState
from runyard.project.steps import Timing
from runyard.project.wire import START, STATUS_REQUEST, STOP, Kind, Reply, address_of
from runyard.service.live_project import Live
from runyard.service.projectfolder import append
from runyard.service.service import Service
from runyard.service.stepjobs import StepJobs
from runyard.store.batch import Batch
from runyard.store.output import OutputFiles, Stream

log = logging.getLogger(__name__)

#: Where the store keeps the states of the coordinators, by the projects' jobs.
STATES = "tango-state"
_encoder = msgspec.json.Encoder()
_states = msgspec.json.Decoder(ProjectState)


class Coordination:
    """See `runyard.executors.protocol.Executor`; and the inputs that come from elsewhere."""

    def __init__(
        self,
        node: str,
        output: OutputFiles,
        shared: Path,
        timing: Timing,
        timeouts: Timeouts,
        address: Callable[[Step], str],
    ) -> None:
        """`node` is the name of the node on which projects are shown to run; `address` gives a remote member's URL."""
        self.shared = shared
        self.timing = timing
        self.live: dict[int, Live] = {}
        self._node = node
        self._output = output
        self._address = address
        self._timeouts = timeouts
        self._client: Client | None = None
        self._service: Service | None = None
        self._announced = False
        self._generation = 0
        self._seq = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._follower: asyncio.Task[None] | None = None
        self._places = Places()
        self._jobs = StepJobs(self)
        self.on_deleted: Callable[[int], None] = lambda _: None

    def attach(self, service: Service) -> None:
        """Before the engine starts."""
        self._service = service

    @property
    def service(self) -> Service:
        assert self._service is not None
        return self._service

    # The executor's side ------------------------------------------------------------------------------------------

    async def start(
        self,
        on_reports: Callable[[list[Report]], None],
        on_synced: Callable[[Synced], None],
        on_down: Callable[[str], None],
    ) -> None:
        self._on_reports, self._on_synced = on_reports, on_synced
        if self.live:
            self._recover()

    def launch(self, launches: list[agent.Launch]) -> None:
        for launch in launches:
            live = self.live.get(launch.run.job)
            if live is None:
                self._seq += 1
                reason = "the project's definition is gone: make it anew"
                gone: Report = agent.Exited(self._seq, launch.run, 0, self._now(), None, None, reason=reason)
                asyncio.get_running_loop().call_soon(self._on_reports, [gone])
            elif launch.run.attempt > live.state.attempt or live.state.phase is Phase.READY:
                self.put(live, project.Begin(attempt=launch.run.attempt))

    def stop(self, stop: agent.Stop) -> None:
        live = self.live.get(stop.run.job)
        if live is not None and live.state.attempt == stop.run.attempt:
            self.put(live, project.Halt(reason="stopped by request"))

    def signal(self, signal: agent.Signal) -> None:
        live = self.live.get(signal.run.job)
        if live is not None:
            self._write(live, f"signal {signal.signal} has no effect on a project", None)

    def ack(self, upto: int) -> None:
        """Nothing to forget: what a project has to report stands in its state."""

    def resync(self) -> None:
        kept = self.service.engine.store.door_records(STATES)
        for live in self.live.values():
            body = kept.get(str(live.job))
            state = ProjectState() if body is None else _states.decode(body)
            self._disarm(live)
            live.coordinator = Coordinator(live.project, state, self.timing)
            for _, future in live.queue:
                if future is not None and not future.done():
                    future.set_exception(Unavailable("the store could not write it: say it again"))
            live.queue.clear()
            live.waits.clear()
        self._announced = False
        self._recover()

    async def close(self) -> None:
        self._generation += 1
        for live in self.live.values():
            self._disarm(live)
        for task in [*self._tasks, *([self._follower] if self._follower is not None else [])]:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._client is not None:
            await self._client.close()

    def announce(self) -> None:
        """There are projects: their node is there. Without any there is none."""
        if self._announced:
            return
        self._announced = True
        going = frozenset(live.run for live in self.live.values() if live.state.attempt and not live.coordinator.over)
        node = Node(name=self._node, executor="project", cores=[])
        # Every host and every boot is the same to a project: its state is in the store.
        synced = Synced(node=node, boot_id="project", live=going)
        asyncio.get_running_loop().call_soon(self._on_synced, synced)
        if self._follower is None or self._follower.done():
            self._follower = asyncio.create_task(self._jobs.follow(), name="projects")

    def _recover(self) -> None:
        self._generation += 1
        self._jobs.forget()
        self._places = Places()
        for live in self.live.values():
            if not live.state.attempt:
                continue
            if live.coordinator.over:
                record = self.service.engine.record(live.job)
                if record is not None and record.active and record.replicas[0].attempt == live.state.attempt:
                    self._exited(live)
                continue
            self._started(live)
            for container, step in live.state.steps.items():
                definition = live.coordinator.steps.defined[container]
                if step.phase in project.ACTIVE and not definition.local and not definition.confirm:
                    self._places.take(self._place(live, container), Claim(live.job, container, step.run))
        self.announce()
        for live in self.live.values():
            if live.state.attempt and not live.coordinator.over:
                self.put(live, project.Recover())

    def _started(self, live: Live) -> None:
        self._seq += 1
        self._on_reports([agent.Started(self._seq, live.run, 0, self._now())])

    def _exited(self, live: Live) -> None:
        state = live.state
        code = 0 if state.phase is Phase.COMPLETED else 1 if state.phase is Phase.FAILED else None
        if state.phase is Phase.STOPPED:
            record = self.service.engine.record(live.job)
            if record is not None and record.replicas[0].state is not State.STOPPING:
                # Nobody here asked for it: a member stopped by itself.
                self.service.engine.put(Cancel(job=live.job))
        self._seq += 1
        self._on_reports(
            [
                agent.Exited(
                    self._seq, live.run, 0, self._now(), code, None, timed_out=state.timed_out, reason=state.reason
                )
            ]
        )

    # Inputs -------------------------------------------------------------------------------------------------------

    def _now(self) -> float:
        return self.service.engine.clock()

    def put(self, live: Live, event: project.Input) -> None:
        """Something has happened; nobody waits for what follows."""
        self._take_in(live, event, None)

    async def feed(self, live: Live, event: project.Input) -> None:
        """Does it, and returns once what follows is durable. Raises what the coordinator and the engine raise."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._take_in(live, event, future)
        await future

    def _take_in(self, live: Live, event: project.Input, future: asyncio.Future[None] | None) -> None:
        effects = self._handled(live, event)
        self._arm(live)
        self._queue(live, effects, future)

    def _handled(self, live: Live, event: project.Input) -> list[project.Effect]:
        """What follows from it. A step whose member is free goes on at once: its start is in the same transaction."""
        effects: list[project.Effect] = []
        for effect in live.coordinator.handle(event, self._now()):
            if isinstance(effect, project.Acquire) and self._free(live, effect):
                effects += self._handled(live, project.Granted(container=effect.container, run=effect.run))
            else:
                effects.append(effect)
        return effects

    def _free(self, live: Live, effect: project.Acquire) -> bool:
        """Takes the step's member, if nothing has to be waited for."""
        step = live.coordinator.steps.defined[effect.container]
        if step.local:
            # What its job needs, the engine sees to.
            return True
        if step.needs:
            return False
        claim = Claim(live.job, effect.container, effect.run)
        return self._places.ask(self._place(live, effect.container), claim, step.concurrency or 1)

    def _queue(self, live: Live, effects: list[project.Effect], future: asyncio.Future[None] | None) -> None:
        if live.working or any(isinstance(effect, project.Note) for effect in effects):
            live.queue.append((effects, future))
            if not live.working:
                live.working = True
                self._spawn(self._work(live))
            return
        if future is not None:
            future.set_result(None)
        self._perform(live, effects)

    async def _work(self, live: Live) -> None:
        """Makes durable what has changed, then lets it take effect, in order."""
        generation = self._generation
        try:
            while live.queue:
                items = list(live.queue)
                live.queue.clear()
                facts = [
                    (effect.type, effect.data)
                    for effects, _ in items
                    for effect in effects
                    if isinstance(effect, project.Note)
                ]
                problem: RunyardError | None = None
                if facts:
                    try:
                        await self.service.engine.ask(
                            Note(facts=facts, job=live.job), lambda batch: self.save(live, batch)
                        )
                    except RunyardError as error:
                        problem = error
                for effects, future in items:
                    if future is not None and not future.done():
                        if problem is None:
                            future.set_result(None)
                        else:
                            future.set_exception(problem)
                    # After a failure the state is loaded anew (`resync`), and with it what is to be done.
                    if problem is None and generation == self._generation:
                        self._perform(live, effects)
        finally:
            live.working = False

    def save(self, live: Live, batch: Batch) -> None:
        """Keeps the state, together with what else is in the batch."""
        if self.live.get(live.job) is live:
            batch.keep_for_door(STATES, str(live.job), _encoder.encode(live.state))

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a project could not go on", exc_info=task.exception())

    def _arm(self, live: Live) -> None:
        self._disarm(live)
        due = live.coordinator.next_wakeup
        if due < math.inf:
            # A wall clock may be set at any time: look again at least once a minute.
            delay = min(max(0.0, due - self._now()), 60.0)
            live.timer = asyncio.get_running_loop().call_later(delay, self._ring, live)

    def _disarm(self, live: Live) -> None:
        if live.timer is not None:
            live.timer.cancel()
            live.timer = None

    def _ring(self, live: Live) -> None:
        live.timer = None
        if self.live.get(live.job) is live and self.service.engine.trouble is None:
            self.put(live, project.Tick())

    # Effects ------------------------------------------------------------------------------------------------------

    def _perform(self, live: Live, effects: Iterable[project.Effect]) -> None:
        for effect in effects:
            if isinstance(effect, project.Note):
                self._write(live, _sentence(effect.data), effect.data.get("container"))
            elif isinstance(effect, project.Remark):
                self._write(live, effect.text, effect.container)
            elif isinstance(effect, project.CallStatus):
                self._spawn(self._call(live, STATUS_REQUEST, effect.container, effect.run))
            elif isinstance(effect, project.CallStart):
                self._spawn(self._call(live, START, effect.container, effect.run))
            elif isinstance(effect, project.CallStop):
                self._spawn(self._call(live, STOP, effect.container, effect.run))
            elif isinstance(effect, project.Acquire):
                self._spawn(self._acquire(live, effect.container, effect.run))
            elif isinstance(effect, project.Release):
                self._release(live, effect.container)
            elif isinstance(effect, project.SubmitJob):
                self._spawn(self._jobs.submit(live, effect))
            elif isinstance(effect, project.CancelJob):
                self._spawn(self._jobs.cancel(effect.job))
            elif isinstance(effect, project.WatchJob):
                self._jobs.watch(live, effect)
            elif isinstance(effect, project.Begun):
                self._started(live)
            else:
                self._exited(live)

    def member(self, live: Live, container: str) -> Member | None:
        """The remote member of a step; None if the configuration that knew its address has been changed."""
        found = live.members.get(container)
        if found is None:
            step = live.coordinator.steps.defined[container]
            try:
                url = step.url or self._address(step)
            except RunyardError:
                return None
            found = live.members[container] = Member(self.client, url, step.url_style)
        return found

    @property
    def client(self) -> Client:
        if self._client is None:
            self._client = Client(self._timeouts)
        return self._client

    async def _call(self, live: Live, operation: str, container: str, run: int) -> None:
        generation = self._generation
        step = live.coordinator.steps.defined[container]
        member = self.member(live, container)
        more = step.inputs if operation == START else None
        if member is None:
            reply = Reply(Kind.UNREACHABLE, text="its address is configured no longer")
        else:
            reply = await member.call(operation, live.project.user_id, live.wire_id, more)
        if generation != self._generation or self.live.get(live.job) is not live:
            return
        if operation == STATUS_REQUEST:
            self.put(live, project.Beat(container=container, run=run, reply=reply))
            return
        said = reply.text or str(reply.kind)
        where = "its member" if member is None else member.url
        self._write(live, f"{operation} at {where}: {reply.kind} ({said})", container)
        if operation == START:
            self.put(live, project.StartReply(container=container, run=run, reply=reply))
        else:
            self.put(live, project.StopReply(container=container, run=run, reply=reply))

    def _write(self, live: Live, text: str, container: str | None) -> None:
        """One line of the project's log: the output of its run, and log.txt in its folder."""
        if not live.state.attempt:
            return
        at = datetime.fromtimestamp(self._now(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        line = f"{at} {container or 'project'} | {text}\n".encode("utf-8", "replace")
        folder = project_folder(self.shared, live.project.user_id, live.wire_id)
        self._output.prepare(live.run)
        for path in (self._output.path(live.run, Stream.OUT), folder / LOG):
            append(path, line)

    # Members that are busy ----------------------------------------------------------------------------------------

    async def _acquire(self, live: Live, container: str, run: int) -> None:
        step = live.coordinator.steps.defined[container]
        live.waits.pop(container, None)
        if not step.local:
            obstacle = await self._jobs.obstacle(live, step, run)
            if live.state.steps[container].phase is not Phase.WAITING:
                return
            if isinstance(obstacle, project.Denied):
                self.put(live, obstacle)
                return
            if obstacle is not None:
                live.waits[container] = obstacle
                return
            if not self._places.ask(
                self._place(live, container), Claim(live.job, container, run), step.concurrency or 1
            ):
                return
        self.put(live, project.Granted(container=container, run=run))

    def why_waiting(self, live: Live, container: str) -> str | None:
        """What a step that is waiting waits for, in words; None if nothing is known."""
        step = live.state.steps[container]
        if step.phase is not Phase.WAITING or container in live.waits:
            return live.waits.get(container)
        holder = self._places.holder(self._place(live, container), Claim(live.job, container, step.run))
        if holder is None:
            return None
        other = self.live.get(holder)
        # Of a project of somebody else only the id and the owner are told.
        name = other.project.name if other is not None and other.owner == live.owner else str(holder)
        whose = "" if other is None or other.owner == live.owner else f" of {other.owner!r}"
        return f"its member works for project {name}{whose}"

    def try_again(self, claim: Claim) -> None:
        """The job that the step has waited for may be so far now."""
        live = self._waiting(claim)
        if live is not None:
            self._spawn(self._acquire(live, claim.container, claim.run))

    def _waiting(self, claim: Claim) -> Live | None:
        """The project whose step still waits so."""
        live = self.live.get(claim.project)
        step = None if live is None else live.state.steps.get(claim.container)
        return live if step is not None and step.phase is Phase.WAITING and step.run == claim.run else None

    def _place(self, live: Live, container: str) -> str:
        member = self.member(live, container)
        if member is None:
            return container
        address = address_of(member.url)
        return f"{address.host}:{address.port}"

    def _release(self, live: Live, container: str) -> None:
        live.waits.pop(container, None)
        step = live.coordinator.steps.defined[container]
        if not step.local and not step.confirm:
            self._give(self._place(live, container), live.job, container)

    def _give(self, place: str, job: int, container: str) -> None:
        """The member is free again: the next in line has it."""
        for claim in self._places.give(place, job, container):
            live = self._waiting(claim)
            if live is not None:
                self.put(live, project.Granted(container=claim.container, run=claim.run))
            else:
                self._give(place, claim.project, claim.container)


def _sentence(data: dict[str, Any]) -> str:
    if "status" not in data:
        return "a person goes on with it"
    reason = f": {data['reason']}" if data.get("reason") else ""
    return f"{data['status']}{reason}"


def read_state(body: bytes) -> ProjectState:
    return _states.decode(body)
