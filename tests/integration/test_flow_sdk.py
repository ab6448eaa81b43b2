"""Flows inside a program: ModelBox's SDK calls, sessions as their callers see them, errors on their way out."""

from __future__ import annotations

import gc
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import modelbox
from runyard.flow.buffer import Buffer, DataMeta
from runyard.flow.native import flowunit
from runyard.flow.sdk import ExternalDataSelect, ExtOutputBufferList, Flow
from runyard.flow.sdk_graph import FlowGraphDesc
from runyard.flow.status import FlowError, StatusCode
from runyard.flow.unit import DataContext, FlowUnit
from tests.helpers import wait_until

WAIT_MS = 60_000
OK = modelbox.Status.StatusCode.STATUS_SUCCESS


@flowunit(inputs="text", outputs="title")
def title(text: str) -> str:
    if "!" in text:
        raise ValueError("no shouting")
    return text.title()


def described(*functions: Any) -> FlowGraphDesc:
    description = FlowGraphDesc()
    node: Any = description.add_input("in")
    for function in functions:
        node = description.add_function(function, ["in"], ["out"], node)
    description.add_output("out", node)
    return description


def test_buffers_go_in_and_out_in_order() -> None:
    with Flow.load(described(title)) as flow:
        stream = flow.create_stream_io()
        for word in ("hello world", "ab cd"):
            assert stream.send("in", word)
        stream.close_input()
        assert [str(stream.recv("out", WAIT_MS)) for _ in range(2)] == ["Hello World", "Ab Cd"]
        into = Buffer()
        assert stream.recv("out", into, WAIT_MS).code() == StatusCode.STATUS_EOF
        assert stream.send("in", "late").code() == StatusCode.STATUS_INVALID
        assert "the inputs are: in" in stream.send("nowhere", "x").errormsg()
        with pytest.raises(FlowError, match="the outputs are: out"):
            stream.recv("nowhere")


def test_an_error_ends_as_invalid_and_stays_in_its_session() -> None:
    with Flow.load(described(title)) as flow:
        bad, good = flow.create_external_data_map(), flow.create_external_data_map()
        results = ExtOutputBufferList()
        assert bad.send("in", ["oh!"])
        assert bad.recv(results, WAIT_MS).code() == StatusCode.STATUS_INVALID
        assert bad.recv(results, 1).code() == StatusCode.STATUS_TIMEDOUT
        assert bad.send("in", ["more"])
        assert bad.recv(results, WAIT_MS)
        bad.close()
        assert bad.recv(results, WAIT_MS).code() == StatusCode.STATUS_INVALID
        assert "title.ProcessError" in bad.get_last_error().get_description()
        assert "no shouting" in bad.get_last_error().get_description()
        assert good.send("in", ["fine"])
        assert good.recv(results, WAIT_MS)
        assert [str(each) for each in results.get_buffer_list("out") or ()] == ["Fine"]
        good.close()
        assert good.recv(results, WAIT_MS).code() == StatusCode.STATUS_EOF
        assert flow.wait(1).code() == StatusCode.STATUS_TIMEDOUT


def test_what_was_sent_before_a_shutdown_still_comes_out() -> None:
    gate = threading.Event()

    @flowunit(inputs="value", outputs="same", batch_size=1)
    def hold(value: int) -> int:
        if value == 1:
            gate.wait(WAIT_MS / 1000)
        return value

    with Flow.load(described(hold)) as flow:
        data = flow.create_external_data_map()
        data.send("in", [0, 1, 2])
        results = ExtOutputBufferList()
        assert wait_until(data.exchange.results.waiting, 60)
        ended = threading.Event()
        data.get_session_context().on_end(ended.set)
        data.shutdown()
        assert data.recv(results, WAIT_MS)
        assert [each.data for each in results.get_buffer_list("out") or ()] == [0]
        assert data.send("in", [3]).code() == StatusCode.STATUS_INVALID
        assert data.recv(results, 1).code() == StatusCode.STATUS_TIMEDOUT
        gate.set()
        got: list[int] = []
        while status := data.recv(results, WAIT_MS):
            got += [each.data for each in results.get_buffer_list("out") or ()]
        assert (got, status.code()) == ([1, 2], StatusCode.STATUS_INVALID)
        assert data.get_last_error().get_description() == "EOF"
        assert ended.wait(60)
        other = flow.create_stream_io()
        other.send("in", 7)
        assert other.recv("out", WAIT_MS).data == 7


