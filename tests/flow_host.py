"""A hosted flow for tests: `python -m runyard.flowhost` as a process, with its reports and its log."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from runyard.flow import report
from runyard.flow.hosted import HostSpec
from runyard.flow.report import FlowState, Report
from tests.helpers import wait_until

LISTENS = re.compile(r"node (\S+) listens on (\S+)")
PATIENCE = 60


class HostedFlow:
    """One host. As a context it is up when all units are open, and ends with the context."""

    def __init__(self, folder: Path, spec: HostSpec) -> None:
        """`folder` takes specification, reports and log; it must be of this flow alone."""
        folder.mkdir(parents=True, exist_ok=True)
        self.reports = folder / "reports"
        self.log = folder / "log"
        self._spec = folder / "spec.json"
        self._spec.write_bytes(msgspec.json.encode(msgspec.structs.replace(spec, report=str(self.reports))))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        with self.log.open("wb") as log:
            command = [sys.executable, "-P", "-m", "runyard.flowhost", "--spec", str(self._spec)]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        return self

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    def states(self) -> list[FlowState]:
        return [each.state for each in report.read(self.reports)[0]]

    def last(self) -> Report:
        found = report.last(self.reports)
        assert found is not None, self.log.read_text()
        return found

    def until(self, state: FlowState) -> None:
        """Waits for a report of that state. Raises AssertionError if the process ends before."""

        def reached() -> bool:
            ended = self.process.poll() is not None
            if state in self.states():
                return True
            assert not ended, f"ended with {self.process.returncode}: {self.log.read_text()}"
            return False

        wait_until(reached, PATIENCE, f"state {state} of the flow: {self.log.read_text()}")

    def url(self, node: str = "receive") -> str:
        """Where that node listens."""
        found = dict(LISTENS.findall(self.log.read_text()))
        assert node in found, self.log.read_text()
        return str(found[node])

    def end(self, number: int = signal.SIGTERM) -> int:
        """Signals the process and waits for its end; its exit code."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)

    def __enter__(self) -> Self:
        self.start()
        try:
            self.until(FlowState.RUNNING)
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            try:
                self.end()
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise
