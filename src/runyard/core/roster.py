"""The live jobs: by id and by name, with the tally of their replicas' states, and who waits for whom."""

from __future__ import annotations

from typing import TypeVar

from runyard.core.record import JobRecord, Need, Replica
from runyard.model.errors import NotFound
from runyard.model.ids import RunKey, f58, parse_job_id
from runyard.model.job import Condition
from runyard.model.state import State, Why

K = TypeVar("K", int, str)


class Roster:
    """Every live job, and the indexes over them."""

    def __init__(self) -> None:
        self.jobs: dict[int, JobRecord] = {}
        #: Replicas of all of them.
        self.replicas = 0
        #: Live jobs by name, in order of age.
        self.names: dict[str, dict[int, None]] = {}
        self._waiters: dict[int, dict[int, None]] = {}
        self._idle_waiters: dict[str, dict[int, None]] = {}

    def add(self, record: JobRecord) -> None:
        """Takes in a job with its tally and its unmet dependencies."""
        self.jobs[record.id] = record
        self.replicas += len(record.replicas)
        tally: dict[State, int] = {}
        for replica in record.replicas:
            tally[replica.state] = tally.get(replica.state, 0) + 1
        record.tally = tally
        if record.spec.name is not None:
            self.names.setdefault(record.spec.name, {})[record.id] = None

    def remove(self, record: JobRecord) -> None:
        del self.jobs[record.id]
        self.replicas -= len(record.replicas)
        name = record.spec.name
        if name is not None:
            self.names[name].pop(record.id, None)
            if not self.names[name]:
                del self.names[name]

    def require(self, job: int) -> JobRecord:
        """The live job. Raises NotFound."""
        record = self.jobs.get(job)
        if record is None:
            raise NotFound(f"there is no live job {job}")
        return record

    def live(self, ref: str) -> JobRecord | None:
        """The live job of that id, or the newest of that name."""
        ids = self.names.get(ref)
        if ids:
            return self.jobs[next(reversed(ids))]
        number = parse_job_id(ref)
        return self.jobs.get(number) if number is not None else None

    def find(self, run: RunKey) -> tuple[JobRecord, Replica] | None:
        """The replica whose present run this is; reports about any other run are stale or repeated."""
        record = self.jobs.get(run.job)
        if record is None or run.replica >= len(record.replicas):
            return None
        replica = record.replicas[run.replica]
        return (record, replica) if replica.attempt == run.attempt else None

    def called(self, ref: str) -> list[JobRecord]:
        """The live jobs of that name, or the one of that id."""
        ids = self.names.get(ref)
        if ids:
            return [self.jobs[job] for job in ids]
        number = parse_job_id(ref)
        return [self.jobs[number]] if number in self.jobs else []

    def busy(self, ref: str, waiter: JobRecord) -> bool:
        """Does `ref` keep a job waiting that wants it idle: has it a process, or one about to be?

        A job that itself waits for others to be idle comes first, so that chains run in order; except when it waits
        for `waiter` in turn: then both may start as soon as nothing runs, and nobody waits for ever.
        """
        return any(
            record.active or (_in_turn(record) and not self._waits_for(record, waiter))
            for record in self.called(ref)
            if record.id != waiter.id
        )

    def _waits_for(self, record: JobRecord, other: JobRecord) -> bool:
        """Does `record` wait until `other` is idle, directly or through jobs that wait themselves?"""
        seen = {record.id}
        stack = [record]
        while stack:
            for need in stack.pop().needs:
                for found in self.called(need.ref) if need.condition == Condition.IDLE else ():
                    if found.id == other.id:
                        return True
                    if found.id not in seen and _in_turn(found):
                        seen.add(found.id)
                        stack.append(found)
        return False

    def put(self, record: JobRecord, replica: Replica, state: State) -> None:
        """The only way in which a replica changes its state: keeps the tally."""
        tally = record.tally
        left = tally[replica.state] - 1
        if left:
            tally[replica.state] = left
        else:
            del tally[replica.state]
        tally[state] = tally.get(state, 0) + 1
        replica.state = state

    def watch(self, record: JobRecord, need: Need) -> None:
        """From now on `record` is among those who wait for this need."""
        if need.condition == Condition.IDLE:
            self._idle_waiters.setdefault(need.ref, {})[record.id] = None
        else:
            self._waiters.setdefault(need.job, {})[record.id] = None

    def unwatch(self, record: JobRecord) -> None:
        """It no longer waits for anything."""
        for need in record.needs:
            if need.condition == Condition.IDLE:
                _strike(self._idle_waiters, need.ref, record.id)
            else:
                _strike(self._waiters, need.job, record.id)

    def waiters(self, job: int) -> list[int]:
        """The jobs that wait for something of this one."""
        return list(self._waiters.get(job, ()))

    def forget_waiters(self, job: int) -> None:
        """The job has ended and nobody will wait for it again."""
        self._waiters.pop(job, None)

    def idle_waiters(self, record: JobRecord) -> list[JobRecord]:
        """The jobs that wait until this one, by name or id, has no process; those that no longer do are struck off."""
        found: list[JobRecord] = []
        if not self._idle_waiters:
            return found
        short = f58(record.id)
        for ref in (record.spec.name, str(record.id), short, "f" + short[1:]):
            waiting = self._idle_waiters.get(ref) if ref is not None else None
            for job in list(waiting or ()):
                waiter = self.jobs.get(job)
                if waiter is not None and any(need.ref == ref for need in waiter.needs):
                    found.append(waiter)
                else:
                    assert ref is not None
                    _strike(self._idle_waiters, ref, job)
        return found


def _strike(table: dict[K, dict[int, None]], key: K, job: int) -> None:
    waiting = table.get(key)
    if waiting is not None:
        waiting.pop(job, None)
        if not waiting:
            del table[key]


def _in_turn(record: JobRecord) -> bool:
    """Does the job wait until others are idle, or has it done so and is about to start?"""
    return record.reason == Why.DEPENDENCY or (record.reason == Why.RESOURCES and bool(record.needs))