def test_session_options_reach_the_units_the_most_specific_first() -> None:
    def read(context: DataContext) -> Any:
        config = context.get_session_config()
        for _ in context.input("in") or ():
            context.output("out").push_back(f"{config.get_string('a')} {config.get_int('b', 3)} {config.get_bool('c')}")
        return OK

    description = described(read)
    description.nodes[1].set_node_name("reader")
    with Flow.load(description) as flow:
        data = flow.create_external_data_map()
        config = data.get_session_config()
        config.set("nodes.a", "all")
        config.set("node.reader.a", "mine")
        config.set("nodes.c", True)
        config.set("node.other.b", 9)
        data.send("in", ["x"])
        results = ExtOutputBufferList()
        assert data.recv(results, WAIT_MS)
        assert str((results.get_buffer_list("out") or [])[0]) == "mine 3 true".replace("true", "True")


def test_inputs_are_matched_and_stream_meta_travels() -> None:
    def add(context: DataContext) -> Any:
        meta = context.get_input_meta("a")
        for a, b in zip(context.input("a") or (), context.input("b") or (), strict=True):
            context.output("out").push_back(f"{a.data + b.data} {meta.get_private_string('unit') if meta else ''}")

    def same(context: DataContext) -> Any:
        context.output("out").extend(context.input("in") or ())

    description = FlowGraphDesc()
    one, two = description.add_input("one"), description.add_input("two")
    passed = description.add_function(same, ["in"], ["out"], one)
    node = description.add_function(add, ["a", "b"], ["out"], {"a": passed, "b": two})
    description.add_output("sum", node)
    with Flow.load(description) as flow:
        data = flow.create_external_data_map()
        meta = DataMeta()
        meta.set_private_string("unit", "mm")
        assert data.set_output_meta("one", meta)
        data.send("one", [1, 2])
        data.send("two", [10, 20])
        data.close()
        got: list[str] = []
        results = ExtOutputBufferList()
        while data.recv(results, WAIT_MS):
            got += [str(each) for each in results.get_buffer_list("sum") or ()]
        assert got == ["11 mm", "22 mm"]


def test_a_dropped_session_is_closed_and_select_finds_the_ready_map() -> None:
    with Flow.load(described(title)) as flow:
        run: Any = flow._run
        flow.create_stream_io().send("in", "a")
        gc.collect()
        assert wait_until(lambda: not run.machine.sessions, 60)
        one, two = flow.create_external_data_map(), flow.create_external_data_map()
        select = ExternalDataSelect()
        select.register_external_data(one)
        select.register_external_data(two)
        ready: list[Any] = []
        assert select.select_external_data(ready, 1).code() == StatusCode.STATUS_TIMEDOUT
        two.send("in", ["x"])
        assert select.select_external_data(ready, WAIT_MS)
        assert ready == [two]
        results = ExtOutputBufferList()
        assert two.recv(results, WAIT_MS)
        two.close()
        assert select.select_external_data(ready, WAIT_MS)
        assert two.recv(results, WAIT_MS).code() == StatusCode.STATUS_EOF
        assert select.select_external_data(ready, 1).code() == StatusCode.STATUS_TIMEDOUT


