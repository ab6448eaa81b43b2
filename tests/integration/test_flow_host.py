"""The process that hosts a flow: what it is told, what it reports, how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest

from runyard.flow import report
from runyard.flow.hosted import VARIABLE, HostSpec
from runyard.flow.report import FlowState
from tests.flow_host import PATIENCE, HostedFlow
from tests.helpers import wait_until

IDLE: dict[str, Any] = {"nodes": {"reply": {"calls": 0}}}
ECHO = """digraph echo {
    receive[flowunit=httpserver_sync_receive, endpoint="http://127.0.0.1:0"]
    reply[flowunit=httpserver_sync_reply]
    receive:out_request_info -> reply:in_reply_info
}"""
UNIT_TOML = """[base]
name = "{name}"
device = "cpu"
version = "1.0.0"
description = "for a test"
type = "python"
entry = "{name}@Unit"
stream = false
[input.input1]
name = "in"
[output.output1]
name = "out"
"""
BETWEEN = """digraph between {{
    receive[flowunit=httpserver_sync_receive, endpoint="http://127.0.0.1:0", time_out_ms=20000]
    middle[flowunit={name}]
    reply[flowunit=httpserver_sync_reply]
    receive:out_request_info -> middle:in
    middle:out -> reply:in_reply_info
}}"""


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Ends what a test has started, however the test ends."""
    with ExitStack() as stack:
        yield stack


def document(dot: str, **sections: object) -> str:
    return json.dumps({"graph": {"format": "graphviz", "graphconf": dot.splitlines()}} | sections)


