"""Simulated nodes: a virtual clock, connections that lose what is under way, and agents with their processes.

See `tests.simulator` for the rules that they keep.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from runyard.model import wire
from runyard.model.ids import RunKey
from runyard.model.node import Node

#: 2026-01-05T00:00:00Z, a Monday.
START = 1_767_571_200.0


class Receiver(Protocol):
    """The server, as an agent sees it."""

    up: bool

    def hello(self, link: Link, live: list[RunKey], boot: str, unacked: list[wire.Started | wire.Exited]) -> None: ...

    def reported(self, link: Link, report: wire.Started | wire.Exited) -> None: ...

    def noticed_loss(self, agent: Agent) -> None: ...


class Observer(Protocol):
    """Who watches what really happens."""

    def program_started(self, agent: Agent, run: RunKey, launch: wire.Launch) -> None: ...

    def program_ended(self, agent: Agent, run: RunKey) -> None: ...


class Program(NamedTuple):
    """What a simulated process does, written into its command."""

    duration: float
    """Seconds."""
    exit_code: int = 0
    deaf: bool = False
    """Ignores its stop signal."""
    missing: bool = False
    """There is no such program: it can't be started."""

    @property
    def command(self) -> list[str]:
        words = [word for word in ("deaf", "missing") if getattr(self, word)]
        return ["simulated", repr(self.duration), str(self.exit_code), *words]

    @classmethod
    def of(cls, argv: list[str]) -> Program:
        return cls(float(argv[1]), int(argv[2]), "deaf" in argv, "missing" in argv)


class Clock:
    """Virtual time: calls back in order of time, then of asking."""

    def __init__(self) -> None:
        self.now = START
        self.steps = 0
        self._calls: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._count = 0

    def after(self, seconds: float, call: Callable[..., object], *arguments: Any) -> None:
        self._count += 1
        heapq.heappush(self._calls, (self.now + max(seconds, 0.0), self._count, call, arguments))

    def run_until(self, moment: float) -> None:
        while self._calls and self._calls[0][0] <= moment:
            self.now, _, call, arguments = heapq.heappop(self._calls)
            self.steps += 1
            call(*arguments)
        self.now = max(self.now, moment)

    @property
    def next_at(self) -> float | None:
        return self._calls[0][0] if self._calls else None