def test_a_description_can_ask_for_a_trace(tmp_path: Path) -> None:
    description = described(title)
    description.set_profile_trace_enable(True)
    description.set_profile_dir(str(tmp_path / "perf"))
    with Flow.load(description) as flow:
        stream = flow.create_stream_io()
        stream.send("in", "a")
        assert str(stream.recv("out", WAIT_MS)) == "A"
    (trace,) = (tmp_path / "perf").glob("trace_*.json")
    assert any(event["name"].endswith("process") for event in json.loads(trace.read_text()))


DOCUMENT = """
[flow]
name = "{name}"
[graph]
format = "graphviz"
graphconf = '''digraph {{
  in1[type=input]
  m[flowunit=buff_meta_mapping, src_meta="$from", dest_meta=b]
  out1[type=output]
  in1 -> m:in_data
  m:out_data -> out1
}}'''
[args.from]
default = "a"
"""


def test_modelbox_programs_run_unchanged(tmp_path: Path) -> None:
    (tmp_path / "graph.toml").write_text(DOCUMENT.format(name="mapping"))
    flow = modelbox.Flow()
    assert flow.build().code() == StatusCode.STATUS_FAULT
    assert flow.init(str(tmp_path / "graph.toml"))
    assert flow.start_run()
    data = flow.create_external_data_map()
    buffers = data.create_buffer_list()
    buffers.push_back(np.arange(6, dtype=np.float32).reshape(2, 3))
    buffers[0].set("a", 5)
    assert data.send("in1", buffers) == OK
    results = modelbox.ExtOutputBufferList()
    assert data.recv(results)
    (result,) = results.get_buffer_list("out1")
    assert result.get("b") == 5
    assert np.array(result).shape == (2, 3) and np.array(result).dtype == np.float32
    assert flow.stop()
    status = modelbox.Status()
    assert flow.wait(0, status)
    assert status.code() == StatusCode.STATUS_SHUTDOWN

    named = modelbox.Flow()
    assert named.init_by_name("other", {}, str(tmp_path)).code() == StatusCode.STATUS_NOTFOUND
    assert named.init_by_name("mapping", {"from": "c"}, str(tmp_path))
    assert named.start_run()
    stream = named.create_stream_io()
    buffer = stream.create_buffer("text")
    buffer.set("c", "yes")
    stream.send("in1", buffer)
    assert stream.recv("out1", WAIT_MS).get("b") == "yes"
    named.stop()


def test_a_flow_that_is_built_again_closes_the_units_of_before() -> None:
    closed: list[str] = []

    @flowunit(inputs="in", outputs="out")
    class Closes(FlowUnit):
        def process(self, data_ctx: DataContext) -> None:
            data_ctx.output("out").extend(data_ctx.input("in") or ())

        def close(self) -> None:
            closed.append("closed")

    document = {"graph": {"format": "graphviz", "graphconf": """digraph {
        in[type=input] out[type=output] c[flowunit=Closes] in->c:in c:out->out }"""}}  # fmt: skip
    with Flow.load(document, units=[Closes]) as flow:
        assert flow.start_run()
        assert closed == ["closed"]
        stream = flow.create_stream_io()
        assert stream.send("in", 1)
        assert stream.recv("out", WAIT_MS).data == 1


def test_bad_flows_are_statuses_and_not_tracebacks(tmp_path: Path) -> None:
    flow = modelbox.Flow()
    assert flow.init(str(tmp_path / "missing.toml")).code() == StatusCode.STATUS_NOTFOUND
    assert flow.init("name", "this is no toml").code() == StatusCode.STATUS_BADCONF
    assert flow.init("a\0b").code() == StatusCode.STATUS_INVALID
    assert flow.init(modelbox.Configuration({"graph": "x", "graph.format": "graphviz"})).code() == (
        StatusCode.STATUS_BADCONF
    )
    assert flow.init(
        "name",
        '[graph]\nformat="graphviz"\ngraphconf="digraph{a[flowunit=nothing] b[flowunit=resize] a:x->b:in_image}"',
    )
    status = flow.build()
    assert status.code() == StatusCode.STATUS_NOTFOUND
    assert "nothing" in status.wrap_errormsgs()
