"""A worker process of `runyard.flow.isolation`: opens one unit and answers calls until its flow is gone."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from typing import Any

from runyard.flow.buffer import BufferList, DataMeta
from runyard.flow.configuration import Configuration
from runyard.flow.isolation import pack, unpack
from runyard.flow.runtime.call import as_status, trimmed
from runyard.flow.runtime.factory import make_unit
from runyard.flow.session import SessionContext
from runyard.flow.status import FlowError, Status, StatusCode
from runyard.flow.unit import DataContext, FlowUnitEvent
from runyard.flow.wire import Arena, Closed, receive, send


def main() -> None:
    """Arguments: the numbers of the socket, the lifeline, the arenas of requests and of answers."""
    number, lifeline, requests, answers = map(int, sys.argv[1:5])
    # The flow ends its workers itself, after their calls.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_flow, args=(lifeline,), daemon=True).start()
    connection = socket.socket(fileno=number)
    arena, reply = Arena(requests), Arena(answers)
    try:
        info, options = receive(connection, arena)
        unit, status = _open(info, options)
        send(connection, reply, status)
        while True:
            method, message = receive(connection, arena)
            if method == "close":
                _quietly(unit.close)
                send(connection, reply, None)
                return
            _answer(connection, reply, _call(getattr(unit, method), message))
    except (Closed, OSError):
        return


def _end_with_flow(lifeline: int) -> None:
    """Its other end is open as long as the flow's process lives."""
    os.read(lifeline, 1)
    os._exit(1)


def _open(info: Any, options: dict[str, Any]) -> tuple[Any, Status]:
    try:
        unit = make_unit(info)
        return unit, as_status(unit.open(Configuration(options)))
    except FlowError as error:
        return None, error.status
    except BaseException as error:
        return None, Status(StatusCode.STATUS_FAULT, trimmed(error))


def _call(method: Any, message: dict[str, Any]) -> dict[str, Any]:
    session = SessionContext()
    session.values = message["values"]
    session._id = message["session"]
    events: list[dict[str, Any]] = []
    event = None
    if message["event"] is not None:
        event = FlowUnitEvent()
        event._values = message["event"]

    def keep(each: FlowUnitEvent) -> Status:
        events.append(each._values)
        return Status()

    inputs = message["inputs"]
    external = message["external"]
    context = DataContext(
        session,
        message["ports"],
        message["private"],
        inputs={port: _list(some) for port, some in inputs.items()} if inputs is not None else None,
        external=_list(external) if external is not None else None,
        event=event,
        send=keep if message["events"] else None,
        view=message["view"],
    )
    status: Status | None = None
    failure: str | None = None
    try:
        status = as_status(method(context))
    except FlowError as error:
        status = error.status
    except BaseException as error:
        failure = trimmed(error)
    outputs = {port: [pack(each) for each in BufferList(some)] for port, some in context._outputs.items()}
    metas: dict[str, DataMeta] = context._metas or {}
    return {
        "status": status, "failure": failure, "outputs": outputs, "metas": metas, "events": events,
        "private": context._private,
    }  # fmt: skip


def _answer(connection: socket.socket, arena: Arena, answer: dict[str, Any]) -> None:
    try:
        send(connection, arena, answer)
    except OSError:
        raise
    except Exception as error:
        text = f"the results can't be sent from the worker process: {type(error).__name__}: {error}"
        empty: dict[str, Any] = {
            "status": None, "failure": text, "outputs": {}, "metas": {}, "events": [], "private": None,
        }  # fmt: skip
        send(connection, arena, empty)


def _list(packed: list[tuple[Any, ...]]) -> BufferList:
    buffers = BufferList()
    buffers.extend(unpack(each) for each in packed)
    return buffers


def _quietly(function: Any) -> None:
    try:
        function()
    except BaseException as error:
        print(trimmed(error), file=sys.stderr)


if __name__ == "__main__":
    main()