def with_unit(folder: Path, name: str, code: str) -> HostSpec:
    """A flow with a Python unit between receive and reply, which lies in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.toml").write_text(UNIT_TOML.format(name=name))
    (folder / f"{name}.py").write_text(code)
    return HostSpec(name=name, document=document(BETWEEN.format(name=name)), unit_dirs=[str(folder)])


def test_a_life(tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    spec = HostSpec(name="echo", document=document(ECHO), format="json", trace=str(trace))
    with HostedFlow(tmp_path / "host", spec) as flow:
        assert httpx2.post(flow.url(), content="x", timeout=PATIENCE).text == "x"
        wait_until(lambda: (report.stats(flow.reports) or IDLE)["nodes"]["reply"]["calls"], PATIENCE)
        found = report.stats(flow.reports) or IDLE
        assert found["nodes"]["receive"]["buffers_out"] == 1 and found["at"] > 1.7e9 and found["flow"] == "echo"
        assert flow.last().pid == flow.process.pid
        assert flow.end() == 0
    assert flow.states() == [FlowState.CREATING, FlowState.RUNNING, FlowState.STOPPING, FlowState.ENDED]
    times = [each.at for each in report.read(flow.reports)[0]]
    assert times == sorted(times)
    assert {event["name"] for event in json.loads(trace.read_text())} >= {"receive process", "reply process"}
    assert "Traceback" not in flow.log.read_text()


def test_a_document_in_a_file_with_units_beside_it_and_arguments(tmp_path: Path) -> None:
    units = tmp_path / "units"
    code = (
        "import os, sys\n"
        "import _flowunit as modelbox\n"
        "print('module', __name__ != '__main__')\n"
        "class Unit(modelbox.FlowUnit):\n"
        "    def open(self, config):\n"
        "        self.text = config.get_string('text')\n"
        "        print('to stdout'); print('to stderr', file=sys.stderr)\n"
        f"        print('secret:', os.environ.get({VARIABLE!r}))\n"
        "    def process(self, ctx):\n"
        "        for buffer in ctx.input('in'):\n"
        "            ctx.output('out').push_back(self.text + str(buffer))\n"
    )
    with_unit(units, "prefix", code)
    dot = BETWEEN.format(name="prefix").replace("flowunit=prefix", 'flowunit=prefix, text="$text"')
    file = tmp_path / "flow.toml"
    file.write_text(
        f"[graph]\nformat = 'graphviz'\ngraphconf = '''{dot}'''\n[driver]\ndir = 'units'\n[args.text]\ndefault = 'no'\n"
    )
    with HostedFlow(tmp_path / "host", HostSpec(path=str(file), args={"text": "yes:"})) as flow:
        assert httpx2.post(flow.url(), content="x", timeout=PATIENCE).text == "yes:x"
    log = flow.log.read_text()
    assert "to stdout" in log and "to stderr" in log and "secret: None" in log


@pytest.mark.parametrize(
    ("spec", "code", "words"),
    [
        (HostSpec(document="{"), "STATUS_BADCONF", "JSON"),
        (HostSpec(document=document("digraph {")), "STATUS_FAULT", "build graph failed"),
        (HostSpec(document=document("digraph {}")), None, "graph is empty, no node."),
        (HostSpec(document=document(ECHO.replace("sync_reply]", "sync_replay]"))), "STATUS_NOTFOUND", "sync_replay"),
        (HostSpec(document=document(ECHO.replace("127.0.0.1", "[::"))), "STATUS_BADCONF", "endpoint"),
        (HostSpec(document=document(ECHO.replace("sync_reply]", "sync_reply, content_type=exe]"))), None, "exe"),
        (HostSpec(path="/nonexistent/flow.toml"), "STATUS_IO", "/nonexistent/flow.toml"),
        (HostSpec(document=document(ECHO), folder="/nonexistent"), "STATUS_IO", "/nonexistent"),
    ],
)
def test_a_flow_that_can_not_be_made_says_why(
    tmp_path: Path, stack: ExitStack, spec: HostSpec, code: str | None, words: str
) -> None:
    flow = HostedFlow(tmp_path, spec).start()
    stack.callback(flow.__exit__, None, None, None)
    assert flow.process.wait(PATIENCE) == 1
    last = flow.last()
    assert flow.states() == [FlowState.CREATING, FlowState.FAILED]
    assert words in last.error and (code is None or last.code == code), last
    assert words in flow.log.read_text()


def test_units_that_misbehave(tmp_path: Path, stack: ExitStack) -> None:
    """Those that fail in `open` fail the flow; what happens in `process` stays in its session, but for a crash."""
    head = (
        "import modelbox, os, sys, time\nclass Unit(modelbox.FlowUnit):\n    def {method}(self, *_):\n        {body}\n"
    )
    process = "\n    def process(self, ctx):\n        pass\n"

    def host(name: str, method: str, body: str) -> HostedFlow:
        code = head.format(method=method, body=body) + (process if method != "process" else "")
        flow = HostedFlow(tmp_path / name, with_unit(tmp_path / name / "units", name, code)).start()
        stack.callback(flow.__exit__, None, None, None)
        return flow

    marker = tmp_path / "opening"
    raising = host("raising", "open", "raise ValueError('no way')")
    exiting = host("exiting", "open", "sys.exit(3)")
    hanging = host("hanging", "open", f"open({str(marker)!r}, 'w').close(); time.sleep(1000)")
    stopping = host("stopping", "process", "return modelbox.Status.StatusCode.STATUS_STOP")
    crashing = host("crashing", "process", "os.kill(os.getpid(), 9)")
    stuck = host("stuck", "close", f"open({str(marker) + '2'!r}, 'w').close()")

    for flow, words in ((raising, "no way"), (exiting, "SystemExit")):
        assert flow.process.wait(PATIENCE) == 1
        last = flow.last()
        assert last.state is FlowState.FAILED and words in last.error and "middle" in last.error

    wait_until(marker.exists, PATIENCE)
    assert hanging.end() == 0
    assert hanging.states() == [FlowState.CREATING, FlowState.STOPPING, FlowState.ENDED]

    stopping.until(FlowState.RUNNING)
    with pytest.raises(httpx2.HTTPError):
        httpx2.get(stopping.url(), timeout=PATIENCE).raise_for_status()
    assert stopping.process.wait(PATIENCE) == 0 and stopping.last().state is FlowState.ENDED

    crashing.until(FlowState.RUNNING)
    with pytest.raises(httpx2.HTTPError):
        httpx2.get(crashing.url(), timeout=PATIENCE).raise_for_status()
    assert crashing.process.wait(PATIENCE) == -9 and crashing.last().state is FlowState.RUNNING

    stuck.until(FlowState.RUNNING)
    assert stuck.end(signal.SIGINT) == 0 and Path(f"{marker}2").exists(), "units are closed"


def test_a_thread_that_a_unit_left_does_not_keep_the_process_from_its_end(tmp_path: Path) -> None:
    code = (
        "import modelbox, threading\n"
        "class Unit(modelbox.FlowUnit):\n"
        "    def process(self, ctx):\n"
        "        threading.Thread(target=threading.Event().wait).start()\n"
        "        ctx.output('out').extend(ctx.input('in'))\n"
    )
    with HostedFlow(tmp_path, with_unit(tmp_path / "units", "leaving", code)) as flow:
        assert httpx2.get(flow.url(), timeout=PATIENCE).status_code == 200
        assert flow.end() == 0
    assert flow.last().state is FlowState.ENDED


@pytest.mark.parametrize(
    ("arguments", "stdin", "env", "words"),
    [
        ([], "", {}, "usage:"),
        (["--spec"], "", {}, "usage:"),
        (["--help"], "", {}, "usage:"),
        (["--spec", "/nonexistent"], "", {}, "can't be read"),
        (["--spec", "-"], "{", {}, "can't be read"),
        (["--spec", "-"], "{}", {}, "either a document or the path"),
        (["--spec", "-"], '{"document": "x", "path": "y"}', {}, "either a document or the path"),
        (["--spec", "-"], '{"document": "x", "colour": "red"}', {}, "colour"),
        ([], "", {VARIABLE: "\xff"}, "can't be read"),
    ],
)
def test_nothing_to_host(arguments: list[str], stdin: str, env: dict[str, str], words: str) -> None:
    command = [sys.executable, "-m", "runyard.flowhost", *arguments]
    done = subprocess.run(
        command, input=stdin, env=os.environ | env, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr


def test_a_flow_from_the_environment() -> None:
    spec = msgspec.json.encode(HostSpec(name="bad", document=document("digraph {}"))).decode()
    command = [sys.executable, "-m", "runyard.flowhost"]
    done = subprocess.run(
        command, env=os.environ | {VARIABLE: spec}, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 1 and "bad failed: " in done.stderr and "graph is empty" in done.stderr


def test_a_light_flow_imports_nothing_heavy(tmp_path: Path) -> None:
    """Each flow has a process of its own: what all of them import, all of them pay for."""
    code = (
        "import modelbox, sys\n"
        "class Unit(modelbox.FlowUnit):\n"
        "    def process(self, ctx):\n"
        "        names = {name.partition('.')[0] for name in sys.modules}\n"
        "        for buffer in ctx.input('in'):\n"
        "            ctx.output('out').push_back(' '.join(sorted(names)))\n"
    )
    with HostedFlow(tmp_path, with_unit(tmp_path / "units", "names", code)) as flow:
        names = set(httpx2.get(flow.url(), timeout=PATIENCE).text.split())
    assert "modelbox" in names
    assert not names & {"numpy", "cv2", "PIL", "onnxruntime", "sqlalchemy", "litestar", "uvicorn", "click", "psutil"}


# The reports --------------------------------------------------------------------------------------------------------


def test_reports_are_read_by_offset(tmp_path: Path) -> None:
    folder = tmp_path / "made" / "by" / "it"
    assert report.read(folder) == ([], 0) and report.last(folder) is None and report.stats(folder) is None
    reporter = report.Reporter(folder)
    reporter.state(FlowState.CREATING)
    first, offset = report.read(folder)
    assert [each.state for each in first] == [FlowState.CREATING] and first[0].pid == os.getpid()
    assert report.read(folder, offset) == ([], offset)
    file = folder / report.STATES_FILE
    with file.open("ab") as half:
        half.write(b'{"state":"running"')
    assert report.read(folder, offset) == ([], offset), "a line is read when it is complete"
    with file.open("ab") as half:
        half.write(b',"at":1.5}\nnot json\n')
    more, end = report.read(folder, offset)
    assert [(each.state, each.at) for each in more] == [(FlowState.RUNNING, 1.5)] and end == file.stat().st_size
    reporter.state(FlowState.FAILED, "x" * 100_000, "STATUS_FAULT")
    last = report.last(folder)
    assert last is not None and last.error == "x" * report.ERROR_MAX and last.code == "STATUS_FAULT"


def test_statistics_are_replaced_when_they_change(tmp_path: Path) -> None:
    reporter = report.Reporter(tmp_path)
    reporter.stats({"nodes": {}, "seconds": 1})
    first = report.stats(tmp_path)
    assert first is not None and first["nodes"] == {}
    reporter.stats({"nodes": {}, "seconds": 2})
    assert report.stats(tmp_path) == first, "only the time has changed"
    reporter.stats({"nodes": {"a": 1}, "seconds": 3})
    assert (report.stats(tmp_path) or {})["nodes"] == {"a": 1}
    assert sorted(path.name for path in tmp_path.iterdir()) == [report.STATS_FILE]


@pytest.mark.parametrize("act", [lambda each: each.state(FlowState.RUNNING), lambda each: each.stats({"a": 1})])
def test_a_folder_that_is_gone_does_not_stop_the_flow(tmp_path: Path, act: Callable[[report.Reporter], None]) -> None:
    folder = tmp_path / "reports"
    reporter = report.Reporter(folder)
    folder.rmdir()
    act(reporter)
    act(report.Reporter(None))
