"""Programs that are kept warm: a process with everything loaded that forks each run, instead of a start from nothing.

The warm process is asked over a socket for a run, and forks twice: the one in between ends, and the run, now an orphan,
becomes a child of the agent, which is the subreaper. Whatever goes wrong, the run is started cold.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Mapping
from contextlib import suppress

from runyard.agent.child import IGNORED
from runyard.model.wire import Launch

#: Seconds for a fork; after that the warm process is given up.
PATIENCE = 5.0
#: Seconds without another attempt after one that came to nothing.
REST = 60.0
MAX_REQUEST = 64 * 1024
#: Room for the mark of a run in the environment with which the warm process starts; each run writes its own there.
ROOM = "-" * 64


class Warm:
    """At most one warm process, of the program that was asked for last."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """`environment`: that of the warm process, with the mark of the agent; runs have their own."""
        self._environment = {**environment, "RUNYARD_RUN": ROOM}
        self._program: tuple[str, ...] = ()
        self._pid = 0
        self._socket: socket.socket | None = None
        self._ready = False
        self._rest_until = 0.0

    def fork(self, launch: Launch, env: Mapping[str, str], umask: int) -> int | None:
        """The pid of the run's process; None if it must be started cold. Raises FileExistsError if the run has been
        started before."""
        program = tuple(launch.argv[: launch.warm])
        if self._socket is None or program != self._program:
            if time.monotonic() >= self._rest_until:
                self._start(program)
            return None
        request = {
            "arguments": launch.argv[launch.warm :],
            "env": env,
            "cwd": launch.cwd or "/",
            "stdout": launch.stdout,
            "stderr": launch.stderr,
            "umask": umask if launch.umask is None else launch.umask,
            "cores": launch.cores,
        }
        data = json.dumps(request).encode()
        if len(data) > MAX_REQUEST or not self._is_ready():
            return None
        try:
            self._socket.settimeout(PATIENCE)
            self._socket.send(data)
            pid = int(self._socket.recv(64) or b"0")
        except (OSError, ValueError):
            self._drop()
            return None
        if pid < 0:
            raise FileExistsError
        return pid or None

    def _is_ready(self) -> bool:
        assert self._socket is not None
        if not self._ready:
            self._socket.setblocking(False)
            try:
                if not self._socket.recv(64):
                    raise OSError
                self._ready = True
            except BlockingIOError:
                return False
            except OSError:
                self._drop()
                return False
        return True

    def _start(self, program: tuple[str, ...]) -> None:
        self._drop()
        self._program = program
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            theirs.set_inheritable(True)
            argv = [*program, "--warm", str(theirs.fileno())]
            null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            actions = [(os.POSIX_SPAWN_DUP2, null, fd) for fd in (1, 2)]
            try:
                self._pid = os.posix_spawn(
                    program[0], argv, self._environment, file_actions=actions, setsid=True, setsigdef=IGNORED
                )
            except OSError:
                ours.close()
                return
            finally:
                os.close(null)
        self._socket = ours

    def _drop(self) -> None:
        if self._socket is None:
            return
        if not self._ready:
            # One that can't even load would be started for nothing with every run.
            self._rest_until = time.monotonic() + REST
        self._socket.close()
        self._socket, self._ready = None, False
        # It is our child, and so its number is still its own, or it was collected and is gone.
        with suppress(ChildProcessError, ProcessLookupError):
            if os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                os.kill(self._pid, signal.SIGKILL)
