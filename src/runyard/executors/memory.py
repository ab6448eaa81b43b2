"""An executor without processes, for tests of programs that use Runyard: what a run would do comes from a table.

Time stands still until `advance` is called, so tests need no waiting:

    executor = MemoryExecutor({"train": Outcome(seconds=3600), "broken": Outcome(exit_code=1)})
    …
    executor.advance(3600)
"""

from __future__ import annotations

import asyncio
import heapq
import signal
from collections.abc import Callable, Mapping
from typing import NamedTuple

from runyard.executors.protocol import Report, Synced
from runyard.model import wire
from runyard.model.ids import RunKey
from runyard.model.node import Node

_HARMLESS = frozenset(
    {0, signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH, signal.SIGSTOP, signal.SIGTSTP}
)


class Outcome(NamedTuple):
    """How a simulated program behaves."""

    exit_code: int = 0
    seconds: float = 0.0
    """How long it runs; `float("inf")` for one that never ends by itself."""
    obeys: bool = True
    """Whether a signal ends it; one that does not obey ends by SIGKILL only."""


#: By the program's name (`argv[0]`, or its last part), or as a function; None means that there is no such program.
#: A plain `(exit_code, seconds)` will do as well.
Programs = Mapping[str, Outcome | tuple[int, float]] | Callable[[wire.Launch], Outcome | tuple[int, float] | None]


class _Run:
    def __init__(self, launch: wire.Launch, outcome: Outcome, pid: int) -> None:
        self.launch, self.outcome, self.pid = launch, outcome, pid
        self.timed_out = False
        self.reason: str | None = None


class MemoryExecutor:
    """See `runyard.executors.protocol.Executor`. The simulated node keeps its runs and reports while closed."""

    def __init__(
        self, programs: Programs, *, node: Node | None = None, boot_id: str = "memory", now: float = 0.0
    ) -> None:
        """`now`: the time (Unix seconds) at which the simulation starts."""
        self.now = now
        self.node = node or Node(name="memory", executor="memory", cores=list(range(8)), memory=16 << 30)
        self.boot_id = boot_id
        self._programs = programs
        self._runs: dict[RunKey, _Run] = {}
        self._known: set[RunKey] = set()
        self._reports: list[Report] = []
        self._sent = 0
        self._seq = 0
        self._pid = 1000
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._ticket = 0
        self._connection = 0
        self._up = False

    async def start(
        self,
        on_reports: Callable[[list[Report]], None],
        on_synced: Callable[[Synced], None],
        on_down: Callable[[str], None],
    ) -> None:
        self._on_reports, self._on_synced, self._on_down = on_reports, on_synced, on_down
        self._connect()

    async def close(self) -> None:
        self._up = False

    def resync(self) -> None:
        self._connect()

    def disconnect(self) -> None:
        """Lose the connection, as when the agent dies, and make a new one in the next turn of the loop."""
        self._on_down(self.node.name)
        self._connect()

    def launch(self, launches: list[wire.Launch]) -> None:
        for launch in launches:
            if launch.run in self._known:
                continue
            self._known.add(launch.run)
            outcome = self._outcome(launch)
            if outcome is None:
                reason = f"there is no program {launch.argv[0] if launch.argv else ''!r} among the simulated ones"
                self._report(wire.Exited(self._number(), launch.run, 0, self.now, None, None, reason=reason))
                continue
            self._pid += 1
            run = self._runs[launch.run] = _Run(launch, outcome, self._pid)
            self._report(wire.Started(self._number(), launch.run, run.pid, self.now))
            self._at(self.now + outcome.seconds, lambda run=run: self._end(run, run.outcome.exit_code, None))  # type: ignore[misc]
            if launch.time_limit is not None:
                self._at(self.now + launch.time_limit, lambda run=run: self._time_out(run))  # type: ignore[misc]
        self._later(self._catch_up)

    def stop(self, stop: wire.Stop) -> None:
        run = self._runs.get(stop.run)
        if run is not None:
            self._later(lambda: self._stop(run, stop.signal, stop.grace))

    def signal(self, signal: wire.Signal) -> None:
        run = self._runs.get(signal.run)
        if run is not None:
            self._later(lambda: self._signal(run, signal.signal))

    def ack(self, upto: int) -> None:
        count = sum(report.seq <= upto for report in self._reports)
        self._known -= {report.run for report in self._reports[:count] if isinstance(report, wire.Exited)}
        del self._reports[:count]
        self._sent = max(0, self._sent - count)

    def advance(self, seconds: float) -> None:
        """Let time pass: what falls due happens in order, and is reported before this returns."""
        until = self.now + seconds
        while self._due and self._due[0][0] <= until:
            self.now, _, action = heapq.heappop(self._due)
            action()
        self.now = until
        self._deliver()

    @property
    def live(self) -> frozenset[RunKey]:
        """Runs that have been started and not ended."""
        return frozenset(self._runs)

    def _connect(self) -> None:
        self._up, self._sent = False, 0
        self._connection += 1
        connection = self._connection
        live, old = self.live, len(self._reports)

        def connected() -> None:
            if connection != self._connection:
                return
            self._up = True
            if old:
                self._sent = old
                self._on_reports(self._reports[:old])
            if self._up and connection == self._connection:
                self._on_synced(Synced(node=self.node, boot_id=self.boot_id, live=live))
                self._deliver()

        asyncio.get_running_loop().call_soon(connected)

    def _later(self, action: Callable[[], None]) -> None:
        def act() -> None:
            action()
            self._deliver()

        asyncio.get_running_loop().call_soon(act)

    def _deliver(self) -> None:
        if self._up and self._sent < len(self._reports):
            reports = self._reports[self._sent :]
            self._sent = len(self._reports)
            self._on_reports(reports)

    def _catch_up(self) -> None:
        """Programs that take no time have ended by now."""
        self.advance(0.0)

    def _outcome(self, launch: wire.Launch) -> Outcome | None:
        name = launch.argv[0] if launch.argv else ""
        if callable(self._programs):
            found = self._programs(launch)
        else:
            found = self._programs.get(name) or self._programs.get(name.rpartition("/")[2])
        return None if found is None else Outcome(*found)

    def _number(self) -> int:
        self._seq += 1
        return self._seq

    def _report(self, report: Report) -> None:
        self._reports.append(report)

    def _at(self, when: float, action: Callable[[], None]) -> None:
        if when < float("inf"):
            self._ticket += 1
            heapq.heappush(self._due, (when, self._ticket, action))

    def _end(self, run: _Run, code: int | None, number: int | None) -> None:
        if self._runs.get(run.launch.run) is run:
            del self._runs[run.launch.run]
            self._report(
                wire.Exited(
                    self._number(), run.launch.run, run.pid, self.now, code, number, run.timed_out, run.reason, 0.0
                )
            )

    def _signal(self, run: _Run, number: int) -> None:
        if number == signal.SIGKILL or (run.outcome.obeys and number not in _HARMLESS):
            self._end(run, None, number)

    def _stop(self, run: _Run, number: int, grace: float) -> None:
        self._signal(run, number)
        self._at(self.now + grace, lambda: self._end(run, None, signal.SIGKILL))

    def _time_out(self, run: _Run) -> None:
        if self._runs.get(run.launch.run) is run:
            run.timed_out, run.reason = True, f"the time limit of {run.launch.time_limit:g} s was reached"
            self._stop(run, run.launch.stop_signal, run.launch.grace)
