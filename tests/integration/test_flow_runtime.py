"""Flows on real threads: order, concurrency, back-pressure, ends, what is counted and traced."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runyard.flow.buffer import Buffer, error_buffer
from runyard.flow.configuration import Configuration
from runyard.flow.document import FlowDocument
from runyard.flow.native import flowunit
from runyard.flow.runtime.node import AHEAD
from runyard.flow.runtime.runner import FlowRun, load_flow
from runyard.flow.sdk import Flow
from runyard.flow.sdk_graph import FlowGraphDesc
from runyard.flow.status import FlowError, Status, StatusCode
from runyard.flow.unit import DataContext, FlowUnit, FlowUnitEvent
from runyard.flow.unit_library import UnitLibrary
from tests.helpers import wait_until

WAIT = 60.0


def load(dot: str, *units: Any, **options: Any) -> FlowRun:
    library = UnitLibrary()
    for unit in units:
        library.add(unit.info)
    return load_flow(FlowDocument(dot=dot), library=library, **options)


@pytest.fixture
def flows() -> Iterator[list[FlowRun]]:
    """Flows to stop at the end."""
    started: list[FlowRun] = []
    yield started
    for flow in started:
        flow.stop()


@flowunit(inputs=(), outputs="out")
class Tap(FlowUnit):
    """A source that tests feed."""

    def open(self, config: Configuration) -> None:
        self.data = self.create_external_data()

    def process(self, data_ctx: DataContext) -> None:
        data_ctx.output("out").extend(data_ctx.external())


def test_results_of_concurrent_calls_keep_their_order(flows: list[FlowRun]) -> None:
    together = threading.Barrier(3)

    @flowunit(inputs="in", outputs="out")
    class Slow(FlowUnit):
        def process(self, data_ctx: DataContext) -> None:
            if data_ctx.input("in")[0].data < 3:  # type: ignore[index]
                together.wait(WAIT)  # passes only when three calls are under way at once
            data_ctx.output("out").extend(data_ctx.input("in") or ())

    seen: list[int] = []
    done = threading.Event()

    @flowunit(inputs="in", stream=True)
    class Sink(FlowUnit):
        def process(self, data_ctx: DataContext) -> None:
            seen.extend(buffer.data for buffer in data_ctx.input("in") or ())

        def data_post(self, data_ctx: DataContext) -> None:
            done.set()

    flow = load(
        "digraph { t[flowunit=Tap] s[flowunit=Slow,batch_size=1] k[flowunit=Sink] t:out->s:in s:out->k:in }",
        Tap,
        Slow,
        Sink,
    )
    flows.append(flow)
    flow.open()
    flow.start()
    tap = flow.machine.nodes[0].unit.data
    tap.send(range(50))
    tap.close()
    assert done.wait(WAIT)
    assert seen == list(range(50))
    assert wait_until(lambda: not flow.machine.sessions, WAIT)
    stats = flow.statistics.snapshot()
    assert stats["nodes"]["s"]["calls"] == stats["nodes"]["s"]["buffers_in"] == 50
    assert stats["nodes"]["s"]["latency_ms"]["p50"] > 0
    assert {edge["from"]: edge["buffers"] for edge in stats["edges"]} == {"t:out": 50, "s:out": 50}
    assert stats["sessions"] == {"open": 0, "total": 1}


def test_a_slow_sink_holds_the_source_back(flows: list[FlowRun]) -> None:
    gate = threading.Event()

    @flowunit(inputs="in")
    def sink(value: int) -> None:
        gate.wait(WAIT)

    flow = load(
        "digraph { t[flowunit=Tap,queue_size_external=16] k[flowunit=sink,queue_size=4,batch_size=1] t:out->k:in }",
        Tap,
        sink,
        threads=2,
    )
    flows.append(flow)
    flow.open()
    flow.start()
    tap = flow.machine.nodes[0].unit.data
    sent = 0
    while status := tap.send([sent], wait=False):
        sent += 1
    assert status.code() == StatusCode.STATUS_BUSY
    # External queue, the sink's queue, its running calls: nothing else holds anything.
    assert 16 <= sent <= 16 + 4 + 2 + 1
    more = threading.Thread(target=tap.send, args=([1],), daemon=True)
    more.start()  # waits for room, and gets it
    gate.set()
    more.join(WAIT)
    assert not more.is_alive()
    tap.close()
    assert wait_until(lambda: not flow.machine.sessions, WAIT)


def test_batches_are_filled_from_several_sessions(flows: list[FlowRun]) -> None:
    sizes: list[int] = []

    @flowunit(inputs="in")
    class Sink(FlowUnit):
        def process(self, data_ctx: DataContext) -> None:
            sizes.append(len(data_ctx.input("in") or ()))

    @flowunit(outputs="out")
    class Many(FlowUnit):
        def open(self, config: Configuration) -> None:
            for number in range(6):
                data = self.create_external_data()
                data.send([number])
                data.close()

        def process(self, data_ctx: DataContext) -> None:
            data_ctx.output("out").extend(data_ctx.external())

    flow = load("digraph { m[flowunit=Many] k[flowunit=Sink,batch_size=4] m:out->k:in }", Many, Sink)
    flows.append(flow)
    flow.open()
    # The sink may not begin before all sources have sent: priorities would give batches of one.
    with flow.scheduler.lock:
        for _ in range(6):
            node = flow.machine.nodes[0]
            call = node.take()
            assert call is not None
            from runyard.flow.runtime.call import run

            run(call)
            flow.machine.finish(call)
    flow.start()
    assert wait_until(lambda: sum(sizes) == 6, WAIT)
    assert sizes == [4, 2]


def test_a_unit_that_fails_to_open_fails_the_flow_by_name() -> None:
    closed: list[str] = []

    @flowunit(inputs="in")
    class Bad(FlowUnit):
        def open(self, config: Configuration) -> Status:
            return Status(StatusCode.STATUS_BADCONF, f"no such colour: {config.get_string('colour')}")

        def process(self, data_ctx: DataContext) -> None: ...

    @flowunit(outputs="out")
    class Fine(FlowUnit):
        def process(self, data_ctx: DataContext) -> None: ...

        def close(self) -> None:
            closed.append("fine")

    flow = load('digraph { f[flowunit=Fine] b[flowunit=Bad,colour="pale"] f:out->b:in }', Fine, Bad)
    with pytest.raises(FlowError, match="no such colour: pale") as raised:
        flow.open()
    assert raised.value.node == "b"
    assert raised.value.status.code() == StatusCode.STATUS_BADCONF
    assert raised.value.status.wrap_errormsgs().startswith(
        "Bad config, open node failed, please check log. -> node 'b': open flowunit 'Bad', type 'cpu' failed. -> "
    )

    @flowunit(inputs="in")
    class Raises(FlowUnit):
        def open(self, config: Configuration) -> None:
            raise SystemExit(3)

    with pytest.raises(FlowError, match="SystemExit: 3"):
        load("digraph { f[flowunit=Fine] b[flowunit=Raises] f:out->b:in }", Fine, Raises).open()


def test_a_unit_that_opens_after_another_has_failed_is_closed_again() -> None:
    go_on, closed = threading.Event(), threading.Event()

    @flowunit(inputs=(), outputs="out")
    class Late(FlowUnit):
        def open(self, config: Configuration) -> None:
            go_on.wait(WAIT)

        def close(self) -> None:
            closed.set()

    @flowunit(inputs="in")
    class Fails(FlowUnit):
        def open(self, config: Configuration) -> StatusCode:
            return StatusCode.STATUS_FAULT

        def process(self, data_ctx: DataContext) -> None: ...

    flow = load("digraph { a[flowunit=Late] b[flowunit=Fails] a:out->b:in }", Late, Fails)
    with pytest.raises(FlowError, match="'b'"):
        flow.open()
    assert not closed.is_set()
    go_on.set()
    assert closed.wait(WAIT)


def test_an_open_that_hangs_can_be_stopped() -> None:
    gate = threading.Event()

    @flowunit(outputs="out")
    class Hangs(FlowUnit):
        def open(self, config: Configuration) -> None:
            gate.wait(WAIT)

    @flowunit(inputs="in")
    def sink(value: int) -> None: ...

    flow = load("digraph { h[flowunit=Hangs] k[flowunit=sink] h:out->k:in }", Hangs, sink)
    threading.Timer(0.05, lambda: flow.stop(0.1)).start()
    with pytest.raises(FlowError, match="stopped while opening: h"):
        flow.open()
    gate.set()


def test_a_unit_that_blocks_does_not_keep_the_flow_from_stopping() -> None:
    inside, gate, closed = threading.Event(), threading.Event(), threading.Event()

    @flowunit(inputs="in")
    class Blocks(FlowUnit):
        def process(self, data_ctx: DataContext) -> None:
            inside.set()
            gate.wait(WAIT)

    @flowunit(outputs="out")
    class Source(FlowUnit):
        def open(self, config: Configuration) -> None:
            self.data = self.create_external_data()
            self.data.send([1])

        def process(self, data_ctx: DataContext) -> None:
            data_ctx.output("out").extend(data_ctx.external())

        def close(self) -> None:
            closed.set()

    flow = load("digraph { s[flowunit=Source] b[flowunit=Blocks] s:out->b:in }", Source, Blocks)
    flow.open()
    ended = threading.Event()
    flow.machine.nodes[0].unit.data.get_session_context().on_end(ended.set)
    flow.start()
    assert inside.wait(WAIT)
    assert flow.stop(grace=0.1) == ["b"]
    assert closed.is_set()
    assert ended.wait(WAIT)
    assert flow.result is not None and flow.result.code() == StatusCode.STATUS_SHUTDOWN and not flow.failed
    assert flow.machine.nodes[0].unit.data.send([2]).code() == StatusCode.STATUS_STOP
    gate.set()


def test_a_unit_can_end_the_flow_and_a_fault_fails_it(flows: list[FlowRun]) -> None:
    @flowunit(inputs="in")
    class Stops(FlowUnit):
        def process(self, data_ctx: DataContext) -> StatusCode:
            return StatusCode.STATUS_STOP

    flow = load("digraph { t[flowunit=Tap] k[flowunit=Stops] t:out->k:in }", Tap, Stops)
    flows.append(flow)
    flow.open()
    flow.start()
    assert flow.wait(0) is None
    flow.machine.nodes[0].unit.data.send([1])
    result = flow.wait(WAIT)
    assert result is not None and result.code() == StatusCode.STATUS_STOP
    assert "'k'" in result.errormsg() and not flow.failed

    @flowunit(inputs="in", outputs="out", stream=True)
    def odd(value: int) -> list[int]:
        return [value] * (value % 2)

    @flowunit(inputs=("a", "b"))
    def join(a: int, b: int) -> None: ...

    flow = load(
        "digraph { t[flowunit=Tap] o[flowunit=odd] j[flowunit=join] t:out->o:in o:out->j:a t:out->j:b }", Tap, odd, join
    )
    flows.append(flow)
    flow.open()
    flow.start()
    tap = flow.machine.nodes[0].unit.data
    tap.send(range(5))
    tap.close()
    result = flow.wait(WAIT)
    assert result is not None and result.code() == StatusCode.STATUS_FAULT and flow.failed
    assert "'j'" in result.errormsg() and "not equally long" in result.errormsg()


@pytest.mark.parametrize(("strict", "code"), [("", None), ("need_check_output=true", StatusCode.STATUS_FAULT)])
def test_a_wrong_count_fails_the_flow_only_where_counts_are_to_be_checked(
    flows: list[FlowRun], strict: str, code: StatusCode | None
) -> None:
    came = threading.Event()

    @flowunit(inputs="in", outputs="out")
    class Twice(FlowUnit):
        def process(self, data_ctx: DataContext) -> None:
            data_ctx.output("out").extend([Buffer(b"1"), Buffer(b"2")])

    @flowunit(inputs="in", exception_visible=True)
    class Sees(FlowUnit):
        def process(self, data_ctx: DataContext) -> None:
            buffers = data_ctx.input("in")
            if buffers is not None and buffers[0].has_error():
                came.set()

    dot = f"digraph {{ t[flowunit=Tap] w[flowunit=Twice {strict}] k[flowunit=Sees] t:out->w:in w:out->k:in }}"
    flow = load(dot, Tap, Twice, Sees)
    flows.append(flow)
    flow.open()
    flow.start()
    flow.machine.nodes[0].unit.data.send([1])
    if code is None:
        assert came.wait(WAIT) and flow.wait(0) is None
    else:
        result = flow.wait(WAIT)
        assert result is not None and result.code() == code and flow.failed
        assert "'w'" in result.errormsg() and "should equal output buffer count 2" in result.errormsg()


@pytest.mark.parametrize(
    ("strange", "results"),
    [
        ("text", ["Raw.Bad", "text"]),
        ([np.zeros(1), np.zeros(1, [("a", "i4")])], ["Raw.ProcessError", "Raw.ProcessError"]),
    ],
)
def test_results_that_are_no_buffers_are_made_some_or_fail_the_call(
    flows: list[FlowRun], strange: Any, results: list[Any]
) -> None:
    seen: list[Any] = []

    @flowunit(inputs="in", outputs="out")
    class Raw(FlowUnit):
        def process(self, data_ctx: DataContext) -> None:
            data_ctx.output("out").extend([error_buffer("Raw.Bad", ""), strange])

    @flowunit(inputs="in", stream=True, exception_visible=True)
    class Sink(FlowUnit):
        def process(self, data_ctx: DataContext) -> None:
            seen.extend(each.get_error_code() or each.data for each in data_ctx.input("in") or ())

    dot = "digraph { t[flowunit=Tap] r[flowunit=Raw,batch_size=2] k[flowunit=Sink] t:out->r:in r:out->k:in }"
    flow = load(dot, Tap, Raw, Sink)
    flows.append(flow)
    flow.open()
    flow.start()
    flow.start()  # does nothing
    tap = flow.machine.nodes[0].unit.data
    tap.send([1, 2])
    tap.close()
    assert wait_until(lambda: not flow.machine.sessions, WAIT)
    assert flow.result is None
    assert seen == results


def test_a_fault_of_the_runtime_ends_the_flow_and_says_what(flows: list[FlowRun]) -> None:
    @flowunit(inputs="in")
    def sink(value: int) -> None: ...

    def broken(call: Any) -> None:
        raise RuntimeError("a bug")

    flow = load("digraph { t[flowunit=Tap] k[flowunit=sink] t:out->k:in }", Tap, sink)
    flows.append(flow)
    flow.scheduler.trace = broken
    flow.open()
    flow.start()
    flow.machine.nodes[0].unit.data.send([1])
    result = flow.wait(WAIT)
    assert result is not None and result.code() == StatusCode.STATUS_INTERNAL and "a bug" in result.errormsg()


@pytest.mark.parametrize("collapse_all", [True, False])
def test_a_collapse_has_no_events_and_never_waits_for_one(flows: list[FlowRun], collapse_all: bool) -> None:
    answers: list[Status] = []

    @flowunit(inputs="in", outputs="out", expand=True)
    def letters(text: str) -> list[str]:
        return list(text)

    @flowunit(inputs="in", outputs="out", collapse=True, stream=True)
    class Word(FlowUnit):
        def process(self, data_ctx: DataContext) -> StatusCode:
            answers.append(data_ctx.send_event(FlowUnitEvent()))
            if collapse_all:
                data_ctx.output("out").push_back("".join(str(each) for each in data_ctx.input("in") or ()))
            return StatusCode.STATUS_CONTINUE

    unit: Any = Word
    unit.info = replace(unit.info, collapse_all=collapse_all)
    dot = """digraph { in[type=input] out[type=output] e[flowunit=letters] w[flowunit=Word]
                       in->e:in e:out->w:in w:out->out }"""
    flow = load(dot, letters, unit)
    flows.append(flow)
    flow.open()
    flow.start()
    exchange = flow.exchange()
    exchange.send("in", ["ab", "cd"])
    exchange.close()
    assert exchange.results.recv("out", WAIT) is None or collapse_all
    assert wait_until(lambda: exchange.results.over, WAIT)
    assert {status.code() for status in answers} == {StatusCode.STATUS_NOTSUPPORT}


@pytest.mark.parametrize("name", ["@inputs", "@outputs"])
def test_a_node_may_be_called_like_a_door(flows: list[FlowRun], name: str) -> None:
    @flowunit(inputs="in", outputs="out")
    def same(value: Any) -> Any:
        return value

    dot = f'digraph {{ in[type=input] out[type=output] "{name}"[flowunit=same] in->"{name}":in "{name}":out->out }}'
    flow = load(dot, same)
    flows.append(flow)
    flow.open()
    flow.start()
    exchange = flow.exchange()
    exchange.send("in", [1])
    result = exchange.results.recv("out", WAIT)
    assert result is not None and result.data == 1


def test_events_go_on_by_themselves_and_the_stream_ends_after_them(flows: list[FlowRun]) -> None:
    seen: list[Any] = []

    @flowunit(inputs="in", outputs="out", stream=True)
    class Demux(FlowUnit):
        def process(self, data_ctx: DataContext) -> StatusCode:
            if data_ctx.event() is None:
                data_ctx.set_private("left", data_ctx.input("in")[0].data)  # type: ignore[index]
            else:
                assert data_ctx.input("in") is None
            left = data_ctx.get_private("left")
            if not left:
                return StatusCode.STATUS_SUCCESS
            data_ctx.output("out").push_back(left)
            data_ctx.set_private("left", left - 1)
            event = FlowUnitEvent()
            event.set_private_int("left", left)
            # From another thread, as a decoder would.
            threading.Thread(target=data_ctx.send_event, args=(event,), daemon=True).start()
            return StatusCode.STATUS_CONTINUE

        def data_post(self, data_ctx: DataContext) -> None:
            seen.append("post")

    @flowunit(inputs="in", stream=True)
    class Sink(FlowUnit):
        def process(self, data_ctx: DataContext) -> None:
            seen.extend(buffer.data for buffer in data_ctx.input("in") or ())

        def data_post(self, data_ctx: DataContext) -> None:
            seen.append("end")

    flow = load(
        "digraph { t[flowunit=Tap] d[flowunit=Demux] k[flowunit=Sink] t:out->d:in d:out->k:in }", Tap, Demux, Sink
    )
    flows.append(flow)
    flow.open()
    flow.start()
    tap = flow.machine.nodes[0].unit.data
    tap.send([4])
    tap.close()
    assert wait_until(lambda: seen[-1:] == ["end"], WAIT)
    assert [each for each in seen if each != "post"] == [4, 3, 2, 1, "end"]
    assert "post" in seen


def test_a_trace_is_json_that_chrome_reads(tmp_path: Path) -> None:
    @flowunit(inputs="in")
    def sink(value: int) -> None: ...

    path = tmp_path / "trace.json"
    flow = load("digraph { t[flowunit=Tap] k[flowunit=sink] t:out->k:in }", Tap, sink, trace=path)
    flow.open()
    flow.start()
    tap = flow.machine.nodes[0].unit.data
    for number in range(600):
        tap.send([number])
    tap.close()
    assert wait_until(lambda: not flow.machine.sessions, WAIT)
    flow.stop()
    events = json.loads(path.read_text())
    assert {event["ph"] for event in events} == {"X", "M"}
    assert {event["name"] for event in events} >= {"k open", "k process", "t process"}
    assert sum(event.get("args", {}).get("batch_size", 0) for event in events if event["name"] == "k process") == 600


def test_a_disk_that_is_full_ends_the_trace_and_not_the_flow() -> None:
    @flowunit(inputs="in")
    def sink(value: int) -> None: ...

    dot = "digraph { t[flowunit=Tap] k[flowunit=sink,batch_size=1] t:out->k:in }"
    flow = load(dot, Tap, sink, trace="/dev/full")
    flow.open()
    flow.start()
    tap = flow.machine.nodes[0].unit.data
    tap.send(range(1200))
    tap.close()
    assert wait_until(lambda: not flow.machine.sessions, WAIT)
    assert flow.result is None
    assert flow.stop() == []


def test_queues_and_memory_stay_small_while_many_buffers_pass() -> None:
    """The short form of the bench: what is alive at any time is bounded by the queues, not by what was sent."""
    most = 0
    alive = 0
    guard = threading.Lock()

    class Counted(Buffer):
        __slots__ = ()

        def __init__(self, data: int) -> None:
            nonlocal alive, most
            super().__init__(data)
            with guard:
                alive += 1
                most = max(most, alive)

        def __del__(self) -> None:
            nonlocal alive
            with guard:
                alive -= 1

    description = FlowGraphDesc()
    node = description.add_input("in")
    for _ in range(3):
        node = description.add_function(_pass, ["in"], ["out"], node)
    description.add_function(lambda context: None, ["in"], [], node)
    with Flow.load(description) as flow:
        data = flow.create_external_data_map()
        for _ in range(2000):
            assert data.send("in", [Counted(1) for _ in range(10)])
        data.close()
        run: Any = flow._run
        assert wait_until(lambda: not run.machine.sessions, WAIT)
    # The queue of the input, 4 queues and 3 nodes with at most AHEAD calls of 8 each that are done or under way.
    assert most <= 1024 + 4 * (32 + AHEAD * 8) + 4 * AHEAD * 8 + 200


def _pass(data_ctx: DataContext) -> None:
    data_ctx.output("out").extend(data_ctx.input("in") or ())
