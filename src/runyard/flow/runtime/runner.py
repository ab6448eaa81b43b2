"""One running flow: makes and opens the units, starts the threads, waits, stops, counts (spec 3.2, 5.4)."""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runyard.flow.check import check_flow
from runyard.flow.configuration import Configuration
from runyard.flow.document import FlowDocument, load_document
from runyard.flow.graph import Graph
from runyard.flow.profiling import trace_path
from runyard.flow.runtime.call import as_status, trimmed
from runyard.flow.runtime.external import Exchange, SourceData
from runyard.flow.runtime.factory import make_unit
from runyard.flow.runtime.machine import Machine
from runyard.flow.runtime.node import Node
from runyard.flow.runtime.planning import plan_graph
from runyard.flow.runtime.port_node import InputNode
from runyard.flow.runtime.scheduler import Scheduler
from runyard.flow.runtime.stream_node import SourceNode
from runyard.flow.session import ExternalData
from runyard.flow.statistics import Statistics
from runyard.flow.status import FlowError, Status, StatusCode
from runyard.flow.unit_library import UnitLibrary

OPENERS = 8
"""Threads that open units at the same time."""
LOG_EVERY = 1.0
"""Seconds between two log lines about failed calls of one node."""
CLOSE_SHARE = 2.0
"""Seconds that units have at least for `close`, whatever is left of the grace."""

_log = logging.getLogger("runyard.flow")


class FlowRun:
    """A checked graph on its way: `open`, `start`, then `wait` or `stop`.

    `threads` is the most calls at the same time; 0 chooses by the host's cores.
    """

    def __init__(self, graph: Graph, *, name: str = "", threads: int = 0, trace: str | Path = "") -> None:
        self.graph = graph
        self.name = name or graph.name
        self.machine = Machine(plan_graph(graph))
        self.scheduler = Scheduler(self.machine, threads or max(16, 4 * (os.cpu_count() or 1)))
        self.scheduler.on_error = self._failed
        self.statistics = Statistics(self.scheduler, self.name)
        self._logged: dict[str, tuple[float, int]] = {}
        self._logged_guard = threading.Lock()
        self._opened: list[Node] = []
        self._opened_guard = threading.Lock()
        self._closed = False
        self._stop_asked = threading.Event()
        self._trace: Any = None
        if trace:
            from runyard.flow.trace import Trace

            self._trace = Trace(trace, self.name)
            self.scheduler.trace = self._trace.call

    # -- opening ---------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Makes and opens all units, several at a time.

        Raises FlowError naming the first node that failed; those that are open, or are so later, are closed again.
        """
        nodes = [node for node in self.machine.nodes if node.plan.name in self.graph.nodes and node.plan.unit]
        work: queue.SimpleQueue[Node] = queue.SimpleQueue()
        done: queue.SimpleQueue[tuple[Node, Status | None]] = queue.SimpleQueue()
        for node in nodes:
            work.put(node)

        def open_some() -> None:
            while not self._stop_asked.is_set():
                try:
                    node = work.get_nowait()
                except queue.Empty:
                    return
                status = self._open(node)
                with self._opened_guard:
                    late = self._closed
                    if status is None and not late:
                        self._opened.append(node)
                if status is None and late:
                    self._close_unit(node)
                done.put((node, status))

        for number in range(min(OPENERS, len(nodes))):
            threading.Thread(target=open_some, name=f"flow-open-{number}", daemon=True).start()
        failure: FlowError | None = None
        waiting = {node.name for node in nodes}
        while waiting and failure is None:
            try:
                node, status = done.get(timeout=0.05)
            except queue.Empty:
                if self._stop_asked.is_set():
                    names = ", ".join(sorted(waiting)[:5])
                    failure = FlowError(StatusCode.STATUS_SHUTDOWN, f"stopped while opening: {names}")
                continue
            waiting.discard(node.name)
            if status is not None:
                failure = FlowError(_open_status(node, self.graph, status), node=node.name)
        if failure is not None:
            self._stop_asked.set()
            self._close(CLOSE_SHARE)
            raise failure

    def _open(self, node: Node) -> Status | None:
        info = self.graph.nodes[node.name].info
        assert info is not None
        started = time.perf_counter()
        try:
            options = dict(self.graph.nodes[node.name].options)
            unit = node.unit = make_unit(info, str(options.get("isolation", "")))
            # The name of a unit that came without FlowUnit as its base may not take attributes.
            if hasattr(unit, "process"):
                unit._host = _Host(self, node)
            status = as_status(unit.open(Configuration(options)))
        except FlowError as error:
            return error.status
        except BaseException as error:
            return Status(StatusCode.STATUS_FAULT, trimmed(error))
        finally:
            if self._trace is not None:
                self._trace.span("open", node.name, started, time.perf_counter() - started)
        return None if status else status

    # -- running ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Lets the data flow."""
        self.scheduler.start()

    @property
    def result(self) -> Status | None:
        """How it ended; None while it runs. STOP and SHUTDOWN are good ends, the rest are faults."""
        return self.scheduler.result

    @property
    def failed(self) -> bool:
        """Whether it ended by a fault."""
        return self.result is not None and self.result.code() not in GOOD_ENDS

    def wait(self, timeout: float | None = None) -> Status | None:
        """Waits until a unit or a fault ends the flow, or `stop` is called. None when `timeout` seconds are over."""
        return self.result if self.scheduler.over.wait(timeout) else None

    def run_until_idle(self, timeout: float | None = None) -> bool:
        """Waits until no session is open. False when `timeout` seconds are over or the flow has ended before."""
        end = None if timeout is None else time.monotonic() + timeout
        while self.machine.sessions and self.result is None:
            if end is not None and time.monotonic() >= end:
                return False
            self.scheduler.over.wait(0.005)
        return self.result is None

    def stop(self, grace: float = 10.0) -> list[str]:
        """Ends the flow and closes the units. The nodes whose unit did not return within `grace` seconds: their
        threads are left behind, and end with the process."""
        self._stop_asked.set()
        end = time.monotonic() + grace
        self.scheduler.stop()
        stuck = self.scheduler.join(grace)
        killable = [node.unit for node in self.machine.nodes if node.name in stuck and hasattr(node.unit, "kill")]
        if killable:
            for unit in killable:
                unit.kill()
            stuck = self.scheduler.join(CLOSE_SHARE)
        for name in stuck:
            _log.warning("node %s: its unit is still in process(), %g s after the stop", name, grace)
        self._close(max(CLOSE_SHARE, end - time.monotonic()), set(stuck))
        if self._trace is not None:
            self._trace.close()
        return stuck

    def _close(self, grace: float, without: set[str] | frozenset[str] = frozenset()) -> None:
        with self._opened_guard:
            if self._closed:
                return
            self._closed = True
        threads = [
            threading.Thread(target=self._close_unit, args=(node,), name="flow-close", daemon=True)
            for node in self._opened
            if node.name not in without
        ]
        end = time.monotonic() + grace
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))

    def _close_unit(self, node: Node) -> None:
        try:
            status = as_status(node.unit.close())
            text = "" if status else status.wrap_errormsgs()
        except BaseException as error:
            text = trimmed(error)
        if text:
            _log.warning("node %s: close failed: %s", node.name, text)

    # -- ways in ---------------------------------------------------------------------------------------------------

    def exchange(self) -> Exchange:
        """A new session at the graph's inputs. Raises FlowError where the graph has none."""
        door = next((node for node in self.machine.nodes if isinstance(node, InputNode)), None)
        outputs = tuple(node.name for node in self.graph.outputs)
        if door is None:
            raise FlowError(StatusCode.STATUS_NOTSUPPORT, "the graph has no input node")
        return Exchange(self.scheduler, door, outputs)

    def _failed(self, node: Node, error: tuple[str, str]) -> None:
        """A call failed: one line in the log, and how many there were since."""
        now = time.monotonic()
        with self._logged_guard:
            last, missed = self._logged.get(node.name, (now - LOG_EVERY, 0))
            if now - last < LOG_EVERY:
                self._logged[node.name] = (last, missed + 1)
                return
            self._logged[node.name] = (now, 0)
        more = f" ({missed} more before)" if missed else ""
        _log.error("node %s: %s: %s%s", node.name, *error, more)


