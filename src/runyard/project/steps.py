"""How one step moves: replies, beats, reports, jobs and time (spec 1.8, 1.9, 2.1, 2.2). Pure."""

from __future__ import annotations

import math

import msgspec

from runyard.model.state import State
from runyard.project.definition import Project
from runyard.project.state import (
    ACTIVE,
    Acquire,
    Beat,
    CallStart,
    CallStatus,
    CallStop,
    CancelJob,
    Effect,
    JobMoved,
    Note,
    Phase,
    ProjectState,
    Release,
    Remark,
    Reported,
    StartReply,
    StepState,
    StopReply,
    SubmitJob,
    WatchJob,
)
from runyard.project.wire import Kind, MemberState, Reply

#: Beats for which a report is waited for where it says more than what was polled.
GRACE_BEATS = 2
#: Kinds of an outcome that are no answer: a missed beat.
_MISSED = frozenset({Kind.UNREACHABLE, Kind.SILENT, Kind.CRASHED, Kind.NO_OPERATION})
_STEP = "project.step"


class Timing(msgspec.Struct, frozen=True):
    """What is configured for all projects. Seconds."""

    heartbeat: float = 2.0
    max_missed_beats: int = 30
    stop_grace: float = 30.0
    """A member that was told to stop and does not say `stopped` counts as stopped after so long."""


class Watch:
    """What is remembered of an active step as long as the server lives, and can be found out again."""

    __slots__ = (
        "asking", "due", "grace", "heard", "missed", "reachable", "retry_at", "said", "since", "stop_until", "tries",
        "unsure", "why",
    )  # fmt: skip

    def __init__(self) -> None:
        self.asking = False
        """A question is under way."""
        self.due = math.inf
        """When to ask next."""
        self.heard = ""
        """The last answer, so that the same one is not logged again."""
        self.grace = 0
        """Beats that a verdict has been waited for."""
        self.said: MemberState | None = None
        """The verdict that is waited with."""
        self.missed = 0
        self.reachable = True
        self.since = math.inf
        """From when on it has been running without a break."""
        self.retry_at = math.inf
        """When to call `start` again."""
        self.stop_until = math.inf
        self.tries = 0
        """Calls of `start` for this run."""
        self.unsure = False
        """`start` may have been heard, or not: polling tells."""
        self.why = ""
        """How the step will have failed if it turns out that nothing was started; empty means: then start it."""


