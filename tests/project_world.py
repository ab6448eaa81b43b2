"""A project, its members and the network between them, all simulated: a clock, faults, and a seed that replays them."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable

import msgspec

from runyard.project import state as project
from runyard.project.coordinator import Coordinator
from runyard.project.definition import Project, build_project
from runyard.project.state import ACTIVE, Effect, Phase, ProjectState
from runyard.project.steps import Timing
from runyard.project.wire import Kind, MemberState, Reply

STARTED, RUNNING = MemberState.STARTED, MemberState.RUNNING


class Faults(msgspec.Struct, frozen=True):
    """Probabilities, each for one call, one report, or one second."""

    unreachable: float = 0.0
    silent: float = 0.0
    """Of these, half were heard."""
    garbled: float = 0.0
    report_lost: float = 0.0
    report_twice: float = 0.0
    task_fails: float = 0.0
    crash: float = 0.0
    """The project manager, for each second."""
    restart: float = 0.0
    """A member, for each second: it forgets everything."""


class Member:
    """One member: a task at a time, which keeps its verdict until the next `start`."""

    def __init__(self) -> None:
        self.state = MemberState.READY
        self.begun = 0
        """Tasks ever begun."""
        self.task = 0


class World:
    def __init__(self, seed: int, faults: Faults, steps: int = 3, **fields: object) -> None:
        self.random = random.Random(seed)
        self.faults = faults
        names = [f"step{number}" for number in range(steps)]
        raw = {"name": "p", "steps": [{"container": name, "start_retries": 3} for name in names], **fields}
        self.project: Project = build_project(raw, "u")
        self.timing = Timing(heartbeat=2.0, max_missed_beats=30, stop_grace=10.0)
        self.members = {name: Member() for name in names}
        self.now = 0.0
        self.disk = msgspec.json.encode(ProjectState())
        self.finished = 0
        self.sent: Counter[tuple[str, int]] = Counter()
        """Calls of `start` that the member took for a new task, by step and run."""
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._life = 0
        self._boot()

    # The project manager ------------------------------------------------------------------------------------------

    def _boot(self) -> None:
        self.coordinator = Coordinator(self.project, msgspec.json.decode(self.disk, type=ProjectState), self.timing)

    def tell(self, event: project.Input) -> None:
        effects = self.coordinator.handle(event, self.now)
        if any(isinstance(effect, project.Note) for effect in effects):
            self.disk = msgspec.json.encode(self.coordinator.state)
        for effect in effects:
            self._perform(effect)
        self.check()

    def check(self) -> None:
        """What must hold after every input."""
        state = self.coordinator.state
        busy = [name for name, step in state.steps.items() if step.phase in ACTIVE]
        assert len(busy) <= self.project.parallel
        if self.coordinator.over:
            assert not busy
        if state.phase is Phase.COMPLETED:
            assert all(step.phase in (Phase.COMPLETED, Phase.SKIPPED) for step in state.steps.values())
        for definition in self.project.steps:
            if state.steps[definition.container].phase in ACTIVE:
                before = [state.steps[other].phase for other in definition.after or ()]
                assert all(phase in (Phase.COMPLETED, Phase.SKIPPED) for phase in before)
        assert all(count <= 1 for count in self.sent.values()), self.sent

    def crash(self) -> None:
        """What is under way is lost, and what was not kept is forgotten."""
        self._life += 1
        self._boot()
        if self.coordinator.state.attempt and not self.coordinator.over:
            self.tell(project.Recover())

    def _perform(self, effect: Effect) -> None:
        life = self._life

        def later(event: project.Input) -> None:
            self.at(self.random.expovariate(10), lambda: self.tell(event) if life == self._life else None)

        if isinstance(effect, project.Finish):
            self.finished += 1
        elif isinstance(effect, project.Acquire):
            later(project.Granted(container=effect.container, run=effect.run))
        elif isinstance(effect, project.CallStart):
            reply = self._call(effect.container, lambda member: self._start(effect.container, effect.run, member))
            later(project.StartReply(container=effect.container, run=effect.run, reply=reply))
        elif isinstance(effect, project.CallStop):
            reply = self._call(effect.container, self._stop)
            later(project.StopReply(container=effect.container, run=effect.run, reply=reply))
        elif isinstance(effect, project.CallStatus):
            reply = self._call(effect.container, lambda member: Reply(Kind.STATE, member.state, str(member.state)))
            later(project.Beat(container=effect.container, run=effect.run, reply=reply))

    # The members --------------------------------------------------------------------------------------------------

    def _call(self, container: str, answer: Callable[[Member], Reply]) -> Reply:
        if self._by(self.faults.unreachable):
            return Reply(Kind.UNREACHABLE, text="refused")
        if self._by(self.faults.silent):
            if self._by(0.5):
                answer(self.members[container])
            return Reply(Kind.SILENT, text="no answer")
        reply = answer(self.members[container])
        return Reply(Kind.GARBLED, text="'<html>'") if self._by(self.faults.garbled) else reply

    def _start(self, container: str, run: int, member: Member) -> Reply:
        if member.state in (STARTED, RUNNING):
            return Reply(Kind.NO, text="'error'")
        member.begun += 1
        member.task += 1
        self.sent[container, run] += 1
        member.state = STARTED
        task = member.task
        self.at(self.random.uniform(0, 20), lambda: self._end(container, member, task))
        return Reply(Kind.YES, text="starting")

    def _end(self, container: str, member: Member, task: int) -> None:
        if member.task != task or member.state not in (STARTED, RUNNING):
            return
        member.state = MemberState.FAILED if self._by(self.faults.task_fails) else MemberState.COMPLETED
        self._report(container, member.state)

    def _stop(self, member: Member) -> Reply:
        if member.state in (STARTED, RUNNING):
            member.state = MemberState.STOPPED
        return Reply(Kind.YES, text="finished")

    def _report(self, container: str, status: MemberState) -> None:
        if self._by(self.faults.report_lost):
            return
        event = project.Reported(container=container, status=status, word=str(status))
        for _ in range(2 if self._by(self.faults.report_twice) else 1):
            self.at(self.random.expovariate(2), lambda: self.tell(event))

    # Time ---------------------------------------------------------------------------------------------------------

    def at(self, delay: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (self.now + delay, next(self._numbers), act))

    def _by(self, probability: float) -> bool:
        return self.random.random() < probability

    def run(self, seconds: float) -> None:
        """Until the project is over, or that much time has passed."""
        end = self.now + seconds
        second = int(self.now)
        while self.now < end and not self.coordinator.over:
            due = self.coordinator.next_wakeup
            upcoming = self._queue[0][0] if self._queue else float("inf")
            self.now = min(max(min(due, upcoming), self.now), end, second + 1)
            if self.now >= second + 1:
                second += 1
                if self._by(self.faults.crash):
                    self.crash()
                for member in self.members.values():
                    if self._by(self.faults.restart):
                        member.state, member.task = MemberState.READY, member.task + 1
            elif upcoming <= self.now:
                heapq.heappop(self._queue)[2]()
            elif due <= self.now:
                self.tell(project.Tick())
