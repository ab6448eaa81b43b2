"""The ways into a running flow: sessions at source units, and at the graph's input nodes."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from runyard.flow.buffer import Buffer, BufferList, DataMeta, as_buffer
from runyard.flow.configuration import Configuration
from runyard.flow.runtime.lane import Lane
from runyard.flow.runtime.port_node import InputNode
from runyard.flow.runtime.scheduler import Scheduler
from runyard.flow.runtime.stream_node import SourceNode
from runyard.flow.session import SessionContext
from runyard.flow.status import Status, StatusCode


class SourceData:
    """`runyard.flow.session.ExternalData` of a source unit: one session."""

    def __init__(self, scheduler: Scheduler, node: SourceNode) -> None:
        self._scheduler = scheduler
        self._node = node
        self._closed = False
        with scheduler.lock:
            self._lane: Lane = scheduler.machine.begin(node)
        self._context = self._lane.session.context

    def create_buffer_list(self) -> BufferList:
        return BufferList()

    def send(self, buffers: Iterable[Any], wait: bool = True, last: bool = False) -> Status:
        rows = [buffer if isinstance(buffer, Buffer) else as_buffer(buffer) for buffer in buffers]
        scheduler, node, lane = self._scheduler, self._node, self._lane
        with scheduler.lock:
            while True:
                if scheduler.stopping:
                    return Status(StatusCode.STATUS_STOP, "the flow has stopped")
                if self._closed:
                    return Status(StatusCode.STATUS_INVALID, "the session is closed")
                if node.waiting < node.plan.external_capacity:
                    break
                if not wait:
                    return Status(StatusCode.STATUS_BUSY, f"{node.waiting} data are waiting at node {node.name!r}")
                scheduler.room.wait()
            if rows:
                node.feed(lane, rows)
            if last:
                self._closed = True
                node.close(lane)
            if rows or last:
                scheduler.changed()
        return Status()

    def close(self) -> Status:
        with self._scheduler.lock:
            if not self._closed:
                self._closed = True
                self._node.close(self._lane)
                self._scheduler.changed()
        return Status()

    def shutdown(self) -> Status:
        self._scheduler.shut_down(self._lane.session)
        return self.close()

    def get_session_context(self) -> SessionContext:
        return self._context

    def get_session_config(self) -> Configuration:
        return self._context.get_session_config()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            self._closed = True
            self._scheduler.abandon(self._lane)


class Collector:
    """What one session brings to the output nodes, until it is received."""

    def __init__(self, outputs: tuple[str, ...]) -> None:
        self._results: dict[str, deque[Buffer]] = {name: deque() for name in outputs}
        self._arrived = threading.Condition()
        self.over = False
        self.watchers: list[Callable[[], object]] = []

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(self._results)

    def deliver(self, name: str, buffer: Buffer) -> None:
        """From the output nodes, with the machine's lock held."""
        with self._arrived:
            self._results[name].append(buffer)
            self._arrived.notify_all()
        for watcher in self.watchers:
            watcher()

    def ended(self) -> None:
        with self._arrived:
            self.over = True
            self._arrived.notify_all()
        for watcher in self.watchers:
            watcher()

    def recv(self, name: str, timeout: float | None = None) -> Buffer | None:
        """The next result of an output. None when there will be none, or none came within `timeout` seconds.

        Raises KeyError for an unknown output.
        """
        results = self._results[name]
        with self._arrived:
            self._arrived.wait_for(lambda: results or self.over, timeout)
            return results.popleft() if results else None

    def recv_all(self, timeout: float | None = None) -> dict[str, list[Buffer]]:
        """What is there for all outputs, as soon as there is anything. Empty: as for `recv`."""
        with self._arrived:
            self._arrived.wait_for(lambda: any(self._results.values()) or self.over, timeout)
            found = {name: list(results) for name, results in self._results.items() if results}
            for results in self._results.values():
                results.clear()
            return found

    def waiting(self) -> bool:
        """Whether results are there to be received."""
        return any(self._results.values())

    def done(self, name: str = "") -> bool:
        """Whether everything has been received, of one output or of all, and nothing more will come."""
        return self.over and not (self._results[name] if name else self.waiting())


class Exchange:
    """One session at the graph's inputs, with what comes out at its outputs. Safe for several threads.

    Results wait in memory until they are received: send and receive in turn where there may be many.
    """

    def __init__(self, scheduler: Scheduler, node: InputNode, outputs: tuple[str, ...]) -> None:
        self._scheduler = scheduler
        self._node = node
        self.results = Collector(outputs)
        self.context = SessionContext()
        self.aborted = False
        with scheduler.lock:
            if scheduler.stopping:
                self.results.over = True
            self._lane = scheduler.machine.begin(node, self.context, self.results)
        self._closed = False

    @property
    def inputs(self) -> tuple[str, ...]:
        return self._node.plan.outputs

    def send(self, name: str, buffers: Iterable[Any], timeout: float | None = None) -> Status:
        """Data for one input. Waits for room at most `timeout` seconds, then STATUS_TIMEDOUT.

        STATUS_INVALID for an unknown input and after `close`, STATUS_STOP when the flow has stopped.
        """
        if name not in self.inputs:
            known = ", ".join(self.inputs) or "none"
            return Status(StatusCode.STATUS_INVALID, f"there is no input {name!r}; the inputs are: {known}")
        rows = [as_buffer(buffer) for buffer in buffers]
        scheduler, node, port = self._scheduler, self._node, self.inputs.index(name)
        end = None if timeout is None else time.monotonic() + timeout
        with scheduler.lock:
            while True:
                if scheduler.stopping:
                    return Status(StatusCode.STATUS_STOP, "the flow has stopped")
                if self._closed:
                    return Status(StatusCode.STATUS_INVALID, "the session is closed")
                queues = self._lane.queues or []
                # An input that others wait for must not wait for them.
                if node.waiting < node.plan.external_capacity or len(queues[port]) < max(map(len, queues)):
                    break
                left = None if end is None else end - time.monotonic()
                if left is not None and left <= 0:
                    return Status(StatusCode.STATUS_TIMEDOUT, "the flow took no more data")
                scheduler.room.wait(left)
            node.feed(self._lane, port, rows)
            scheduler.changed()
        return Status()

    def set_meta(self, name: str, meta: DataMeta) -> Status:
        """The meta of the stream that enters at an input."""
        if name not in self.inputs:
            return Status(StatusCode.STATUS_INVALID, f"there is no input {name!r}")
        session = self._lane.session
        with self._scheduler.lock:
            session.metas = {**(session.metas or {}), (self._lane.node.index, self.inputs.index(name)): meta}
        return Status()

    def close(self) -> None:
        """No more data will be sent."""
        with self._scheduler.lock:
            if not self._closed:
                self._closed = True
                self._node.close(self._lane)
                self._scheduler.changed()

    def shutdown(self) -> None:
        """Ends the session: units wait for no more events; what has been sent still comes out."""
        self.aborted = True
        self._scheduler.shut_down(self._lane.session)
        self.close()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            self._closed = True
            self._scheduler.abandon(self._lane)
