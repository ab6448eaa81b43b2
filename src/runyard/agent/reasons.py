"""Why a process could not be started: what is wrong, where, and what to do."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping, Sequence


class CannotStart(Exception):
    """The run can't be started. The text says what is wrong, where, and what to do."""


def stage_failed(
    stage: str,
    error: OSError,
    argv: Sequence[str],
    cwd: str | None,
    user: str | None,
    group: str | None,
    env: Mapping[str, str],
) -> str:
    """What a child could not do on the way to its program: `stage` as in `runyard.agent.child`."""
    if stage == "exec":
        return bad_program(error, argv, cwd, user, argv[0], env)
    if stage == "cwd":
        return bad_folder(cwd or "/", error, user)
    if stage == "account":
        return (
            f"can't become user {user or 'as before'}, group {group or 'of that user'}: {error.strerror}; "
            f"the agent runs as uid {os.geteuid()}, and only root may start processes for others"
        )
    return f"can't set {stage} for the process: {error.strerror}"


def bad_text(argv: Sequence[str], env: Mapping[str, str], cwd: str | None, paths: tuple[str, str]) -> str:
    """Which of them no program can receive; `paths` are those of stdout and stderr."""
    for number, word in enumerate(argv):
        if "\0" in word:
            return f"argument {number} of the command contains a NUL byte, which no program can receive: remove it"
    for key, value in env.items():
        if not key or "=" in key or "\0" in key:
            return f"{key!r} can't be the name of an environment variable: it must not be empty nor contain '=' or NUL"
        if "\0" in value:
            return f"the environment variable {key} contains a NUL byte, which no program can receive: remove it"
    return f"a path contains a NUL byte: cwd {cwd!r}, stdout {paths[0]!r}, stderr {paths[1]!r}"


def bad_folder(cwd: str, error: OSError, user: str | None = None) -> str:
    who = f"user {user}" if user is not None else f"the agent (uid {os.geteuid()})"
    advice: dict[int, str] = {
        errno.ENOENT: "create it, or set another cwd",
        errno.ENOTDIR: "set cwd to a folder",
        errno.EACCES: f"let {who} enter it, or set another cwd",
    }
    return f"can't work in the folder {cwd!r}: {error.strerror}; {advice.get(error.errno or 0, 'set another cwd')}"


def no_program(name: str, path: str) -> str:
    for folder in path.split(":"):
        candidate = os.path.join(folder, name)
        if os.path.isfile(candidate):
            return f"{candidate} is not executable: chmod +x it"
    return f"there is no program {name!r} in PATH ({path}): install it, or give its full path"


def is_device(path: str) -> bool:
    """Whether output there goes to a device and not into a file of the run: /dev/shm is a folder in memory."""
    return path.startswith("/dev/") and not path.startswith("/dev/shm/")


def no_output(error: OSError, stdout: str, stderr: str) -> str | None:
    """Which output file could not be made; None if both are there."""
    for path in (stdout, stderr):
        if not is_device(path) and not os.path.lexists(path):
            return f"can't create the output file {path}: {error.strerror}"
    return None


def bad_program(
    error: OSError, argv: Sequence[str], cwd: str | None, user: str | None, program: str, env: Mapping[str, str]
) -> str:
    """Why `program`, as it was found for `argv`, could not be executed."""
    number, text = error.errno, error.strerror
    if number == errno.E2BIG:
        size = sum(len(os.fsencode(word)) + 9 for word in argv)
        size += sum(len(os.fsencode(key)) + len(os.fsencode(value)) + 10 for key, value in env.items())
        return (
            f"the command and its environment take {size} bytes, more than the kernel passes on "
            "(about 2 MiB in all, 128 KiB a word): put the data into a file"
        )
    if number in (errno.EAGAIN, errno.ENOMEM):
        return f"the kernel can't make another process now: {text}; see ulimit -u, pids.max and free memory"
    if "/" not in program:
        return no_program(program, env.get("PATH") or os.defpath)
    shown = os.path.join(cwd or "/", program)
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
    who = f"user {user}" if user is not None else f"the agent (uid {os.geteuid()})"
    return f"{who} can't execute {shown}: {text}"


def _first_line(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return file.readline(200).rstrip().decode("utf-8", "replace")
    except OSError:
        return "?"
