"""Python units from TOML and module, as ModelBox's are written, and the native way in files."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import modelbox
from runyard.flow.document import FlowDocument
from runyard.flow.sdk import Flow
from runyard.flow.status import FlowError, StatusCode
from tests.helpers import wait_until

WAIT_MS = 60_000
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a unit: its folder, module text, more lines for `[base]`."""

    def unit(name: str, code: str, base: str = "stream = false", outputs: bool = True, **files: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        entry = "unit@Unit"
        (folder / "unit.py").write_text(code)
        for other, text in files.items():
            (folder / f"{other}.py").write_text(text)
        ports = '[input]\n[input.input1]\nname = "in"\n' + (
            '[output]\n[output.output1]\nname = "out"\n' if outputs else ""
        )
        (folder / "unit.toml").write_text(
            f'[base]\nname = "{name}"\ndevice = "cpu"\nversion = "1.0.0"\ndescription = "d"\ntype = "python"\n'
            f'entry = "{entry}"\n{base}\n[config]\nprefix = "{name}"\n{ports}'
        )
        return folder

    return unit


def run(folder: Path, nodes: str, edges: str) -> Flow:
    dot = f"digraph {{ in1[type=input] out1[type=output] {nodes} {edges} }}"
    return Flow.load(FlowDocument(dot=dot, directories=(str(folder),)))


MODELBOX_UNIT = """
import _flowunit as modelbox
import helper

class Unit(modelbox.FlowUnit):
    def __init__(self):
        super().__init__()

    def open(self, config):
        self.prefix = config.get_string("prefix", "?")
        return modelbox.Status.StatusCode.STATUS_SUCCESS

    def process(self, data_context):
        out = data_context.output("out")
        for buffer in data_context.input("in"):
            modelbox.debug("at", buffer.as_object())
            made = modelbox.Buffer(self.get_bind_device(), f"{self.prefix}{helper.MARK}{buffer.as_object()}")
            made.copy_meta(buffer)
            out.push_back(made)
        return modelbox.Status()

    def close(self):
        return modelbox.Status()
"""


def test_units_with_equal_module_names_do_not_meet(write: Write, tmp_path: Path) -> None:
    write("one", MODELBOX_UNIT, helper='MARK = ":"')
    write("two", MODELBOX_UNIT, helper='MARK = "/"')
    with run(tmp_path, 'a[flowunit=one] b[flowunit=two,prefix="B"]', "in1->a:in a:out->b:in b:out->out1") as flow:
        stream = flow.create_stream_io()
        stream.send("in1", "x")
        assert str(stream.recv("out1", WAIT_MS)) == "B/one:x"


def test_modules_beside_a_unit_are_found_whoever_replaces_the_path(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As OpenCV does while it is imported, and units are opened side by side."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    code = MODELBOX_UNIT.replace(
        "import helper\n", "import sys\nsys.path = [p for p in sys.path if not p.endswith('/one')]\nimport helper\n"
    )
    late = "        import later_beside_the_unit\n        out ="
    write("one", code.replace("        out =", late, 1), helper='MARK = ":"', later_beside_the_unit="")
    with run(tmp_path, "a[flowunit=one]", "in1->a:in a:out->out1") as flow:
        stream = flow.create_stream_io()
        stream.send("in1", "x")
        assert str(stream.recv("out1", WAIT_MS)) == "one:x"


FAILING: dict[str, tuple[str, str]] = {
    "raises": ("raise KeyError('gone')", "KeyError: 'gone'"),
    "exits": ("import sys; sys.exit('bye')", "SystemExit: bye"),
    "status": ("return modelbox.Status(modelbox.Status.StatusCode.STATUS_NOMEM, 'too big')", "too big"),
    "code": ("return modelbox.Status.StatusCode.STATUS_FAULT", "Fault"),
    "false": ("return False", "the unit returned False"),
    "rubbish": ("return 'done'", "the unit returned str, not a Status"),
    "count": (
        "data_context.output('out').extend(data_context.input('in') * 2)",
        "count 1 should equal output buffer count 2",
    ),
    "port": ("data_context.output('wrong')", "there is no output port 'wrong'; the outputs are: out"),
    "set": ("b = data_context.input('in'); b.set_error('My.Code', 'no'); data_context.output('out').extend(b)", "no"),
}  # fmt: skip


def test_what_a_unit_does_wrong_becomes_the_error_of_its_data(write: Write, tmp_path: Path) -> None:
    code = "import modelbox\nclass Unit(modelbox.FlowUnit):\n    def process(self, data_context):\n        {}\n"
    for name, (body, _) in FAILING.items():
        write(name, code.format(body))
    for name, (_, message) in FAILING.items():
        with run(tmp_path, f"a[flowunit={name}]", "in1->a:in a:out->out1") as flow:
            stream = flow.create_stream_io()
            stream.send("in1", "x")
            result = stream.recv("out1", WAIT_MS)
            assert result.get_error_code() == ("My.Code" if name == "set" else f"{name}.ProcessError")
            assert message in result.get_error_msg(), name
            assert stream.get_session_context().last_error is not None
            assert flow.wait(1).code() == StatusCode.STATUS_TIMEDOUT


BROKEN: dict[str, tuple[str, str]] = {
    "syntax": ("class Unit(:\n", "SyntaxError"),
    "imports": ("import nothing_like_this\n", "nothing_like_this"),
    "missing": ("class Other: ...\n", "has no 'Unit'"),
    "empty": ("class Unit: ...\n", "has no process()"),
    "opens": (
        "import modelbox\nclass Unit(modelbox.FlowUnit):\n    def open(self, config): config.get_int('prefix')\n",
        "option 'prefix' must be a whole number, not 'opens'",
    ),
}


def test_units_that_can_not_be_opened_say_why(write: Write, tmp_path: Path) -> None:
    for name, (code, _) in BROKEN.items():
        write(name, code)
    for name, (_, message) in BROKEN.items():
        with pytest.raises(FlowError) as raised:
            run(tmp_path, f"a[flowunit={name}]", "in1->a:in a:out->out1")
        assert message in str(raised.value)
        assert "node 'a'" in str(raised.value)


STREAM_UNIT = """
import modelbox

class Unit(modelbox.FlowUnit):
    def data_pre(self, context):
        if context.get_session_context().get_private("refuse"):
            return modelbox.Status(modelbox.Status.StatusCode.STATUS_INVALID, "not this one")
        context.set_private_int("count", 0)

    def process(self, context):
        for buffer in context.input("in"):
            context.set_private_int("count", context.get_private_int("count") + 1)

    def data_post(self, context):
        context.output("out").push_back(str(context.get_private_int("count")))
"""


def test_a_stream_unit_has_its_context_and_may_refuse_a_stream(write: Write, tmp_path: Path) -> None:
    write("counter", STREAM_UNIT, base="stream = true")
    with run(tmp_path, "a[flowunit=counter]", "in1->a:in a:out->out1") as flow:
        stream, refused = flow.create_stream_io(), flow.create_stream_io()
        refused.get_session_context().set_private("refuse", True)
        for each in (stream, refused):
            for _ in range(3):
                each.send("in1", "x")
            each.close_input()
        assert str(stream.recv("out1", WAIT_MS)) == "3"
        assert stream.recv("out1", WAIT_MS) is None
        errors = [refused.recv("out1", WAIT_MS) for _ in range(3)]
        assert [each.get_error_code() for each in errors] == ["counter.DataPreError"] * 3
        assert errors[0].get_error_msg() == "not this one"


def test_native_units_in_files_and_lines_for_the_log(write: Write, tmp_path: Path) -> None:
    code = (
        "import modelbox\nfrom runyard.flow import flowunit\n"
        "@flowunit(inputs='in', outputs='out')\ndef Unit(words: dict) -> str:\n"
        "    modelbox.warn('have', len(words))\n    return ' '.join(words)\n"
    )
    write("words", code)
    lines: list[Any] = []
    log = modelbox.Log()
    log.reg(lambda *line: lines.append(line))
    before = modelbox.get_logger()
    modelbox.set_logger(log)
    try:
        with run(tmp_path, "a[flowunit=words]", "in1->a:in a:out->out1") as flow:
            stream = flow.create_stream_io()
            stream.send("in1", b'{"a": 1, "b": 2}')
            assert str(stream.recv("out1", WAIT_MS)) == "a b"
            stream.send("in1", b"no json")
            assert stream.recv("out1", WAIT_MS).get_error_code() == "Unit.ProcessError"
            assert wait_until(lambda: lines, 60)
    finally:
        modelbox.set_logger(before)
    level, file, line, function, message = lines[0]
    assert (level, file, line, function, message) == (modelbox.LogLevel.LOG_WARN, "unit.py", 5, "Unit", "have 2")
