"""The installed product, as a stranger runs it: `runyard serve` as a process, with its own data folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx2

from runyard.agent import process
from runyard.client import Client
from runyard.model.job import JobDoc
from tests.agents import alive as alive
from tests.helpers import deadline, wait_until

T = TypeVar("T")

BIN = Path(sys.executable).parent
LOOPBACK = "127.0.0.1"


def clean_env(**more: str) -> dict[str, str]:
    """This process's environment without settings of Runyard, and with the environment's commands on the PATH."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("RUNYARD_", "NO_COLOR", "COLUMNS"))}
    return env | {"PATH": f"{BIN}{os.pathsep}{env.get('PATH', '')}"} | more


class Server:
    """One `runyard serve`. After a first start it keeps its port, so that clients find it again."""

    def __init__(self, folder: Path, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        """`arguments` go to `serve`; `env` is added to the environment of every command of this server."""
        self.folder = folder
        self.data = folder / "data"
        self.log = folder / "server.log"
        self.port = 0
        self._arguments = arguments
        self._env = dict(env or {})
        self._process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self, *, ready: bool = True) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        command = ["runyard", "serve", "--port", str(self.port), "--data-dir", str(self.data), *self._arguments]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, text=True, env=clean_env(**self._env)
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.startswith("Runyard is listening on http://"):
            code = self.end(signal.SIGKILL)
            raise AssertionError(f"no server, but exit code {code}: {line}{self.log.read_text()}")
        self.port = int(line.split("//")[1].split()[0].rpartition(":")[2])
        if ready:
            wait_until(lambda: self.get("/readyz").status_code == 200, 60, "readiness")
        return self

    def kill(self) -> None:
        """As the out-of-memory killer would. Agent and jobs live on."""
        self.end(signal.SIGKILL)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Signals the server, and waits for its end; its exit code."""
        assert self._process is not None
        with self._process as ended:
            ended.send_signal(number)
            code = ended.wait(60)
        self._process = None
        return code

    def wait(self) -> int:
        """Waits until it ends of itself; its exit code."""
        assert self._process is not None
        with self._process as ended:
            code = ended.wait(60)
        self._process = None
        return code

    def set_env(self, **env: str) -> None:
        """For the next start, in addition."""
        self._env |= env

    def close(self) -> None:
        """Ends server, agent and jobs. Raises AssertionError if one of them is left, or if the server had a defect."""
        code = self.end() if self._process is not None else 0
        stopped = self.run("agent", "stop", "--kill", "--data-dir", str(self.data))
        assert stopped.returncode == 0, stopped.stderr
        wait_until(lambda: not self.processes(), 60, f"the end of {self.processes()}")
        assert code == 0
        assert "Traceback" not in self.log.read_text(), self.log.read_text()[-4000:]

    def processes(self) -> list[int]:
        """Every living process that this server's agent, or Python worker, has started."""
        ids = [path.read_bytes() for path in self.data.glob("*/id")]
        tables = [process.Table().marked(b"RUNYARD_AGENT=" + name) for name in ids]
        return [proc.pid for table in tables for procs in table.values() for proc in procs]

    def door_port(self, door: str) -> int:
        """The port on which that door listens beside the main one. To be asked once after each start."""
        assert self._process is not None and self._process.stdout is not None
        line = read_until(self._process.stdout, f"  {door}: http://").splitlines()[-1]
        return int(line.rpartition(":")[2])

    # Talking to it ------------------------------------------------------------------------------------------------

    def client(self, **options: Any) -> Client:
        """One that is patient while the server is started anew."""
        return Client(self.url, **{"retry_for": 120, **options})

    def http(self) -> httpx2.Client:
        return httpx2.Client(base_url=self.url, timeout=60)

    def get(self, path: str, **options: Any) -> httpx2.Response:
        return httpx2.get(self.url + path, timeout=60, **options)

    def command(self, *arguments: str) -> list[str]:
        return ["runyard", "--url", self.url, *arguments] if self.port else ["runyard", *arguments]

    def run(
        self, *arguments: str, env: Mapping[str, str] | None = None, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """A `runyard` command against this server, to its end."""
        chosen: dict[str, Any] = {"cwd": self.folder, "timeout": 120, "text": True, "capture_output": True} | options
        return subprocess.run(self.command(*arguments), env=clean_env(**self._env, **(env or {})), **chosen)

    def popen(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        chosen: dict[str, Any] = {
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "text": True,
            "cwd": self.folder,
        }
        return subprocess.Popen(self.command(*arguments), env=clean_env(**self._env), **(chosen | options))

    def until(self, client: Client, ref: str, state: str, timeout: float = 60) -> JobDoc:
        """The job once it is in that state."""
        return ask_until(lambda: client.job(ref), lambda job: job.state == state, timeout, f"job {ref} being {state}")


def ask_until(ask: Callable[[], T], good: Callable[[T], object], timeout: float = 60, what: str | None = None) -> T:
    """The first answer that is good."""
    for _ in deadline(timeout, what or f"a good answer of {ask!r}"):
        if good(answer := ask()):
            return answer
    raise AssertionError("deadline() ended without failing")


def read_until(stream: Any, text: str, timeout: float = 60) -> str:
    """Lines of a process's output up to and with one that has `text` in it. The caller's process must write one."""
    seen: list[str] = []
    for _ in deadline(timeout, f"{text!r} in {seen}"):
        line = stream.readline()
        seen.append(line)
        if text in line:
            return "".join(seen)
        assert line, f"the output ended without {text!r}: {seen}"
    raise AssertionError
