"""A program as a member's work: each task is one process, with the tree that grows from it."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Mapping

from runyard.agent import process
from runyard.member.task import Task
from runyard.model.signals import signal_name

MARK = "RUNYARD_MEMBER"
"""Variable by which a member finds the processes of its tasks again, whatever sessions they have made."""


class ProgramFailed(Exception):
    """It ended with another exit code than 0, or could not be started. Says how."""


class Program:
    """Runs `command` for each task, with the task's variables, and the member's own environment, folder and output.

    `grace` is the seconds between SIGTERM and SIGKILL.
    """

    def __init__(self, command: list[str], grace: float = 5.0, env: Mapping[str, str] | None = None) -> None:
        self.grace = grace
        self._command = command
        self._env = dict(os.environ if env is None else env)
        self._member = ""
        self._lock = threading.Lock()
        self._running: dict[Task, _Running] = {}

    def adopt(self, member: str) -> int:
        """Begins a life under this mark, and ends what an earlier one has left; how many processes that was."""
        self._member = member
        return _kill(member)

    def start(self, task: Task) -> None:
        """Runs it to its end. Raises ProgramFailed."""
        mark = f"{self._member}/{task.user_id}/{task.project_id}"
        env = self._env | task.environment() | {MARK: mark}
        with self._lock:
            if task.stopping:
                return
            try:
                child = subprocess.Popen(self._command, env=env, stdin=subprocess.DEVNULL, start_new_session=True)
            except (OSError, ValueError) as error:
                raise ProgramFailed(f"{self._command[0]}: {getattr(error, 'strerror', None) or error}") from None
            running = self._running[task] = _Running(child, mark)
        try:
            # Not reaped yet: until `over` is set, its number can't be another's.
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        finally:
            with self._lock:
                running.over.set()
                del self._running[task]
            code = child.wait()
        if task.wait(0):
            _kill(mark)
            return
        if code:
            how = f"exit code {code}" if code > 0 else signal_name(-code)
            raise ProgramFailed(f"the program ended with {how}")

    def stop(self, task: Task) -> None:
        """SIGTERM to its process group, and after the grace SIGKILL to everything that it has started."""
        with self._lock:
            running = self._running.get(task)
            if running is None:
                return
            os.killpg(running.child.pid, signal.SIGTERM)
        if not running.over.wait(self.grace):
            _kill(running.mark)

    def status(self, task: Task) -> str | None:
        """A process says no more than that it runs."""
        return None


class _Running:
    def __init__(self, child: subprocess.Popen[bytes], mark: str) -> None:
        self.child = child
        self.mark = mark
        self.over = threading.Event()


def _kill(mark: str) -> int:
    """SIGKILL to every process whose mark is this one or begins with it, until there is none."""
    whole = f"{MARK}={mark}".encode()
    killed = 0
    for _ in range(100):
        found = [
            proc
            for proc in process.Table().procs.values()
            if proc.alive and proc.pid != os.getpid() and _carries(process.environ(proc.pid), whole)
        ]
        if not found:
            break
        for proc in found:
            killed += process.send(proc, signal.SIGKILL)
    return killed


def _carries(variables: frozenset[bytes], whole: bytes) -> bool:
    return any(variable == whole or variable.startswith(whole + b"/") for variable in variables)
