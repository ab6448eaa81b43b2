"""Sessions, threads and the log of a flow, where they meet: nothing waits for ever, nothing holds the flow up."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from runyard.flow.document import FlowDocument
from runyard.flow.native import flowunit
from runyard.flow.runtime.runner import FlowRun, load_flow
from runyard.flow.status import StatusCode
from runyard.flow.unit import DataContext, FlowUnit, FlowUnitEvent
from runyard.flow.unit_library import UnitLibrary
from tests.helpers import wait_until

WAIT = 60.0
ONE_UNIT = "digraph { in[type=input] out[type=output] u[flowunit=%s] in->u:in u:out->out }"


@contextmanager
def running(unit: Any) -> Iterator[FlowRun]:
    """A flow of one unit between an input and an output."""
    library = UnitLibrary()
    library.add(unit.info)
    flow = load_flow(FlowDocument(dot=ONE_UNIT % unit.info.name), library=library)
    flow.open()
    flow.start()
    try:
        yield flow
    finally:
        flow.stop()


@flowunit(inputs="in", outputs="out")
def same(value: int) -> int:
    return value


def test_a_session_that_is_dropped_while_the_flow_is_looked_at_ends() -> None:
    with running(same) as flow:
        exchange = flow.exchange()
        with flow.scheduler.lock:
            del exchange
            gc.collect()
            assert flow.machine.sessions
        assert wait_until(lambda: not flow.machine.sessions, WAIT)


def test_a_flow_waits_for_threads_where_the_system_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    start, refused = threading.Thread.start, threading.Event()

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "flow-0" and not refused.is_set():
            refused.set()
            raise RuntimeError("can't start new thread")
        start(thread)

    with running(same) as flow:
        monkeypatch.setattr(threading.Thread, "start", refuse)
        exchange = flow.exchange()
        assert exchange.send("in", [1])
        assert refused.is_set()
        result = exchange.results.recv("out", WAIT)
        assert result is not None and result.data == 1


def test_whoever_reads_the_log_may_look_at_the_flow() -> None:
    seen: list[int] = []

    @flowunit(inputs="in", outputs="out")
    class Fails(FlowUnit):
        def process(self, data_ctx: DataContext) -> StatusCode:
            return StatusCode.STATUS_FAULT

    with running(Fails) as flow:

        class Looks(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                seen.append(flow.statistics.snapshot()["sessions"]["open"])

        handler = Looks()
        logging.getLogger("runyard.flow").addHandler(handler)
        try:
            exchange = flow.exchange()
            exchange.send("in", [1])
            assert wait_until(lambda: seen, WAIT) == [1]
        finally:
            logging.getLogger("runyard.flow").removeHandler(handler)


@pytest.mark.parametrize("closed", [True, False])
def test_a_session_that_is_shut_down_waits_for_no_event(closed: bool) -> None:
    contexts: list[DataContext] = []

    @flowunit(inputs="in", outputs="out", stream=True)
    class Waits(FlowUnit):
        def process(self, data_ctx: DataContext) -> StatusCode:
            data_ctx.output("out").extend(data_ctx.input("in") or ())
            contexts.append(data_ctx)
            return StatusCode.STATUS_CONTINUE

    with running(Waits) as flow:
        exchange = flow.exchange()
        exchange.send("in", [1])
        result = exchange.results.recv("out", WAIT)
        assert result is not None and result.data == 1
        if closed:
            exchange.close()
        exchange.shutdown()
        assert exchange.results.recv("out", WAIT) is None and exchange.results.over
        assert contexts[0].send_event(FlowUnitEvent()).code() == StatusCode.STATUS_NOSTREAM