class Link:
    """One connection between an agent and the server. What is under way on it is lost with it."""

    def __init__(self, clock: Clock, rng: random.Random, agent: Agent) -> None:
        self.agent = agent
        self.up = True
        self.synced = False
        self._clock = clock
        self._rng = rng
        self._latest = {True: 0.0, False: 0.0}

    def send(self, to_agent: bool, call: Callable[..., object], *arguments: Any) -> None:
        """Delivers in order, after a delay."""
        now = self._clock.now
        latest = self._latest[to_agent] = max(self._latest[to_agent], now + self._rng.uniform(0.0001, 0.005))
        self._clock.after(latest - now, self._deliver, call, arguments)

    def _deliver(self, call: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        if self.up:
            call(*arguments)


class Process:
    """A simulated process, with the end that awaits it."""

    __slots__ = ("end", "forced", "launch", "lost", "program", "running", "started")

    def __init__(self, launch: wire.Launch, now: float) -> None:
        self.launch = launch
        self.program = Program.of(launch.argv)
        self.started = now
        self.running = True
        self.lost = False
        """It ended while there was no agent."""
        self.forced = False
        """It ends because the agent makes it."""
        self.end = now + self.program.duration


class Agent:
    """The agent of one node; its journal outlives it."""

    def __init__(self, node: Node, clock: Clock, rng: random.Random, server: Receiver, observer: Observer) -> None:
        self._clock = clock
        self._rng = rng
        self._server = server
        self._observer = observer
        self.node = node
        self.up = True
        self.boot = 1
        self.link: Link | None = None
        self.live: dict[RunKey, Process] = {}
        self.unacked: deque[wire.Started | wire.Exited] = deque()
        self._owed: Counter[RunKey] = Counter()
        self._seq = 0
        self._pid = 100

    # Messages ---------------------------------------------------------------------------------------------------

    def launch(self, message: wire.Launch) -> None:
        run = message.run
        if run in self.live or run in self._owed:
            return
        clock = self._clock
        process = Process(message, clock.now)
        self._pid += 1
        if process.program.missing:
            self._report(wire.Exited(self._next(), run, 0, clock.now, None, None, reason="no such program"))
            return
        self._observer.program_started(self, run, message)
        self.live[run] = process
        self._report(wire.Started(self._next(), run, self._pid, clock.now))
        program = process.program
        clock.after(program.duration, self._end, process, process.end, program.exit_code, None, False)
        if message.time_limit is not None and message.time_limit < program.duration:
            clock.after(message.time_limit, self._force, process, message.stop_signal, message.grace, True)

    def stop(self, message: wire.Stop) -> None:
        process = self.live.get(message.run)
        if process is not None:
            self._force(process, message.signal, message.grace, False)

    def signal(self, message: wire.Signal) -> None:
        process = self.live.get(message.run)
        if process is not None and not process.program.deaf and message.signal in (9, 15):
            self._force(process, message.signal, 0.0, False)

    def ack(self, upto: int) -> None:
        while self.unacked and self.unacked[0].seq <= upto:
            report = self.unacked.popleft()
            self._owed[report.run] -= 1
            if not self._owed[report.run]:
                del self._owed[report.run]

    # Processes --------------------------------------------------------------------------------------------------

    def _force(self, process: Process, signal: int, grace: float, timed_out: bool) -> None:
        """Makes the process end: now, or when its grace is over."""
        if not process.running or process.forced:
            return
        process.forced = True
        now = self._clock.now
        delay, number = (grace, 9) if process.program.deaf else (min(0.01, grace), signal)
        if now + delay < process.end:
            process.end = now + delay
            self._clock.after(delay, self._end, process, process.end, None, number, timed_out)

    def _end(self, process: Process, moment: float, exit_code: int | None, signal: int | None, timed_out: bool) -> None:
        if not process.running or process.end != moment:
            return
        run = process.launch.run
        if not self.up and process.forced:
            # Nobody is there to do it: the next agent keeps the promise.
            process.end = self._clock.now + 0.5
            self._clock.after(0.5, self._end, process, process.end, exit_code, signal, timed_out)
            return
        process.running = False
        self._observer.program_ended(self, run)
        if not self.up:
            process.lost = True
            return
        del self.live[run]
        self._report(wire.Exited(self._next(), run, 1, self._clock.now, exit_code, signal, timed_out))

    def _next(self) -> int:
        self._seq += 1
        return self._seq

    def _report(self, report: wire.Started | wire.Exited) -> None:
        self.unacked.append(report)
        self._owed[report.run] += 1
        if self.link is not None:
            self.link.send(False, self._server.reported, self.link, report)

    # Life -------------------------------------------------------------------------------------------------------

    def connect(self) -> None:
        """Connects, unless it is connected, or there is no server: then it tries again later."""
        if not self.up or (self.link is not None and self.link.up):
            return
        if not self._server.up:
            self._clock.after(self._rng.uniform(0.05, 1.0), self.connect)
            return
        link = self.link = Link(self._clock, self._rng, self)
        live = [run for run, process in self.live.items() if process.running]
        link.send(False, self._server.hello, link, live, str(self.boot), list(self.unacked))

    def lose_link(self) -> None:
        link, self.link = self.link, None
        if link is None or not link.up:
            return
        link.up = False
        self._server.noticed_loss(self)
        self._clock.after(self._rng.choice((0.001, 0.05, 2.0)), self.connect)

    def crash(self) -> None:
        """The agent is killed; its processes live on."""
        if self.up:
            self.lose_link()
            self.up = False
            self._clock.after(self._rng.uniform(0.01, 3.0), self._start, self.boot)

    def _start(self, boot: int) -> None:
        if self.up or boot != self.boot:
            return
        self.up = True
        for run, process in list(self.live.items()):
            if process.lost:
                del self.live[run]
                self._report(wire.Exited(self._next(), run, 1, self._clock.now, None, None))
        self.connect()

    def reboot(self) -> None:
        """The host is started anew: every process is gone, and so is the news of how it ended."""
        self.lose_link()
        self.up = False
        self.boot += 1
        for run, process in self.live.items():
            if process.running:
                process.running = False
                self._observer.program_ended(self, run)
        self.live.clear()
        self._clock.after(self._rng.uniform(1.0, 30.0), self._start, self.boot)
