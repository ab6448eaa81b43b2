"""Starting one process, and saying clearly why one could not be started.

Two ways: `posix_spawn` (vfork inside, so it costs the same however large the agent is), and a fork for what
`posix_spawn` can't do: accounts, limits, niceness, cgroups.

The child creates its stdout file itself, exclusively: the file's existence proves that the run was started once, to a
later agent as well as to the kernel, which refuses to start it again. (Files below /dev are opened as they are.)
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import resource
import signal
import time
from collections.abc import Callable, Container, Mapping
from typing import NamedTuple, NoReturn

from runyard.model.wire import Launch

KEPT = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TZ", "TMPDIR")
#: Ignored in the agent, and so to be set back in children: exec keeps "ignore".
IGNORED = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGHUP)

_NEW = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND
_OPEN = os.O_CREAT | os.O_WRONLY | os.O_APPEND
_MODE = 0o600


class CannotStart(Exception):
    """The run can't be started. The text says what is wrong, where, and what to do."""


class AlreadyStarted(Exception):
    """The stdout file exists: some earlier agent has started this run."""


class Account(NamedTuple):
    """Who a child is to be. None leaves the agent's own."""

    uid: int | None
    gid: int | None
    groups: list[int] | None
    env: dict[str, str]


def clean_environment(environment: Mapping[str, str], also: Container[str] = ()) -> dict[str, str]:
    """The variables of the agent's own environment that children get; `also` names more that somebody asked for."""
    kept = {key: value for key, value in environment.items() if key in KEPT or key.startswith("LC_") or key in also}
    kept.setdefault("PATH", os.defpath)
    return kept


