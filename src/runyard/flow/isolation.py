"""Units in worker processes (`isolation="process"`): for slow pure Python code, and code that may crash.

A call goes to a worker as a pickle over a socket; arrays and other large data lie in memory that both share. A worker
that dies fails the call it was in, with the reason, and is replaced for the next one.
"""

from __future__ import annotations

import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from typing import Any

from runyard.flow.buffer import Buffer, BufferList
from runyard.flow.configuration import Configuration
from runyard.flow.runtime.call import UnitFailure
from runyard.flow.status import FlowError, Status, StatusCode
from runyard.flow.unit import DataContext, FlowUnit, FlowUnitEvent
from runyard.flow.unit_library import UnitInfo
from runyard.flow.wire import Arena, Closed, receive, send

MAX_PROCESSES = 64
OPEN_SECONDS = 600.0
"""A worker that has not opened its unit by then is given up."""


class IsolatedUnit(FlowUnit):
    """Stands in a node for a unit that runs in `processes` workers (by default one for each core).

    The unit sees its inputs, private values, events and the session's options and id; not the session's private
    values, which live in this process. Raises FlowError for units that a program added: a worker can't find them.
    """

    def __init__(self, info: UnitInfo) -> None:
        if info.factory is not None:
            raise FlowError(
                StatusCode.STATUS_NOTSUPPORT,
                f"unit {info.name!r} was added by the program: only units in files can run in worker processes",
            )
        self._info = info
        self._options: dict[str, Any] = {}
        self._idle: queue.LifoQueue[_Worker] = queue.LifoQueue()
        self._workers: list[_Worker] = []
        self._closed = False

    def open(self, config: Configuration) -> Any:
        count = config.get_int("processes", min(MAX_PROCESSES, os.cpu_count() or 1))
        if not 1 <= count <= MAX_PROCESSES:
            raise FlowError(StatusCode.STATUS_BADCONF, f"processes must be 1 to {MAX_PROCESSES}, not {count}")
        self._options = {key: config.get(key) for key in config.keys()}  # noqa: SIM118 - it is no mapping
        for _ in range(count):
            worker = _Worker(self._info, self._options)
            self._workers.append(worker)
            self._idle.put(worker)
        try:
            for worker in self._workers:
                worker.start()
            for worker in self._workers:
                worker.wait_open()
        except BaseException:
            self.close()
            raise

    def process(self, data_ctx: DataContext) -> Any:
        return self._call("process", data_ctx)

    def data_pre(self, data_ctx: DataContext) -> Any:
        return self._call("data_pre", data_ctx)

    def data_post(self, data_ctx: DataContext) -> Any:
        return self._call("data_post", data_ctx)

    def close(self) -> Any:
        self._closed = True
        for worker in self._workers:
            worker.close()

    def kill(self) -> None:
        """Ends the workers at once, whatever they do; calls that are under way fail."""
        self._closed = True
        for worker in self._workers:
            worker.kill()

    def _call(self, method: str, context: DataContext) -> Any:
        worker = self._idle.get()
        try:
            if self._closed:
                raise UnitFailure("the unit is closed")
            reply = worker.ask((method, pack_context(context)))
        finally:
            self._idle.put(worker)
        return apply_reply(context, reply)


