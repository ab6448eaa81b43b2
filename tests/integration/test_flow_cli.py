"""`runyard flow check|units|graph|run`: without a server, on real files, and a run in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from runyard.cli.app import run
from runyard.flow.dot import parse
from tests.helpers import wait_until

Call = Callable[..., tuple[int, str, str]]

GOOD = '''
[driver]
dir = "units"
[graph]
format = "graphviz"
graphconf = """
digraph demo {
  batch_size = 4
  numbers [flowunit=numbers, count="$count"]
  double [flowunit=double]
  out [type=output]
  numbers:out -> double:in
  double:out -> out
}
"""
[args.count]
default = 10
'''
UNIT = """
[base]
name = "{name}"
device = "cpu"
version = "1.0.0"
description = "{description}"
type = "python"
stream = false
entry = "{name}@Unit"
{ports}
"""
NUMBERS = """
import modelbox

class Unit(modelbox.FlowUnit):
    def open(self, config):
        self.count = config.get_int("count")
        source = self.create_external_data()
        numbers = source.create_buffer_list()
        numbers.push_back(str(self.count))
        source.send(numbers)
        source.close()
        return modelbox.Status.StatusCode.STATUS_SUCCESS

    def process(self, ctx):
        for _ in ctx.external():
            ctx.output("out").push_back(str(self.count))
        return modelbox.Status.StatusCode.STATUS_SUCCESS
"""
DOUBLE = """
import modelbox

