"""The engine loop: inputs gather, core decides, one transaction makes it durable, then it takes effect.

Nothing leaves the engine before its batch is on disk: no answer, no launch, no event, no acknowledgement (`gone`
excepted, which tells of processes that are no more). If a batch can't be written, its effects have not happened; the
engine drops its memory, waits until the store can write again, loads, and takes from the executors what happened
meanwhile. That is the same path as after a crash.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from runyard.core.claim import Policy
from runyard.core.commands import Command, Forget, Refuse, SaveRun, SignalRun, StartRun, StopRun
from runyard.core.inputs import Delete, Input, NodeLost, NodeSynced, Note, RunExited, RunStarted, Tick
from runyard.core.reactor import Reactor
from runyard.core.record import JobRecord, Replica
from runyard.executors.protocol import Executor, Report, Synced
from runyard.model.errors import InvalidInput, RunyardError, StorageFull, Unavailable
from runyard.model.event import Event
from runyard.model.ids import JobIds, RunKey
from runyard.model.node import Node
from runyard.model.wire import Launch, Signal, Started, Stop
from runyard.service.ended import EndedJobs
from runyard.service.feed import Feed
from runyard.service.flows import failure, host_command
from runyard.service.launch import launch_message
from runyard.service.metrics import Metrics
from runyard.store.batch import Batch
from runyard.store.output import OutputFiles
from runyard.store.store import Store
from runyard.store.writer import Writer

log = logging.getLogger(__name__)

T = TypeVar("T")

#: A server may be newer than the one before it, whose agent goes on: what was kept warm for that one is not used.
EDITION = f"{os.getpid()}.{time.time_ns()}"
#: Inputs handled in one step: bounds the time for which the loop is busy.
MAX_STEP = 2000
#: While more launches than this are under way, reports are gathered for so many seconds: fewer, larger commits.
BUSY, GATHER = 32, 0.015
#: Where the store keeps the nodes.
_NODES = "nodes"
#: Whoever was answered a moment ago may ask again at once: seconds to wait for them, so that they share a commit.
LINGER = 0.001
#: Seconds between looks whether a store that failed can write again.
PROBE_INTERVAL = 0.5


class Request(Generic[T]):
    """An input that somebody waits for. `finish` makes the answer, after core and before the commit; it may add to the
    batch what has to be durable together with it, so it is called even if nobody waits any more. An input that is a
    function is called right before core sees it."""

    __slots__ = ("finish", "future", "input", "refused")

    def __init__(
        self, input: Input | Callable[[], Input], finish: Callable[[Batch], T], future: asyncio.Future[T]
    ) -> None:
        self.input = input
        self.finish = finish
        self.future = future
        self.refused: RunyardError | None = None


class RunWatcher(Protocol):
    """Wants to know of every run, before anybody is told."""

    def launched(self, run: RunKey, record: JobRecord) -> None:
        """The run is about to be started. May be said again after a failure of the store."""

    def ended(self, run: RunKey, record: JobRecord | None, replica: Replica) -> None:
        """The run's end is on disk."""


