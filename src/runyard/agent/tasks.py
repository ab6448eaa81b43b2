"""The tasks of one run: several processes that start together, end together and are one run to everybody else.

They have a starter, a small process that is the run's main process: it starts them, waits for them and ends as the
worst of them did. So the agent starts, finds again and stops such a run as any other, and an agent that dies between
two tasks takes nothing with it. Tasks stay in the session and process group of the starter, which itself takes no
signal but SIGKILL and SIGSTOP.

As in Flux the exit of a task counts as its code, or 128 plus its signal, and the run's is the greatest. Once a task
has failed the others get `after_failure` seconds to end by themselves, then they are stopped, and theirs do not count.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, NoReturn

from runyard.agent import reasons
from runyard.agent.child import Account, ChildFailed, Guise, fork, give_output, join
from runyard.agent.reasons import CannotStart

STARTER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "starter.py")
FAILED = 127


class Task(NamedTuple):
    """One process of a run. `cores` and `gpus` None: whatever the run has."""

    rank: int
    local_id: int
    node_rank: int
    cores: Sequence[int] | None
    gpus: Sequence[int] | None

    @property
    def env(self) -> dict[str, str]:
        env = {
            "RUNYARD_TASK_RANK": str(self.rank),
            "RUNYARD_TASK_LOCAL_ID": str(self.local_id),
            "RUNYARD_NODE_RANK": str(self.node_rank),
            "FLUX_TASK_RANK": str(self.rank),
            "FLUX_TASK_LOCAL_ID": str(self.local_id),
        }
        if self.cores is not None:
            env["RUNYARD_CORES"] = ",".join(map(str, self.cores))
        if self.gpus is not None:
            env["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, self.gpus))
        return env


#: What a node gives to a run: tasks, cores and GPUs (None leaves them as they are).
Place = tuple[int, Sequence[int] | None, Sequence[int] | None]


def layout(places: Iterable[Place]) -> Iterator[Task]:
    """The tasks by rank, node after node. Each gets an equal part of its node's cores and GPUs, or all of them where
    there are fewer than tasks."""
    rank = 0
    for node_rank, (count, cores, gpus) in enumerate(places):
        for local_id in range(count):
            yield Task(rank, local_id, node_rank, _part(cores, count, local_id), _part(gpus, count, local_id))
            rank += 1


def _part(items: Sequence[int] | None, count: int, index: int) -> Sequence[int] | None:
    each = len(items) // count if items else 0
    return items[index * each : (index + 1) * each] if items and each else items


class Order(NamedTuple):
    """What the starter is told."""

    guise: Guise
    user: str | None
    group: str | None
    cgroup: str | None
    stdout: str
    stop_signal: int
    grace: float
    after_failure: float
    places: list[Any]

    def encode(self) -> bytes:
        return json.dumps(self).encode()


def decode_order(data: bytes) -> Order:
    order = Order(*json.loads(data))
    guise = Guise(*order.guise)
    account = None if guise.account is None else Account(*guise.account)
    soft, hard = guise.files
    return order._replace(guise=guise._replace(account=account, files=(soft, hard)))


class Report:
    """What the agent has heard from a starter, which says it in lines of JSON."""

    def __init__(self) -> None:
        self.up = False
        """All tasks have been started."""
        self.failed: str | None = None
        """Why one of them could not be, and all were ended."""
        self.reason: str | None = None
        self.max_rss: int | None = None
        """Sum of the tasks' peaks, in bytes."""
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Raises ValueError if that is no report."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            for key, value in json.loads(line).items():
                setattr(self, key, value)


# The starter ------------------------------------------------------------------------------------------------------


def main(given: int, tell: int) -> NoReturn:
    for fd in (given, tell):
        os.set_inheritable(fd, False)
    with open(given, "rb") as file:
        order = decode_order(file.read())
    starter = _Starter(order, tell)
    try:
        starter.start()
    except CannotStart as failure:
        starter.give_up(str(failure))
    starter.wait()


