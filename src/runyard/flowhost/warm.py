"""A host with everything loaded that forks the hosts of flows: the other side of `runyard.agent.warm`."""

from __future__ import annotations

import ctypes
import errno
import gc
import json
import os
import resource
import signal
import socket
import sys
import threading
import time
from typing import Any, NoReturn

#: Seconds without a request after which it ends.
IDLE = 900.0
MAX_REQUEST = 64 * 1024
_MARK = b"RUNYARD_RUN="


def serve(descriptor: int) -> int:
    """Forks until the agent is gone, or asks for nothing any more."""
    with socket.socket(fileno=descriptor) as agent:
        agent.set_inheritable(False)
        _load()
        # A fork copies one thread; another one's locks would stay locked for ever.
        if threading.active_count() != 1:
            return 1
        gc.collect()
        gc.freeze()
        agent.settimeout(IDLE)
        try:
            agent.send(b"ready")
            while data := agent.recv(MAX_REQUEST):
                agent.send(str(_fork(json.loads(data), agent)).encode())
        except OSError:
            return 0
    return 0


def _load() -> None:
    """What most flows need; nothing that starts threads."""
    import runyard.flow.check
    import runyard.flow.document
    import runyard.flow.runtime.runner
    import runyard.flow.units.http.receive
    import runyard.flow.units.http.reply
    import runyard.flowhost.host  # noqa: F401


def _fork(request: dict[str, Any], agent: socket.socket) -> int:
    """The pid of the run; 0 if it can't be started this way, -1 if it has been started before."""
    receive, tell = os.pipe()
    try:
        between = os.fork()
        if between == 0:
            run = 0
            try:
                os.close(receive)
                run = os.fork()
                if run == 0:
                    agent.close()
                    _become(request, tell)
                os.write(tell, b"%d\n" % run)
            finally:
                os._exit(0)
    finally:
        os.close(tell)
        with open(receive, "rb") as pipe:
            told = pipe.read().split()
    # Only when that one has ended is the run the agent's child.
    os.waitpid(between, 0)
    failures = [int(line[1:]) for line in told if line.startswith(b"!")]
    if failures:
        return -1 if failures[0] == errno.EEXIST else 0
    return int(told[0]) if told else 0


def _become(request: dict[str, Any], tell: int) -> NoReturn:
    """In the new process: takes on what the launch asks for, then runs the flow to its end."""
    code = 70
    try:
        try:
            os.setsid()
            _mark(request["env"]["RUNYARD_RUN"].encode())
            os.chdir(request["cwd"])
            if request["cores"] is not None:
                os.sched_setaffinity(0, request["cores"])
            resource.setrlimit(resource.RLIMIT_NOFILE, request["files"])
            os.umask(0o077)
            appending = os.O_CREAT | os.O_WRONLY | os.O_APPEND
            err = -1 if request["stdout"] == request["stderr"] else os.open(request["stderr"], appending, 0o600)
            out = os.open(request["stdout"], appending | os.O_EXCL, 0o600)
        except OSError as error:
            os.write(tell, b"!%d\n" % (error.errno or errno.EIO))
            os._exit(code)
        # From here on the run counts as started: see `runyard.agent.spawn`.
        os.dup2(out, 1)
        os.dup2(err if err >= 0 else out, 2)
        for fd in (out, err, tell):
            if fd >= 0:
                os.close(fd)
        os.umask(request["umask"])
        os.environ.clear()
        os.environ.update(request["env"])
        time.tzset()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        import random

        random.seed()
        from runyard.flowhost.host import main

        code = main(request["arguments"])
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):
                continue
        os._exit(code)


def _mark(run: bytes) -> None:
    """Writes the run's mark where `/proc/PID/environ` shows it: by it the agent knows whose a process is.

    Raises OSError if there is no room for it: then the run is started cold.
    """
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    # env_start and env_end, proc_pid_stat(5): fields 50 and 51, of which `fields` lacks the first two.
    start, end = int(fields[47]), int(fields[48])
    place = b"\0" + ctypes.string_at(start, end - start) if end > start else b""
    at = place.find(b"\0" + _MARK)
    room = place.find(b"\0", at + 1) - at - 1
    if at < 0 or room < len(_MARK) + len(run):
        raise OSError(errno.ENOSPC, "no room for the mark")
    ctypes.memmove(start + at, (_MARK + run).ljust(room, b"\0"), room)
