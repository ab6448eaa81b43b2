"""Runs one flow to its end: reads what to run, reports its state and statistics, stops it on SIGTERM.

Exit code 0 means that the flow has ended by itself, by a unit's wish or by a signal; 1 that it failed, and the last
report says why; 2 that there was nothing to run.
"""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runyard.flow.report import FlowState, Reporter
from runyard.flowhost.spec import BadSpec, read_spec

if TYPE_CHECKING:
    from runyard.flow.hosted import HostSpec
    from runyard.flow.runtime.runner import FlowRun
    from runyard.flow.status import Status

STATISTICS_INTERVAL = 1.0
GRACE = 8.0
"""Seconds that units have to come to an end after a signal: less than the agent gives us before it kills."""
EXIT_TIME = 2.0
"""Seconds that the interpreter has to end itself; a unit's own threads may keep it from that."""
SWITCH_INTERVAL = 0.0005
"""Seconds after which a thread has to let another one run. Requests go from the HTTP thread to a worker and back: with
Python's 5 ms each of the two would wait for the other to pause."""
_log = logging.getLogger("runyard.flowhost")


def main(arguments: Sequence[str]) -> int:
    """The exit code. Prints what went wrong."""
    sys.setswitchinterval(SWITCH_INTERVAL)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A file is written to in blocks otherwise, and what a unit prints would be seen much later.
        sys.stdout.reconfigure(line_buffering=True)
    try:
        spec = read_spec(arguments)
    except BadSpec as error:
        print(f"runyard.flowhost: {error}", file=sys.stderr)
        return 2
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    code = Host(spec).run()
    _end_soon(code)
    return code


class Host:
    """One flow. The main thread only waits, so that a signal finds it whatever the units do."""

    def __init__(self, spec: HostSpec) -> None:
        self._spec = spec
        self._reporter = Reporter(Path(spec.report) if spec.report else None)
        self._flow: FlowRun | None = None
        self._failure: tuple[str, str] | None = None
        """Text and code."""
        self._asked = False
        self._over = False
        self._wake = threading.Event()
        self._guard = threading.Lock()

    def run(self) -> int:
        """To the end of the flow. The exit code."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)
        self._reporter.state(FlowState.CREATING)
        threading.Thread(target=self._work, name="flow", daemon=True).start()
        self._wake.wait()
        with self._guard:
            # From here on the worker reports no state: a failure to open that is only our stop's doing is none.
            stopped, flow = self._asked and not self._over, self._flow
        if not stopped and self._failure is not None:
            return self._failed(*self._failure)
        self._reporter.state(FlowState.STOPPING)
        if flow is not None:
            flow.stop(GRACE)
            self._reporter.stats(flow.statistics.snapshot())
        self._reporter.state(FlowState.ENDED)
        return 0

    def _ask(self, number: int, _: Any) -> None:
        self._asked = True
        self._wake.set()

    def _failed(self, text: str, code: str) -> int:
        if self._flow is not None:
            self._flow.stop(GRACE)
        print(f"{self._spec.name or 'the flow'} failed: {text}", file=sys.stderr, flush=True)
        self._reporter.state(FlowState.FAILED, text, code)
        return 1

    def _work(self) -> None:
        try:
            self._failure = self._live()
        except BaseException as error:
            self._failure = _explained(error)
        with self._guard:
            self._over = True
        self._wake.set()

    def _live(self) -> tuple[str, str] | None:
        """Builds, opens and runs the flow. What went wrong while it ran, or None."""
        flow = _build(self._spec)
        with self._guard:
            if self._asked:
                return None
            self._flow = flow
        flow.open()
        flow.start()
        with self._guard:
            if not self._asked:
                self._reporter.state(FlowState.RUNNING)
        end_statistics = flow.statistics.every(STATISTICS_INTERVAL, self._reporter.stats)
        result = flow.wait()
        end_statistics()
        if flow.failed and result is not None:
            return _told(result)
        return None


def _build(spec: HostSpec) -> FlowRun:
    """The flow, checked and ready to open. Raises BadFlow, FlowError, OSError."""
    from runyard.flow.document import LOG_LEVELS, load_document, parse_document
    from runyard.flow.runtime.runner import load_flow
    from runyard.flow.unit_library import UnitLibrary

    if spec.folder:
        os.chdir(spec.folder)
    if not spec.path:
        document = parse_document(spec.document, spec.format)
    elif spec.format:
        document = parse_document(Path(spec.path).read_text(encoding="utf-8"), spec.format, file=spec.path)
    else:
        document = load_document(spec.path)
    if document.log_level:
        logging.getLogger().setLevel(LOG_LEVELS.get(document.log_level.upper(), logging.INFO))
    library = UnitLibrary.load([*spec.unit_dirs, *document.directories], builtin=not document.skip_default)
    for problem in library.problems:
        _log.warning("%s", problem)
    return load_flow(document, library=library, arguments=spec.args, trace=spec.trace)


def _explained(error: BaseException) -> tuple[str, str]:
    """The text of an error that kept the flow from running, and the code of its status."""
    from runyard.flow.problem import BadFlow
    from runyard.flow.status import FlowError

    if isinstance(error, BadFlow):
        for problem in error.problems:
            excerpt = problem.excerpt()
            print(f"{problem}\n{excerpt}" if excerpt else problem, file=sys.stderr, flush=True)
        first = error.problems[0]
        return first.chain, first.code.name
    if isinstance(error, FlowError):
        return _told(error.status)
    if isinstance(error, (OSError, UnicodeDecodeError)):
        return f"Input/output error, the flow can't be read: {error}", "STATUS_IO"
    _log.error("a defect", exc_info=error)
    return f"Internal error, {type(error).__name__}: {error}", "STATUS_INTERNAL"


def _told(status: Status) -> tuple[str, str]:
    from runyard.flow.status import StatusCode

    return status.wrap_errormsgs(), StatusCode(status.code()).name


def _end_soon(code: int) -> None:
    """Sees to it that the process ends, even if a unit has left threads that don't."""

    def end() -> None:
        os._exit(code)

    timer = threading.Timer(EXIT_TIME, end)
    timer.daemon = True
    timer.start()
