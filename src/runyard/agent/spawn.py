"""Starting one process, or the tasks of a run, and saying clearly why that was not possible.

Two ways for one process: `posix_spawn` (vfork inside, so it costs the same however large the agent is), and a fork for
what `posix_spawn` can't do: accounts, limits, niceness, cgroups. A run of several tasks has a starter of its own, which
is its main process (`runyard.agent.tasks`).

The child creates its stdout file itself, exclusively: the file's existence proves that the run was started once, to a
later agent as well as to the kernel, which refuses to start it again. (Files below /dev are opened as they are.)
"""

from __future__ import annotations

import errno
import os
import resource
import sys
import time
from collections.abc import Container, Mapping

from runyard.agent import reasons, tasks
from runyard.agent.child import (
    IGNORED,
    Account,
    ChildFailed,
    Guise,
    Tell,
    check_limits,
    find_account,
    fork,
    give_output,
    join,
)
from runyard.agent.reasons import CannotStart
from runyard.agent.run import Run
from runyard.agent.warm import Warm
from runyard.model.secrets import is_secret
from runyard.model.wire import Launch, Tasks

KEPT = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TZ", "TMPDIR")

#: Variables of these names are read when an interpreter starts: for one that is forked they would come too late.
_EARLY = ("PYTHON", "LD_", "LC_", "LANG", "MALLOC_", "GLIBC_")
_NEW = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND
_OPEN = os.O_CREAT | os.O_WRONLY | os.O_APPEND
_MODE = 0o600


class AlreadyStarted(Exception):
    """The stdout file exists: some earlier agent has started this run."""


def clean_environment(environment: Mapping[str, str], also: Container[str] = ()) -> dict[str, str]:
    """The variables of the agent's own environment that children get; `also` names more that somebody asked for."""
    kept = {
        key: value
        for key, value in environment.items()
        if (key in KEPT or key.startswith("LC_") or key in also) and not is_secret(key)
    }
    kept.setdefault("PATH", os.defpath)
    return kept