class Spawner:
    """Starts processes. Between `spawn` calls the agent's cwd, umask and affinity may be a child's: `restore` them."""

    def __init__(self, agent: str, environment: Mapping[str, str]) -> None:
        """`agent`: an id that marks the children as this agent's (`RUNYARD_AGENT`); all get `environment`."""
        self.base = {**environment, "RUNYARD_AGENT": agent}
        self._programs: dict[tuple[str, str], str] = {}
        self._programs_at = 0.0
        self._folders: set[str] = set()
        self._cwd = ""
        self._cores = os.sched_getaffinity(0)
        self._umask = os.umask(0o077)
        os.umask(self._umask)
        self._files = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.restore()

    def prepare(self) -> None:
        """Children get the file limit that the agent was started with, while the agent itself may need a file a run."""
        resource.setrlimit(resource.RLIMIT_NOFILE, self._files)

    def restore(self) -> None:
        if self._cwd != "/":
            os.chdir("/")
            self._cwd = "/"
        hard = self._files[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    def spawn(self, launch: Launch, group: str | None) -> int:
        """The pid of the started process, the leader of a new session. `group`: the folder of its cgroup.

        Raises CannotStart or AlreadyStarted; nothing runs then.
        """
        run, argv = launch.run, launch.argv
        if not argv or not argv[0]:
            raise CannotStart("the command is empty: its first word must name a program")
        if launch.stdout[:1] != "/" or launch.stderr[:1] != "/":
            raise CannotStart(f"output must go to absolute paths, not to {launch.stdout!r} and {launch.stderr!r}")
        env = self.base.copy()
        account = None
        if launch.user is not None or launch.group is not None:
            account = find_account(launch.user, launch.group)
            env.update(account.env)
        env.update(launch.env)
        job, replica, attempt = run
        env["RUNYARD_JOB_ID"] = str(job)
        env["RUNYARD_REPLICA"] = str(replica)
        env["RUNYARD_ATTEMPT"] = str(attempt)
        env["RUNYARD_RUN"] = f"{job}.{replica}.{attempt}"
        env["RUNYARD_AGENT"] = self.base["RUNYARD_AGENT"]
        for path in (launch.stdout, launch.stderr):
            folder = path[: path.rfind("/")] or "/"
            if folder not in self._folders:
                self._make_folder(folder)
        try:
            if needs_fork(launch, account, group):
                # The pipe and the files of the child may need numbers above the limit that the program gets.
                self.restore()
                try:
                    umask = self._umask if launch.umask is None else launch.umask
                    return _fork(launch, env, account, group, umask, self._files)
                finally:
                    self.prepare()
            return self._spawn(launch, env)
        except ValueError:
            raise CannotStart(_bad_text(argv, env, launch)) from None

    def _spawn(self, launch: Launch, env: dict[str, str]) -> int:
        cwd = launch.cwd or "/"
        if cwd != self._cwd:
            try:
                os.chdir(cwd)
            except OSError as error:
                raise CannotStart(_bad_folder(cwd, error)) from None
            self._cwd = cwd
        argv, stdout, stderr = launch.argv, launch.stdout, launch.stderr
        program = argv[0] if "/" in argv[0] else self._find(argv[0], env.get("PATH") or os.defpath)
        actions = [
            (os.POSIX_SPAWN_OPEN, 1, stdout, _flags(stdout), _MODE),
            (os.POSIX_SPAWN_DUP2, 1, 2) if stderr == stdout else (os.POSIX_SPAWN_OPEN, 2, stderr, _OPEN, _MODE),
        ]
        if launch.cores is not None:
            _set_cores(launch.cores)
        if launch.umask is not None:
            os.umask(launch.umask)
        try:
            for again in (False, True):
                try:
                    return os.posix_spawn(
                        program, argv, env, file_actions=actions, setsid=True, setsigmask=(), setsigdef=IGNORED
                    )
                except FileExistsError:
                    raise AlreadyStarted from None
                except OSError as error:
                    if error.errno == errno.ENOENT and not again and not os.path.lexists(stdout):
                        # The folder was removed since it was made.
                        self._folders.clear()
                        self._make_folder(os.path.dirname(stdout))
                        self._make_folder(os.path.dirname(stderr))
                        continue
                    raise CannotStart(_explain(error, launch, program, env)) from None
            raise AssertionError("unreachable")
        finally:
            if launch.umask is not None:
                os.umask(self._umask)
            if launch.cores is not None:
                os.sched_setaffinity(0, self._cores)

    def _find(self, name: str, path: str) -> str:
        now = time.monotonic()
        if now - self._programs_at > 1.0:
            self._programs.clear()
            self._programs_at = now
        found = self._programs.get((name, path))
        if found is not None and os.access(found, os.X_OK):
            return found
        for folder in path.split(":"):
            candidate = os.path.join(folder or ".", name)
            if os.access(candidate, os.X_OK) and os.path.isfile(candidate):
                if candidate[0] == "/":
                    self._programs[name, path] = candidate
                return candidate
        raise CannotStart(_no_program(name, path))

    def _make_folder(self, folder: str) -> None:
        try:
            os.makedirs(folder, mode=0o700, exist_ok=True)
        except OSError as error:
            raise CannotStart(f"can't make the folder {folder} for the output: {error.strerror}") from None
        if len(self._folders) > 4096:
            self._folders.clear()
        self._folders.add(folder)


def needs_fork(launch: Launch, account: Account | None, group: str | None) -> bool:
    return (
        account is not None
        or group is not None
        or launch.nice is not None
        or launch.rlimits is not None
        or launch.memory is not None
        # Such a umask would make the output files unreadable: they must be opened before it is set.
        or (launch.umask is not None and launch.umask & 0o600 != 0)
    )


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


def _fork(
    launch: Launch,
    env: dict[str, str],
    account: Account | None,
    group: str | None,
    umask: int,
    files: tuple[int, int],
) -> int:
    """The agent has one thread, so Python code is safe between fork and exec."""
    for text in (*launch.argv, *env, *env.values(), launch.cwd or "", launch.stdout, launch.stderr):
        if "\0" in text:
            raise ValueError
    limits: list[tuple[str, int, int]] = []
    for name, value in (launch.rlimits or {}).items():
        which = getattr(resource, f"RLIMIT_{name.upper()}", None)
        if which is None:
            raise CannotStart(f"there is no limit {name!r} on this system")
        limits.append((name, which, value))
    receive, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        _child(launch, env, account, group, limits, umask, files, tell)
    os.close(tell)
    with open(receive, "rb", buffering=0) as pipe:
        message = pipe.readall()
    if not message:
        return pid
    os.waitpid(pid, 0)
    number, _, stage = message.decode("utf-8", "replace").partition(" ")
    error = OSError(int(number), os.strerror(int(number)))
    if stage == "stdout" and error.errno == errno.EEXIST:
        raise AlreadyStarted
    if stage == "exec":
        raise CannotStart(_explain(error, launch, launch.argv[0], env))
    if stage == "cwd":
        raise CannotStart(_bad_folder(launch.cwd or "/", error, launch.user))
    if stage == "account":
        raise CannotStart(
            f"can't become user {launch.user or 'as before'}, group {launch.group or 'of that user'}: "
            f"{error.strerror}; "
            f"the agent runs as uid {os.geteuid()}, and only root may start processes for others"
        )
    raise CannotStart(f"can't set {stage} for the process: {error.strerror}")


def _child(
    launch: Launch,
    env: dict[str, str],
    account: Account | None,
    group: str | None,
    limits: list[tuple[str, int, int]],
    umask: int,
    files: tuple[int, int],
    tell: int,
) -> NoReturn:
    stage = "session"
    try:
        signal.set_wakeup_fd(-1)
        for number in (*IGNORED, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.setsid()
        stage = "stdout"
        # Otherwise a umask inherited by the agent could make the files unreadable.
        os.umask(0o077)
        out = os.open(launch.stdout, _flags(launch.stdout), _MODE)
        os.dup2(out, 1)
        stage = "stderr"
        os.dup2(out if launch.stderr == launch.stdout else os.open(launch.stderr, _OPEN, _MODE), 2)
        if account is not None and account.uid is not None and not launch.stdout.startswith("/dev/"):
            # So that the program may open /dev/stdout and /dev/stderr.
            os.fchown(1, account.uid, -1)
            os.fchown(2, account.uid, -1)
        if group is not None:
            stage = f"the cgroup {group}"
            _join(group)
        stage = "the umask"
        os.umask(umask)
        resource.setrlimit(resource.RLIMIT_NOFILE, files)
        if launch.cores is not None:
            stage = f"the cores {launch.cores}"
            os.sched_setaffinity(0, launch.cores)
        if launch.nice is not None:
            stage = f"nice {launch.nice}"
            os.setpriority(os.PRIO_PROCESS, 0, launch.nice)
        for name, which, value in limits:
            stage = f"the limit {name} of {value}"
            resource.setrlimit(which, (value, value))
        if account is not None:
            stage = "account"
            if account.groups is not None:
                os.setgroups(account.groups)
            if account.gid is not None:
                os.setgid(account.gid)
            if account.uid is not None:
                os.setuid(account.uid)
        stage = "cwd"
        os.chdir(launch.cwd or "/")
        stage = "exec"
        os.execvpe(launch.argv[0], launch.argv, env)
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


def _join(group: str) -> None:
    with open(f"{group}/cgroup.procs", "w") as file:
        file.write("0")


def _flags(path: str) -> int:
    return _OPEN if path.startswith("/dev/") else _NEW


def _set_cores(cores: list[int]) -> None:
    try:
        os.sched_setaffinity(0, cores)
    except (OSError, ValueError):
        there = sorted(os.sched_getaffinity(0))
        raise CannotStart(f"can't run on the cores {cores}: this agent may use {there}") from None


# What to say ------------------------------------------------------------------------------------------------------


def _bad_text(argv: list[str], env: dict[str, str], launch: Launch) -> str:
    for number, word in enumerate(argv):
        if "\0" in word:
            return f"argument {number} of the command contains a NUL byte, which no program can receive: remove it"
    for key, value in env.items():
        if not key or "=" in key or "\0" in key:
            return f"{key!r} can't be the name of an environment variable: it must not be empty nor contain '=' or NUL"
        if "\0" in value:
            return f"the environment variable {key} contains a NUL byte, which no program can receive: remove it"
    return f"a path contains a NUL byte: cwd {launch.cwd!r}, stdout {launch.stdout!r}, stderr {launch.stderr!r}"


def _bad_folder(cwd: str, error: OSError, user: str | None = None) -> str:
    who = f"user {user}" if user is not None else f"the agent (uid {os.geteuid()})"
    advice: dict[int, str] = {
        errno.ENOENT: "create it, or set another cwd",
        errno.ENOTDIR: "set cwd to a folder",
        errno.EACCES: f"let {who} enter it, or set another cwd",
    }
    return f"can't work in the folder {cwd!r}: {error.strerror}; {advice.get(error.errno or 0, 'set another cwd')}"


def _no_program(name: str, path: str) -> str:
    for folder in path.split(":"):
        candidate = os.path.join(folder, name)
        if os.path.isfile(candidate):
            return f"{candidate} is not executable: chmod +x it"
    return f"there is no program {name!r} in PATH ({path}): install it, or give its full path"


def _explain(error: OSError, launch: Launch, program: str, env: dict[str, str]) -> str:
    number, text = error.errno, error.strerror
    if number == errno.E2BIG:
        size = sum(len(os.fsencode(word)) + 9 for word in launch.argv)
        size += sum(len(os.fsencode(key)) + len(os.fsencode(value)) + 10 for key, value in env.items())
        return (
            f"the command and its environment take {size} bytes, more than the kernel passes on "
            "(about 2 MiB in all, 128 KiB a word): put the data into a file"
        )
    if number in (errno.EAGAIN, errno.ENOMEM):
        return f"the kernel can't make another process now: {text}; see ulimit -u, pids.max and free memory"
    if not launch.stdout.startswith("/dev/") and not os.path.lexists(launch.stdout):
        return f"can't create the output file {launch.stdout}: {text}"
    if not os.path.lexists(launch.stderr):
        return f"can't create the output file {launch.stderr}: {text}"
    if "/" not in program:
        return _no_program(program, env.get("PATH") or os.defpath)
    shown = os.path.join(launch.cwd or "/", program)
    checks: list[tuple[Callable[[str], bool], str]] = [
        (os.path.isdir, f"{shown} is a folder, not a program"),
        (lambda path: not os.path.exists(path), f"there is no program {shown}: check the path and the cwd"),
        (lambda path: not os.stat(path).st_mode & 0o111, f"{shown} is not executable: chmod +x it"),
    ]
    for applies, reason in checks:
        try:
            if applies(shown):
                return reason
        except OSError:
            break
    if number == errno.ENOENT:
        return f"{shown} names an interpreter that does not exist in its first line: {_first_line(shown)!r}"
    if number == errno.ENOEXEC:
        return f"{shown} is no program that this machine can run: a script needs a first line such as #!/bin/sh"
    who = f"user {launch.user}" if launch.user is not None else f"the agent (uid {os.geteuid()})"
    return f"{who} can't execute {shown}: {text}"


def _first_line(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return file.readline(200).rstrip().decode("utf-8", "replace")
    except OSError:
        return "?"
