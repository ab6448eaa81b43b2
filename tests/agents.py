"""A real agent for tests, a plain client for it, and the certainty that nothing of it is left behind."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from runyard.agent import process
from runyard.executors.local import agent_status, connect, start_agent
from runyard.model import wire
from runyard.model.ids import RunKey
from tests.helpers import wait_until

M = TypeVar("M")
_jobs = itertools.count(1)


def new_run() -> RunKey:
    return RunKey(next(_jobs), 0, 1)


class Client:
    """Speaks to the agent as an executor does, without acknowledging anything by itself."""

    def __init__(self, folder: Path, name: str = "agent.sock") -> None:
        self.sock: socket.socket = connect(folder, name)
        self.sock.settimeout(0.05)
        self.messages: list[wire.FromAgent] = []
        self.closed = False
        self._frames = wire.Frames()
        self.hello = self.wait(wire.Hello)

    def send(self, *messages: wire.ToAgent) -> None:
        self.sock.settimeout(30)
        self.sock.sendall(wire.encode_frame(messages))
        self.sock.settimeout(0.05)

    def wait(self, kind: type[M], test: Callable[[M], bool] = lambda _: True, timeout: float = 60) -> M:
        """The first message of that kind that passes the test, old ones included."""

        def look() -> M | None:
            for _ in range(2):
                found = next((m for m in self.messages if isinstance(m, kind) and test(m)), None)
                if found is not None:
                    return found
                self.receive()
            return None

        return wait_until(look, timeout, f"a {kind.__name__} message (got {self.messages!r})")  # type: ignore[return-value]

    def receive(self) -> None:
        """Take what has arrived, waiting a moment."""
        try:
            data = self.sock.recv(1 << 18)
        except TimeoutError:
            return
        except OSError:
            data = b""
        if not data:
            self.closed = True
            return
        for body in self._frames.feed(data):
            self.messages += wire.decode_from_agent(body)

    def hung_up(self) -> bool:
        """Whether the agent has ended the connection."""
        self.receive()
        return self.closed

    def started(self, run: RunKey) -> wire.Started:
        return self.wait(wire.Started, lambda report: report.run == run)

    def exited(self, run: RunKey) -> wire.Exited:
        return self.wait(wire.Exited, lambda report: report.run == run)

    def close(self) -> None:
        self.sock.close()


class AgentProcess:
    """An agent in a folder of the test. `close` ends it and fails if a process of it is left."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / "agent"
        self._process: subprocess.Popen[bytes] | None = None
        self._clients: list[Client] = []

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self, idle_exit: float = 60.0) -> None:
        self._process = start_agent(self.folder, idle_exit)
        wait_until(self._listens, 60, "a listening agent")

    def _listens(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "agent.log").read_text()
        return agent_status(self.folder).pid == self._process.pid

    def client(self, name: str = "agent.sock") -> Client:
        client = Client(self.folder, name)
        self._clients.append(client)
        return client

    def kill(self) -> None:
        """As a crash would."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def wait(self, timeout: float = 60) -> int:
        assert self._process is not None
        return self._process.wait(timeout)

    def memory(self) -> int:
        """Resident, in kB."""
        return int(status_of(self.pid)["VmRSS"].split()[0])

    def launch(self, argv: Sequence[str], run: RunKey | None = None, **options: Any) -> wire.Launch:
        """A launch message with output files of its own."""
        run = run or new_run()
        options.setdefault("env", {})
        options.setdefault("cwd", None)
        base = self.root / "output" / str(run)
        return wire.Launch(run=run, argv=list(argv), stdout=f"{base}.out", stderr=f"{base}.err", **options)

    def output(self, launch: wire.Launch) -> str:
        return Path(launch.stdout).read_text()

    def marked(self) -> list[process.Proc]:
        """All living processes that this agent, or an earlier one of the folder, has started."""
        try:
            name = (self.folder / "id").read_text()
        except FileNotFoundError:
            return []
        return [p for procs in process.Table().marked(f"RUNYARD_AGENT={name}".encode()).values() for p in procs]

    def close(self) -> None:
        for client in self._clients:
            client.close()
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(60)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        while left := self.marked():
            for proc in left:
                process.send(proc, signal.SIGKILL)
            time.sleep(0.01)


def alive(pid: int) -> bool:
    proc = process.read(pid)
    return proc is not None and proc.alive


def status_of(pid: int) -> dict[str, str]:
    """`/proc/PID/status`, by field."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def is_root() -> bool:
    return os.geteuid() == 0