class Spawner:
    """Starts processes. Between `spawn` calls the agent's cwd may be a child's: `restore` it."""

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
        #: Children get the file limit that the agent was started with, while the agent itself may need a file a run.
        self._files = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._own_files = self._files[1], self._files[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, self._own_files)
        self.restore()

    def restore(self) -> None:
        if self._cwd != "/":
            os.chdir("/")
            self._cwd = "/"

    def spawn(self, launch: Launch, group: str | None) -> tuple[int, int]:
        """The pid of the started process, the leader of a new session, and for a run of several tasks a pipe from
        which `tasks.Report`s come (else -1). `group`: the folder of its cgroup.

        Raises CannotStart or AlreadyStarted; nothing runs then.
        """
        argv = launch.argv
        if not argv or not argv[0]:
            raise CannotStart("the command is empty: its first word must name a program")
        if launch.stdout[:1] != "/" or launch.stderr[:1] != "/":
            raise CannotStart(f"output must go to absolute paths, not to {launch.stdout!r} and {launch.stderr!r}")
        account = None
        if launch.user is not None or launch.group is not None:
            account = find_account(launch.user, launch.group)
        env = self._environment(launch, account)
        self._make_folders(launch)
        try:
            if launch.tasks is not None:
                return self._spawn_tasks(launch, launch.tasks, env, account, group)
            if needs_fork(launch, account, group):
                return self._fork(launch, env, account, group), -1
            return self._spawn(launch, env), -1
        except ValueError:
            raise CannotStart(reasons.bad_text(argv, env, launch.cwd, (launch.stdout, launch.stderr))) from None

    def ask(self, warm: Warm, run: Run, launch: Launch) -> bool:
        """Whether the warm process was asked to start the run, so that `spawn` need not. Raises CannotStart."""
        if not launch.warm or launch.tasks is not None or launch.user is not None or launch.group is not None:
            return False
        if needs_fork(launch, None, run.intent.group) or any(key.startswith(_EARLY) for key in launch.env):
            return False
        self._make_folders(launch)
        return warm.ask(run, launch, self._environment(launch, None), self._umask, self._files)

    def _environment(self, launch: Launch, account: Account | None) -> dict[str, str]:
        env = self.base | (account.env if account is not None else {}) | launch.env
        job, replica, attempt = launch.run
        env["RUNYARD_JOB_ID"] = str(job)
        env["RUNYARD_REPLICA"] = str(replica)
        env["RUNYARD_ATTEMPT"] = str(attempt)
        env["RUNYARD_RUN"] = f"{job}.{replica}.{attempt}"
        env["RUNYARD_AGENT"] = self.base["RUNYARD_AGENT"]
        return env

    def _make_folders(self, launch: Launch) -> None:
        for path in (launch.stdout, launch.stderr):
            folder = path[: path.rfind("/")] or "/"
            if folder not in self._folders:
                self._make_folder(folder)

    def _guise(self, launch: Launch, env: Mapping[str, str], account: Account | None) -> Guise:
        umask = self._umask if launch.umask is None else launch.umask
        limits = launch.rlimits or {}
        check_limits(limits)
        return Guise(launch.argv, env, launch.cwd, umask, self._files, launch.cores, launch.nice, limits, account)

    def _fork(self, launch: Launch, env: Mapping[str, str], account: Account | None, group: str | None) -> int:
        if "\0" in launch.stdout + launch.stderr:
            raise ValueError

        def first(at: Tell) -> None:
            at("session")
            os.setsid()
            at("stdout")
            # Otherwise a umask inherited by the agent could make the files unreadable.
            os.umask(0o077)
            out = os.open(launch.stdout, _flags(launch.stdout), _MODE)
            os.dup2(out, 1)
            at("stderr")
            os.dup2(out if launch.stderr == launch.stdout else os.open(launch.stderr, _OPEN, _MODE), 2)
            give_output(launch.stdout, account)
            if group is not None:
                at(f"the cgroup {group}")
                join(group)

        try:
            return fork(self._guise(launch, env, account), first)
        except ChildFailed as failed:
            error = failed.error
            if failed.stage == "stdout" and error.errno == errno.EEXIST:
                raise AlreadyStarted from None
            reason = reasons.no_output(error, launch.stdout, launch.stderr)
            reason = reason or reasons.stage_failed(
                failed.stage, error, launch.argv, launch.cwd, launch.user, launch.group, env
            )
            raise CannotStart(reason) from None

    def _spawn_tasks(
        self, launch: Launch, many: Tasks, env: dict[str, str], account: Account | None, group: str | None
    ) -> tuple[int, int]:
        guise = self._guise(launch, env, account)
        places = [(place.tasks, place.cores, place.gpus) for place in many.places]
        order = tasks.Order(
            guise,
            launch.user,
            launch.group,
            group,
            launch.stdout,
            launch.stop_signal,
            launch.grace,
            many.after_failure,
            places,
        )
        marks = {key: value for key, value in env.items() if key.startswith("RUNYARD_")}
        given = os.memfd_create("runyard-tasks", os.MFD_CLOEXEC)
        receive, tell = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            with open(given, "wb", closefd=False) as file:
                file.write(order.encode())
            os.lseek(given, 0, os.SEEK_SET)
            for fd in (given, tell):
                os.set_inheritable(fd, True)
            argv = [sys.executable, "-I", "-S", tasks.STARTER, str(given), str(tell), *launch.argv]
            starter = Launch(launch.run, argv, {}, "/", launch.stdout, launch.stderr)
            return self._spawn(starter, marks), receive
        except BaseException:
            os.close(receive)
            raise
        finally:
            os.close(given)
            os.close(tell)

    def _spawn(self, launch: Launch, env: dict[str, str]) -> int:
        cwd = launch.cwd or "/"
        if cwd != self._cwd:
            try:
                os.chdir(cwd)
            except OSError as error:
                raise CannotStart(reasons.bad_folder(cwd, error)) from None
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
        resource.setrlimit(resource.RLIMIT_NOFILE, self._files)
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
                    reason = None
                    if error.errno not in (errno.E2BIG, errno.EAGAIN, errno.ENOMEM):
                        reason = reasons.no_output(error, stdout, stderr)
                    reason = reason or reasons.bad_program(error, argv, launch.cwd, launch.user, program, env)
                    raise CannotStart(reason) from None
            raise AssertionError("unreachable")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, self._own_files)
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
        raise CannotStart(reasons.no_program(name, path))

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


def _flags(path: str) -> int:
    return _OPEN if reasons.is_device(path) else _NEW


def _set_cores(cores: list[int]) -> None:
    try:
        os.sched_setaffinity(0, cores)
    except (OSError, ValueError):
        there = sorted(os.sched_getaffinity(0))
        raise CannotStart(f"can't run on the cores {cores}: this agent may use {there}") from None