class Unit(modelbox.FlowUnit):
    def process(self, ctx):
        for buffer in ctx.input("in"):
            number = 2 * int(buffer.as_object())
            print("doubled", number, flush=True)
            ctx.output("out").push_back(str(number))
        return modelbox.Status.StatusCode.STATUS_SUCCESS
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A flow that doubles a number, with its units."""
    for name, program, ports in (
        ("numbers", NUMBERS, '[output]\noutput1 = {name = "out"}'),
        ("double", DOUBLE, '[input]\ninput1 = {name = "in"}\n[output]\noutput1 = {name = "out"}'),
    ):
        place = tmp_path / "units" / name
        place.mkdir(parents=True)
        (place / f"{name}.toml").write_text(UNIT.format(name=name, description=f"It {name}s", ports=ports))
        (place / f"{name}.py").write_text(program)
    (tmp_path / "flow.toml").write_text(GOOD)
    return tmp_path


@pytest.fixture
def runyard(capfd: pytest.CaptureFixture[str]) -> Call:
    def call(*args: object) -> tuple[int, str, str]:
        code = run([str(arg) for arg in ("flow", *args)])
        return (code, *capfd.readouterr())

    return call


def test_check_says_what_is_wrong_where_and_exits_with_1(folder: Path, runyard: Call) -> None:
    flow = folder / "flow.toml"
    assert runyard("check", flow) == (0, f"{flow}: ok, 3 nodes, 2 edges\n", "")
    bad = folder / "bad.toml"
    bad.write_text(GOOD.replace("flowunit=double", "flowunit=duoble").replace("numbers:out", "numbers:outt"))
    code, out, err = runyard("check", bad, flow)
    assert (code, err) == (1, "")
    assert f"{bad}:10:3: error: can not find flowunit [type: any, name:duoble]" in out
    assert "did you mean 'double'?" in out
    assert f"{bad}:12:3: error: node 'numbers' has no output port 'outt' (did you mean 'out'?)" in out
    assert "\n    numbers:outt -> double:in\n    ^\n" in out
    assert out.endswith(f"{flow}: ok, 3 nodes, 2 edges\n")


def test_check_prints_json(folder: Path, runyard: Call) -> None:
    code, out, _ = runyard("check", folder / "flow.toml", "-o", "json")
    (document,) = json.loads(out)
    assert (code, document["graph"]["problems"], document["graph"]["name"]) == (0, [], "demo")
    (folder / "bad.json").write_text("{")
    code, out, _ = runyard("check", folder / "bad.json", "-o", "jsonl")
    (problem,) = json.loads(out)["graph"]["problems"]
    assert (code, problem["code"], problem["line"], problem["column"]) == (1, "STATUS_BADCONF", 1, 2)


def test_a_broken_unit_is_told_as_the_reason(folder: Path, runyard: Call) -> None:
    file = folder / "units/double/double.toml"
    file.write_text(file.read_text().replace('device = "cpu"', "device = 3"))
    code, out, _ = runyard("check", folder / "flow.toml")
    assert code == 1
    assert f"{file}: unit 'double': base.device must be a text that is not empty" in out


def test_what_can_not_be_read_is_said_in_a_line(folder: Path, runyard: Call) -> None:
    code, out, err = runyard("check", folder / "none.toml")
    assert (code, out) == (2, "")
    assert err == f"error: {folder / 'none.toml'}: cannot be read: No such file or directory\n"
    code, _, err = runyard("check", folder)
    assert code == 2
    assert "cannot be read" in err
    assert runyard("graph", folder / "flow.toml", "--arg", "count")[0] == 2


def test_units_are_listed_and_shown(folder: Path, runyard: Call) -> None:
    code, out, _ = runyard("units", "--dir", folder / "units")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines() if line.split()[0] in ("double", "resize")] == [
        "double", "resize",
    ]  # fmt: skip
    code, out, _ = runyard("units", "double", "--unit-dir", folder / "units")
    assert code == 0
    assert "It doubles" in out and "Inputs" in out
    code, out, _ = runyard("units", "--flow", folder / "flow.toml", "-o", "jsonl")
    names = {json.loads(line)["name"] for line in out.splitlines()}
    assert {"double", "numbers", "httpserver_async"} <= names
    assert runyard("units", "doubel", "--dir", folder / "units") == (
        4, "", "error: there is no unit 'doubel'; did you mean double?\n",
    )  # fmt: skip


def test_the_graph_is_shown_in_every_form(folder: Path, runyard: Call) -> None:
    flow = folder / "flow.toml"
    code, out, _ = runyard("graph", flow)
    assert code == 0
    assert [line.split()[:3] for line in out.splitlines()[1:4]] == [
        ["numbers", "numbers", "normal"], ["double", "double", "normal"], ["out", "(output)", "-"],
    ]  # fmt: skip
    shown = parse(runyard("graph", flow, "-o", "dot", "--arg", "count=7")[1])
    assert shown.nodes["numbers"].attributes["count"] == "7"
    assert [(edge.tail, edge.tail_port, edge.head) for edge in shown.edges] == [
        ("numbers", "out", "double"), ("double", "out", "out"),
    ]  # fmt: skip
    document = json.loads(runyard("graph", flow, "-o", "json")[1])
    assert [node["kind"] for node in document["nodes"]] == ["normal", "normal", None]
    assert runyard("graph", flow, "-o", "mermaid")[1].startswith("flowchart LR\n")


def test_dot_that_is_printed_comes_to_the_same_graph(folder: Path, runyard: Call) -> None:
    text = r'digraph "a \"b" { "x\\" [flowunit="node", label=<a\>, k="1\n"]; "x\\":"p q" -> -1.5:流 [a=b] }'
    (folder / "g.dot").write_text(text)
    code, out, _ = runyard("graph", folder / "g.dot", "-o", "dot")
    assert code == 1
    before, after = parse(text), parse(out)
    assert after.name == before.name
    for name, node in before.nodes.items():
        assert node.attributes.items() <= after.nodes[name].attributes.items()
    assert [(e.tail, e.tail_port, e.head, e.head_port) for e in after.edges] == [("x\\\\", "p q", "-1.5", "流")]


def test_a_flow_runs_until_it_has_nothing_to_do(folder: Path, runyard: Call) -> None:
    trace = folder / "trace.json"
    code, out, err = runyard(
        "run", folder / "flow.toml",
        "--until-idle", "--arg", "count=21", "--stats", "--trace", trace, "--time-limit", "60s",
    )  # fmt: skip
    assert (code, out) == (0, "doubled 42\n")
    row = next(line.split() for line in err.splitlines() if line.startswith("double "))
    assert row[3:6] == ["1", "1", "0"]
    assert any(event.get("cat") == "process" for event in json.loads(trace.read_text()))


def test_a_document_may_ask_for_a_trace(folder: Path, runyard: Call) -> None:
    flow = folder / "flow.toml"
    flow.write_text(f'{GOOD}\n[profile]\ntrace = true\ndir = "{folder / "perf"}"\n')
    assert runyard("run", flow, "--until-idle")[0] == 0
    (trace,) = (folder / "perf").iterdir()
    assert any(event.get("cat") == "process" for event in json.loads(trace.read_text()))
    flow.write_text(GOOD + '\n[profile]\ntrace = true\ndir = "/usr/../etc/perf"\n')
    code, _, err = runyard("run", flow, "--until-idle")
    assert (code, err) == (
        1, "error: profile.dir '/usr/../etc/perf' is a system directory (name one of your own)\n",
    )  # fmt: skip


def test_a_flow_that_can_not_run_says_why(folder: Path, runyard: Call) -> None:
    code, _, err = runyard("run", folder / "flow.toml", "--arg", "cuont=1")
    assert code == 1
    assert "error: the flow has no argument 'cuont' (did you mean 'count'?)" in err
    program = folder / "units/double/double.py"
    program.write_text(program.read_text().replace("class Unit", "class Other"))
    code, out, err = runyard("run", folder / "flow.toml", "--until-idle")
    assert (code, out) == (1, "")
    assert "node 'double'" in err and "Traceback" not in err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_run(folder: Path, number: signal.Signals, code: int) -> None:
    log = folder / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "runyard.cli", "flow", "run", str(folder / "flow.toml")],
            stdout=file, stderr=file, stdin=subprocess.DEVNULL, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )  # fmt: skip

    def running() -> bool:
        written = log.read_bytes()
        assert process.poll() is None, written
        return b"is running" in written and b"doubled 20" in written

    try:
        wait_until(running)
        process.send_signal(number)
        assert process.wait(timeout=60) == code
    finally:
        process.kill()
        process.wait()
    assert b"Traceback" not in log.read_bytes()


def test_a_signal_ends_a_run_whose_unit_hangs_in_open(folder: Path) -> None:
    program = folder / "units/double/double.py"
    program.write_text(
        "import modelbox, threading\n\nclass Unit(modelbox.FlowUnit):\n"
        "    def open(self, config):\n        print('opening', flush=True)\n        threading.Event().wait()\n"
        "    def process(self, ctx): ...\n"
    )
    with subprocess.Popen(
        [sys.executable, "-m", "runyard.cli", "flow", "run", str(folder / "flow.toml")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None and process.stdout.readline() == b"opening\n"
            process.terminate()
            assert process.wait(timeout=60) == 143
        finally:
            process.kill()
