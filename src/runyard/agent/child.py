"""Between fork and exec: what a new process takes on before it becomes its program.

Whoever forks here has one thread, so Python code is safe in the child.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import resource
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, NoReturn

from runyard.agent.reasons import CannotStart, is_device

#: Ignored in the agent, and so to be set back in children: exec keeps "ignore".
IGNORED = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGHUP)

#: Called in the child before a step, with its name.
Tell = Callable[[str], None]


class Account(NamedTuple):
    """Who a child is to be. None leaves the parent's own."""

    uid: int | None
    gid: int | None
    groups: list[int] | None
    env: dict[str, str]


class Guise(NamedTuple):
    """What the process is to be. None leaves what its parent has."""

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: str | None
    umask: int
    files: tuple[int, int]
    """Soft and hard limit of open files."""
    cores: Sequence[int] | None
    nice: int | None
    limits: Mapping[str, int]
    """By the names of the module `resource`, without `RLIMIT_`, in lower case."""
    account: Account | None


class ChildFailed(Exception):
    """The child has ended before its program was there."""

    def __init__(self, stage: str, error: OSError) -> None:
        super().__init__(f"{stage}: {error}")
        self.stage, self.error = stage, error


def find_account(user: str | None, group: str | None) -> Account:
    """Look up names or numbers. Raises CannotStart."""
    uid = gid = groups = None
    env: dict[str, str] = {}
    if user is not None:
        try:
            entry = pwd.getpwuid(int(user)) if user.isascii() and user.isdigit() else pwd.getpwnam(user)
        except (KeyError, OverflowError):
            raise CannotStart(f"there is no user {user!r} on this host: create the account or name another") from None
        uid, gid, name = entry.pw_uid, entry.pw_gid, entry.pw_name
        groups = os.getgrouplist(name, gid)
        env = {"HOME": entry.pw_dir, "USER": name, "LOGNAME": name, "SHELL": entry.pw_shell or "/bin/sh"}
    if group is not None:
        try:
            gid = grp.getgrgid(int(group)).gr_gid if group.isascii() and group.isdigit() else grp.getgrnam(group).gr_gid
        except (KeyError, OverflowError):
            raise CannotStart(f"there is no group {group!r} on this host: create it or name another") from None
        if groups is not None:
            groups = [gid, *(number for number in groups if number != gid)]
    if os.geteuid() != 0 and (uid in (None, os.geteuid())) and (gid in (None, os.getegid())):
        # Nothing to change, and without root no list of groups may be set.
        uid = gid = groups = None
    return Account(uid, gid, groups, env)


def check_limits(limits: Mapping[str, int]) -> None:
    """Raises CannotStart if the kernel has no such limit."""
    for name in limits:
        if not hasattr(resource, f"RLIMIT_{name.upper()}"):
            raise CannotStart(f"there is no limit {name!r} on this system")


def fork(guise: Guise, first: Callable[[Tell], None] | None = None) -> int:
    """The pid of a child that executes the program. `first` runs in it before anything else.

    Raises ChildFailed, OSError without a child, ValueError for a NUL byte in one of the texts.
    """
    for text in (*guise.argv, *guise.env, *guise.env.values(), guise.cwd or ""):
        if "\0" in text:
            raise ValueError
    receive, tell = os.pipe()
    try:
        pid = os.fork()
        if pid == 0:
            _become(guise, first, tell)
    finally:
        os.close(tell)
        message = b""
        with open(receive, "rb", buffering=0) as pipe:
            message = pipe.readall()
    if not message:
        return pid
    os.waitpid(pid, 0)
    number, _, stage = message.decode("utf-8", "replace").partition(" ")
    raise ChildFailed(stage, OSError(int(number), os.strerror(int(number))))


def give_output(stdout: str, account: Account | None) -> None:
    """Let the account open /dev/stdout and /dev/stderr, where these are files of ours. Raises OSError."""
    if account is not None and account.uid is not None and not is_device(stdout):
        os.fchown(1, account.uid, -1)
        os.fchown(2, account.uid, -1)


def join(group: str) -> None:
    """Go into the cgroup. Raises OSError."""
    with open(f"{group}/cgroup.procs", "w") as file:
        file.write("0")


def _become(guise: Guise, first: Callable[[Tell], None] | None, tell: int) -> NoReturn:
    stage = "signals"

    def at(name: str) -> None:
        nonlocal stage
        stage = name

    try:
        signal.set_wakeup_fd(-1)
        for number in (*IGNORED, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        if first is not None:
            first(at)
        at("the umask")
        os.umask(guise.umask)
        resource.setrlimit(resource.RLIMIT_NOFILE, guise.files)
        if guise.cores is not None:
            at(f"the cores {list(guise.cores)}")
            os.sched_setaffinity(0, guise.cores)
        if guise.nice is not None:
            at(f"nice {guise.nice}")
            os.setpriority(os.PRIO_PROCESS, 0, guise.nice)
        for name, value in guise.limits.items():
            at(f"the limit {name} of {value}")
            resource.setrlimit(getattr(resource, f"RLIMIT_{name.upper()}"), (value, value))
        if guise.account is not None:
            at("account")
            if guise.account.groups is not None:
                os.setgroups(guise.account.groups)
            if guise.account.gid is not None:
                os.setgid(guise.account.gid)
            if guise.account.uid is not None:
                os.setuid(guise.account.uid)
        at("cwd")
        os.chdir(guise.cwd or "/")
        at("exec")
        os.execvpe(guise.argv[0], list(guise.argv), dict(guise.env))
    except OSError as error:
        os.write(tell, f"{error.errno} {stage}".encode())
    except MemoryError:
        os.write(tell, f"{errno.ENOMEM:d} {stage}".encode())
    except ValueError:
        # Raised by setrlimit: only root may raise a hard limit.
        os.write(tell, f"{errno.EPERM:d} {stage}".encode())
    except BaseException:
        os.write(tell, f"{errno.EINVAL:d} {stage}".encode())
    finally:
        os._exit(127)
