"""A server of its own for a measurement: fresh data folder, free port, ended with everything it started.

Data folders stay until the whole run has ended. ext4 avoids inodes that were freed a moment ago (`recently_deleted`):
for minutes after many files have been removed, creating files nearby costs several times as much, for everybody.
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from types import TracebackType

BIN = Path(sys.executable).parent
RUNYARD = str(BIN / "runyard")
NICE = -15


@lru_cache(maxsize=1)
def root() -> Path:
    """The folder of this run, removed when Python ends."""
    folder = Path(tempfile.mkdtemp(prefix="runyard-bench-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def fresh(name: str) -> Path:
    """A new empty folder."""
    return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=root()))


def prefer(pid: int) -> None:
    """Lets other work on this machine disturb a process less; without root, does nothing.

    Linux weighs sessions against each other first (autogroups), and processes only within their session: a nice value
    alone changes nothing between sessions. What the process starts inherits both, but for a new session.
    """
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, NICE)
        Path(f"/proc/{pid}/autogroup").write_text(str(NICE))


class BenchServer:
    """`with BenchServer() as server:` gives a server that is ready, at `server.url`."""

    def __init__(self, folder: Path | None = None, env: Mapping[str, str] | None = None) -> None:
        """`env` is added to a clean environment: settings of the server."""
        self.folder = folder or fresh("data")
        self.port = 0
        self.pid = 0
        self._env = {key: value for key, value in os.environ.items() if not key.startswith("RUNYARD_")}
        self._env |= env or {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> BenchServer:
        self.start()
        return self

    def start(self) -> float:
        """Starts the server; returns the seconds until it was ready."""
        begin = time.perf_counter()
        command = [RUNYARD, "serve", "--port", "0", "--data-dir", str(self.folder)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=self._env)
        self.pid = self._process.pid
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if "http://" not in line:
            raise RuntimeError(f"the server did not start: {line!r}")
        self.port = int(line.split("http://")[1].split()[0].rpartition(":")[2])
        while True:
            try:
                with urllib.request.urlopen(f"{self.url}/readyz", timeout=5) as answer:
                    if answer.status == 200:
                        seconds = time.perf_counter() - begin
                        prefer(self.agent_pid)
                        return seconds
            except OSError:
                time.sleep(0.005)

    @property
    def agent_pid(self) -> int:
        return int((self.folder / "agent" / "agent.pid").read_text())

    def kill(self) -> None:
        """SIGKILL to the server; the agent goes on."""
        with self._process as process:
            process.kill()

    def kill_agent(self) -> None:
        """SIGKILL to the agent; the runs go on."""
        os.kill(self.agent_pid, signal.SIGKILL)

    def cpu_seconds(self) -> float:
        """User and system time of server and agent so far, without their children's."""
        return process_seconds(self.pid) + process_seconds(self.agent_pid)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._process as process:
            process.terminate()
        stop = [RUNYARD, "agent", "stop", "--kill", "--data-dir", str(self.folder)]
        subprocess.run(stop, check=True, capture_output=True)


def process_seconds(pid: int) -> float:
    """User and system time of one process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def pss(pid: int) -> int:
    """Bytes of memory of one process, shared pages counted by share."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no Pss of process {pid}")
