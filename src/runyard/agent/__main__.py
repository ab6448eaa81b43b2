"""`python -m runyard.agent --dir DIR`: the agent of this host.

DIR is a private folder: `agent.sock` (executors), `control.sock` (status and shutdown, besides a connected executor),
`agent.lock`, `agent.pid`, `id`, `journal/`, `agent.log`. Exit codes: 0 ended as asked or idle, 2 wrong usage,
3 another agent runs on DIR, 4 DIR can't be used.
"""

from __future__ import annotations

import argparse
import errno
import fcntl
import os
import resource
import select
import signal
import socket
import sys
import time

from runyard.agent import process
from runyard.agent.agent import Agent
from runyard.agent.cgroup import Cgroups
from runyard.agent.child import IGNORED
from runyard.agent.journal import Journal
from runyard.agent.log import Log
from runyard.agent.recovery import recover
from runyard.agent.runs import Runs
from runyard.agent.spawn import clean_environment

LOCK_PATIENCE = 0.5


def main(module: str = "runyard.agent", runs_type: type[Runs] = Runs, agent_type: type[Agent] = Agent) -> int:
    """What runs, and how it is served, may be of a special kind (`runyard.worker`)."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description="The agent that owns the processes.")
    parser.add_argument("--dir", required=True, help="private folder for the socket, the journal and the log")
    parser.add_argument("--idle-exit", type=float, default=60.0, metavar="SECONDS", help="end after idling so long")
    parser.add_argument(
        "--pass-env", action="append", default=[], metavar="NAME", help="hand this variable to children"
    )
    parser.add_argument("--files", type=int, metavar="N", help="how many files a child may open")
    options = parser.parse_args()
    if options.files is not None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (options.files, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    folder = os.path.abspath(options.dir)
    try:
        _private(folder)
        lock = os.open(f"{folder}/agent.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        if not _lock(lock):
            print(f"another agent runs on {folder} (pid {_read(f'{folder}/agent.pid') or '?'})", file=sys.stderr)
            return 3
        _write(f"{folder}/agent.pid", f"{os.getpid()}\n")
        name = _read(f"{folder}/id")
        if not name:
            name = os.urandom(8).hex()
            _write(f"{folder}/id", name)
        log = Log(f"{folder}/agent.log")
        _detach()
        journal = Journal(f"{folder}/journal", log)
        cgroups = Cgroups(name)
        epoll = select.epoll()
        runs = runs_type(name, clean_environment(os.environ, options.pass_env), journal, cgroups, log, epoll)
        recover(runs, journal.load())
        agent = agent_type(runs, epoll, log, options.idle_exit)
        # Sockets come last: whoever can connect finds an agent that knows its runs.
        agent.listen(_listen(folder, "agent.sock"), control=False)
        agent.listen(_listen(folder, "control.sock"), control=True)
    except OSError as error:
        print(f"can't use {folder}: {error}", file=sys.stderr)
        return 4
    agent.leave_on_signals()
    log.info(f"started on {folder}")
    if cgroups.note:
        log.info(cgroups.note)
    if runs.live:
        log.info(f"{runs.live} runs of an earlier agent are still up")
    agent.serve()
    cgroups.close()
    log.info("ended")
    return 0


def _private(folder: str) -> None:
    os.makedirs(folder, mode=0o700, exist_ok=True)
    found = os.stat(folder)
    if found.st_uid != os.geteuid():
        raise OSError(errno.EPERM, f"it belongs to uid {found.st_uid}, not to uid {os.geteuid()}")
    if found.st_mode & 0o077:
        os.chmod(folder, 0o700)


def _lock(fd: int) -> bool:
    """A child of a dead agent holds the lock until it executes its program, so wait a moment."""
    until = time.monotonic() + LOCK_PATIENCE
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > until:
                return False
            time.sleep(0.01)


def _detach() -> None:
    """Children inherit stdin; ignored signals are reset in them (`child.IGNORED`), and no others are ignored."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, 0)
    os.close(null)
    for number in signal.valid_signals():
        if number in IGNORED:
            signal.signal(number, signal.SIG_IGN)
        elif signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    process.become_subreaper()


def _listen(folder: str, name: str) -> socket.socket:
    # A socket's path has at most 107 bytes: bind by the short name, from inside.
    os.chdir(folder)
    try:
        fresh = f"{name}.new"
        if os.path.lexists(fresh):
            os.unlink(fresh)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.bind(fresh)
        os.chmod(fresh, 0o600)
        sock.listen(64)
        # Whoever sees the name can connect.
        os.rename(fresh, name)
        return sock
    finally:
        os.chdir("/")


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return ""


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


if __name__ == "__main__":
    sys.exit(main())
