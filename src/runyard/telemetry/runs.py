"""What runs use: CPU, memory and I/O of their whole process trees, from the kernel's `/proc` and control groups.

A run's tree is its main process with all descendants, and whoever is in its session; a run with a control group of its
own is what is in the group. `/proc` is read directly: psutil takes several times as long, and here are thousands.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from runyard.model.ids import RunKey

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Target(NamedTuple):
    """A run that is up on this host."""

    run: RunKey
    pid: int
    """Of its main process."""


class RunFigures(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    cpu_seconds: float
    """User and system time so far, of everything in the tree."""
    cpu_percent: float
    """Of one core, so it may pass 100: since the sample before, or since the start if there is none."""
    memory: int
    """Bytes resident; pages that processes share count for each, except in a control group."""
    io_read: int
    """Bytes fetched from storage so far, by the processes that are there now."""
    io_write: int
    processes: int
    pids: list[int]


class _Proc(NamedTuple):
    pid: int
    ppid: int
    session: int
    ticks: int
    """Of CPU time, with that of children that it has waited for."""
    start: int
    """Ticks since boot."""
    pages: int


class _Past(NamedTuple):
    at: float
    seconds: float
    raw: float
    start: int
    group: str | None


class RunMeter:
    """Remembers of each run what is needed for the shares of the next sample. For one thread at a time."""

    def __init__(self, proc: str = "/proc") -> None:
        self._proc = proc
        self._past: dict[RunKey, _Past] = {}
        self._mount: str | None = None
        self._mounted = False

    def take(self, targets: Iterable[Target]) -> dict[RunKey, RunFigures]:
        """The figures of those of the runs that are still there."""
        wanted = list(targets)
        if not wanted:
            self._past.clear()
            return {}
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        table = {process.pid: process for pid in self._pids() if (process := self._read(pid)) is not None}
        children: dict[int, list[int]] = {}
        sessions: dict[int, list[int]] = {}
        for process in table.values():
            children.setdefault(process.ppid, []).append(process.pid)
            sessions.setdefault(process.session, []).append(process.pid)
        sharing: dict[int, int] = {}
        for target in wanted:
            sharing[target.pid] = sharing.get(target.pid, 0) + 1
        figures: dict[RunKey, RunFigures] = {}
        past: dict[RunKey, _Past] = {}
        for target in wanted:
            tree = _tree(target.pid, table, children, sessions)
            if not tree:
                continue
            before = self._past.get(target.run)
            main = table.get(target.pid)
            start = main.start if main is not None else min(process.start for process in tree.values())
            group = before.group if before is not None else self._group(target)
            cpu, memory, pids = self._measure(tree, group, table)
            seconds, percent = advance(before, cpu, start, now)
            past[target.run] = _Past(now, seconds, cpu, start, group)
            read, written = self._io(pids)
            # Runs that share one process (coroutines) share its figures.
            share = sharing[target.pid]
            figures[target.run] = RunFigures(
                cpu_seconds=round(seconds / share, 2),
                cpu_percent=round(percent / share, 2),
                memory=memory // share,
                io_read=read // share,
                io_write=written // share,
                processes=len(pids),
                pids=pids,
            )
        self._past = past
        return figures

    def _measure(
        self, tree: dict[int, _Proc], group: str | None, table: dict[int, _Proc]
    ) -> tuple[float, int, list[int]]:
        """CPU seconds, bytes of memory, and pids."""
        seconds = sum(process.ticks for process in tree.values()) / _TICKS
        memory = sum(process.pages for process in tree.values()) * _PAGE
        pids = list(tree)
        if group is not None:
            pids = list({*pids, *(pid for pid in _members(group) if pid in table)})
            counted = _field(f"{group}/cpu.stat", "usage_usec")
            seconds = seconds if counted is None else counted / 1e6
            held = _number(f"{group}/memory.current")
            if held is not None:
                # What the kernel has only kept of files is not what the run needs.
                memory = max(0, held - (_field(f"{group}/memory.stat", "inactive_file") or 0))
        return seconds, memory, pids

    def _pids(self) -> list[str]:
        return [name for name in os.listdir(self._proc) if name.isdigit()]

    def _read(self, pid: str) -> _Proc | None:
        data = _bytes(f"{self._proc}/{pid}/stat")
        if not data:
            return None
        # The name stands in parentheses, and may itself hold any character (proc_pid_stat(5)).
        fields = data[data.rindex(b")") + 2 :].split()
        if fields[0] in (b"Z", b"X") and fields[17] == b"1":
            return None
        ticks = int(fields[11]) + int(fields[12]) + int(fields[13]) + int(fields[14])
        return _Proc(int(pid), int(fields[1]), int(fields[3]), ticks, int(fields[19]), int(fields[21]))

    def _io(self, pids: Iterable[int]) -> tuple[int, int]:
        read = written = 0
        for pid in pids:
            # Unreadable for processes of other accounts, unless we are root.
            for line in _bytes(f"{self._proc}/{pid}/io").splitlines():
                name, _, value = line.partition(b": ")
                if name == b"read_bytes":
                    read += int(value)
                elif name == b"write_bytes":
                    written += int(value)
        return read, written

    def _group(self, target: Target) -> str | None:
        """The folder of the control group (v2) that the agent has made for this run alone."""
        for line in _bytes(f"{self._proc}/{target.pid}/cgroup").decode("utf-8", "replace").splitlines():
            if line.startswith("0::"):
                parent, _, name = line[3:].rpartition("/")
                if name == str(target.run) and "/runyard-" in f"/{parent}":
                    mount = self._tree()
                    folder = f"{mount}{line[3:]}"
                    return folder if mount is not None and os.path.isdir(folder) else None
        return None

    def _tree(self) -> str | None:
        if not self._mounted:
            self._mounted = True
            for line in _bytes(f"{self._proc}/self/mountinfo").decode("utf-8", "replace").splitlines():
                before, _, after = line.partition(" - ")
                if after.startswith("cgroup2 "):
                    self._mount = before.split()[4]
        return self._mount


def advance(before: _Past | None, raw: float, start: int, now: float) -> tuple[float, float]:
    """CPU seconds so far, and percent of one core since `before`, from a reading of `raw` seconds at `now` (seconds
    since boot). Pure.

    What a process used that has left the tree is missing from the reading: the seconds never go back all the same.
    """
    if before is None or before.start != start:
        age = now - start / _TICKS
        return raw, 100 * raw / age if age > 0 else 0.0
    more = max(0.0, raw - before.raw)
    passed = now - before.at
    return before.seconds + more, 100 * more / passed if passed > 0 else 0.0


def _tree(
    root: int, table: dict[int, _Proc], children: dict[int, list[int]], sessions: dict[int, list[int]]
) -> dict[int, _Proc]:
    """The living processes of a run whose main process has the pid `root`; it leads a session of its own."""
    found: dict[int, _Proc] = {}
    todo = [root, *sessions.get(root, ())]
    while todo:
        pid = todo.pop()
        process = table.get(pid)
        if process is not None and pid not in found:
            found[pid] = process
            todo += children.get(pid, ())
    return found


def _members(group: str) -> list[int]:
    return [int(word) for folder, _, _ in os.walk(group) for word in _bytes(f"{folder}/cgroup.procs").split()]


def _field(path: str, name: str) -> int | None:
    words = _bytes(path).split()
    key = name.encode()
    return int(words[words.index(key) + 1]) if key in words else None


def _number(path: str) -> int | None:
    text = _bytes(path).strip()
    return int(text) if text.isdigit() else None


def _bytes(path: str) -> bytes:
    """What is in a file of the kernel; empty if it is gone, or not for us."""
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return b""
    try:
        data = os.read(file, 65536)
        while len(data) >= 65536 and (more := os.read(file, 65536)):
            data += more
        return data
    except OSError:
        return b""
    finally:
        os.close(file)