GOOD_ENDS = (StatusCode.STATUS_SUCCESS, StatusCode.STATUS_STOP, StatusCode.STATUS_SHUTDOWN)


class _Host:
    """What a unit may ask of the runtime."""

    def __init__(self, flow: FlowRun, node: Node) -> None:
        self._flow = flow
        self._node = node

    @property
    def node_name(self) -> str:
        return self._node.name

    def create_external_data(self) -> ExternalData:
        if not isinstance(self._node, SourceNode):
            raise FlowError(StatusCode.STATUS_NOTSUPPORT, f"node {self._node.name!r} has inputs: it is no source")
        return SourceData(self._flow.scheduler, self._node)


def load_flow(
    document: FlowDocument | str | Path,
    *,
    library: UnitLibrary | None = None,
    arguments: Mapping[str, str] | None = None,
    trace: str | Path = "",
    threads: int = 0,
) -> FlowRun:
    """Checks a document, or the one in a file, and makes it ready to open. Raises BadFlow with all its problems.

    Without `trace`, the document says whether there is one, and where.
    """
    if not isinstance(document, FlowDocument):
        document = load_document(document)
    checked = check_flow(document, library, arguments)
    checked.raise_problems()
    name = document.name or checked.graph.name
    trace = trace or trace_path(document.profile) or ""
    return FlowRun(checked.graph, name=name, threads=threads or document.threads, trace=trace)


def _open_status(node: Node, graph: Graph, status: Status) -> Status:
    info = graph.nodes[node.name].info
    device = info.device if info else "cpu"
    code = status.code()
    where = f"node {node.name!r}: open flowunit {node.plan.unit!r}, type {device!r} failed."
    inner = Status(code, where, status)
    return Status(code, "open node failed, please check log.", inner)