class _Starter:
    def __init__(self, order: Order, tell: int) -> None:
        self._order, self._tell = order, tell
        self._tasks = list(layout(order.places))
        self._up: dict[int, int] = {}
        """Ranks by pid."""
        self._worst = 0
        """An exit code, or a signal, negative."""
        self._first: str | None = None
        """How the first that failed has ended."""
        self._ended = 0
        """How many the starter has ended."""
        self._peaks = 0

    def start(self) -> None:
        """Raises CannotStart."""
        order, guise = self._order, self._order.guise
        try:
            if order.cgroup is not None:
                join(order.cgroup)
            give_output(order.stdout, guise.account)
        except OSError as error:
            raise CannotStart(f"can't get ready for the tasks: {error}") from None
        for task in self._tasks:
            cores = guise.cores if task.cores is None else task.cores
            mine = guise._replace(env={**guise.env, **task.env}, cores=cores)
            try:
                self._up[fork(mine)] = task.rank
            except ChildFailed as failed:
                reason = reasons.stage_failed(
                    failed.stage, failed.error, guise.argv, guise.cwd, order.user, order.group, mine.env
                )
                raise CannotStart(f"task {task.rank} of {len(self._tasks)}: {reason}") from None
            except OSError as error:
                reason = f"task {task.rank} of {len(self._tasks)} can't be started: {error.strerror}"
                raise CannotStart(f"{reason}; see ulimit -u, pids.max and free memory") from None
        # What came while some had not been started yet.
        for number in signal.sigpending() - {signal.SIGCHLD}:
            self._signal(number)
        for number in signal.valid_signals() - {signal.SIGCHLD, signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, {signal.SIGCHLD})
        # Only now: SIGPIPE, if the agent has died, is no news for the tasks.
        self._say(up=True)

    def give_up(self, reason: str) -> NoReturn:
        self._signal(signal.SIGKILL)
        while self._up:
            pid, _ = os.wait()
            self._up.pop(pid, None)
        self._say(failed=reason)
        os._exit(FAILED)

    def wait(self) -> NoReturn:
        """Until all tasks have ended; then end as the worst."""
        order = self._order
        stop_at = kill_at = None
        while self._reap():
            now = time.monotonic()
            if stop_at is None and self._worst:
                stop_at = now + order.after_failure
            if stop_at is not None and now >= stop_at and kill_at is None:
                kill_at = now + order.grace
                self._ended = len(self._up)
                self._stop()
            if kill_at is not None and now >= kill_at:
                self._signal(signal.SIGKILL)
                kill_at = float("inf")
            until = kill_at if kill_at is not None else stop_at
            left = None if until is None or until == float("inf") else max(0.0, until - now)
            if left is None:
                signal.sigwaitinfo({signal.SIGCHLD})
            else:
                signal.sigtimedwait({signal.SIGCHLD}, min(left, 86_400.0))
        self._say(reason=self._reason(), max_rss=self._peaks or None)
        if self._worst < 0:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            number = -self._worst
            with suppress(OSError, ValueError):
                signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        os._exit(_weight(self._worst))

    def _reap(self) -> bool:
        """Collect those that have ended. Is any left?"""
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        while self._up:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
            if pid == 0:
                return True
            rank = self._up.pop(pid, None)
            if rank is None:
                continue
            # Until it executes its program a child counts with the memory of the starter.
            self._peaks += usage.ru_maxrss * 1024 if usage.ru_maxrss > own else 0
            if not self._ended:
                self._judge(rank, os.waitstatus_to_exitcode(status))
        return False

    def _judge(self, rank: int, code: int) -> None:
        if code and self._first is None:
            how = f"exit code {code}" if code > 0 else f"ended by {_signal_name(-code)}"
            self._first = f"task {rank} of {len(self._tasks)} failed first: {how}"
        self._worst = max(self._worst, code, key=_weight)

    def _reason(self) -> str | None:
        if self._first is None or not self._ended:
            return self._first
        others = "1 that was" if self._ended == 1 else f"{self._ended} that were"
        return f"{self._first}; {others} still up {self._order.after_failure:g} s later were ended"

    def _stop(self) -> None:
        """Everything in the group, which is more than the tasks."""
        number = self._order.stop_signal
        if number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD):
            self._signal(number)
        else:
            with suppress(OSError):
                os.killpg(0, number)
        with suppress(OSError):
            os.killpg(0, signal.SIGCONT)

    def _signal(self, number: int) -> None:
        for pid in self._up:
            with suppress(OSError):
                os.kill(pid, number)

    def _say(self, **what: Any) -> None:
        # An agent that has died hears nothing.
        with suppress(OSError):
            os.write(self._tell, json.dumps(what).encode() + b"\n")


def _weight(code: int) -> int:
    """How bad an end is: the exit code, or 128 plus the signal."""
    return code if code >= 0 else 128 - code


def _signal_name(number: int) -> str:
    # Most of the real-time signals have no name.
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
