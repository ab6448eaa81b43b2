"""A coordinator on a clock that only the test moves, with short words for what tests say to it."""

from __future__ import annotations

import msgspec

from runyard.model.state import State
from runyard.project import state as project
from runyard.project.coordinator import Coordinator
from runyard.project.definition import Step, build_project
from runyard.project.state import Effect, Input, Phase, ProjectState
from runyard.project.steps import Timing
from runyard.project.wire import Kind, MemberState, Reply

T0 = 1_767_571_200.0
YES, NO = Reply(Kind.YES, text="starting"), Reply(Kind.NO, text="'error'")
SILENT, UNREACHABLE = Reply(Kind.SILENT, text="no answer"), Reply(Kind.UNREACHABLE, text="refused")


def says(state: MemberState) -> Reply:
    return Reply(Kind.STATE, state, str(state))


class Rig:
    """`steps` are containers, or steps; a member is free whenever it is asked for."""

    def __init__(self, *steps: str | Step, grant: bool = True, timing: Timing | None = None, **fields: object) -> None:
        written = [msgspec.to_builtins(Step(container=step) if isinstance(step, str) else step) for step in steps]
        self.project = build_project({"name": "p", "steps": written, **fields}, "u")
        self.timing = timing or Timing(heartbeat=2.0, max_missed_beats=5, stop_grace=10.0)
        self.state = ProjectState()
        self.coordinator = Coordinator(self.project, self.state, self.timing)
        self.now = T0
        self.grant = grant
        self.effects: list[Effect] = []
        """Since the test looked last (`take`)."""
        self.calls: list[tuple[str, str, int]] = []
        """All calls ever: operation, container, run."""
        self.over = 0

    def do(self, event: Input) -> None:
        for effect in self.coordinator.handle(event, self.now):
            self.effects.append(effect)
            if isinstance(effect, project.CallStart):
                self.calls.append(("start", effect.container, effect.run))
            elif isinstance(effect, project.CallStop):
                self.calls.append(("stop", effect.container, effect.run))
            elif isinstance(effect, project.CallStatus):
                self.calls.append(("status_request", effect.container, effect.run))
            elif isinstance(effect, project.Finish):
                self.over += 1
            elif isinstance(effect, project.Acquire) and self.grant:
                self.do(project.Granted(container=effect.container, run=effect.run))

    def begin(self, attempt: int = 1) -> None:
        self.do(project.Begin(attempt=attempt))

    def crash(self) -> None:
        """Only what is kept survives."""
        body = msgspec.json.encode(self.state)
        self.state = msgspec.json.decode(body, type=ProjectState)
        self.coordinator = Coordinator(self.project, self.state, self.timing)
        self.do(project.Recover())

    def run(self, container: str) -> int:
        return self.state.steps[container].run

    def start_reply(self, container: str, reply: Reply = YES, run: int | None = None) -> None:
        self.do(project.StartReply(container=container, run=run or self.run(container), reply=reply))

    def stop_reply(self, container: str, reply: Reply = YES) -> None:
        self.do(project.StopReply(container=container, run=self.run(container), reply=reply))

    def beat(self, container: str, reply: Reply | MemberState) -> None:
        """The next question is due, and answered so."""
        asked = self.count("status_request", container)
        for _ in range(1000):
            if self.count("status_request", container) > asked:
                break
            self.tick()
        else:
            raise AssertionError(f"{container} is not asked any more")
        shown = says(reply) if isinstance(reply, MemberState) else reply
        self.do(project.Beat(container=container, run=self.run(container), reply=shown))

    def tick(self) -> None:
        """Time passes until something is due."""
        due = self.coordinator.next_wakeup
        assert due < float("inf"), "nothing is due"
        self.now = max(self.now, due)
        self.do(project.Tick())

    def report(self, container: str, word: str = "success") -> None:
        status = {"success": MemberState.COMPLETED, "failed": MemberState.FAILED}.get(word)
        self.do(project.Reported(container=container, status=status or MemberState(word), word=word))

    def job(self, container: str, state: State, reason: str | None = None) -> None:
        self.do(project.JobMoved(container=container, run=self.run(container), state=state, reason=reason))

    def through(self, container: str) -> None:
        """The step is started, and completes."""
        self.start_reply(container)
        self.report(container)

    def count(self, operation: str, container: str) -> int:
        return sum(call[:2] == (operation, container) for call in self.calls)

    def take(self) -> list[Effect]:
        effects, self.effects = self.effects, []
        return effects

    def phase(self, container: str | None = None) -> Phase:
        return self.state.phase if container is None else self.state.steps[container].phase

    def reason(self, container: str | None = None) -> str:
        return (self.state.reason if container is None else self.state.steps[container].reason) or ""

    @property
    def phases(self) -> dict[str, str]:
        return {name: str(step.phase) for name, step in self.state.steps.items()}
