"""Processes as the kernel shows them: `/proc`, pidfds, the subreaper.

Start times are in clock ticks since boot, as in field 22 of `/proc/PID/stat`; `uptime()` counts from the same moment.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import struct
import time
from collections.abc import Container, Iterable
from typing import NamedTuple

TICKS = os.sysconf("SC_CLK_TCK")

_PR_SET_CHILD_SUBREAPER = 36
# struct pidfd_info, first version: u64 mask, u64 cgroupid, eleven u32 ids, s32 exit_code.
_PIDFD_INFO = struct.Struct("=QQ11Ii")
_PIDFD_GET_INFO = (3 << 30) | (_PIDFD_INFO.size << 16) | (0xFF << 8) | 11
_PIDFD_INFO_EXIT = 1 << 3


class Proc(NamedTuple):
    pid: int
    state: str
    ppid: int
    group: int
    session: int
    threads: int
    start: int

    @property
    def alive(self) -> bool:
        """Zombies are not, unless only their first thread has ended."""
        return self.state not in "ZX" or self.threads > 1


def uptime() -> float:
    """Seconds since boot, time asleep included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def own_peak() -> int:
    """The most memory that this process has used, in bytes."""
    with open("/proc/self/status") as file:
        return next((int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:")), 0)


def become_subreaper() -> None:
    """Orphaned descendants become children of this process instead of init's. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def read(pid: int) -> Proc | None:
    """What `/proc` says about `pid` now; None if there is no such process."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY)
    except OSError:
        return None
    try:
        data = os.read(fd, 1024)
    except OSError:
        return None
    finally:
        os.close(fd)
    # The name stands in parentheses and may itself contain any character.
    fields = data[data.rindex(b")") + 2 :].split()
    ppid, group, session, threads, start = (int(fields[number]) for number in (1, 2, 3, 17, 19))
    return Proc(pid, fields[0].decode(), ppid, group, session, threads, start)


def environ(pid: int) -> frozenset[bytes]:
    """The environment with which `pid` was executed; empty where it may not be read."""
    try:
        with open(f"/proc/{pid}/environ", "rb", buffering=0) as file:
            return frozenset(file.readall().split(b"\0"))
    except OSError:
        return frozenset()


def exit_status(pidfd: int) -> int | None:
    """The wait status of a process that has ended and was reaped by somebody else, as `os.waitpid` would give it.

    None if it is not reaped yet. Raises OSError where the kernel can't say (before Linux 6.15).
    """
    buffer = bytearray(_PIDFD_INFO.size)
    _PIDFD_INFO.pack_into(buffer, 0, _PIDFD_INFO_EXIT, *([0] * 13))
    fcntl.ioctl(pidfd, _PIDFD_GET_INFO, buffer)
    fields = _PIDFD_INFO.unpack(buffer)
    return fields[-1] if fields[0] & _PIDFD_INFO_EXIT else None


def children(pid: int) -> list[int]:
    """The children of a process, zombies among them. Raises OSError if it is gone or the kernel does not tell."""
    found: list[int] = []
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/children", "rb", buffering=0) as file:
            found += map(int, file.readall().split())
    return found


def decoded(status: int) -> tuple[int | None, int | None]:
    """Exit code and signal of a wait status; one of them is None."""
    if os.WIFSIGNALED(status):
        return None, os.WTERMSIG(status)
    return os.WEXITSTATUS(status), None


def send(proc: Proc, number: int) -> bool:
    """Signal exactly this process, never another with its pid. False if it is gone or may not be signalled."""
    try:
        fd = os.pidfd_open(proc.pid)
    except OSError:
        return False
    try:
        now = read(proc.pid)
        if now is None or now.start != proc.start:
            return False
        signal.pidfd_send_signal(fd, number)
        return True
    except OSError:
        return False
    finally:
        os.close(fd)


class Table:
    """One reading of all of `/proc`."""

    def __init__(self) -> None:
        self.procs: dict[int, Proc] = {}
        self.children: dict[int, list[int]] = {}
        for name in os.listdir("/proc"):
            if name.isdigit() and (proc := read(int(name))) is not None:
                self.procs[proc.pid] = proc
                self.children.setdefault(proc.ppid, []).append(proc.pid)

    def tree(self, roots: Iterable[int]) -> dict[int, Proc]:
        """`roots` and all their descendants, as far as they exist."""
        found: dict[int, Proc] = {}
        todo = list(roots)
        while todo:
            pid = todo.pop()
            proc = self.procs.get(pid)
            if proc is not None and pid not in found:
                found[pid] = proc
                todo += self.children.get(pid, ())
        return found

    def marked(self, agent: bytes, sessions: Container[int] = ()) -> dict[bytes, list[Proc]]:
        """The living processes that carry the mark of one of the agent's runs, by run (`RUNYARD_RUN`'s value).

        Processes of `sessions` are known to belong elsewhere and are passed over, as are kernel threads.
        """
        found: dict[bytes, list[Proc]] = {}
        me = os.getpid()
        for proc in self.procs.values():
            if proc.session in sessions or proc.ppid == 2 or proc.pid in (me, 2) or not proc.alive:
                continue
            variables = environ(proc.pid)
            if agent in variables:
                for variable in variables:
                    if variable.startswith(b"RUNYARD_RUN="):
                        found.setdefault(variable[12:], []).append(proc)
        return found
