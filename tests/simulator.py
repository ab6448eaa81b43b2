"""A cluster in one process: the real `Reactor` on a virtual clock, with simulated agents, network and disk.

Everything follows from a seed, so a failure replays exactly. What is simulated keeps the rules of the real thing:

* The server gathers inputs, makes each batch durable, and only then performs its commands, answers and acknowledges. A
  crash loses everything that is not on disk; the next server loads what the store's own rows hold.
* Messages on one connection keep their order. A lost connection loses what is in flight both ways; on the next one the
  agent says what is live and repeats its unacknowledged reports, and `NodeSynced` follows them.
* An agent starts a run that it knows (live or unacknowledged) only once. A new agent can't observe how a run ended
  while there was none. A reboot ends every run without a report.

The promises of the design are checked while it runs and, at the end, by `Simulation.check_history`.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from runyard.core.claim import Policy
from runyard.core.commands import Command, Forget, Refuse, SaveRun, SignalRun, StartRun, StopRun
from runyard.core.dependencies import references
from runyard.core.inputs import (
    Input,
    Known,
    NewJob,
    NodeLost,
    NodeSynced,
    RestartJob,
    RunExited,
    RunStarted,
    Submit,
    Tick,
)
from runyard.core.invariants import check_invariants
from runyard.core.reactor import Reactor
from runyard.core.record import JobRecord
from runyard.model import wire
from runyard.model.errors import RunyardError
from runyard.model.event import Event
from runyard.model.ids import JobIds, RunKey
from runyard.model.job import KIND, JobSpec
from runyard.model.node import Node
from runyard.model.signals import signal_number
from runyard.model.state import ACTIVE, BY_CODE, ENDED, LIVE, TRANSITIONS, State, Why
from runyard.store import row
from runyard.store.batch import Batch
from tests.simulated import Agent, Clock, Link

_encode = msgspec.json.Encoder().encode


class Disk:
    """What is durable: the rows that the store would hold."""

    def __init__(self, keep_events: bool) -> None:
        self.births: dict[int, row.Values] = {}
        self.specs: dict[int, bytes] = {}
        self.jobs: dict[int, row.Values] = {}
        self.live: dict[int, None] = {}
        self.runs: dict[tuple[int, int], row.Values] = {}
        self.names: dict[str, int] = {}
        self.boots: dict[str, str] = {}
        self.nodes: dict[str, bytes] = {}
        self.events: list[row.Values] = []
        self.seq = 0
        self.last_job = 0
        self._keep_events = keep_events

    def write(self, batch: Batch) -> None:
        self.births |= batch.new_jobs
        self.specs |= batch.specs
        self.jobs |= batch.jobs
        for job, values in batch.new_jobs.items():
            if values[0] is not None:
                self.names[values[0]] = job
            self.last_job = max(self.last_job, job)
        for job, values in batch.jobs.items():
            if BY_CODE[values[0]] in LIVE:
                self.live[job] = None
            else:
                self.live.pop(job, None)
        for (job, attempt, index), values in batch.runs.items():
            known = self.runs.get((job, index))
            if known is None or known[1] <= attempt:
                self.runs[job, index] = values
        self.boots |= batch.meta
        for event in batch.events:
            assert event[0] == self.seq + 1, f"event {event[0]} follows {self.seq}: a gap or a duplicate"
            self.seq = event[0]
        if self._keep_events:
            self.events += batch.events

    def state(self, job: int) -> State:
        return BY_CODE[self.jobs[job][0]]

    def ended(self, job: int) -> bool:
        return job in self.jobs and job not in self.live

    def record(self, job: int) -> JobRecord:
        """The job as a new server reads it."""
        record = row.record_of((job, *self.births[job][1:5], *self.jobs[job][:-1], self.specs[job]))
        if record.state in ENDED:
            for index in range(len(record.replicas)):
                values = self.runs.get((job, index))
                if values is not None:
                    row.add_run(record, values)
        return record

    def known(self, job: int) -> Known:
        return Known(job, self.state(job), self.jobs[job][4] is not None)


class _Item(NamedTuple):
    input: Input
    request: int = 0
    link: Link | None = None
    seq: int = 0


class Server:
    """The shell around the reactor: batches, commits, performs; crashes and comes back."""

    def __init__(self, world: Simulation) -> None:
        self.world = world
        self.up = False
        self.life = 0
        self.reactor = Reactor(world.policy)
        self.batches = 0
        self.inputs = 0
        self._inbox: list[_Item] = []
        self._busy = False
        self._alarm: float | None = None
        self._leaving: dict[int, JobRecord] = {}
        self._recent: deque[Input] = deque(maxlen=20)
        self._lost: dict[str, Agent] = {}

    # Life -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        world = self.world
        self.life += 1
        self.up = True
        self.reactor = Reactor(world.policy, seq=world.disk.seq)
        for node in world.disk.nodes.values():
            self.reactor.know(msgspec.json.decode(node, type=Node))
        for job in sorted(world.disk.live):
            self.reactor.load(world.disk.record(job))
        self._inbox, self._busy, self._alarm, self._leaving = [], False, None, {}
        self._recent.clear()
        self._set_alarm()

    def crash(self) -> None:
        """Everything that is not on disk is gone."""
        if not self.up:
            return
        self.up = False
        self.life += 1
        self._inbox = []
        for agent in self.world.agents.values():
            agent.lose_link()
        self.world.clock.after(self.world.rng.uniform(0.05, 20.0), self.start)

    # The way in -------------------------------------------------------------------------------------------------

    def put(self, item: _Item) -> None:
        if self.up:
            self._inbox.append(item)
            self._kick()

    def hello(self, link: Link, live: list[RunKey], boot: str, unacked: list[wire.Started | wire.Exited]) -> None:
        """A connection is made: the old reports, then the node is in step."""
        for report in unacked:
            self.reported(link, report)
        name = link.agent.node.name
        self._lost.pop(name, None)
        before = self.world.disk.boots.get(name)
        rebooted = before is not None and before != boot
        self.world.boots[name] = boot
        synced = NodeSynced(node=link.agent.node, live=frozenset(live), rebooted=rebooted)
        self.put(_Item(synced, link=link))

    def reported(self, link: Link, report: wire.Started | wire.Exited) -> None:
        event: Input
        if isinstance(report, wire.Started):
            event = RunStarted(run=report.run, pid=report.pid, at=report.at)
        else:
            event = RunExited(
                run=report.run,
                at=report.at,
                pid=report.pid,
                exit_code=report.exit_code,
                signal=report.signal,
                timed_out=report.timed_out,
                reason=report.reason,
            )
        self.put(_Item(event, link=link, seq=report.seq))
        self._recent.append(event)

    def repeat_reports(self) -> None:
        """Old reports come once more, in the wrong order: an executor may be that bad."""
        recent = list(self._recent)
        self.world.rng.shuffle(recent)
        for event in recent:
            self.put(_Item(event))

    def noticed_loss(self, agent: Agent) -> None:
        name = agent.node.name
        self._lost[name] = agent
        self.world.clock.after(self.world.rng.choice((0.0, 0.02, 1.0)), self._tell_loss, name, agent, self.life)

    def _tell_loss(self, name: str, agent: Agent, life: int) -> None:
        # A node that is back before anybody looked was never away.
        if life == self.life and self._lost.pop(name, None) is not None:
            self.put(_Item(NodeLost(node=name)))

    # The loop ---------------------------------------------------------------------------------------------------

    def _kick(self) -> None:
        if not self._busy and self._inbox:
            self._busy = True
            self.world.clock.after(self.world.gather, self._step, self.life)

    def _step(self, life: int) -> None:
        if life != self.life:
            return
        world = self.world
        items, self._inbox = self._inbox, []
        inputs = [self._complete(item.input) for item in items]
        if world.check_every == 1:
            # One at a time, so that the invariants are seen after every single input.
            commands: list[Command] = []
            errors: list[RunyardError | None] = []
            for event in inputs:
                out, problems = self.reactor.handle_all([event], world.clock.now)
                commands += out
                errors += problems
                check_invariants(self.reactor)
        else:
            commands, errors = self.reactor.handle_all(inputs, world.clock.now)
            if world.check_every and self.batches % world.check_every == 0:
                check_invariants(self.reactor)
        self.batches += 1
        self.inputs += len(inputs)
        batch = self._snapshot(commands, inputs)
        latency = world.rng.uniform(0.001, 0.01) if batch else 0.0
        world.clock.after(latency, self._committed, self.life, batch, items, commands, errors)

    def _complete(self, event: Input) -> Input:
        """What the shell looks up in the store for a request, at the last moment."""
        disk = self.world.disk
        if isinstance(event, Submit):
            known: dict[str, Known] = {}
            for new in event.jobs:
                for ref in (ref for ref, _ in references(new.spec) if self.reactor.roster.live(ref) is None):
                    gone = next((r for r in self._leaving.values() if ref in (r.spec.name, str(r.id))), None)
                    job = disk.names.get(ref) or (int(ref) if ref.isdigit() and int(ref) in disk.jobs else None)
                    if gone is not None:
                        known[ref] = Known(gone.id, gone.state, gone.started_at is not None)
                    elif job is not None and disk.ended(job):
                        known[ref] = disk.known(job)
            return msgspec.structs.replace(event, known=known)
        if isinstance(event, RestartJob) and event.job not in self.reactor.jobs and disk.ended(event.job):
            return msgspec.structs.replace(event, record=disk.record(event.job))
        return event

    def _snapshot(self, commands: list[Command], inputs: list[Input]) -> Batch:
        batch = Batch()
        events: list[Event] = []
        jobs: dict[int, None] = {}
        new: set[int] = set()
        for command in commands:
            if isinstance(command, Event):
                events.append(command)
                if command.job:
                    jobs[command.job] = None
                if command.type == "job.submitted":
                    new.add(command.job)
            elif isinstance(command, SaveRun):
                jobs[command.job] = None
                batch.save_run(command.job, command.index, command.replica)
            elif isinstance(command, Forget):
                self._leaving[command.record.id] = command.record
        batch.add_events(events)
        for job in jobs:
            record = self.reactor.jobs.get(job) or self._leaving.get(job)
            if record is not None:
                batch.save_job(record, new=job in new)
        for event in inputs:
            if isinstance(event, NodeSynced):
                batch.set_meta(event.node.name, self.world.boots[event.node.name])
        self.world.events += len(events)
        return batch

    def _committed(
        self,
        life: int,
        batch: Batch,
        items: list[_Item],
        commands: list[Command],
        errors: list[RunyardError | None],
    ) -> None:
        if life != self.life:
            return
        world = self.world
        world.disk.write(batch)
        world.log_events(batch.events)
        for item in items:
            if isinstance(item.input, NodeSynced) and item.link is not None:
                item.link.synced = True
                world.disk.nodes[item.input.node.name] = _encode(item.input.node)
        refused: set[int] = set()
        for command in commands:
            if isinstance(command, StartRun):
                self._send(command.shares[0].node, "launch", self._launch(command))
            elif isinstance(command, StopRun):
                self._send(command.node, "stop", wire.Stop(command.run, command.signal, command.grace))
            elif isinstance(command, SignalRun):
                self._send(command.node, "signal", wire.Signal(command.run, command.signal))
            elif isinstance(command, Forget):
                self._leaving.pop(command.record.id, None)
            elif isinstance(command, Refuse):
                refused.add(command.job)
        acks = {id(item.link): item for item in items if item.link is not None and item.seq}
        for item in acks.values():
            assert item.link is not None
            if item.link.up:
                item.link.send(True, item.link.agent.ack, item.seq)
        for item, problem in zip(items, errors, strict=True):
            if item.request:
                world.answered(item.request, item.input, problem, refused)
        self._busy = False
        self._kick()
        self._set_alarm()

    def _launch(self, command: StartRun) -> wire.Launch:
        spec = command.record.spec
        return wire.Launch(
            run=command.run,
            argv=spec.argv,
            env={},
            cwd=None,
            stdout="",
            stderr="",
            stop_signal=signal_number(spec.stop.signal) or 15,
            grace=spec.stop.grace,
            time_limit=spec.time_limit,
            cores=command.shares[0].cores or None,
        )

    def _send(self, node: str, verb: str, message: wire.ToAgent) -> None:
        """To a node that is not in step nothing is sent: `NodeSynced` asks for it again."""
        agent = self.world.agents[node]
        if agent.link is not None and agent.link.up and agent.link.synced:
            agent.link.send(True, getattr(agent, verb), message)

    def _set_alarm(self) -> None:
        due = self.reactor.next_wakeup
        if due is not None and (self._alarm is None or due < self._alarm):
            self._alarm = due
            self.world.clock.after(due - self.world.clock.now, self._ring, self.life, due)

    def _ring(self, life: int, due: float) -> None:
        if life == self.life and self._alarm == due:
            self._alarm = None
            self.put(_Item(Tick()))

    @property
    def idle(self) -> bool:
        return self.up and not self._busy and not self._inbox


@dataclass
class Answer:
    """What a client was told, and when."""

    input: Input
    problem: RunyardError | None
    refused: set[int] = field(default_factory=set)


class Simulation:
    """The world: a server, its nodes, and the record of what really happened.

    `check_every` is how often the invariants are checked: after every input (1), every so many batches, or never (0).
    `gather` is how long inputs gather before a batch (seconds).
    """

    def __init__(
        self,
        nodes: Iterable[Node],
        seed: int = 0,
        *,
        policy: Policy | None = None,
        check_every: int = 1,
        gather: float = 0.002,
        keep_log: bool = True,
    ) -> None:
        self.rng = random.Random(seed)
        self.clock = Clock()
        self.policy = policy or Policy()
        self.check_every = check_every
        self.gather = gather
        self.disk = Disk(keep_log)
        self.ids = JobIds()
        self.boots: dict[str, str] = {}
        self.events = 0
        self.log: list[bytes] = []
        self.starts: Counter[RunKey] = Counter()
        self.answers: dict[int, Answer] = {}
        self._alive: dict[tuple[int, int], RunKey] = {}
        self._used: dict[tuple[str, int], RunKey] = {}
        self._keep_log = keep_log
        self._requests = 0
        self.server = Server(self)
        self.agents = {node.name: Agent(node, self.clock, self.rng, self.server, self) for node in nodes}
        self.server.start()
        for agent in self.agents.values():
            agent.connect()

    # What may be done to it -------------------------------------------------------------------------------------

    def submit(self, *specs: JobSpec) -> list[int]:
        """Hands in jobs as one request; returns their ids. `answered_jobs` tells which of them were taken."""
        new = [
            NewJob(id=self.ids.next(self.clock.now), spec=spec, kind=KIND[spec.lifecycle], origin="test", owner="me")
            for spec in specs
        ]
        self.request(Submit(jobs=new))
        return [job.id for job in new]

    def request(self, event: Input) -> int:
        """A request by a client; `answers` gets the answer, unless the server crashes before."""
        self._requests += 1
        self.server.put(_Item(event, request=self._requests))
        return self._requests

    def advance(self, seconds: float) -> None:
        self.clock.run_until(self.clock.now + seconds)

    # What it observes -------------------------------------------------------------------------------------------

    def program_started(self, agent: Agent, run: RunKey, launch: wire.Launch) -> None:
        self.starts[run] += 1
        assert self.starts[run] == 1, f"the program of run {run} was started twice"
        self.note(f"start {run} on {agent.node.name}")
        earlier = self._alive.get(run[:2])
        assert earlier is None, f"run {run} starts while {earlier} is still up"
        self._alive[run[:2]] = run
        for core in launch.cores or ():
            other = self._used.get((agent.node.name, core))
            assert other is None, f"core {core} of {agent.node.name} is given to {run} while {other} is still up"
            self._used[agent.node.name, core] = run

    def program_ended(self, agent: Agent, run: RunKey) -> None:
        del self._alive[run[:2]]
        launch = agent.live[run].launch
        for core in launch.cores or ():
            del self._used[agent.node.name, core]

    def answered(self, request: int, event: Input, problem: RunyardError | None, refused: set[int]) -> None:
        if self._keep_log:
            self.answers[request] = Answer(event, problem, refused)

    def log_events(self, events: list[row.Values]) -> None:
        if self._keep_log:
            self.log += map(_encode, events)

    def note(self, text: str) -> None:
        if self._keep_log:
            self.log.append(f"{self.clock.now!r} {text}".encode())

    @property
    def answered_jobs(self) -> set[int]:
        """The jobs that clients were told are taken."""
        return {
            new.id
            for answer in self.answers.values()
            if isinstance(answer.input, Submit) and answer.problem is None
            for new in answer.input.jobs
            if new.id not in answer.refused
        }

    # How it ends ------------------------------------------------------------------------------------------------

    def settle(self, limit: float = 2 * 86400.0) -> None:
        """Lets time pass until nothing is under way. Raises AssertionError that names the jobs that are stuck."""
        end = self.clock.now + limit
        while not self.quiet:
            following = self.clock.next_at
            if following is None or following > end:
                raise AssertionError(f"stuck after {limit:g} s: {'; '.join(self._stuck()[:10])}")
            self.clock.run_until(following)
        self.check_history()

    @property
    def quiet(self) -> bool:
        """All agents are in contact, nothing runs, and every job has ended or waits for a true reason."""
        return (
            self.server.idle
            and all(a.up and a.link is not None and a.link.synced and not a.unacked for a in self.agents.values())
            and not self._alive
            and not self._stuck()
        )

    def _stuck(self) -> list[str]:
        reactor = self.server.reactor
        stuck = []
        for record in reactor.jobs.values():
            if record.state is State.PENDING and (
                (record.reason == Why.HELD and record.hold)
                or (record.reason == Why.SCHEDULE and (record.next_fire or 0.0) > self.clock.now)
                or (record.reason == Why.DEPENDENCY and reactor.blocking(record))
            ):
                continue
            states = Counter(replica.state.value for replica in record.replicas)
            stuck.append(f"job {record.id} is {record.state} ({record.reason}), replicas {dict(states)}")
        return stuck

    def check_history(self) -> None:
        """The promises of the design (section 8), against everything that has happened."""
        disk = self.disk
        lost = self.answered_jobs - disk.jobs.keys()
        assert not lost, f"jobs that were answered are gone: {lost}"
        state: dict[int, State] = {}
        ends: Counter[RunKey] = Counter()
        for seq, (number, _at, kind, job, code, replica, attempt, data) in enumerate(disk.events, 1):
            assert seq == number
            if kind == "run.exited":
                run = RunKey(job, replica, attempt)
                ends[run] += 1
                assert ends[run] == 1, f"run {run} ended twice"
                outcome = msgspec.json.decode(data)
                if outcome["exit_code"] is not None or outcome["signal"] is not None:
                    assert self.starts[run] == 1, f"run {run} ended normally, but its program was never started"
            if kind == "job.submitted":
                assert job not in state, f"job {job} was submitted twice"
                state[job] = State.PENDING
            elif kind.startswith("job.") and code is not None:
                new = BY_CODE[code]
                if kind == f"job.{new}":
                    old = state[job]
                    assert new is old or new in TRANSITIONS[old], f"job {job}: {old} -> {new} (event {seq})"
                    state[job] = new
                else:
                    assert state[job] is new, f"event {seq} ({kind}) says {new}, job {job} is {state[job]}"
        for job, last in state.items():
            assert disk.state(job) is last, f"job {job} is stored as {disk.state(job)}, its events say {last}"
        for (job, index), values in disk.runs.items():
            if disk.state(job) in ENDED:
                assert BY_CODE[values[3]] in ENDED, f"job {job} has ended, its run {index}.{values[1]} has not"
            if BY_CODE[values[3]] is State.SUCCEEDED:
                assert self.starts[RunKey(job, index, values[1])] == 1
        for record in self.server.reactor.jobs.values():
            assert record.id in disk.live
        active = {
            (record.id, index)
            for record in self.server.reactor.jobs.values()
            for index, replica in enumerate(record.replicas)
            if replica.state in ACTIVE
        }
        orphans = self._alive.keys() - active
        assert not orphans, f"programs run that the engine knows nothing of: {orphans}"
