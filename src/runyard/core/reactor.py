"""The reactor: every rule about jobs, as one function of input, state and time.

`handle` takes one input; `handle_all` takes many and lets the scheduler decide once at their end. Both return commands
in order: each state transition is one event among them (design, section 4).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from runyard.core.admission import admit, just_ended
from runyard.core.claim import Policy, claim_of
from runyard.core.commands import Command, Refuse, SaveRun, SignalRun, StartRun
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
    Note,
    RestartJob,
    RunExited,
    RunStarted,
    SendSignal,
    Submit,
    Tick,
)
from runyard.core.machine import StateMachine
from runyard.core.outcome import (
    LOST,
    LOST_BY_REBOOT,
    exit_reason,
    never_met,
)
from runyard.core.record import Intent, JobRecord, Need, Replica
from runyard.core.restart import restart_delay
from runyard.model.errors import Conflict, NotFound, RunyardError
from runyard.model.event import Event
from runyard.model.ids import RunKey
from runyard.model.job import Condition
from runyard.model.node import Node
from runyard.model.signals import signal_name
from runyard.model.state import ACTIVE, State


class Reactor(StateMachine):
    """Holds the live jobs. `seq` is the number of the last event."""

    def __init__(self, policy: Policy | None = None, *, seq: int = 0) -> None:
        super().__init__(policy, seq=seq)
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
            Note: self._note,
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
        self.roster.unwatch(record)
        record.needs = [need for need in record.needs if need.condition != Condition.IDLE] + idle
        for need in record.needs:
            self.roster.watch(record, need)
        return True

    def _delete(self, event: Delete) -> None:
        if event.job in self.jobs:
            raise Conflict("the job has not ended; cancel it first")
        self.seq += 1
        self._out.append(Event(self.seq, self._now, "job.deleted", event.job, None, 0, 0, None))

    def _note(self, event: Note) -> None:
        record = self.jobs.get(event.job)
        for type, data in event.facts:
            if record is not None:
                self._emit(record, type, data=data)
            else:
                self.seq += 1
                self._out.append(Event(self.seq, self._now, type, event.job, None, 0, 0, data))

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
