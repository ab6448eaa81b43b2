"""How a job moves through its states: the rules that requests, reports and the passing of time all lead to."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Iterable
from typing import Any

import msgspec

from runyard.core import cron
from runyard.core.claim import Policy, claim_of
from runyard.core.commands import Command, Forget, SaveRun, StartRun, StopRun
from runyard.core.dependencies import Verdict, judge
from runyard.core.outcome import (
    copy_exit,
    never_met,
    verdict,
)
from runyard.core.record import Intent, JobRecord, Need, Replica
from runyard.core.roster import Roster
from runyard.core.scheduler import Scheduler
from runyard.model.event import Event
from runyard.model.ids import RunKey
from runyard.model.job import Condition, Overlap
from runyard.model.node import Share
from runyard.model.signals import signal_number
from runyard.model.state import ENDED, TRANSITIONS, State, Why

#: Fire times of one cron job that may wait for its present run to end.
MAX_BACKLOG = 1000
#: A timer of the job itself, not of one of its replicas.
_WHOLE_JOB = -1


class StateMachine:
    """The live jobs, and every way in which one of them moves on. `seq` is the number of the last event.

    What follows from a step is collected in order; the reactor hands it out.
    """

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
        self.roster.unwatch(record)
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
