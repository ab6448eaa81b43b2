"""The runs of this host: started once, watched, stopped with all they have started, and reported.

Nothing is reported before it is in the journal (or, with a full disk, waiting to be).

A stopped or timed-out run is reported as exited only after its whole tree is gone; its descendants get the stop signal
with it, and SIGKILL when its main process has ended or the grace is over. A run that ends by itself takes its process
group (and cgroup) along, but not daemons that left it.
"""

from __future__ import annotations

import heapq
import os
import resource
import select
import signal
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from operator import attrgetter

import msgspec

from runyard.agent import cgroup, process, scratch
from runyard.agent.journal import Acked, Born, Journal, Reaped, Record, Stopping
from runyard.agent.log import Log
from runyard.agent.process import Proc, Table
from runyard.agent.reasons import CannotStart
from runyard.agent.run import FOREVER, SILENCE, Run, bounded, intent_of, records
from runyard.agent.spawn import AlreadyStarted, Spawner
from runyard.agent.sweeper import Sweeper
from runyard.agent.tasks import Report
from runyard.agent.warm import Answer, Warm
from runyard.model import wire
from runyard.model.ids import RunKey

#: Runs spawned before the loop looks at anything else.
BURST = 16
#: Runs for each of which the agent looks whether it has left anything; for more, one sweep costs less.
FEW = 64
#: Seconds between looks for orphans that have ended.
ORPHANS = 2.0
#: Seconds that the reaper of an adopted process may take before its exit status is given up.
UNREAPED = 5.0
#: File descriptors that are not for runs.
SPARE = 64

_seq = attrgetter("seq")