class _Worker:
    """One process; started again by the call after the one in which it died."""

    def __init__(self, info: UnitInfo, options: dict[str, Any]) -> None:
        self._info = info
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._lifeline = -1
        self._out: Arena | None = None
        self._in: Arena | None = None
        self._guard = threading.Lock()
        self._over = False

    def start(self) -> None:
        """A new process. Raises UnitFailure when the unit has been closed meanwhile."""
        with self._guard:
            if self._over:
                raise UnitFailure("the unit is closed")
            self._start()

    def _start(self) -> None:
        self._drop()
        ours, theirs = socket.socketpair()
        reading, self._lifeline = os.pipe()
        self._out, self._in = Arena.create(), Arena.create()
        fds = (theirs.fileno(), reading, self._out.fd, self._in.fd)
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "runyard.flow.isolated", *map(str, fds)],
                pass_fds=fds, stdin=subprocess.DEVNULL, env=environ,
            )  # fmt: skip
        os.close(reading)
        self._socket = ours
        ours.settimeout(OPEN_SECONDS)
        with suppress(OSError):  # one that died at once is seen by wait_open
            send(ours, self._out, (self._info, self._options))

    def wait_open(self) -> None:
        """Raises FlowError with what the unit's `open` said."""
        assert self._socket is not None and self._in is not None
        try:
            status: Status = receive(self._socket, self._in)
        except (Closed, OSError):
            raise FlowError(StatusCode.STATUS_FAULT, f"while it opened, {self._reason()}") from None
        self._socket.settimeout(None)
        if not status:
            self._end()
            raise FlowError(status)

    def ask(self, message: Any) -> Any:
        """The worker's answer. Raises UnitFailure with the reason if it dies over it."""
        try:
            if self._process is None or self._process.poll() is not None:
                self.start()
                self.wait_open()
            assert self._socket is not None and self._out is not None and self._in is not None
            send(self._socket, self._out, message)
            return receive(self._socket, self._in)
        except (Closed, OSError):
            raise UnitFailure(self._reason()) from None
        except FlowError as error:
            raise UnitFailure(f"its worker process could not be started again: {error}") from None

    def _reason(self) -> str:
        process = self._process
        if process is None:
            return "its worker process is gone"
        try:
            code = process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            return "its worker process closed the connection"
        if code < 0:
            return f"its worker process was ended by {signal.Signals(-code).name}"
        return f"its worker process ended with exit code {code}"

    def close(self) -> None:
        """Lets the unit close, then ends the process."""
        connection, process = self._socket, self._process
        if connection is not None and process is not None and process.poll() is None:
            with suppress(OSError, Closed):
                connection.settimeout(2.0)
                assert self._out is not None and self._in is not None
                send(connection, self._out, ("close", None))
                receive(connection, self._in)
        self.kill()

    def kill(self) -> None:
        """Ends the process for good."""
        with self._guard:
            self._over = True
            self._end()

    def _end(self) -> None:
        process = self._process
        if process is not None and process.poll() is None:
            process.kill()
        if process is not None:
            process.wait()

    def _drop(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
        for arena in (self._out, self._in):
            if arena is not None:
                arena.close()

    def __del__(self) -> None:
        self._drop()


def pack_context(context: DataContext) -> dict[str, Any]:
    """What a call sees, as plain data."""
    return {
        "inputs": {port: [pack(each) for each in some] for port, some in context._inputs.items()}
        if context._inputs is not None
        else None,
        "external": [pack(each) for each in context._external] if context._external is not None else None,
        "event": context._event._values if context._event is not None else None,
        "ports": context._ports,
        "private": context._private,
        "values": context._session.values,
        "session": context._session.get_session_id(),
        "view": context._view,
        "events": context._send is not None,
    }


def apply_reply(context: DataContext, reply: dict[str, Any]) -> Any:
    """Puts what a worker answered into the call's context; what its unit returned. Where the answer could not be sent,
    the private values stay as they were before the call."""
    if reply["private"] is not None:
        context._private.clear()
        context._private.update(reply["private"])
    for port, packed in reply["outputs"].items():
        context._outputs[port] = BufferList()
        context._outputs[port].extend(unpack(each) for each in packed)
    for port, meta in reply["metas"].items():
        context.set_output_meta(port, meta)
    for values in reply["events"]:
        event = FlowUnitEvent()
        event._values = values
        context.send_event(event)
    if reply["failure"] is not None:
        raise UnitFailure(reply["failure"])
    return reply["status"]


def pack(buffer: Buffer) -> tuple[Any, ...]:
    """A buffer as plain data. A subclass becomes a plain buffer, its text stays text."""
    return buffer._data, buffer._meta, buffer._error, buffer._scope


def unpack(packed: tuple[Any, ...]) -> Buffer:
    buffer = Buffer.__new__(Buffer)
    buffer._data, buffer._meta, buffer._error, buffer._scope = packed
    return buffer
