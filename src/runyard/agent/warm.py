"""Programs that are kept warm: a process with everything loaded that forks each run, instead of a start from nothing.

The warm process is asked over a socket for a run, and forks twice: the one in between ends, and the run, now an orphan,
becomes a child of the agent, which is the subreaper. Nobody waits for its answer: the agent hears it when it comes.
Whatever goes wrong, or takes too long, the run is started cold; that its output file is made exclusively keeps it from
being started twice.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple

from runyard.agent import process
from runyard.agent.child import IGNORED
from runyard.agent.log import Log
from runyard.agent.run import FOREVER, Run
from runyard.model.wire import Launch

#: Seconds without an answer after which the warm process is given up.
PATIENCE = 2.0
#: Seconds without another attempt after one that came to nothing.
REST = 15.0
MAX_REQUEST = 64 * 1024
#: Room for the mark of a run in the environment with which the warm process starts; each run writes its own there.
ROOM = "-" * 64


class Answer(NamedTuple):
    run: Run
    launch: Launch
    pid: int
    """0 if the run must be started cold, -1 if it has been started before."""


class Warm:
    """At most one warm process, of the program that was asked for last."""

    def __init__(self, environment: Mapping[str, str], epoll: select.epoll, log: Log) -> None:
        """`environment`: that of the warm process, with the mark of the agent; runs have their own. `epoll` gets
        `fd`."""
        self.fd = -1
        """To `hear`."""
        self.due = FOREVER
        """Uptime at which to `give_up`."""
        self._environment = {**environment, "RUNYARD_RUN": ROOM}
        self._epoll, self._log = epoll, log
        self._program: tuple[str, ...] = ()
        self._pid = 0
        self._socket: socket.socket | None = None
        self._ready = False
        self._rest_until = 0.0
        self._asked: deque[tuple[Run, Launch]] = deque()
        """Answered in this order."""

    @property
    def pid(self) -> int:
        """Of the warm process; 0 if there is none."""
        return 0 if self._socket is None else self._pid

    @property
    def asked(self) -> bool:
        """Answers are to come: children may be there that nobody knows yet."""
        return bool(self._asked)

    def ask(self, run: Run, launch: Launch, env: Mapping[str, str], umask: int, files: tuple[int, int]) -> bool:
        """Asks for the run, and `hear` gives the answer; False if it must be started cold.

        `files`: soft and hard limit of open files.
        """
        program = (launch.edition, *launch.argv[: launch.warm])
        if self._socket is None or program != self._program:
            if not self._asked and time.monotonic() >= self._rest_until:
                self._start(program)
            return False
        request = {
            "arguments": launch.argv[launch.warm :],
            "env": env,
            "cwd": launch.cwd or "/",
            "stdout": launch.stdout,
            "stderr": launch.stderr,
            "umask": umask if launch.umask is None else launch.umask,
            "files": files,
            "cores": launch.cores,
        }
        data = json.dumps(request).encode()
        if not self._ready or len(data) > MAX_REQUEST:
            return False
        try:
            self._socket.send(data)
        except OSError:
            # It has much to do, or is gone, which `hear` finds out.
            return False
        if not self._asked:
            self.due = process.uptime() + PATIENCE
        self._asked.append((run, launch))
        return True

    def hear(self) -> list[Answer]:
        """What the warm process has answered."""
        answers: list[Answer] = []
        while self._socket is not None:
            try:
                data = self._socket.recv(64)
                if data and not self._ready:
                    self._ready = True
                elif data:
                    pid = int(data)
                    answers.append(Answer(*self._asked.popleft(), pid))
                    self.due = process.uptime() + PATIENCE if self._asked else FOREVER
                else:
                    raise EOFError
            except BlockingIOError:
                break
            except (OSError, EOFError, ValueError, IndexError):
                # One that can't even load would be started for nothing with every run.
                answers += self._drop("" if self._ready else "has ended before it was ready")
        return answers

    def give_up(self) -> list[Answer]:
        """It has not answered in time."""
        return self._drop(f"does not answer within {PATIENCE:g} s")

    def _start(self, program: tuple[str, ...]) -> None:
        self._drop()
        self._program = program
        argv = program[1:]
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            theirs.set_inheritable(True)
            null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            actions = [(os.POSIX_SPAWN_DUP2, null, fd) for fd in (1, 2)]
            try:
                self._pid = os.posix_spawn(
                    argv[0],
                    [*argv, "--warm", str(theirs.fileno())],
                    self._environment,
                    file_actions=actions,
                    setsid=True,
                    setsigmask=(),
                    setsigdef=IGNORED,
                )
            except OSError:
                ours.close()
                return
            finally:
                os.close(null)
        ours.setblocking(False)
        self._socket, self.fd = ours, ours.fileno()
        self._epoll.register(ours, select.EPOLLIN)

    def _drop(self, trouble: str = "") -> list[Answer]:
        """Ends the warm process. Who waits for it has to start cold."""
        if self._socket is None:
            return []
        if trouble:
            self._log.warning(f"the warm process (pid {self._pid}) {trouble}: runs are started cold for {REST:g} s")
            self._rest_until = time.monotonic() + REST
        self._epoll.unregister(self._socket)
        self._socket.close()
        self._socket, self._ready, self.fd, self.due = None, False, -1, FOREVER
        # It is our child, and so its number is still its own, or it was collected and is gone.
        with suppress(ChildProcessError, ProcessLookupError):
            if os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                os.kill(self._pid, signal.SIGKILL)
        waiting, self._asked = self._asked, deque()
        return [Answer(run, launch, 0) for run, launch in waiting]
