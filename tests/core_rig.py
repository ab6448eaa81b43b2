"""A reactor with its invariants checked after every input, and short words for what tests say to it."""

from __future__ import annotations

from typing import Any

import msgspec

from runyard.core.claim import Policy
from runyard.core.commands import Command, Forget, Refuse, StartRun, StopRun
from runyard.core.inputs import Input, Known, NewJob, NodeSynced, RunExited, RunStarted, Submit, Tick
from runyard.core.invariants import check_invariants
from runyard.core.reactor import Reactor
from runyard.core.record import JobRecord
from runyard.model.event import Event
from runyard.model.ids import RunKey
from runyard.model.job import KIND, JobSpec
from runyard.model.node import Node
from runyard.model.state import State

#: 2026-01-05T00:00:00Z, a Monday.
MONDAY = 1_767_571_200.0


class Rig:
    """One engine with one node, on a clock that only the test moves. Jobs are numbered from 1."""

    def __init__(self, *, cores: int = 4, gpus: int = 0, memory: int = 0, policy: Policy | None = None) -> None:
        self.reactor = Reactor(policy)
        self.now = MONDAY
        self.node = Node(name="n", cores=list(range(cores)), gpus=list(range(gpus)), memory=memory)
        self.out: list[Command] = []
        self.events: list[Event] = []
        self.ended: dict[int, JobRecord] = {}
        self._last = 0
        self.sync()

    def do(self, event: Input) -> list[Command]:
        self.out = self.reactor.handle(event, self.now)
        check_invariants(self.reactor)
        for command in self.out:
            if isinstance(command, Event):
                self.events.append(command)
            elif isinstance(command, Forget):
                self.ended[command.record.id] = command.record
        return self.out

    def sync(self, *live: RunKey, rebooted: bool = False) -> None:
        self.do(NodeSynced(node=self.node, live=frozenset(live), rebooted=rebooted))

    def submit(self, *specs: JobSpec, known: dict[str, Known] | None = None) -> list[int]:
        first = self._last + 1
        self._last += len(specs)
        jobs = [
            NewJob(id=number, spec=spec, kind=KIND[spec.lifecycle], origin="test", owner="me")
            for number, spec in enumerate(specs, first)
        ]
        self.do(Submit(jobs=jobs, known=known or {}))
        return [job.id for job in jobs]

    def job(self, *, known: dict[str, Known] | None = None, **fields: Any) -> int:
        """Submits one job; `fields` are those of its specification."""
        return self.submit(JobSpec(command=["true"], **fields), known=known)[0]

    def wait(self, seconds: float) -> None:
        """Time passes, and the engine is woken whenever it has asked to be."""
        end = self.now + seconds
        while (due := self.reactor.next_wakeup) is not None and due <= end:
            self.now = max(self.now, due)
            self.do(Tick())
        self.now = end

    def record(self, job: int) -> JobRecord:
        return self.reactor.jobs.get(job) or self.ended[job]

    def state(self, job: int) -> State:
        return self.record(job).state

    def reason(self, job: int) -> str | None:
        return self.record(job).reason

    def run(self, job: int, index: int = 0) -> RunKey:
        return RunKey(job, index, self.record(job).replicas[index].attempt)

    def up(self, job: int, index: int = 0) -> None:
        """The agent says that the present run has started."""
        self.do(RunStarted(run=self.run(job, index), pid=100 + job, at=self.now))

    def exit(
        self, job: int, code: int | None = 0, index: int = 0, signal: int | None = None, timed_out: bool = False
    ) -> None:
        """The agent says that the present run has ended."""
        run = self.run(job, index)
        self.do(RunExited(run=run, at=self.now, pid=100, exit_code=code, signal=signal, timed_out=timed_out))

    def launched(self) -> list[RunKey]:
        """What the last input has started."""
        return [command.run for command in self.out if isinstance(command, StartRun)]

    def stopped(self) -> list[tuple[RunKey, int, float]]:
        return [(c.run, c.signal, c.grace) for c in self.out if isinstance(c, StopRun)]

    def refusals(self) -> dict[int, str]:
        return {command.job: str(command.error) for command in self.out if isinstance(command, Refuse)}

    def types(self, job: int) -> list[str]:
        return [event.type for event in self.events if event.job == job]

    def data(self, job: int, type: str) -> list[dict[str, object]]:
        return [event.data or {} for event in self.events if event.job == job and event.type == type]

    def reload(self, *nodes: Node) -> None:
        """The engine is thrown away and loaded again from what the store would hold."""
        old = self.reactor
        self.reactor = Reactor(old.policy, seq=old.seq)
        for node in nodes:
            self.reactor.know(node)
        for record in old.jobs.values():
            self.reactor.load(msgspec.msgpack.decode(msgspec.msgpack.encode(record), type=JobRecord))
        self.do(Tick())
