"""The coordinator of one project: which step is next, and how the whole ends. Pure: inputs in, effects out.

The rules of single steps are in `runyard.project.steps`. Whoever runs a coordinator keeps its state whenever a `Note`
is among the effects, and only then performs them (`runyard.service.projects`); after a crash it says `Recover`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from runyard.model.errors import Conflict
from runyard.project.definition import Project, ProjectType, condition_met
from runyard.project.state import (
    ACTIVE,
    Advance,
    Beat,
    Begin,
    Begun,
    Denied,
    Effect,
    Finish,
    Granted,
    Halt,
    Input,
    JobMoved,
    JobTaken,
    Note,
    Phase,
    ProjectState,
    Recover,
    Remark,
    Reported,
    StartReply,
    StepState,
    StopReply,
    Tick,
)
from runyard.project.steps import Steps, Timing

#: A step that is over, and does not hold back the next ones.
_DONE = frozenset({Phase.COMPLETED, Phase.SKIPPED})
_BUSY = ACTIVE | {Phase.WAITING}
_OVER = frozenset({Phase.COMPLETED, Phase.FAILED, Phase.STOPPED})


class Coordinator:
    """One project. `state` changes in place."""

    def __init__(self, project: Project, state: ProjectState, timing: Timing) -> None:
        self.project = project
        self.state = state
        for step in project.steps:
            state.steps.setdefault(step.container, StepState())
        self.steps = Steps(project, state, timing)
        self._handlers: dict[type, Callable[[Any], None]] = {
            Begin: self._begin,
            Recover: self._recover,
            Advance: self._advance,
            Halt: self._halt,
            Granted: lambda event: self.steps.granted(event.container, event.run),
            Denied: self._denied,
            StartReply: self.steps.start_replied,
            StopReply: self.steps.stop_replied,
            Beat: self.steps.beat,
            Reported: self.steps.reported,
            JobTaken: lambda event: self.steps.job_taken(event.container, event.run, event.job),
            JobMoved: self.steps.job_moved,
            Tick: lambda _: self._tick(),
        }

    def handle(self, event: Input, now: float) -> list[Effect]:
        """What follows from `event` at the time `now` (Unix seconds). Raises Conflict if a person asks for what is not
        possible; nothing has changed then."""
        self.steps.now = now
        self.steps.out = []
        self._handlers[type(event)](event)
        if self.state.phase in (Phase.RUNNING, Phase.STOPPING):
            self._settle()
        return self.steps.out

    @property
    def next_wakeup(self) -> float:
        """When to call with `Tick` at the latest; infinity if nothing is due ever."""
        if self.state.phase not in (Phase.RUNNING, Phase.STOPPING):
            return math.inf
        due = self.steps.next_due()
        if self.state.deadline is not None and self.state.phase is Phase.RUNNING:
            due = min(due, self.state.deadline)
        return due

    @property
    def over(self) -> bool:
        """The run has ended, or has not begun."""
        return self.state.phase in _OVER

    # Requests -----------------------------------------------------------------------------------------------------

    def _begin(self, event: Begin) -> None:
        state = self.state
        if event.attempt <= state.attempt and state.phase is not Phase.READY:
            return
        again = state.phase is not Phase.COMPLETED
        state.begun = state.attempt > 0
        state.attempt = event.attempt
        state.timed_out, state.then = False, None
        state.deadline = None if self.project.time_limit is None else self.steps.now + self.project.time_limit
        for step in state.steps.values():
            # What has been done stays done, unless everything was: then it is all to be done anew.
            if not again or step.phase is not Phase.COMPLETED:
                step.phase, step.reason, step.failures = Phase.READY, None, 0
        self._put(Phase.RUNNING)
        self.steps.out.append(Begun())
        for definition in self.project.steps:
            if not condition_met(self.project, definition):
                self.steps.put(definition.container, Phase.SKIPPED, "its conditions are not met")
        if self.project.project_type is ProjectType.MANUAL:
            # The person who starts the project starts its first step.
            ready = self._ready()
            if ready:
                self.steps.begin(ready[0])

    def _recover(self, _: Recover) -> None:
        if self.state.phase in (Phase.RUNNING, Phase.STOPPING):
            for container, step in self.state.steps.items():
                if step.phase in _BUSY:
                    self.steps.recover(container)

    def _advance(self, event: Advance) -> None:
        if self.state.phase is not Phase.RUNNING:
            raise Conflict(f"project {self.project.name!r} is {self.state.phase}: start it first")
        confirming = [
            container
            for container, step in self.state.steps.items()
            if step.phase is Phase.RUNNING and self.steps.defined[container].confirm
        ]
        ready = self._ready()
        wanted = event.container or next(iter([*confirming, *ready]), None)
        if wanted is not None and wanted not in self.state.steps:
            raise Conflict(f"project {self.project.name!r} has no step {wanted!r}: {', '.join(self.state.steps)}")
        if wanted in confirming:
            self.steps.confirm(wanted)
        elif wanted in ready:
            if self._busy() >= self.project.parallel:
                raise Conflict(f"{self._present()} is at work: wait for its end, or stop the project")
            self.steps.begin(wanted)
            self.steps.out.append(Note(type="project.advanced", data={"container": wanted}))
        elif wanted is None:
            raise Conflict(f"nothing waits for a person: {self._present() or 'no step'} is at work")
        else:
            step = self.state.steps[wanted]
            raise Conflict(f"step {wanted} is {step.phase}: it does not wait for a person")

    def _halt(self, event: Halt) -> None:
        if self.state.phase is Phase.RUNNING:
            self._wind_down(Phase.STOPPED, event.reason)
        elif self.state.phase is Phase.READY:
            self._put(Phase.STOPPED, event.reason)
            self.steps.out.append(Finish())

    def _denied(self, event: Denied) -> None:
        step = self.steps.current(event.container, event.run)
        if step is not None and step.phase is Phase.WAITING:
            self.steps.fail(event.container, event.reason)

    # Going on -----------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        deadline = self.state.deadline
        if deadline is not None and deadline <= self.steps.now and self.state.phase is Phase.RUNNING:
            self.state.timed_out = True
            self._wind_down(Phase.FAILED, "time limit exceeded")
        self.steps.tick()

    def _settle(self) -> None:
        """Starts what can be started; ends the project when nothing is left to do."""
        if self.state.phase is Phase.RUNNING:
            self._look_for_failures()
        while self.state.phase is Phase.RUNNING and self._busy() < self.project.parallel:
            ready = [container for container in self._ready() if not self._waits_for_person(container)]
            if not ready:
                break
            self.steps.begin(ready[0])
        if self._busy():
            return
        if self.state.phase is Phase.STOPPING:
            self._put(self.state.then or Phase.STOPPED, self.state.reason)
            self.steps.out.append(Finish())
        elif all(step.phase in _DONE for step in self.state.steps.values()):
            self._put(Phase.COMPLETED)
            self.steps.out.append(Finish())

    def _look_for_failures(self) -> None:
        for container, step in self.state.steps.items():
            if step.phase is Phase.FAILED:
                self._wind_down(Phase.FAILED, f"{container} failed: {step.reason}")
                return
        for container, step in self.state.steps.items():
            if step.phase is Phase.STOPPED:
                self._wind_down(Phase.STOPPED, f"{container} was stopped: {step.reason}")
                return

    def _wind_down(self, then: Phase, reason: str) -> None:
        """Stops what is at work; then the project ends as `then`."""
        self.state.then = then
        self._put(Phase.STOPPING, reason)
        for container, step in self.state.steps.items():
            if step.phase in _BUSY:
                self.steps.stop(container, Phase.STOPPED, reason)

    def _busy(self) -> int:
        return sum(step.phase in _BUSY for step in self.state.steps.values())

    def _present(self) -> str:
        return ", ".join(name for name, step in self.state.steps.items() if step.phase in _BUSY)

    def _ready(self) -> list[str]:
        """The steps that may be begun as far as the order goes."""
        return [
            definition.container
            for definition in self.project.steps
            if self.state.steps[definition.container].phase is Phase.READY
            and all(self.state.steps[other].phase in _DONE for other in definition.after or ())
        ]

    def _waits_for_person(self, container: str) -> bool:
        return self.project.project_type is ProjectType.MANUAL or self.steps.defined[container].manual

    def waiting_for(self) -> list[tuple[str, str]]:
        """What the project waits for: containers, each with the reason in words."""
        found: list[tuple[str, str]] = []
        for container, step in self.state.steps.items():
            if step.phase not in _BUSY:
                continue
            watch = self.steps.watches.get(container)
            if self.steps.defined[container].confirm:
                found.append((container, "it needs a person's confirmation: runyard project advance"))
            elif step.phase is Phase.WAITING:
                found.append((container, step.reason or "its member is busy, or a job that it needs has not ended"))
            elif watch is not None and not watch.reachable:
                found.append((container, f"it is {step.phase}, and can't be reached: {watch.heard or 'no answer'}"))
            elif watch is not None and watch.unsure:
                found.append((container, "start was called, and whether it began is not known yet"))
            else:
                found.append((container, f"it is {step.phase}"))
        if not found and self.state.phase is Phase.RUNNING:
            found = [(name, "a person must start it: runyard project advance") for name in self._ready()]
        return found

    def _put(self, phase: Phase, reason: str | None = None) -> None:
        self.state.phase = phase
        self.state.reason = reason
        data = {"status": str(phase)} | ({"reason": reason} if reason is not None else {})
        self.steps.out.append(Note(type="project.moved", data=data))
        if reason is not None:
            self.steps.out.append(Remark(text=f"the project is {phase}: {reason}"))