class Steps:
    """The steps of one project. The coordinator says which of them is to start or stop."""

    def __init__(self, project: Project, state: ProjectState, timing: Timing) -> None:
        self.project = project
        self.state = state
        self.timing = timing
        self.defined = {step.container: step for step in project.steps}
        self.watches: dict[str, Watch] = {}
        self.heartbeat = project.heartbeat or timing.heartbeat
        missed = project.max_missed_beats
        self.max_missed = timing.max_missed_beats if missed is None else missed
        self.out: list[Effect] = []
        self.now = 0.0

    def watch(self, container: str) -> Watch:
        found = self.watches.get(container)
        if found is None:
            found = self.watches[container] = Watch()
        return found

    def current(self, container: str, run: int) -> StepState | None:
        """The step, if that run of it is the present one."""
        step = self.state.steps.get(container)
        return step if step is not None and step.run == run else None

    # Starting -----------------------------------------------------------------------------------------------------

    def begin(self, container: str) -> None:
        """It is the step's turn. A step without a member waits for a person's word."""
        step, definition = self.state.steps[container], self.defined[container]
        step.run += 1
        step.previous = step.job
        step.begun_at = step.ended_at = step.deadline = step.then = step.job = None
        step.by_poll = step.lost = False
        self.watches.pop(container, None)
        if definition.confirm:
            step.begun_at = self.now
            self.put(container, Phase.RUNNING, "waits for a person's confirmation")
            return
        # Its turn follows from what is kept; an event would only say what the next one says.
        step.phase, step.reason = Phase.WAITING, None
        self.out.append(Acquire(container=container, run=step.run))

    def granted(self, container: str, run: int) -> None:
        step = self.current(container, run)
        if step is None or step.phase is not Phase.WAITING:
            return
        definition = self.defined[container]
        step.begun_at = self.now
        if definition.time_limit is not None and not definition.local:
            step.deadline = self.now + definition.time_limit
        self.put(container, Phase.STARTING)
        if definition.local:
            self.out.append(SubmitJob(container=container, run=run, previous=step.previous))
        else:
            self._call_start(container, run)

    def _call_start(self, container: str, run: int) -> None:
        watch = self.watch(container)
        watch.tries += 1
        watch.unsure, watch.why, watch.grace = False, "", 0
        watch.retry_at = watch.due = math.inf
        self.out.append(CallStart(container=container, run=run))

    def start_replied(self, event: StartReply) -> None:
        step = self.current(event.container, event.run)
        if step is None or step.phase not in (Phase.STARTING, Phase.STOPPING):
            return
        reply, watch = event.reply, self.watch(event.container)
        if step.phase is Phase.STOPPING:
            self._stop_after_start(event.container, step, reply)
        elif reply.kind is Kind.YES:
            self._accepted(event.container, step, Phase.STARTED)
        elif reply.kind is Kind.UNREACHABLE:
            if watch.tries <= self.defined[event.container].start_retries:
                watch.retry_at = self.now + self.heartbeat
                watch.reachable = False
                self._remark(event.container, f"{reply.text}; `start` is called again in {self.heartbeat:g} s")
            else:
                self.fail(event.container, f"unreachable: {reply.text}")
        elif reply.kind is Kind.NO and (reply.already or watch.tries > 1):
            # It may be refused because an earlier call was heard.
            self._doubt(event.container, f"refused: {reply.text}")
        elif reply.kind in (Kind.SILENT, Kind.GARBLED):
            said = reply.text if reply.kind is Kind.SILENT else f"it answered {reply.text} to start"
            self._doubt(event.container, said)
        elif reply.kind in (Kind.NO_OPERATION, Kind.EMPTY):
            self.fail(event.container, f"the member does not understand start: {reply.text or 'an empty answer'}")
        else:
            self.fail(event.container, f"refused: {reply.text}")

    def _stop_after_start(self, container: str, step: StepState, reply: Reply) -> None:
        """The stop came while `start` was under way."""
        if reply.kind in (Kind.NO, Kind.UNREACHABLE, Kind.NO_OPERATION, Kind.EMPTY, Kind.CRASHED):
            self._stopped(container, step)
        else:
            self.out.append(CallStop(container=container, run=step.run))

    def _doubt(self, container: str, why: str) -> None:
        watch = self.watch(container)
        watch.unsure, watch.why, watch.due = True, why, self.now + self.heartbeat
        self._remark(container, f"{why}; its state will tell whether it has begun")

    def recover(self, container: str) -> None:
        """The server was away: what was under way is taken up again, without starting anything twice."""
        step, definition = self.state.steps[container], self.defined[container]
        watch = self.watches[container] = Watch()
        if step.phase is Phase.WAITING:
            self.out.append(Acquire(container=container, run=step.run))
        elif definition.confirm:
            pass
        elif definition.local:
            if step.job is None:
                if step.phase is Phase.STOPPING:
                    self._stopped(container, step)
                else:
                    self.out.append(SubmitJob(container=container, run=step.run, previous=step.previous))
            else:
                self.out.append(WatchJob(container=container, run=step.run, job=step.job))
                if step.phase is Phase.STOPPING:
                    self.out.append(CancelJob(container=container, job=step.job))
        elif step.phase is Phase.STOPPING:
            watch.stop_until = self.now + self.timing.stop_grace
            self.out.append(CallStop(container=container, run=step.run))
        else:
            watch.due = self.now
            if step.phase is Phase.STARTING:
                watch.unsure, watch.tries = True, 1

    def _accepted(self, container: str, step: StepState, phase: Phase) -> None:
        watch = self.watch(container)
        watch.unsure, watch.missed, watch.grace, watch.reachable = False, 0, 0, True
        watch.due = self.now + self.heartbeat
        self._moved(container, step, phase)

    def _moved(self, container: str, step: StepState, phase: Phase) -> None:
        """The member is at work; from `running` it does not go back to `started`."""
        watch = self.watch(container)
        if phase is Phase.RUNNING and watch.since == math.inf:
            watch.since = self.now
        if step.phase is not phase and not (step.phase is Phase.RUNNING and phase is Phase.STARTED):
            self.put(container, phase)

    # Stopping -----------------------------------------------------------------------------------------------------

    def stop(self, container: str, then: Phase, reason: str | None) -> None:
        """Ends an active step; it becomes `then`."""
        step = self.state.steps[container]
        if step.phase not in ACTIVE and step.phase is not Phase.WAITING:
            return
        if step.phase is Phase.STOPPING:
            return
        definition, watch, before = self.defined[container], self.watch(container), step.phase
        step.then = then
        step.reason = reason
        if before is Phase.WAITING or definition.confirm:
            self._stopped(container, step)
            return
        idle = watch.retry_at < math.inf
        self.put(container, Phase.STOPPING, reason)
        watch.retry_at = math.inf
        watch.due = math.inf
        if definition.local:
            if step.job is not None:
                self.out.append(CancelJob(container=container, job=step.job))
        elif idle:
            self._stopped(container, step)
        else:
            watch.stop_until = self.now + self.timing.stop_grace
            if before is not Phase.STARTING or watch.unsure:
                self.out.append(CallStop(container=container, run=step.run))

    def stop_replied(self, event: StopReply) -> None:
        step = self.current(event.container, event.run)
        if step is None or step.phase is not Phase.STOPPING:
            return
        if event.reply.kind is Kind.UNREACHABLE:
            # Nobody is there to run it.
            self._stopped(event.container, step)
        else:
            if event.reply.kind is not Kind.YES:
                self._remark(event.container, f"stop: {event.reply.text or event.reply.kind}; its state will tell")
            self.watch(event.container).due = self.now

    def _stopped(self, container: str, step: StepState) -> None:
        if step.then is Phase.FAILED:
            self.fail(container, step.reason or "")
        else:
            self._end(container, step.then or Phase.STOPPED, step.reason)

    # Beats --------------------------------------------------------------------------------------------------------

    def beat(self, event: Beat) -> None:
        step = self.current(event.container, event.run)
        if step is None or step.phase not in ACTIVE:
            return
        reply, watch = event.reply, self.watch(event.container)
        watch.asking = False
        watch.due = self.now + self.heartbeat
        if reply.kind is Kind.STATE:
            watch.missed, watch.reachable = 0, True
            self._heard(event.container, f"says {reply.state}")
        elif reply.kind in _MISSED:
            watch.missed += 1
            watch.reachable = reply.kind not in (Kind.UNREACHABLE, Kind.SILENT)
            self._heard(event.container, reply.text or str(reply.kind))
        else:
            # It is there, but says nothing of use: what was known stays.
            watch.reachable = True
            self._heard(event.container, f"says {reply.text or 'nothing'}, which is no state")
        if step.phase is Phase.STOPPING:
            if reply.kind is Kind.UNREACHABLE or (
                reply.kind is Kind.STATE and reply.state not in (MemberState.STARTED, MemberState.RUNNING)
            ):
                self._stopped(event.container, step)
        elif reply.kind in _MISSED:
            if self.max_missed and watch.missed >= self.max_missed:
                step.lost = True
                self.fail(event.container, f"lost: {watch.missed} beats without an answer, the last: {reply.text}")
        elif reply.state is not None:
            if watch.unsure:
                self._unsure_beat(event.container, step, reply.state)
            else:
                self._sure_beat(event.container, step, reply.state)

    def _unsure_beat(self, container: str, step: StepState, said: MemberState) -> None:
        """Nobody knows whether `start` was heard: what the member says tells, unless it may mean an earlier run."""
        watch = self.watch(container)
        if said in (MemberState.STARTED, MemberState.RUNNING):
            self._accepted(container, step, Phase(said))
            return
        first = step.run == 1 and not self.state.begun and not self.defined[container].waits_for_report
        if said is not MemberState.READY and first:
            watch.unsure = False
            self._sure_beat(container, step, said)
            return
        if self._grace(watch, said) < GRACE_BEATS:
            return
        if said is not MemberState.READY:
            self.fail(container, f"lost_state: start was under way, and the member says {said} of this or another run")
        elif not watch.why or watch.tries <= self.defined[container].start_retries:
            self._remark(container, "it has not begun; `start` is called again")
            self._call_start(container, step.run)
        else:
            self.fail(container, watch.why)

    def _sure_beat(self, container: str, step: StepState, said: MemberState) -> None:
        watch = self.watch(container)
        if said in (MemberState.STARTED, MemberState.RUNNING):
            watch.grace = 0
            self._moved(container, step, Phase(said))
            done_after = self.defined[container].done_after
            if done_after is not None and self.now - watch.since >= done_after:
                self._complete(container, by_poll=True)
            return
        watch.since = math.inf
        if said is MemberState.READY:
            if self._grace(watch, said) > GRACE_BEATS:
                self.fail(container, "lost_state: the member no longer knows its task, and no report came")
        elif said is MemberState.COMPLETED:
            if not self.defined[container].waits_for_report or self._grace(watch, said) > GRACE_BEATS:
                self._complete(container, by_poll=True)
        elif said is MemberState.FAILED:
            self.fail(container, "the member says that its task failed")
        else:
            self._end(container, Phase.STOPPED, "the member has stopped its task")

    def _grace(self, watch: Watch, said: MemberState) -> int:
        """How many beats in a row it has said so."""
        watch.grace = watch.grace + 1 if watch.said is said else 1
        watch.said = said
        return watch.grace

    def _heard(self, container: str, text: str) -> None:
        watch = self.watch(container)
        if watch.heard != text:
            watch.heard = text
            self._remark(container, text)

    # Reports ------------------------------------------------------------------------------------------------------

    def reported(self, event: Reported) -> None:
        """A report counts for the run that is under way; of any other it is a late one, and moves nothing."""
        container = event.container
        step = self.state.steps[container]
        status = event.status
        if self.defined[container].local:
            self._remark(container, f"reports {event.word}, which changes nothing: how its job ends counts")
        elif step.phase is Phase.STOPPING:
            if status in (MemberState.COMPLETED, MemberState.FAILED, MemberState.STOPPED):
                self._remark(container, f"reports {event.word}")
                self._stopped(container, step)
        elif step.phase in ACTIVE:
            self._remark(container, f"reports {event.word}")
            if status is MemberState.COMPLETED:
                self._complete(container, by_poll=False)
            elif status is MemberState.FAILED:
                self.fail(container, "the member reported a failure")
            elif status is MemberState.STOPPED:
                self._end(container, Phase.STOPPED, "the member has stopped its task")
            elif status is not None:
                self._accepted(container, step, Phase(status))
        elif step.phase is Phase.FAILED and step.lost and status is MemberState.COMPLETED:
            # The next start of the project goes on behind it.
            step.lost = False
            self.put(container, Phase.COMPLETED, "reported after the member had counted as lost")
        elif step.phase is Phase.COMPLETED and step.by_poll and status is MemberState.FAILED and self._last_done(step):
            step.by_poll = False
            self.put(container, Phase.FAILED, "the member reported a failure, having said before that it completed")
        else:
            self._remark(container, f"reports {event.word}, which changes nothing: the step is {step.phase}")

    def _last_done(self, step: StepState) -> bool:
        """Nothing has begun since that step ended."""
        ended = step.ended_at or 0.0
        return self.state.phase is Phase.RUNNING and not any(
            other is not step and (other.begun_at or 0.0) >= ended for other in self.state.steps.values()
        )

    # Local jobs ---------------------------------------------------------------------------------------------------

    def job_taken(self, container: str, run: int, job: int) -> None:
        step = self.current(container, run)
        if step is None or step.phase not in (Phase.STARTING, Phase.STOPPING):
            return
        step.job = job
        if step.phase is Phase.STARTING:
            self.put(container, Phase.STARTED)
        else:
            self.out.append(CancelJob(container=container, job=job))
        self.out.append(WatchJob(container=container, run=run, job=job))

    def job_moved(self, event: JobMoved) -> None:
        container = event.container
        step = self.current(container, event.run)
        if step is None or step.phase not in ACTIVE:
            return
        if step.phase is Phase.STOPPING:
            if event.state in (State.SUCCEEDED, State.FAILED, State.CANCELLED, State.TIMED_OUT):
                self._stopped(container, step)
        elif event.state is State.RUNNING:
            watch = self.watch(container)
            self._moved(container, step, Phase.RUNNING)
            done_after = self.defined[container].done_after
            if done_after is not None:
                watch.due = watch.since + done_after
        elif event.state is State.SUCCEEDED:
            self._complete(container, by_poll=False)
        elif event.state in (State.FAILED, State.TIMED_OUT):
            self.fail(container, f"its job {event.state}: {event.reason}" if event.reason else f"its job {event.state}")
        elif event.state is State.CANCELLED:
            self._end(container, Phase.STOPPED, "its job was cancelled")
        else:
            self.watch(container).since = self.watch(container).due = math.inf

    # Time ---------------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        for container, step in self.state.steps.items():
            if step.phase not in ACTIVE or self.defined[container].confirm:
                continue
            watch = self.watch(container)
            if step.deadline is not None and step.deadline <= self.now and step.phase is not Phase.STOPPING:
                limit = self.defined[container].time_limit or 0
                step.deadline = None
                self.stop(container, Phase.FAILED, f"time limit of {limit:g} s exceeded")
            if watch.stop_until <= self.now and step.phase is Phase.STOPPING:
                self._remark(container, "it did not confirm its stop, and counts as stopped")
                self._stopped(container, step)
            elif watch.retry_at <= self.now:
                self._call_start(container, step.run)
            elif watch.due <= self.now and not watch.asking:
                self._due(container, step, watch)

    def _due(self, container: str, step: StepState, watch: Watch) -> None:
        if self.defined[container].local:
            # The service has been up for as long as it had to be.
            watch.due = math.inf
            self._complete(container, by_poll=True)
            return
        watch.asking = True
        self.out.append(CallStatus(container=container, run=step.run))

    def next_due(self) -> float:
        """When `tick` has something to do at the latest."""
        due = math.inf
        for container, watch in self.watches.items():
            step = self.state.steps[container]
            if step.phase in ACTIVE:
                due = min(due, watch.retry_at, watch.stop_until, math.inf if watch.asking else watch.due)
                if step.phase is not Phase.STOPPING:
                    due = min(due, step.deadline or math.inf)
        return due

    # Ending -------------------------------------------------------------------------------------------------------

    def confirm(self, container: str) -> None:
        """The person's word for a step without a member."""
        self._complete(container, by_poll=False)

    def _complete(self, container: str, *, by_poll: bool) -> None:
        step = self.state.steps[container]
        step.failures = 0
        step.by_poll = by_poll
        self._end(container, Phase.COMPLETED, None)

    def fail(self, container: str, reason: str) -> None:
        """The step has failed: it is tried again, if that is wanted."""
        step, definition = self.state.steps[container], self.defined[container]
        if step.failures < definition.retries and self.state.phase is Phase.RUNNING:
            step.failures += 1
            self._remark(container, f"failed ({reason}); try {step.failures + 1} of {definition.retries + 1} follows")
            self.begin(container)
            return
        self._end(container, Phase.FAILED, reason)

    def _end(self, container: str, phase: Phase, reason: str | None) -> None:
        step = self.state.steps[container]
        if phase is Phase.FAILED and self.defined[container].optional:
            phase, reason = Phase.SKIPPED, f"optional, and failed: {reason}"
        step.ended_at = self.now
        step.deadline = step.then = None
        self.watches.pop(container, None)
        self.put(container, phase, reason)
        self.out.append(Release(container=container))

    def put(self, container: str, phase: Phase, reason: str | None = None) -> None:
        """Moves the step, and says so."""
        step = self.state.steps[container]
        step.phase = phase
        step.reason = reason
        data = {"container": container, "status": str(phase), "run": step.run}
        if reason is not None:
            data["reason"] = reason
        if step.job is not None:
            data["job"] = str(step.job)
        self.out.append(Note(type=_STEP, data=data))

    def _remark(self, container: str, text: str) -> None:
        self.out.append(Remark(text=text, container=container))
