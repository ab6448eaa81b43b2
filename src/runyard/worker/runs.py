"""The runs of the worker. Those in processes are the agent's business (`runyard.agent.runs`); this adds coroutines and
the processes that they share.

A host is a run of its own kind: hidden from executors, but in the journal, with its whole process tree ended as of any
run. Coroutines do not outlive it, nor the keeper: the next keeper reports them as lost.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections import deque
from contextlib import suppress
from typing import Any

import msgspec

from runyard.agent import process
from runyard.agent.link import Link
from runyard.agent.process import Proc
from runyard.agent.reasons import CannotStart, is_device
from runyard.agent.run import FOREVER, Run, bounded, intent_of
from runyard.agent.runs import Runs
from runyard.model import wire
from runyard.model.ids import RunKey
from runyard.worker.evaldata import eval_data, parse
from runyard.worker.message import Asked, Began, Blocked, Cancel, FromHost, Start, ToHost, decode_from_host, encode
from runyard.worker.target import NoTarget, Target, find

#: No job has this id: the runs of it are hosts.
HOSTS = 0
#: Seconds for which a host without a coroutine is kept.
LINGER = 10.0
#: Seconds that a coroutine gets to take its cancellation, however short the grace.
LEAST_GRACE = 0.5
CHILD = os.path.join(os.path.dirname(os.path.abspath(__file__)), "child.py")

_HARMLESS = frozenset(
    {0, signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH, signal.SIGSTOP, signal.SIGTSTP}
)


class HostRun(Run):
    def __init__(self, launch: wire.Launch, search: tuple[str, ...], link: Link) -> None:
        super().__init__(intent_of(launch, None))
        self.search = search
        self.link = link
        self.tasks: dict[RunKey, TaskRun] = {}
        self.blocked: Blocked | None = None
        """What it last said of its loop, if that has not turned since."""
        self.idle_since = 0.0
        self.culprit: tuple[RunKey | None, str] | None = None
        """The run for which it is killed, and what that did."""


class TaskRun(Run):
    """A coroutine. `pid` is its host's, and `uptime` is never: it has no process that could be found again, and its
    time limit counts from `Began` on."""

    def __init__(self, launch: wire.Launch, target: Target | None) -> None:
        super().__init__(intent_of(launch, None), launch)
        self.uptime = FOREVER
        self.target = target
        self.host: HostRun | None = None
        self.asked = False
        """It was cancelled."""


class PythonRuns(Runs):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._hosts: dict[tuple[str, ...], HostRun] = {}
        """Those that take coroutines, by their search path."""
        self._hidden: set[RunKey] = set()
        self._stderr: dict[RunKey, str] = {}
        self._ending = False
        self._host_logs = os.path.join(os.path.dirname(self.journal.folder), "hosts")

    @property
    def keys(self) -> list[RunKey]:
        return [key for key in super().keys if key.job != HOSTS]

    @property
    def at_rest(self) -> bool:
        return super().at_rest and not self._hidden

    # Starting -----------------------------------------------------------------------------------------------------

    def launch(self, launches: list[wire.Launch]) -> None:
        programs: list[wire.Launch] = []
        tasks: list[Run] = []
        for launch in launches:
            if launch.run in self._known:
                continue
            try:
                target = _target(launch)
            except NoTarget as error:
                self._never(self._enter(TaskRun(launch, None)), str(error))
                continue
            if target.coroutine and not _special(launch):
                tasks.append(self._enter(TaskRun(launch, target)))
            else:
                words = ["program", str(launch.stop_signal), f"{bounded(launch.grace):g}", *launch.argv]
                argv = [sys.executable, "-P", CHILD, *words]
                programs.append(msgspec.structs.replace(launch, argv=argv))
                self._stderr[launch.run] = launch.stderr
        self._intend(tasks)
        super().launch(programs)

    def _enter(self, run: TaskRun) -> TaskRun:
        self._known[run.key] = run
        self.live += 1
        return run

    def _spawn_some(self) -> None:
        tasks = [run for run in self._queue if isinstance(run, TaskRun)]
        if tasks:
            self._queue = deque(run for run in self._queue if not isinstance(run, TaskRun))
            for run in tasks:
                self._begin(run)
        if self._queue:
            super()._spawn_some()

    def _begin(self, run: TaskRun) -> None:
        launch, target = run.launch, run.target
        if launch is None or target is None or target.function is None:
            return
        run.launch = None
        try:
            _create(launch.stdout)
            host = run.host = self._hosts.get(target.search) or self._open(target.search)
        except FileExistsError:
            reason = f"nobody could observe how it ended: it was started before, for {launch.stdout} exists"
            self._never(run, reason)
            return
        except CannotStart as error:
            self._never(run, str(error))
            return
        except OSError as error:
            self._never(run, f"can't be started: {error}")
            return
        run.pid = host.pid
        host.tasks[run.key] = run
        self._started(run, time.time())
        cwd = os.path.abspath(launch.cwd or "/")
        env = {**self._spawner.base, **_environment(launch)}
        self._tell(
            host,
            Start(
                run.key, target.path, target.function, target.package, launch.argv[1:], env, cwd,
                launch.stdout, launch.stderr,
            ),
        )  # fmt: skip

    def _open(self, search: tuple[str, ...]) -> HostRun:
        """A new host. Raises OSError, CannotStart."""
        key = RunKey(HOSTS, 0, max(int(time.time() * 1000), max(self._hidden, default=RunKey(0, 0, 0)).attempt + 1))
        path = os.path.join(self._host_logs, f"{key.attempt}.log")
        near, far = socket.socketpair()
        with far:
            words = ["host", str(far.fileno()), str(os.getpid()), *search]
            launch = wire.Launch(key, [sys.executable, "-P", CHILD, *words], {}, "/", path, path)
            host = HostRun(launch, search, Link(near, self._epoll, False))
            try:
                self.journal.write([host.intent])
                try:
                    far.set_inheritable(True)
                    host.uptime = process.uptime()
                    host.pid, _ = self._spawner.spawn(launch, None)
                finally:
                    self._spawner.restore()
            except BaseException:
                host.link.close()
                self._forget(host)
                raise
        self._known[key] = host
        self._hidden.add(key)
        self._hosts[search] = host
        self._by_pid[host.pid] = host
        self._watch(host)
        self.watched[host.link.fd] = host
        return host

    def _started(self, run: Run, at: float) -> None:
        if run.key.job != HOSTS:
            super()._started(run, at)

    def _tell(self, host: HostRun, message: ToHost) -> None:
        with suppress(OSError):  # it has ended, which is told by its pidfd
            host.link.write(encode(message))

    # Hearing ------------------------------------------------------------------------------------------------------

    def ready(self, run: Run, mask: int) -> None:
        if not isinstance(run, HostRun):
            super().ready(run, mask)
            return
        # Its socket has something, or it has ended.
        self._hear(run)
        if run.reaped is None and os.waitid(os.P_PID, run.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            self._main_ended(run)

    def _main_ended(self, run: Run) -> None:
        if isinstance(run, HostRun):
            while self._hear(run):
                pass
            run.stopping = True  # so that all that it has started ends with it
        super()._main_ended(run)

    def _hear(self, host: HostRun) -> bool:
        """Whether anything was there."""
        if host.link.fd not in self.watched:
            return False
        try:
            host.link.flush()
            bodies = list(host.link.bodies())
            for body in bodies:
                self._take(host, decode_from_host(body))
        except (EOFError, OSError):
            self._hang_up(host)
            return False
        except (ValueError, msgspec.DecodeError) as error:
            # Code in it has found the socket and has written to it.
            self._log.warning(f"host {host.pid} is ended because of a bad frame: {error}")
            self._hang_up(host)
            self._close(host, signal.SIGKILL)
            return False
        return bool(bodies)

    def _take(self, host: HostRun, message: FromHost) -> None:
        if isinstance(message, Blocked):
            host.blocked = message
            return
        host.blocked = None
        run = host.tasks.get(message.run)
        if run is None:
            return
        if isinstance(message, Asked):
            run.asked = True
            return
        if isinstance(message, Began):
            if run.intent.time_limit is not None:
                self._deadline(process.uptime() + run.intent.time_limit, "limit", run)
            return
        reason = "; ".join(filter(None, (message.reason, run.reason))) or None
        self.exited(run, message.at, message.exit_code, message.signal, reason)

    def _hang_up(self, host: HostRun) -> None:
        if self.watched.pop(host.link.fd, None) is not None:
            host.link.close()

    # Stopping -----------------------------------------------------------------------------------------------------

    def stop_all(self, reason: str) -> None:
        self._ending = True
        for run in list(self._known.values()):
            if run is not None and run.key.job != HOSTS:
                self._stop(run, run.intent.stop_signal, run.intent.grace, reason)
        for host in list(self._hosts.values()):
            if not host.tasks:
                self._close(host, signal.SIGTERM)

    def _stop(self, run: Run, number: int, grace: float, reason: str | None = None) -> None:
        if not isinstance(run, TaskRun) or run.host is None:
            super()._stop(run, number, grace, reason)
            return
        now = process.uptime()
        kill_at = now + max(LEAST_GRACE, bounded(grace))
        if run.stopping and kill_at >= run.kill_at:
            return
        run.stopping, run.signal, run.kill_at = True, number, kill_at
        run.reason = run.reason or reason
        self._tell(run.host, Cancel(run.key, number, 0.0 if number == signal.SIGKILL else (kill_at - now) / 2))
        self._deadline(kill_at, "kill", run)

    def _signal(self, run: Run, number: int) -> None:
        if not isinstance(run, TaskRun):
            super()._signal(run, number)
        elif number == signal.SIGKILL:
            self._stop(run, number, 0.0)
        elif run.host is not None and number not in _HARMLESS:
            self._tell(run.host, Cancel(run.key, number, 0.0))

    def _due(self, kind: str, run: Run, now: float) -> None:
        if kind == "kill" and isinstance(run, TaskRun):
            if run.kill_at <= now:
                self._give_up(run)
        elif kind == "idle" and isinstance(run, HostRun):
            if not run.tasks and run.idle_since + LINGER <= now:
                self._close(run, signal.SIGTERM)
        else:
            super()._due(kind, run, now)

    def _give_up(self, run: TaskRun) -> None:
        """It has to end, and only the end of its host ends it."""
        host = run.host
        if host is None or host.culprit is not None:
            return
        blocked = host.blocked
        if run.asked:
            host.culprit = run.key, "did not end when it was cancelled"
        elif blocked is not None:
            host.culprit = blocked.run, f"blocked the event loop at {blocked.where}"
        else:
            host.culprit = None, "held the interpreter"
        self._close(host, signal.SIGKILL)

    def _close(self, host: HostRun, number: int) -> None:
        if self._hosts.get(host.search) is host:
            del self._hosts[host.search]
        self._stop(host, number, 2.0)

    # Ending -------------------------------------------------------------------------------------------------------

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
        if run.key.job == HOSTS:
            self._host_exited(run, at, code, number)
            return
        if isinstance(run, TaskRun) and run.host is not None:
            host = run.host
            del host.tasks[run.key]
            if not host.tasks and not host.stopping:
                host.idle_since = process.uptime()
                self._deadline(host.idle_since + (0.0 if self._ending else LINGER), "idle", host)
                if self._ending:
                    self._close(host, signal.SIGTERM)
        path = self._stderr.pop(run.key, None)
        if path is not None and code == 1 and reason is None:
            reason = _last_words(path)
        super().exited(run, at, code, number, reason, cpu_seconds, max_rss)

    def _host_exited(self, run: Run, at: float, code: int | None, number: int | None) -> None:
        run.ended = True
        self._known.pop(run.key, None)
        self._hidden.discard(run.key)
        self._forget(run)
        said = _tail(run.intent.stdout)
        if said:
            self._log.warning(f"host {run.pid} has said: {said}")
        with suppress(OSError):
            os.unlink(run.intent.stdout)
        if not isinstance(run, HostRun):
            return
        self._hang_up(run)
        if self._hosts.get(run.search) is run:
            del self._hosts[run.search]
        for task in list(run.tasks.values()):
            self._lost(task, run, at, code, number)

    def _lost(self, task: TaskRun, host: HostRun, at: float, code: int | None, number: int | None) -> None:
        if host.culprit is not None:
            key, deed = host.culprit
            who = "it" if key == task.key else f"run {key}" if key is not None else "something in it"
            deed = f"{who} {deed}"
            if task.stopping or key == task.key:
                reason = "; ".join(filter(None, (task.reason, f"killed with its worker process: {deed}")))
                self.exited(task, at, None, signal.SIGKILL, reason)
                return
            end = f"was ended because {deed}"
        else:
            end = f"ended by {signal.Signals(number).name}" if number is not None else f"ended with exit code {code}"
            if len(host.tasks) > 1:
                end += f" while {len(host.tasks)} runs were up in it"
        self.exited(task, at, None, None, f"lost: the worker process {host.pid} {end}")

    def _forget(self, run: Run) -> None:
        # Reports have growing numbers; this one takes the last, and `restore` drops it.
        self.journal.note(wire.Exited(self._seq, run.key, run.pid, time.time(), None, None))

    # After a restart ----------------------------------------------------------------------------------------------

    def restore(self, reports: list[wire.Started | wire.Exited], seq: int) -> None:
        super().restore([report for report in reports if report.run.job != HOSTS], seq)

    def resume(self, run: Run) -> None:
        super().resume(run)
        if run.key.job == HOSTS:
            self.live -= 1
            self._hidden.add(run.key)

    def adopt(self, run: Run, proc: Proc) -> None:
        super().adopt(run, proc)
        if run.key.job == HOSTS and not run.ended and run.reaped is None:
            self._stop(run, signal.SIGKILL, 0.0)

    def vanished(self, run: Run, why: str) -> None:
        super().vanished(run, "its worker was ended" if run.uptime >= FOREVER else why.replace("agent", "worker"))


def _target(launch: wire.Launch) -> Target:
    """Raises NoTarget."""
    if not launch.argv or not launch.argv[0]:
        raise NoTarget("the command is empty: its first word must name a Python target, such as path/to/file.py")
    target = find(launch.argv[0], launch.cwd, launch.env)
    try:
        parse(eval_data(launch.env), launch.env)
    except ValueError as error:
        raise NoTarget(str(error)) from None
    return target


def _special(launch: wire.Launch) -> bool:
    """Asks for what only a process of its own can have."""
    wishes = (
        launch.cores, launch.user, launch.group, launch.umask, launch.nice, launch.rlimits, launch.memory, launch.cpus,
        launch.tasks,
    )  # fmt: skip
    return any(wish is not None for wish in wishes)


def _environment(launch: wire.Launch) -> dict[str, str]:
    job, replica, attempt = launch.run
    return {
        **launch.env,
        "RUNYARD_JOB_ID": str(job),
        "RUNYARD_REPLICA": str(replica),
        "RUNYARD_ATTEMPT": str(attempt),
        "RUNYARD_RUN": str(launch.run),
    }


def _create(path: str) -> None:
    """The output file's existence proves that the run was started. Raises FileExistsError, OSError."""
    if not is_device(path):
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))


def _tail(path: str, size: int = 4096) -> str:
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - size))
            return file.read().decode("utf-8", "replace").strip()
    except OSError:
        return ""


def _last_words(path: str) -> str | None:
    """The last line of the traceback with which a program has ended."""
    text = _tail(path)
    return text.splitlines()[-1][:500] if "Traceback (most recent call last):" in text else None
