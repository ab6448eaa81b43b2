"""A server of its own for a measurement: fresh data folder, free port, ended with everything it started."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from types import TracebackType

BIN = Path(sys.executable).parent


class BenchServer:
    """`with BenchServer() as server:` gives a server that is ready, at `server.url`."""

    def __init__(self, folder: Path | None = None, args: tuple[str, ...] = ()) -> None:
        self._own = folder is None
        self.folder = folder or Path(tempfile.mkdtemp(prefix="runyard-bench-"))
        self._args = args
        self.url = ""
        self.pid = 0

    def __enter__(self) -> BenchServer:
        self.start()
        return self

    def start(self) -> float:
        """Starts the server; returns the seconds until it was ready."""
        begin = time.perf_counter()
        command = [str(BIN / "runyard"), "serve", "--port", "0", "--data-dir", str(self.folder), *self._args]
        env = {key: value for key, value in os.environ.items() if not key.startswith("RUNYARD_")}
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)
        self.pid = self._process.pid
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if "http://" not in line:
            raise RuntimeError(f"the server did not start: {line!r}")
        self.url = line.split("http://")[1].split()[0]
        self.url = f"http://{self.url}"
        while True:
            try:
                with urllib.request.urlopen(f"{self.url}/readyz", timeout=5) as answer:
                    if answer.status == 200:
                        return time.perf_counter() - begin
            except OSError:
                time.sleep(0.005)

    @property
    def agent_pid(self) -> int:
        return int((self.folder / "agent" / "agent.pid").read_text().split()[0])

    def kill(self) -> None:
        """SIGKILL to the server; the agent goes on."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def cpu_seconds(self) -> float:
        """User and system time of server and agent so far, without their children's."""
        return process_seconds(self.pid) + process_seconds(self.agent_pid)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait()
        stop = [str(BIN / "runyard"), "agent", "stop", "--kill", "--data-dir", str(self.folder)]
        subprocess.run(stop, check=False, capture_output=True)
        if self._own:
            shutil.rmtree(self.folder, ignore_errors=True)


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