class Runs:
    def __init__(
        self,
        name: str,
        environment: Mapping[str, str],
        journal: Journal,
        cgroups: cgroup.Cgroups,
        log: Log,
        epoll: select.epoll,
    ) -> None:
        """`name` marks the processes of this agent and stays the same over restarts; `environment` is what all of them
        get; `epoll` gets the pidfds."""
        self.boot_id = process.boot_id()
        self.live = 0
        self.reports: list[wire.Started | wire.Exited] = []
        """Those that are not acknowledged yet, oldest first."""
        self.watched: dict[int, Run] = {}
        """By pidfd."""
        self.journal = journal
        self._mark = f"RUNYARD_AGENT={name}".encode()
        self._cgroups, self._log, self._epoll = cgroups, log, epoll
        self._spawner = Spawner(name, environment)
        self.warm = Warm(self._spawner.base, epoll, log)
        self._sweeper = Sweeper(self._mark)
        self._seq = 0
        self._known: dict[RunKey, Run | None] = {}
        self._queue: deque[Run] = deque()
        self._by_pid: dict[int, Run] = {}
        self._deadlines: list[tuple[float, int, str, Run]] = []
        self._ticket = 0
        self._acked = 0
        self._orphans_at = FOREVER
        self._capacity = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - SPARE
        self._own_peak = process.own_peak()

    # For the loop -------------------------------------------------------------------------------------------------

    @property
    def keys(self) -> list[RunKey]:
        """Of the runs that have not ended."""
        return [key for key, run in self._known.items() if run is not None]

    @property
    def at_rest(self) -> bool:
        """Nothing is up."""
        return not self.live

    @property
    def due(self) -> float:
        """Uptime at which there is something to do; 0 for now."""
        if self._queue and len(self.watched) < self._capacity:
            return 0.0
        until = min(self._sweeper.due, self._orphans_at, self.warm.due)
        return min(until, self._deadlines[0][0]) if self._deadlines else until

    def ready(self, run: Run, mask: int) -> None:
        """The run's pidfd, or its pipe, has something to tell."""
        if run.adopted:
            self._adopted_ended(run, mask)
        else:
            if run.pipe >= 0:
                self._hear_starter(run)
            # The descriptor may have belonged to another run when this was told of it.
            if os.waitid(os.P_PID, run.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                self._main_ended(run)

    def hear_warm(self) -> None:
        """The warm process has something to tell."""
        self._answered(self.warm.hear())

    def turn(self) -> None:
        """Spawn a few of the waiting runs, keep what is due, write the journal."""
        if self._queue:
            self._spawn_some()
        now = process.uptime()
        while self._deadlines and self._deadlines[0][0] <= now:
            _, _, kind, run = heapq.heappop(self._deadlines)
            if not run.ended:
                self._due(kind, run, now)
        if self.warm.due <= now:
            self._answered(self.warm.give_up())
        if self._sweeper.due <= now:
            for run in self._sweeper.sweep(self._by_pid):
                self._gone(run)
        if self._orphans_at <= now:
            self._reap_orphans(now)
        if self._acked:
            self.journal.note(Acked(self._acked))
            self._acked = 0
        self.journal.flush()
        if self.journal.large:
            self.journal.compact(self.state())

    def launch(self, launches: list[wire.Launch]) -> None:
        """Promise to start those that are not known, and queue them."""
        fresh: list[Run] = []
        for launch in launches:
            if launch.run not in self._known:
                asks = launch.memory is not None or launch.cpus is not None
                run = Run(intent_of(launch, self._cgroups.path(str(launch.run)) if asks else None), launch)
                self._known[launch.run] = run
                self.live += 1
                fresh.append(run)
        self._intend(fresh)

    def stop(self, key: RunKey, number: int, grace: float) -> None:
        if (run := self._known.get(key)) is not None:
            self._stop(run, number, grace)

    def stop_all(self, reason: str) -> None:
        """Each with its own stop signal and grace."""
        for run in list(self._known.values()):
            if run is not None:
                self._stop(run, run.intent.stop_signal, run.intent.grace, reason)

    def signal(self, key: RunKey, number: int) -> None:
        if (run := self._known.get(key)) is not None:
            self._signal(run, number)

    def forget(self, upto: int) -> int:
        """The reports up to this number are safe elsewhere. How many these are."""
        count = bisect_right(self.reports, upto, key=_seq)
        if count:
            for report in self.reports[:count]:
                if type(report) is wire.Exited:
                    del self._known[report.run]
            self._acked = self.reports[count - 1].seq
            del self.reports[:count]
        return count

    # Starting -----------------------------------------------------------------------------------------------------

    def _intend(self, runs: list[Run]) -> None:
        try:
            self.journal.write([run.intent for run in runs])
        except OSError as error:
            reason = f"the agent can't write its journal ({error.strerror}), so nothing is started: free some space"
            self._log.warning(f"{len(runs)} launches refused: {reason}")
            for run in runs:
                self._never(run, reason)
            return
        self._queue.extend(runs)

    def _spawn_some(self) -> None:
        born: list[Run] = []
        found: list[Run] = []
        left = min(BURST, self._capacity - len(self.watched))
        spawner = self._spawner
        try:
            while self._queue and left > 0:
                left -= 1
                run = self._queue.popleft()
                launch = run.launch
                if launch is None:
                    continue
                run.launch = None
                try:
                    if run.intent.group is not None:
                        self._cgroups.make(run.intent.group, launch.memory, launch.cpus)
                    if launch.memory is not None and not self._cgroups.memory:
                        limits = {"as": launch.memory, **(launch.rlimits or {})}
                        launch = msgspec.structs.replace(launch, rlimits=limits)
                    if launch.cpus is not None and not self._cgroups.cpu:
                        self._log.warning(f"run {run.key} has no limit on cpus: there is no cgroup cpu controller")
                    launch = scratch.make(run.intent.tmpdir, launch)
                    run.uptime = process.uptime()
                    if spawner.ask(self.warm, run, launch):
                        run.asked = True
                        continue
                    run.pid, run.pipe = spawner.spawn(launch, run.intent.group)
                except CannotStart as error:
                    self._never(run, str(error))
                except AlreadyStarted:
                    found.append(run)
                except OSError as error:
                    self._never(run, f"can't be started: {error}")
                else:
                    born.append(run)
        finally:
            spawner.restore()
        at = time.time()
        for run in born:
            self._born(run, at)
        if self._orphans_at >= FOREVER:
            self._orphans_at = process.uptime() + ORPHANS
        if found:
            self.seek(found)

    def _born(self, run: Run, at: float) -> None:
        self._by_pid[run.pid] = run
        self._watch(run)
        if run.pipe < 0:
            self._started(run, at)
        else:
            # It tells when all of its tasks have been started.
            run.report = Report()
            self.watched[run.pipe] = run
            self._epoll.register(run.pipe, select.EPOLLIN)
        self._pid_known(run)

    def _pid_known(self, run: Run) -> None:
        run.asked = False
        if run.stop is not None and not run.ended:
            self._stop(run, *run.stop)

    def _answered(self, answers: list[Answer]) -> None:
        at = time.time()
        found: list[Run] = []
        for run, launch, pid in answers:
            if pid > 0:
                run.pid = pid
                if (proc := process.read(pid)) is not None:
                    # It may have waited for its turn, and a later agent knows it by its start.
                    run.uptime = proc.start / process.TICKS
                self._born(run, at)
            elif pid < 0:
                found.append(run)
            else:
                run.launch = msgspec.structs.replace(launch, warm=0)
                self._queue.appendleft(run)
        if found:
            self.seek(found)

    def _watch(self, run: Run) -> None:
        try:
            run.pidfd = os.pidfd_open(run.pid)
        except OSError as error:
            self._log.warning(f"can't watch pid {run.pid} yet: {error.strerror}")
            self._deadline(process.uptime() + 0.5, "watch", run)
            return
        self.watched[run.pidfd] = run
        self._epoll.register(run.pidfd, select.EPOLLIN)

    def _hear_starter(self, run: Run) -> None:
        """What the starter of its tasks has to tell."""
        report = run.report
        started = report.up
        try:
            while data := os.read(run.pipe, 1 << 16):
                report.feed(data)
        except BlockingIOError:
            pass
        except (OSError, ValueError) as error:
            self._log.warning(f"run {run.key} has told something that can't be read: {error}")
        else:
            self._hang_up_starter(run)
        if report.up and not started:
            self._started(run, time.time())

    def _hang_up_starter(self, run: Run) -> None:
        if run.pipe >= 0:
            del self.watched[run.pipe]
            self._epoll.unregister(run.pipe)
            os.close(run.pipe)
            run.pipe = -1

    def _started(self, run: Run, at: float) -> None:
        self._seq = run.seq = seq = self._seq + 1
        self.journal.note(Born(seq, run.key, run.pid, at, run.uptime))
        self.reports.append(wire.Started(seq, run.key, run.pid, at))
        if run.intent.time_limit is not None:
            self._deadline(run.uptime + run.intent.time_limit, "limit", run)

    def _never(self, run: Run, reason: str) -> None:
        if run.intent.group is not None:
            cgroup.remove(run.intent.group)
        self.exited(run, time.time(), None, None, reason)

    # Stopping -----------------------------------------------------------------------------------------------------

    def _stop(self, run: Run, number: int, grace: float, reason: str | None = None) -> None:
        if run.asked:
            if run.stop is None or grace < run.stop[1]:
                run.stop = (number, grace, reason)
            return
        if run.launch is not None:
            run.launch = None
            self._never(run, reason or "stopped before it was started")
            return
        now = process.uptime()
        kill_at = now + max(0.0, bounded(grace))
        again = run.stopping and run.signal == number
        if again and kill_at >= run.kill_at:
            return
        run.stopping, run.signal = True, number
        run.reason = run.reason or reason
        run.kill_at = min(kill_at, run.kill_at)
        self.journal.note(Stopping(run.key, number, run.kill_at, run.timed_out, run.reason))
        if run.reaped is not None:
            return
        if not again:
            if not run.adopted:
                self._signal(run, number)
                # A process that is halted can't end before it is continued.
                self._signal(run, signal.SIGCONT)
            if not self._alone(run):
                self._sweeper.tell(run, number, now)
        self._deadline(run.kill_at, "kill", run)

    def _signal(self, run: Run, number: int) -> None:
        if run.pid == 0 or run.reaped is not None:
            return
        try:
            if not run.adopted:
                os.killpg(run.pid, number)
            else:
                # Not our child: its pid may be free at any moment, so each member is looked at first.
                for proc in Table().procs.values():
                    if proc.group == run.pid and proc.session == run.pid:
                        process.send(proc, number)
        except OSError as error:
            self._log.warning(f"can't send signal {number} to run {run.key}: {error.strerror}")

    def _due(self, kind: str, run: Run, now: float) -> None:
        if kind == "limit":
            if not run.stopping and run.reaped is None:
                run.timed_out = True
                reason = f"the time limit of {run.intent.time_limit:g} s was reached"
                self._stop(run, run.intent.stop_signal, run.intent.grace, reason)
        elif kind == "kill":
            if run.kill_at <= now and run.reaped is None:
                late = f"killed: it did not end by signal {run.signal} in time"
                run.reason = f"{run.reason}; {late}" if run.reason else late
                self._sweeper.kill(run, now)
        elif kind == "watch":
            if run.pidfd < 0 and run.reaped is None:
                self._watch(run)
        elif kind == "unreaped" and run.reaped is None:
            self._ended(
                run, None, None, "nobody could observe how it ended: its parent has not collected it", None, None
            )

    def _deadline(self, at: float, kind: str, run: Run) -> None:
        if at >= FOREVER:
            return
        self._ticket += 1
        heapq.heappush(self._deadlines, (at, self._ticket, kind, run))
        if len(self._deadlines) > 4 * self.live + 1024:
            self._deadlines = [item for item in self._deadlines if not item[3].ended]
            heapq.heapify(self._deadlines)

    # Ending -------------------------------------------------------------------------------------------------------

    def _main_ended(self, run: Run) -> None:
        pid = run.pid
        with suppress(OSError):
            # It is not reaped yet, so no other group can have this number.
            os.killpg(pid, signal.SIGKILL)
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done == 0:
            return
        # Until it executes its program a child counts with the agent's memory: a peak that is not above the agent's own
        # says nothing.
        peak: int | None = usage.ru_maxrss * 1024
        if usage.ru_maxrss * 1024 > self._own_peak:
            self._own_peak = process.own_peak()
        if usage.ru_maxrss * 1024 <= self._own_peak:
            peak = None
        code, number = process.decoded(status)
        reason = None
        if run.pipe >= 0:
            self._hear_starter(run)
            self._hang_up_starter(run)
        if (report := run.report) is not SILENCE:
            peak = report.max_rss or peak
            reason = report.failed or (None if run.stopping else report.reason)
            if report.failed is not None:
                code = number = None
        self._ended(run, code, number, reason, round(usage.ru_utime + usage.ru_stime, 6), peak)

    def _adopted_ended(self, run: Run, mask: int) -> None:
        status = None
        reason = None
        try:
            status = process.exit_status(run.pidfd)
            if status is None and not mask & select.EPOLLHUP:
                # A zombie: the status can be had when its parent has collected it, which hangs up the pidfd.
                self._epoll.modify(run.pidfd, 0)
                self._deadline(process.uptime() + UNREAPED, "unreaped", run)
                return
        except OSError:
            pass
        if status is None:
            reason = "nobody could observe how it ended: an earlier agent had started it, and this kernel does not tell"
        code, number = (None, None) if status is None else process.decoded(status)
        self._ended(run, code, number, reason, None, None)

    def _ended(
        self,
        run: Run,
        code: int | None,
        number: int | None,
        reason: str | None,
        cpu_seconds: float | None,
        max_rss: int | None,
    ) -> None:
        """The main process has ended. The rest of a stopped run's tree has to end before that is told."""
        del self._by_pid[run.pid]
        if run.pidfd >= 0:
            del self.watched[run.pidfd]
            self._epoll.unregister(run.pidfd)
            os.close(run.pidfd)
            run.pidfd = -1
        at = time.time()
        group = run.intent.group
        if group is not None:
            cpu_seconds = cgroup.cpu_seconds(group) or cpu_seconds
            if cgroup.out_of_memory(group):
                reason = "; ".join(filter(None, (reason, "it needed more memory than its limit")))
        if run.stopping or run.adopted or group is not None:
            run.reaped = Reaped(run.key, at, code, number, reason, cpu_seconds, max_rss)
            self.journal.note(run.reaped)
            if self._alone(run):
                self._gone(run)
            else:
                self._sweeper.kill(run, process.uptime())
        else:
            self.exited(run, at, code, number, reason, cpu_seconds, max_rss)

    def _alone(self, run: Run) -> bool:
        return self.live <= FEW and self._sweeper.alone(run, self._by_pid.keys() | {self.warm.pid})

    def _gone(self, run: Run) -> None:
        """Nothing is left of the run."""
        end = run.reaped
        assert end is not None, "the sweeper gives back only runs whose main process has ended"
        reason = "; ".join(filter(None, (end.reason, run.reason))) or None
        self.exited(run, end.at, end.exit_code, end.signal, reason, end.cpu_seconds, end.max_rss)

    def exited(
        self,
        run: Run,
        at: float,
        code: int | None,
        number: int | None,
        reason: str | None,
        cpu_seconds: float | None = None,
        max_rss: int | None = None,
    ) -> None:
        run.ended = True
        self._known[run.key] = None
        self.live -= 1
        if scratch.remove(run.intent.tmpdir):
            self._orphans_at = min(self._orphans_at, process.uptime() + ORPHANS)
        self._seq = seq = self._seq + 1
        pid = run.pid if run.report.failed is None else 0
        report = wire.Exited(seq, run.key, pid, at, code, number, run.timed_out, reason, cpu_seconds, max_rss)
        self.journal.note(report)
        self.reports.append(report)

    def _reap_orphans(self, now: float) -> None:
        """Descendants whose parents have ended are our children now, and nobody else collects them."""
        if self.warm.asked:
            # A run may be among them.
            self._orphans_at = now + ORPHANS
            return
        while True:
            try:
                info = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                self._orphans_at = FOREVER
                return
            if info is None:
                self._orphans_at = now + ORPHANS
                return
            run = self._by_pid.get(info.si_pid)
            if run is None:
                os.waitpid(info.si_pid, 0)
            else:
                self._main_ended(run)

    # After a restart (`recovery`) ---------------------------------------------------------------------------------

    def resume(self, run: Run) -> None:
        """An earlier agent has promised this run; one of `adopt`, `seek`, `vanished`, `sweep` or `exited` follows."""
        self._known[run.key] = run
        self.live += 1

    def restore(self, reports: list[wire.Started | wire.Exited], seq: int) -> None:
        """Reports that were not acknowledged to an earlier agent, and the number of the last report."""
        self.reports, self._seq = reports, seq
        for report in reports:
            if type(report) is wire.Exited:
                self._known[report.run] = None

    def sweep(self, run: Run) -> None:
        """Its main process is gone; end what is left of it, then report."""
        self._sweeper.kill(run, process.uptime())

    def seek(self, runs: list[Run]) -> None:
        """Find the processes of runs whose start was not written down, by the mark in their environment."""
        marked: dict[bytes, list[Proc]] = {}
        for pause in (0.0, 0.02, 0.1):
            # A process that is just being executed shows no environment for a moment.
            time.sleep(pause)
            marked = Table().marked(self._mark, self._by_pid)
            if all(run.mark in marked for run in runs):
                break
        for run in runs:
            procs = marked.get(run.mark, [])
            if not procs:
                self.exited(
                    run,
                    time.time(),
                    None,
                    None,
                    "nobody could observe how it ended: it was started before, for its output file "
                    f"{run.intent.stdout} exists, but there is no such process any more",
                )
                continue
            main = min(procs, key=lambda proc: (proc.pid != proc.session, proc.start))
            run.pid, run.uptime = main.pid, main.start / process.TICKS
            self._started(run, time.time() - process.uptime() + run.uptime)
            self.adopt(run, main)
            self._pid_known(run)

    def adopt(self, run: Run, proc: Proc) -> None:
        """`proc` is the main process of the run, though not our child."""
        run.adopted, run.start = True, proc.start
        try:
            run.pidfd = os.pidfd_open(run.pid)
        except OSError:
            self.vanished(run, "the agent was not running")
            return
        now = process.read(run.pid)
        if now is None or now.start != proc.start:
            os.close(run.pidfd)
            run.pidfd = -1
            self.vanished(run, "the agent was not running")
            return
        self._by_pid[run.pid] = run
        self.watched[run.pidfd] = run
        self._epoll.register(run.pidfd, select.EPOLLIN)
        if run.intent.time_limit is not None:
            self._deadline(run.uptime + run.intent.time_limit, "limit", run)
        if run.stopping:
            self._deadline(run.kill_at, "kill", run)

    def vanished(self, run: Run, why: str) -> None:
        """Its main process has ended unseen."""
        run.blind = True
        run.reaped = Reaped(run.key, time.time(), None, None, f"nobody could observe how it ended: {why}", None, None)
        self._sweeper.kill(run, process.uptime())

    def state(self) -> Iterator[Record]:
        """The present state, as the journal that adds up to it."""
        return records(self.boot_id, self._seq, self._known, self.reports)
