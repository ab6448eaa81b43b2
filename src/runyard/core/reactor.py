"""The reactor: every rule about jobs, as one function of input, state and time.

`handle` takes one input; `handle_all` takes many and lets the scheduler decide once at their end. Both return commands
in order: each state transition is one event among them (design, section 4).
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from runyard.core import cron
from runyard.core.admission import admit, just_ended
from runyard.core.claim import Policy, claim_of
from runyard.core.commands import Command, Forget, Refuse, SaveRun, SignalRun, StartRun, StopRun
from runyard.core.dependencies import Verdict, judge, references
from runyard.core.inputs import (
    Amend,
    Cancel,
    Delete,
    Input,
    Known,
    NewJob,
    NodeLost,
    NodeSynced,
    RestartJob,
    RunExited,
    RunStarted,
    SendSignal,
    Submit,
    Tick,
)
from runyard.core.outcome import (
    LOST,
    LOST_BY_REBOOT,
    copy_exit,
    exit_reason,
    never_met,
    verdict,
)
from runyard.core.record import Intent, JobRecord, Need, Replica
from runyard.core.restart import restart_delay
from runyard.core.roster import Roster
from runyard.core.scheduler import Scheduler
from runyard.model.errors import Conflict, NotFound, RunyardError
from runyard.model.event import Event
from runyard.model.ids import RunKey
from runyard.model.job import Condition, JobSpec, Overlap
from runyard.model.node import Node, Share
from runyard.model.signals import signal_name, signal_number
from runyard.model.state import ACTIVE, ENDED, TRANSITIONS, State, Why

#: Fire times of one cron job that may wait for its present run to end.
MAX_BACKLOG = 1000
#: A timer of the job itself, not of one of its replicas.
_WHOLE_JOB = -1


class Reactor:
    """Holds the live jobs. `seq` is the number of the last event."""

    def __init__(self, policy: Policy | None = None, *, seq: int = 0) -> None:
        self.policy = policy or Policy()
        self.seq = seq
        self.roster = Roster()
        self.jobs = self.roster.jobs
        self.scheduler = Scheduler(self.policy)
        self._timers: list[tuple[float, int, int]] = []
        #: Jobs of which something has changed that others may wait for.
        self._woken: deque[JobRecord] = deque()
        #: Jobs that have begun to wait for resources, without an event yet.
        self._unsaid: dict[int, None] = {}
        self._out: list[Command] = []
        self._now = 0.0
        self._handlers: dict[type, Callable[[Any], None]] = {
            Submit: self._submit,
            Cancel: self._cancel,
            RestartJob: self._restart,
            SendSignal: self._signal,
            Amend: self._amend,
            Delete: self._delete,
            RunStarted: self._run_started,
            RunExited: self._run_exited,
            NodeSynced: self._node_synced,
            NodeLost: self._node_lost,
            Tick: lambda _: None,
        }

    # The way in ---------------------------------------------------------------------------------------------------

    def handle(self, event: Input, now: float) -> list[Command]:
        """What follows from `event` at the time `now` (Unix seconds).

        Raises NotFound, Conflict or InvalidInput for requests that can't be met; the state is untouched then.
        """
        self._now = now
        self._out = []
        self._handlers[type(event)](event)
        self._settle_time()
        return self._out

    def handle_all(self, events: Iterable[Input], now: float) -> tuple[list[Command], list[RunyardError | None]]:
        """As `handle` for each, with the clock and the scheduler consulted once at the end; and each one's refusal."""
        self._now = now
        self._out = []
        errors: list[RunyardError | None] = []
        for event in events:
            try:
                self._handlers[type(event)](event)
                self._wake_waiters()
                errors.append(None)
            except RunyardError as error:
                errors.append(error)
        self._settle_time()
        return self._out, errors

    @property
    def next_wakeup(self) -> float | None:
        """When to call with `Tick` at the latest (Unix seconds); None if nothing is due ever."""
        due = self._timers[0][0] if self._timers else None
        retry = self.scheduler.retry_at
        return due if retry is None else retry if due is None else min(due, retry)

    def know(self, node: Node) -> None:
        """A node from the store, before the first input: it is there, though not in contact yet."""
        self.scheduler.pool.know(node)

    def load(self, record: JobRecord) -> None:
        """Takes in a live job from the store, before the first input. Its runs are settled by `NodeSynced`."""
        self.roster.add(record)
        for index, replica in enumerate(record.replicas):
            if replica.state in ACTIVE:
                until = (replica.launched_at or record.submitted_at) + claim_of(record.spec, self.policy).duration
                self.scheduler.hold(RunKey(record.id, index, replica.attempt), replica.shares, until)
            elif replica.due is not None:
                self._set_timer(replica.due, record.id, index)
        for need in record.needs:
            self.roster.watch(record, need)
        if record.next_fire is not None:
            self._set_timer(record.next_fire, record.id)
        if record.state is State.PENDING or any(r.state is State.PENDING for r in record.replicas):
            self._set_timer(0.0, record.id)

    def unknown_references(self, spec: JobSpec) -> list[str]:
        """The jobs named in `after` that are not live: the shell looks them up in the store for `Submit.known`."""
        return [
            ref for ref, condition in references(spec) if condition != Condition.IDLE and self.roster.live(ref) is None
        ]

    # Requests -----------------------------------------------------------------------------------------------------

    def _submit(self, event: Submit) -> None:
        known = event.known | just_ended(event, self.roster, self._out)
        event = msgspec.structs.replace(event, known=known)
        needs, refused = admit(event, self.roster)
        for new in event.jobs:
            if new.id in refused:
                self._out.append(Refuse(new.id, refused[new.id]))
            else:
                self._accept(new, needs[new.id], event.known)

    def _accept(self, new: NewJob, needs: list[Need], known: dict[str, Known]) -> None:
        spec = new.spec
        record = JobRecord(
            id=new.id,
            spec=spec,
            kind=new.kind,
            origin=new.origin,
            owner=new.owner,
            submitted_at=self._now,
            armed_at=self._now,
            priority=spec.priority,
            hold=spec.hold,
            replicas=[Replica() for _ in range(spec.replicas)],
        )
        self.roster.add(record)
        self._emit(record, "job.submitted")
        ended = {found.job: found for found in known.values()}
        for need in needs:
            other = self.jobs.get(need.job)
            found = ended.get(need.job)
            if other is None and found is not None:
                verdict = judge(need.condition, found.state, found.started)
                if verdict is Verdict.NEVER:
                    self._finish(record, State.FAILED, never_met(need, found.state))
                    return
            elif other is None or judge(need.condition, other.state, other.started_at is not None) is Verdict.WAIT:
                record.needs.append(need)
                self.roster.watch(record, need)
        if spec.schedule is not None:
            record.armed, record.armed_at = False, None
            self._plan_fire(record, self._now)
        self._advance(record)

    def _cancel(self, event: Cancel) -> None:
        record = self.roster.require(event.job)
        if record.intent is Intent.CANCEL:
            return
        self._stop_runs(record, Intent.CANCEL)

    def _restart(self, event: RestartJob) -> None:
        record = self.jobs.get(event.job)
        if record is None:
            if event.record is None:
                raise NotFound(f"there is no job {event.job}")
            record = event.record
            self.roster.add(record)
            idle = event.idle
            if idle is None:
                idle = tuple(ref for ref, condition in references(record.spec) if condition == Condition.IDLE)
            self._want_idle(record, idle)
            self._emit(record, "job.restarted")
            self._rearm(record)
            return
        if record.intent is Intent.CANCEL:
            raise Conflict("the job is being cancelled; restart it when it has ended")
        if event.idle is not None:
            self._want_idle(record, event.idle)
        self._emit(record, "job.restarted")
        self._stop_runs(record, Intent.RESTART)

    def _signal(self, event: SendSignal) -> None:
        record = self.roster.require(event.job)
        running = [(i, r) for i, r in enumerate(record.replicas) if r.state in (State.RUNNING, State.STOPPING)]
        if not running:
            raise Conflict(f"nothing of the job is running to take the signal: it is {record.state}")
        for index, replica in running:
            self._out.append(SignalRun(RunKey(record.id, index, replica.attempt), replica.shares[0].node, event.signal))

    def _amend(self, event: Amend) -> None:
        record = self.roster.require(event.job)
        changes: dict[str, Any] = {}
        if event.priority is not None and event.priority != record.priority:
            waiting = [i for i, _ in enumerate(record.replicas) if self.scheduler.waits(record, i)]
            for index in waiting:
                self.scheduler.remove(record, index)
            record.priority = changes["priority"] = event.priority
            for index in waiting:
                self.scheduler.add(record, index)
        if event.hold is not None and event.hold != record.hold:
            record.hold = changes["hold"] = event.hold
        if event.idle is not None and self._want_idle(record, event.idle):
            changes["idle"] = list(event.idle)
        if changes:
            self._emit(record, "job.amended", data=changes)
            if "hold" in changes or "idle" in changes:
                if record.hold:
                    self._unqueue(record)
                self._advance(record)
                self._wake(record)

    def _want_idle(self, record: JobRecord, refs: tuple[str, ...]) -> bool:
        """The job waits until these are idle, instead of others. Is that a change?"""
        before = [need.ref for need in record.needs if need.condition == Condition.IDLE]
        if before == list(refs):
            return False
        idle = [Need(ref, Condition.IDLE, 0) for ref in refs]
        record.needs = [need for need in record.needs if need.condition != Condition.IDLE] + idle
        for need in idle:
            self.roster.watch(record, need)
        return True

    def _delete(self, event: Delete) -> None:
        if event.job in self.jobs:
            raise Conflict("the job has not ended; cancel it first")
        self.seq += 1
        self._out.append(Event(self.seq, self._now, "job.deleted", event.job, None, 0, 0, None))

    # Reports ------------------------------------------------------------------------------------------------------

    def _run_started(self, event: RunStarted) -> None:
        found = self.roster.find(event.run)
        if found is None:
            return
        record, replica = found
        if replica.started_at is not None or replica.state not in (State.STARTING, State.STOPPING):
            return
        replica.pid = event.pid
        replica.started_at = event.at
        if replica.state is State.STARTING:
            self.roster.put(record, replica, State.RUNNING)
        self._out.append(SaveRun(record.id, event.run.replica, replica))
        first = record.started_at is None
        if first:
            record.started_at = event.at
        self._emit(record, "run.started", event.run, {"pid": event.pid, "node": replica.shares[0].node})
        self._settle(record)
        if first:
            self._wake(record)

    def _run_exited(self, event: RunExited) -> None:
        found = self.roster.find(event.run)
        if found is None:
            return
        record, replica = found
        if replica.state not in ACTIVE:
            return
        self.scheduler.release(event.run)
        success = event.exit_code == 0 and not event.timed_out
        stopping = replica.state is State.STOPPING
        replica.ended_at = event.at
        replica.exit_code = event.exit_code
        replica.signal = event.signal
        replica.cpu_seconds = event.cpu_seconds
        replica.max_rss = event.max_rss
        replica.reason = event.reason or exit_reason(event)
        if stopping:
            self.roster.put(record, replica, State.CANCELLED)
        elif event.timed_out:
            self.roster.put(record, replica, State.TIMED_OUT)
        else:
            self.roster.put(record, replica, State.SUCCEEDED if success else State.FAILED)
        replica.ended_as = replica.state
        self._out.append(SaveRun(record.id, event.run.replica, replica))
        outcome: dict[str, Any] = {"exit_code": event.exit_code, "signal": signal_name(event.signal)}
        if replica.reason is not None:
            outcome["reason"] = replica.reason
        self._emit(record, "run.exited", event.run, outcome)
        if not stopping and record.intent is None:
            self._plan_restart(record, event.run.replica, success)
        self._settle(record)
        self._wake(record)

    def _plan_restart(self, record: JobRecord, index: int, success: bool) -> None:
        replica = record.replicas[index]
        uptime = max(0.0, (replica.ended_at or 0.0) - (replica.started_at or replica.ended_at or 0.0))
        rule = record.spec.restart_rule
        plan = restart_delay(rule, success=success, uptime=uptime, restarts=replica.restarts)
        if plan is None:
            if rule.max is not None and replica.restarts >= rule.max and replica.restarts:
                replica.reason = f"gave up after {replica.restarts} restarts" + (
                    f": {replica.reason}" if replica.reason else ""
                )
            return
        delay, replica.restarts = plan
        record.restarts += 1
        due = self._now + delay
        self._pend(record, index, due)
        self._set_timer(due, record.id, index)

    def _node_synced(self, event: NodeSynced) -> None:
        name = event.node.name
        changed = self.scheduler.node_up(event.node)
        self._emit_node("node.up", name, {"executor": event.node.executor, "cores": len(event.node.cores)})
        for run in sorted(self.scheduler.pool.runs_on(name)):
            found = self.roster.find(run)
            assert found is not None
            record, replica = found
            if replica.shares[0].node != name:
                continue
            if run in event.live:
                if replica.state is State.STOPPING:
                    self._send_stop(record, run.replica)
            elif replica.state is State.STARTING and not event.rebooted:
                self._out.append(StartRun(run, record, replica.shares))
            elif replica.state is State.STOPPING and replica.started_at is None and not event.rebooted:
                self._run_exited(RunExited(run=run, at=self._now, reason="stopped before it was started"))
            else:
                reason = LOST_BY_REBOOT if event.rebooted else LOST
                self._run_exited(RunExited(run=run, at=self._now, reason=reason))
        if changed:
            # What could never run on the nodes known so far may be possible now, or have become impossible.
            for record in list(self.jobs.values()):
                if record.state is State.PENDING:
                    self._advance(record)

    def _node_lost(self, event: NodeLost) -> None:
        if self.scheduler.pool.is_up(event.node):
            self.scheduler.pool.node_down(event.node)
            self._emit_node("node.down", event.node, None)

    # Moving a job on ----------------------------------------------------------------------------------------------

    def _advance(self, record: JobRecord, only: Iterable[int] | None = None) -> None:
        """Does whatever is possible now for the replicas that have not been started, or for `only` these."""
        if record.intent is not None or record.id not in self.jobs:
            return
        if not record.armed:
            self._set_reason(record, Why.HELD if record.hold else Why.SCHEDULE)
            return
        replicas = record.replicas
        indexes = range(len(replicas)) if only is None else only
        waiting = [index for index in indexes if replicas[index].state is State.PENDING]
        if not waiting:
            return
        if record.hold:
            self._set_reason(record, Why.HELD)
        elif record.needs and self.blocking(record):
            self._set_reason(record, Why.DEPENDENCY)
        else:
            self._queue_up(record, waiting)

    def blocking(self, record: JobRecord) -> list[Need]:
        """The dependencies that hold the job back now."""
        return [
            need
            for need in record.needs
            if (self.roster.busy(need.ref, record) if need.condition == Condition.IDLE else self._open(need))
        ]

    def _open(self, need: Need) -> bool:
        """Is the need not met yet? Of a job that is gone it was: else this one would have failed with it."""
        other = self.jobs.get(need.job)
        return other is not None and judge(need.condition, other.state, other.started_at is not None) is Verdict.WAIT

    def _queue_up(self, record: JobRecord, waiting: list[int]) -> None:
        claim = claim_of(record.spec, self.policy)
        impossible = None if claim.light else self.scheduler.pool.impossible(claim)
        if impossible is not None:
            self._unqueue(record)
            for index in waiting:
                self.roster.put(record, record.replicas[index], State.FAILED)
                record.replicas[index].reason = f"can never run here: {impossible}"
            self._settle(record)
            return
        backoff = False
        for index in waiting:
            replica = record.replicas[index]
            if replica.due is not None and replica.due > self._now:
                backoff = True
            else:
                replica.due = None
                if replica.queued_at is None:
                    replica.queued_at = self._now
                self.scheduler.add(record, index)
        self._set_reason(record, Why.BACKOFF if backoff else Why.RESOURCES)

    def _unqueue(self, record: JobRecord) -> None:
        for index, replica in enumerate(record.replicas):
            if replica.state is State.PENDING:
                self.scheduler.remove(record, index)
                replica.queued_at = None

    def _start_or_wait(self, record: JobRecord, index: int, shares: list[Share]) -> None:
        """Starts the replica, unless a job that must be idle has become busy while this one was in the queue."""
        if record.needs and self.blocking(record):
            self._set_reason(record, Why.DEPENDENCY)
        else:
            self._start(record, index, shares)

    def _start(self, record: JobRecord, index: int, shares: list[Share]) -> None:
        last = record.replicas[index]
        replica = Replica(
            state=last.state,
            attempt=last.attempt + 1,
            restarts=last.restarts,
            shares=shares,
            launched_at=self._now,
        )
        record.replicas[index] = replica
        self.roster.put(record, replica, State.STARTING)
        self._out.append(SaveRun(record.id, index, replica))
        run = RunKey(record.id, index, replica.attempt)
        self.scheduler.hold(run, shares, self._now + claim_of(record.spec, self.policy).duration)
        self._settle(record)
        self._out.append(StartRun(run, record, shares))

    def _pend(self, record: JobRecord, index: int, due: float | None = None) -> None:
        """The replica waits to be started (again), not before `due`."""
        replica = msgspec.structs.replace(record.replicas[index], due=due, queued_at=None)
        record.replicas[index] = replica
        self.roster.put(record, replica, State.PENDING)

    def _stop_runs(self, record: JobRecord, intent: Intent) -> None:
        """Ends every run; what then follows depends on the intent."""
        record.intent = intent
        self._unqueue(record)
        if intent is Intent.CANCEL:
            record.backlog = 0
        for index, replica in enumerate(record.replicas):
            if replica.state in (State.STARTING, State.RUNNING):
                self.roster.put(record, replica, State.STOPPING)
                self._send_stop(record, index)
            elif replica.state is State.PENDING:
                self.roster.put(record, replica, State.CANCELLED)
                replica.due = None
        self._settle(record)

    def _send_stop(self, record: JobRecord, index: int) -> None:
        replica = record.replicas[index]
        stop = record.spec.stop
        number = signal_number(stop.signal) or 15
        run = RunKey(record.id, index, replica.attempt)
        self._out.append(StopRun(run, replica.shares[0].node, number, stop.grace))

    def _settle(self, record: JobRecord) -> None:
        """Brings the job's state in line with its replicas, and ends or re-arms it when all of them have ended."""
        states = record.tally
        if State.STOPPING in states:
            # With the intent as the reason, a change of mind is an event too, and so is on disk before it is answered.
            self._move(record, State.STOPPING, record.intent)
        elif State.RUNNING in states:
            self._move(record, State.RUNNING)
        elif State.STARTING in states:
            self._move(record, State.STARTING)
        elif State.PENDING in states:
            self._advance(record)
        elif record.intent in (Intent.RESTART, Intent.REPLACE):
            self._rearm(record)
        elif record.intent is Intent.CANCEL:
            self._finish(record, State.CANCELLED, None)
        elif record.spec.schedule is not None:
            self._rest(record)
        else:
            self._finish(record, *verdict(record))

    def _finish(self, record: JobRecord, state: State, reason: str | None) -> None:
        """The job has ended: it leaves memory."""
        self._unqueue(record)
        copy_exit(record)
        record.ended_at = self._now
        record.intent = record.next_fire = None
        record.needs = []
        for replica in record.replicas:
            if replica.state not in ENDED:
                self.roster.put(record, replica, state)
        self._move(record, state, reason)
        self.roster.remove(record)
        self._wake(record)
        self._out.append(Forget(record))

    def _rest(self, record: JobRecord) -> None:
        """A cron job's runs have ended: wait for the next fire time, or take the next one that waits already."""
        copy_exit(record)
        record.armed = False
        for replica in record.replicas:
            replica.restarts = 0
        if record.backlog:
            record.backlog -= 1
            self._arm(record)
        else:
            self._advance(record)

    def _rearm(self, record: JobRecord) -> None:
        """Start anew, by request or because a cron job replaces its run. A cron job that is restarted runs now."""
        record.intent = None
        record.ended_at = None
        record.exit_code = record.signal = None
        if record.spec.schedule is not None and record.next_fire is None:
            self._plan_fire(record, self._now)
        self._arm(record)

    def _arm(self, record: JobRecord) -> None:
        record.armed = True
        record.armed_at = self._now
        record.started_at = None
        for index in range(len(record.replicas)):
            self._pend(record, index)
            record.replicas[index].restarts = 0
        self._advance(record)

    # Time ---------------------------------------------------------------------------------------------------------

    def _settle_time(self) -> None:
        """Whatever is due happens; then the scheduler decides."""
        while True:
            self._wake_waiters()
            if self._timers and self._timers[0][0] <= self._now:
                self._ring()
            elif self.scheduler.dirty or (self.scheduler.retry_at or math.inf) <= self._now:
                for start in self.scheduler.starts(self._now):
                    self._start_or_wait(self.jobs[start.job], start.replica, start.shares)
            else:
                break
        for job in self._unsaid:
            record = self.jobs.get(job)
            if record is not None and record.state is State.PENDING and record.reason == Why.RESOURCES:
                self._emit(record, "job.pending", data={"reason": Why.RESOURCES})
        self._unsaid.clear()

    def _ring(self) -> None:
        """Takes all timers that are due: each job once, however many of its replicas have one."""
        due: dict[int, list[int]] = {}
        while self._timers and self._timers[0][0] <= self._now:
            _, job, index = heapq.heappop(self._timers)
            due.setdefault(job, []).append(index)
        for job, indexes in due.items():
            record = self.jobs.get(job)
            if record is None:
                continue
            if record.next_fire is not None and record.next_fire <= self._now:
                self._fire(record)
            whole = _WHOLE_JOB in indexes
            if whole:
                record.needs = [need for need in record.needs if need.condition == Condition.IDLE or self._open(need)]
            self._advance(record, None if whole or not record.active else indexes)

    def _set_timer(self, at: float, job: int, index: int = _WHOLE_JOB) -> None:
        heapq.heappush(self._timers, (at, job, index))

    def _plan_fire(self, record: JobRecord, after: float) -> None:
        schedule = record.spec.schedule
        assert schedule is not None
        record.next_fire = cron.next_fire(schedule.cron, schedule.timezone, after)
        if record.next_fire is not None:
            self._set_timer(record.next_fire, record.id)

    def _fire(self, record: JobRecord) -> None:
        """One or more fire times have come: decide which of them count."""
        schedule = record.spec.schedule
        assert schedule is not None and record.next_fire is not None
        due = cron.due_times(schedule, record.next_fire, self._now, MAX_BACKLOG)
        self._plan_fire(record, self._now)
        if record.intent is Intent.CANCEL:
            return
        if record.hold:
            self._emit(record, "job.missed", data={"fire_times": due, "because": "held"})
            return
        skipped, fires = cron.sift(schedule, due, self._now)
        if skipped:
            data = {"fire_times": skipped, "because": "nobody was there to start it"}
            self._emit(record, "job.missed", data=data)
        catching_up = len(fires) > 1
        for moment in fires:
            self._fire_once(record, moment, Overlap.QUEUE if catching_up else schedule.overlap)

    def _fire_once(self, record: JobRecord, moment: float, overlap: Overlap) -> None:
        if not record.armed:
            self._emit(record, "job.fired", data={"fire_time": moment})
            self._arm(record)
        elif overlap is Overlap.QUEUE and record.backlog < MAX_BACKLOG:
            record.backlog += 1
            self._emit(record, "job.fired", data={"fire_time": moment, "queued": record.backlog})
        elif overlap is Overlap.REPLACE:
            self._emit(record, "job.fired", data={"fire_time": moment, "replaces": True})
            if record.intent is None:
                self._stop_runs(record, Intent.REPLACE)
        else:
            self._emit(record, "job.missed", data={"fire_times": [moment], "because": "the last run is still up"})

    # Other jobs ---------------------------------------------------------------------------------------------------

    def _wake(self, record: JobRecord) -> None:
        """Something about this job has changed that others may wait for. They are told after the present step: a chain
        of jobs that wait for each other may be longer than the stack is deep."""
        self._woken.append(record)

    def _wake_waiters(self) -> None:
        while self._woken:
            record = self._woken.popleft()
            waiters = self.roster.waiters(record.id)
            if record.state in ENDED:
                self.roster.forget_waiters(record.id)
            for job in waiters:
                self._consider(job, record)
            for waiter in self.roster.idle_waiters(record):
                self._advance(waiter)

    def _consider(self, job: int, other: JobRecord) -> None:
        waiter = self.jobs.get(job)
        if waiter is None:
            return
        for need in [need for need in waiter.needs if need.job == other.id]:
            verdict = judge(need.condition, other.state, other.started_at is not None)
            if verdict is Verdict.NEVER:
                waiter.exit_code = waiter.signal = None
                self._finish(waiter, State.FAILED, never_met(need, other.state))
                return
            if verdict is Verdict.MET:
                waiter.needs.remove(need)
        self._advance(waiter)

    # Book-keeping -------------------------------------------------------------------------------------------------

    def _move(self, record: JobRecord, state: State, reason: str | None = None) -> None:
        if record.state is state:
            if record.reason != reason:
                record.reason = reason
                self._emit(record, f"job.{state}", data={"reason": reason})
            return
        assert state in TRANSITIONS[record.state], f"{record.state} -> {state}"
        record.state = state
        record.reason = reason
        self._emit(record, f"job.{state}", data={"reason": reason} if reason is not None else None)

    def _set_reason(self, record: JobRecord, why: Why) -> None:
        """The job waits for `why`, unless some of its runs are up already."""
        if not record.active:
            if why is Why.RESOURCES and record.state is State.PENDING:
                # Most jobs start in the same breath: the event is worth writing only for those that stay.
                if record.reason != why:
                    record.reason = why
                    self._unsaid[record.id] = None
            else:
                self._move(record, State.PENDING, why)

    def _emit(
        self, record: JobRecord, type: str, run: RunKey | None = None, data: dict[str, Any] | None = None
    ) -> None:
        self.seq = record.version = self.seq + 1
        replica, attempt = (run.replica, run.attempt) if run is not None else (0, 0)
        self._out.append(Event(self.seq, self._now, type, record.id, record.state, replica, attempt, data))

    def _emit_node(self, type: str, name: str, data: dict[str, Any] | None) -> None:
        self.seq += 1
        self._out.append(Event(self.seq, self._now, type, 0, None, 0, 0, {"node": name, **(data or {})}))
