"""Ends whole process trees: what is left of a run besides its main process.

Members of a run's tree are: the session of its main process, everything in its cgroup, their descendants, processes
that carry its mark in their environment (daemons that left session and parent), and whoever was seen as one of these
before. A process that left session and parents *and* dropped its environment before it was first looked for escapes,
unless the run has a cgroup.

A sweep reads all of `/proc`, so one sweep serves all runs that wait for one, and sweeps keep a distance to each other
that depends on their cost. Most runs need none: whatever a run leaves behind becomes a child of the agent, which is a
subreaper, and while the agent has no children but the main processes of its runs, there is nothing to look for. (What
others start for a run, as `at` does, is no descendant of the agent: only a sweep finds it.)
"""

from __future__ import annotations

import os
import signal
from collections.abc import Collection, Container

from runyard.agent import cgroup, process
from runyard.agent.process import Proc, Table
from runyard.agent.run import FOREVER, Run

#: Seconds after which a process that does not die of SIGKILL is given up.
PATIENCE = 10.0


class Sweeper:
    def __init__(self, agent: bytes) -> None:
        """`agent`: the variable that marks processes as this agent's."""
        self._agent = agent
        self._tell: dict[Run, int] = {}
        self._kill: dict[Run, float] = {}
        self._pause = 0.0
        self.due = FOREVER
        """Uptime of the next sweep."""

    def alone(self, run: Run, known: Collection[int]) -> bool:
        """Whether nothing but its main process can be up of a run, as far as descendants of the agent go. `known`: the
        children of the agent that are no run's left-overs."""
        if run.adopted or run.intent.group is not None:
            return False
        try:
            if run.reaped is None and process.children(run.pid):
                return False
            strangers = [pid for pid in process.children(os.getpid()) if pid not in known]
        except OSError:
            return False
        if any(proc is not None and proc.alive for proc in map(process.read, strangers)):
            return False
        self._tell.pop(run, None)
        self._kill.pop(run, None)
        return True

    def tell(self, run: Run, number: int, now: float) -> None:
        """Send a signal, once, to all members that are not in the main process's own group."""
        self._tell[run] = number
        self.due = min(self.due, now)

    def kill(self, run: Run, now: float) -> None:
        """Kill all members, until none is left and the main process has ended."""
        self._kill[run] = now
        self._pause = 0.002
        self.due = min(self.due, now)

    def sweep(self, others: Container[int]) -> list[Run]:
        """Do what is due. Gives back the runs of which nothing is left. `others`: sessions of all runs that are up."""
        begin = process.uptime()
        table = Table()
        marked = table.marked(self._agent, _Except(others, {run.pid for run in (*self._tell, *self._kill)}))
        sessions: dict[int, list[Proc]] = {}
        for proc in table.procs.values():
            sessions.setdefault(proc.session, []).append(proc)
        for run, number in self._tell.items():
            for proc in _members(run, table, sessions, marked):
                if proc.group != run.pid or run.adopted:
                    process.send(proc, number)
                    process.send(proc, signal.SIGCONT)
        self._tell.clear()
        done = [run for run, since in self._kill.items() if self._killed(run, since, begin, table, sessions, marked)]
        for run in done:
            del self._kill[run]
        now = process.uptime()
        self._pause = min(2 * self._pause, 0.5)
        self.due = now + max(self._pause, 2 * (now - begin)) if self._kill else FOREVER
        return done

    def _killed(
        self,
        run: Run,
        since: float,
        now: float,
        table: Table,
        sessions: dict[int, list[Proc]],
        marked: dict[bytes, list[Proc]],
    ) -> bool:
        left = _members(run, table, sessions, marked)
        group = run.intent.group
        if left or run.reaped is None:
            if group is not None:
                cgroup.kill(group)
            for proc in left:
                process.send(proc, signal.SIGKILL)
        elif group is None or cgroup.remove(group):
            return True
        if run.reaped is not None and now - since > PATIENCE:
            pids = ", ".join(str(proc.pid) for proc in left[:10])
            run.reason = f"{run.reason + '; ' if run.reason else ''}processes that can't be killed are left: {pids}"
            return True
        return False


def _members(run: Run, table: Table, sessions: dict[int, list[Proc]], marked: dict[bytes, list[Proc]]) -> list[Proc]:
    roots = {proc.pid for proc in marked.get(run.mark, ())}
    leader = table.procs.get(run.pid)
    main = leader is not None and run.reaped is None and run.start in (None, leader.start)
    if not run.blind and (main or leader is None):
        # The number of a session is not given to a new process while any member is left.
        roots.update(proc.pid for proc in sessions.get(run.pid, ()))
    if run.tree is not None:
        roots.update(pid for pid, start in run.tree.items() if pid in table.procs and table.procs[pid].start == start)
    if run.intent.group is not None:
        roots.update(cgroup.members(run.intent.group))
    found = table.tree(roots)
    found.pop(os.getpid(), None)
    if not run.stopping and run.intent.group is None:
        # It ended by itself: only its own process group ends with it.
        found = {pid: proc for pid, proc in found.items() if proc.group == run.pid}
    run.tree = {pid: proc.start for pid, proc in found.items()}
    return [proc for proc in found.values() if proc.alive]


class _Except:
    """`all_of` without `without`."""

    def __init__(self, all_of: Container[int], without: set[int]) -> None:
        self._all, self._without = all_of, without

    def __contains__(self, pid: object) -> bool:
        return pid in self._all and pid not in self._without