class Engine:
    """One per data folder. All methods are for the event loop's thread."""

    def __init__(
        self,
        store: Store,
        executors: dict[str, Executor],
        output: OutputFiles,
        policy: Policy | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.store = store
        self.executors = executors
        self.output = output
        self.policy = policy or Policy()
        self.clock = clock
        self.metrics = Metrics()
        self.writer = Writer(store)
        self._ended = EndedJobs(store, self.writer)
        self.feed = Feed(store)
        self.ids = JobIds(after=store.last_job_id())
        #: By origin: what a front door adds to the environment of each of its jobs' runs.
        self.environments: dict[str, Callable[[JobRecord, RunKey], dict[str, str]]] = {}
        self.watchers: list[RunWatcher] = []
        #: Runs with a bound to their output that have ended: for who sees to the bound.
        self.bounded_ends: list[tuple[RunKey, int]] = []
        #: Held while ended jobs are brought back or removed: the two must not cross.
        self.archive = asyncio.Lock()
        self._reactor = Reactor(self.policy, seq=store.last_seq())
        #: Ended jobs whose last form is not on disk yet.
        self._leaving: dict[int, JobRecord] = {}
        #: What became of refused submissions: for `Request.finish` of the same step.
        self.refused: dict[int, RunyardError] = {}
        self._endings: dict[int, list[asyncio.Future[None]]] = {}
        self._departures: dict[int, list[asyncio.Future[None]]] = {}
        self._inbox: list[Request[Any] | Input | tuple[str, Report]] = []
        self._work = asyncio.Event()
        #: Somebody waits for an answer: no gathering.
        self._asked = False
        self._hurry = asyncio.Event()
        #: Requests that may be there soon: as many as were answered and waiting at the end of the last step.
        self._expected = 0
        self._under_way = 0
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._node_executor: dict[str, str] = {}
        #: Nodes that may be spoken to: from the moment at which core has heard of the connection until it is lost.
        self._attached: set[str] = set()
        self._boots: dict[str, str] = {}
        #: Every node that was ever there: a job for one that is away must wait, not fail as impossible.
        self._nodes: dict[str, Node] = {}
        self._trouble: StorageFull | None = None
        #: Called once if the engine must stop because of a defect.
        self.on_failure: Callable[[Exception], None] = lambda _: None
        self._closing = False

    # Life ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Loads the live jobs, then starts the loop and the executors."""
        self._load()
        self._task = asyncio.create_task(self._loop(), name="engine")
        for name, executor in self.executors.items():
            await executor.start(
                lambda reports, name=name: self._reports(name, reports),  # type: ignore[misc]
                lambda synced, name=name: self._synced(name, synced),  # type: ignore[misc]
                self._lost,
            )

    def begin_close(self) -> None:
        """Takes no more requests, and ends every stream."""
        self._closing = True
        self.feed.close()
        self._work.set()

    async def close(self) -> None:
        """Ends the loop after what has come in is durable. Runs go on under their executors."""
        self.begin_close()
        for executor in self.executors.values():
            await executor.close()
        self._work.set()
        if self._task is not None:
            with contextlib.suppress(asyncio.CancelledError):
                if self._trouble is not None:
                    self._task.cancel()
                await self._task
        if self._timer is not None:
            self._timer.cancel()
        await self.writer.close()

    def _load(self) -> None:
        reactor = Reactor(self.policy, seq=self.store.last_seq())
        stored = self.store.meta(_NODES)
        self._nodes = {} if stored is None else {node.name: node for node in _decode_nodes(stored)}
        for node in self._nodes.values():
            if node.executor in self.executors:
                reactor.know(node)
        for record in self.store.load_live():
            reactor.load(record)
        self._reactor = reactor
        self._leaving = {}
        self._set_timer()

    # What others see ----------------------------------------------------------------------------------------------

    @property
    def reactor(self) -> Reactor:
        return self._reactor

    @property
    def closing(self) -> bool:
        return self._closing

    @property
    def trouble(self) -> StorageFull | None:
        """Why nothing can be written at present."""
        return self._trouble

    def record(self, job: int) -> JobRecord | None:
        """The job if it is live, or has ended a moment ago."""
        return self._reactor.jobs.get(job) or self._leaving.get(job)

    def find(self, job: int) -> JobRecord | None:
        """The job, live or ended. It must not be changed."""
        return self.record(job) or self._ended.find(job)

    def executor_of(self, node: str) -> Executor | None:
        """The way to a node, if it is there. What is decided meanwhile is said again once it is back."""
        return self.executors.get(self._node_executor[node]) if node in self._attached else None

    async def ended(self, job: int, timeout: float) -> bool:
        """Waits until the job has ended, durably; False after `timeout` seconds."""
        return self.record(job) is None or await _resolved(self._endings, job, timeout)

    async def gone(self, job: int, timeout: float) -> bool:
        """Waits until the job's processes are gone, and core knows; False after `timeout` seconds.

        A commit earlier than `ended`: for who has made durable already that the job is to end.
        """
        return job not in self._reactor.jobs or await _resolved(self._departures, job, timeout)

    # The way in ---------------------------------------------------------------------------------------------------

    def put(self, input: Input) -> None:
        """Something has happened; nobody waits for what follows. A note that can't be stored goes to the log."""
        if isinstance(input, Note):
            try:
                _check_note(input)
            except InvalidInput as error:
                log.error("not recorded of job %d: %s", input.job, error.detail)
                return
        self._inbox.append(input)
        self._work.set()

    async def ask(self, input: Input | Callable[[], Input], finish: Callable[[Batch], T]) -> T:
        """Does it, and returns the answer once everything is durable.

        Raises what core raises, StorageFull while the store can't write, Unavailable while the server is stopping.
        """
        if self._trouble is not None:
            raise self._trouble
        if self._closing:
            raise Unavailable("the server is stopping")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._inbox.append(Request(input, finish, future))
        if not self._asked or len(self._inbox) >= self._expected:
            self._hurry.set()
        self._asked = True
        self._work.set()
        return await future

    def _reports(self, executor: str, reports: list[Report]) -> None:
        self._under_way = max(0, self._under_way - len(reports))
        self._inbox.extend((executor, report) for report in reports)
        self._work.set()

    def _lost(self, node: str) -> None:
        self._attached.discard(node)
        self.put(NodeLost(node=node))

    def _synced(self, executor: str, synced: Synced) -> None:
        name = synced.node.name
        self._attached.discard(name)
        self._node_executor[name] = executor
        before = self.store.meta(f"boot:{name}")
        self._boots[name] = synced.boot_id
        rebooted = before is not None and before != synced.boot_id
        self.put(NodeSynced(node=synced.node, live=frozenset(synced.live), rebooted=rebooted))

    # The loop -----------------------------------------------------------------------------------------------------

    async def _loop(self) -> None:
        try:
            await self._run()
        except Exception as error:
            # A defect of ours. Memory and store may differ now: only a new start from the store is safe.
            log.critical("the engine has failed and must be started anew", exc_info=True)
            self._closing = True
            self._refuse_inbox(Unavailable("the engine has failed; the server's log says why"))
            self.feed.close()
            self.on_failure(error)

    async def _run(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            if self._asked:
                if len(self._inbox) < self._expected:
                    await self._gather(LINGER)
            elif self._under_way > BUSY:
                await self._gather(GATHER)
            self._asked = False
            if self._inbox:
                items, self._inbox = self._inbox[:MAX_STEP], self._inbox[MAX_STEP:]
                # The one who closes has set it once, and waits for an empty inbox to be seen.
                if self._inbox or self._closing:
                    self._work.set()
                try:
                    await self._step(items)
                except Exception:
                    # Whoever waits for these must be told as well.
                    self._inbox[:0] = items
                    raise
            elif self._closing:
                return

    async def _gather(self, seconds: float) -> None:
        self._hurry.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._hurry.wait()

    async def _step(self, items: Sequence[Request[Any] | Input | tuple[str, Report]]) -> None:
        acks: dict[str, int] = {}
        inputs: list[Input] = []

        def in_turn() -> Iterator[Input]:
            # One by one: what a request depends on may be changed by the one before it.
            for item in items:
                if isinstance(item, Request):
                    inputs.append(_built(item))
                elif isinstance(item, tuple):
                    acks[item[0]] = item[1].seq
                    inputs.append(self._told(_input(item[1])))
                else:
                    inputs.append(item)
                yield inputs[-1]

        commands, errors = self._reactor.handle_all(in_turn(), self.clock())
        batch = Batch()
        self._snapshot(batch, commands, inputs)
        answers = self._answers(items, errors, batch)
        if batch:
            started = time.perf_counter()
            try:
                await self.writer.commit(batch)
            except StorageFull as error:
                for item in items:
                    if isinstance(item, Request) and not item.future.done():
                        item.future.set_exception(error)
                await self._recover(error)
                return
            self.metrics.committed(len(batch.events), time.perf_counter() - started)
        self._attached.update(input.node.name for input in inputs if isinstance(input, NodeSynced))
        self._perform(commands)
        for executor, upto in acks.items():
            self.executors[executor].ack(upto)
        for future, answer, problem in answers:
            if future.done():
                continue
            if problem is not None:
                future.set_exception(problem)
            else:
                future.set_result(answer)
        self._expected = len(answers) + len(self._inbox)
        self._set_timer()

    def _snapshot(self, batch: Batch, commands: list[Command], inputs: list[Input]) -> None:
        """Copies into the batch what core has changed: the events, the jobs that they name, and the runs."""
        events: list[Event] = []
        jobs: dict[int, None] = {}
        new: set[int] = set()
        runs: dict[tuple[int, int, int], Replica] = {}
        for command in commands:
            if isinstance(command, Event):
                events.append(command)
                jobs[command.job] = None
                if command.type == "job.submitted":
                    new.add(command.job)
            elif isinstance(command, SaveRun):
                # Not every change of a replica is an event; the job's row must know of each.
                jobs[command.job] = None
                runs[command.job, command.index, command.replica.attempt] = command.replica
            elif isinstance(command, Forget):
                self._leaving[command.record.id] = command.record
                _resolve(self._departures, command.record.id)
            elif isinstance(command, Refuse):
                self.refused[command.job] = command.error
        batch.add_events(events)
        for job in jobs:
            record = self.record(job)
            if record is not None:
                batch.save_job(record, new=job in new)
        for (job, index, _), replica in runs.items():
            batch.save_run(job, index, replica)
        for input in inputs:
            if isinstance(input, NodeSynced) and input.node.name in self._boots:
                if self._nodes.get(input.node.name) != input.node:
                    self._nodes[input.node.name] = input.node
                    batch.set_meta(_NODES, msgspec.json.encode(list(self._nodes.values())).decode())
                batch.set_meta(f"boot:{input.node.name}", self._boots[input.node.name])
            elif isinstance(input, Delete) and input.job not in self._reactor.jobs:
                batch.delete_job(input.job)

    def _answers(
        self, items: Sequence[Any], errors: list[RunyardError | None], batch: Batch
    ) -> list[tuple[asyncio.Future[Any], Any, RunyardError | None]]:
        answers: list[tuple[asyncio.Future[Any], Any, RunyardError | None]] = []
        for item, problem in zip(items, errors, strict=True):
            if not isinstance(item, Request):
                continue
            answer = None
            problem = item.refused or problem
            if problem is None:
                try:
                    answer = item.finish(batch)
                except RunyardError as error:
                    problem = error
            answers.append((item.future, answer, problem))
        self.refused.clear()
        return answers

    def _perform(self, commands: list[Command]) -> None:
        """The batch is on disk: let it take effect."""
        launches: dict[str, list[Any]] = {}
        events: list[Event] = []
        stops: list[StopRun | SignalRun] = []
        for command in commands:
            if isinstance(command, Event):
                events.append(command)
            elif isinstance(command, StartRun):
                try:
                    launches.setdefault(command.shares[0].node, []).append(self._launch(command))
                except OSError as error:
                    # Such as a full disk: the store had room for its commit, the folder for the output has none.
                    reason = f"can't be started: there is no place for its output: {error.strerror}"
                    self.put(RunExited(run=command.run, at=self.clock(), reason=reason))
            elif isinstance(command, StopRun | SignalRun):
                stops.append(command)
            elif isinstance(command, SaveRun):
                if command.replica.ended_at is not None:
                    self._run_ended(RunKey(command.job, command.index, command.replica.attempt), command.replica)
            elif isinstance(command, Forget):
                self._leaving.pop(command.record.id, None)
                _resolve(self._endings, command.record.id)
        for node, messages in launches.items():
            executor = self.executor_of(node)
            if executor is not None:
                executor.launch(messages)
        # After the launches: a run may be started and stopped in one step.
        for stop in stops:
            executor = self.executor_of(stop.node)
            if executor is None:
                continue
            if isinstance(stop, StopRun):
                executor.stop(Stop(stop.run, stop.signal, stop.grace))
            else:
                executor.signal(Signal(stop.run, stop.signal))
        count = sum(map(len, launches.values()))
        # Each launch is answered by two reports.
        self._under_way += 2 * count
        self.metrics.launched(count)
        self.feed.publish(events)

    def _run_ended(self, run: RunKey, replica: Replica) -> None:
        record = self.record(run.job)
        most = record.spec.output.max_size if record is not None else None
        if most is not None:
            self.bounded_ends.append((run, most))
        for watcher in self.watchers:
            watcher.ended(run, record, replica)

    def _told(self, input: Input) -> Input:
        """A flow that has failed says itself why. The reason can be stored."""
        if not isinstance(input, RunExited):
            return input
        reason = input.reason
        if input.exit_code != 0 and not input.timed_out and reason is None:
            record = self.record(input.run.job)
            if record is not None and record.spec.flow is not None:
                reason = failure(self.output, input.run)
        # Programs choose what it says, and PostgreSQL takes no NUL.
        reason = reason and reason.replace("\0", "\\x00")
        return input if reason == input.reason else msgspec.structs.replace(input, reason=reason)

    def _launch(self, start: StartRun) -> Launch:
        more = self.environments.get(start.record.origin)
        for watcher in self.watchers:
            watcher.launched(start.run, start.record)
        return launch_message(
            start,
            self.output.prepare,
            more(start.record, start.run) if more is not None else {},
            lambda start: host_command(start, self.output),
            EDITION,
        )

    async def _recover(self, error: StorageFull) -> None:
        """The store could not write. Wait until it can, then start over from what it holds."""
        log.error("the store cannot write, requests are refused until it can: %s", error.detail)
        self._trouble = error
        self._refuse_inbox(error)
        while not await self.writer.probe():
            await asyncio.sleep(PROBE_INTERVAL)
            self._refuse_inbox(error)
        self._load()
        self._trouble, self._under_way = None, 0
        self._attached.clear()
        log.warning("the store can write again: %d live jobs loaded", len(self._reactor.jobs))
        for executor in self.executors.values():
            executor.resync()

    def _refuse_inbox(self, error: RunyardError) -> None:
        """Nothing that waits is handled: reports come again, requests are told why."""
        waiting, self._inbox = self._inbox, []
        for item in waiting:
            if isinstance(item, Request) and not item.future.done():
                item.future.set_exception(error)

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self._reactor.next_wakeup
        if due is not None and self._trouble is None:
            # A wall clock may be set at any time: look again at least once a minute.
            delay = min(max(0.0, due - self.clock()), 60.0)
            self._timer = asyncio.get_running_loop().call_later(delay, self.put, Tick())


async def _resolved(waiting: dict[int, list[asyncio.Future[None]]], job: int, timeout: float) -> bool:
    """Waits for `_resolve` of that job; False after `timeout` seconds."""
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    waiting.setdefault(job, []).append(future)
    try:
        async with asyncio.timeout(timeout):
            await future
    except TimeoutError:
        return False
    finally:
        futures = waiting.get(job)
        if futures is not None and future in futures:
            futures.remove(future)
            if not futures:
                del waiting[job]
    return True


def _resolve(waiting: dict[int, list[asyncio.Future[None]]], job: int) -> None:
    for future in waiting.pop(job, ()):
        if not future.done():
            future.set_result(None)


def _decode_nodes(text: str) -> list[Node]:
    return msgspec.json.decode(text, type=list[Node])


def _built(request: Request[Any]) -> Input:
    """The request's input; if making it is refused already, nothing happens."""
    try:
        made = request.input() if callable(request.input) else request.input
        if isinstance(made, Note):
            _check_note(made)
        return made
    except RunyardError as error:
        request.refused = error
        return Tick()


def _check_note(note: Note) -> None:
    """Strangers choose what some notes say, and what can't be stored would end the engine. Raises InvalidInput."""
    for kind, data in note.facts:
        try:
            msgspec.json.encode(data)
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            raise InvalidInput(f"{kind}: it has a value that JSON can't carry: {error}") from error


def _input(report: Report) -> Input:
    if isinstance(report, Started):
        return RunStarted(run=report.run, pid=report.pid, at=report.at)
    return RunExited(
        run=report.run,
        at=report.at,
        pid=report.pid,
        exit_code=report.exit_code,
        signal=report.signal,
        timed_out=report.timed_out,
        reason=report.reason,
        cpu_seconds=report.cpu_seconds,
        max_rss=report.max_rss,
    )
