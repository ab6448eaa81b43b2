"""Units in worker processes: arrays there and back, state, crashes, and nobody left behind."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runyard.flow.document import FlowDocument
from runyard.flow.sdk import Flow
from runyard.flow.status import FlowError
from tests.agents import alive
from tests.helpers import wait_until

WAIT_MS = 60_000

UNIT = """
import os, signal, modelbox, numpy as np

class Unit(modelbox.FlowUnit):
    def open(self, config):
        if config.get_bool("refuse"):
            return modelbox.Status(modelbox.Status.StatusCode.STATUS_NODATA, "refused")

    def process(self, ctx):
        for buffer in ctx.input("in"):
            if buffer.get("do", "") == "crash":
                os.kill(os.getpid(), signal.SIGKILL)
            if buffer.get("do", "") == "hang":
                open(buffer.get("mark"), "w").close()
                while True: pass
            made = modelbox.Buffer(np.array(buffer) * 2)
            made.set("pid", os.getpid())
            ctx.set_private("count", (ctx.get_private("count") or 0) + 1)
            made.set("count", ctx.get_private("count"))
            if buffer.get("do", "") == "keep":
                made.set("unit", lambda: self)
            ctx.output("out").push_back(made)
"""

TOML = """
[base]
name = "worker"
device = "cpu"
version = "1.0.0"
description = "d"
type = "python"
entry = "unit@Unit"
stream = true
[input]
input1 = {name = "in"}
[output]
output1 = {name = "out"}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "unit.py").write_text(UNIT)
    (tmp_path / "unit.toml").write_text(TOML)
    return tmp_path


def flow_of(folder: Path, options: str) -> Flow:
    dot = f"digraph {{ i[type=input] w[flowunit=worker,{options}] o[type=output] i->w:in w:out->o }}"
    return Flow.load(FlowDocument(dot=dot, directories=(str(folder),)))


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_worker_computes_crashes_comes_back_and_ends(folder: Path) -> None:
    image = np.arange(300_000, dtype=np.float32).reshape(300, 1000)
    with flow_of(folder, "isolation=process,processes=1") as flow:
        stream = flow.create_stream_io()
        stream.send("i", image)
        stream.send("i", image[:2])
        first, second = stream.recv("o", WAIT_MS), stream.recv("o", WAIT_MS)
        assert np.array_equal(np.array(first), image * 2)
        assert np.array(second).shape == (2, 1000)
        assert [first.get("count"), second.get("count")] == [1, 2]
        pid = first.get("pid")
        assert pid != os.getpid()

        keep = stream.create_buffer(image[:1])
        keep.set("do", "keep")
        stream.send("i", keep)
        assert "the results can't be sent from the worker process" in stream.recv("o", WAIT_MS).get_error_msg()
        stream.send("i", image[:1])
        assert stream.recv("o", WAIT_MS).get("count") == 3

        crash = stream.create_buffer(image[:1])
        crash.set("do", "crash")
        stream.send("i", crash)
        failed = stream.recv("o", WAIT_MS)
        assert failed.get_error_code() == "worker.ProcessError"
        assert "SIGKILL" in failed.get_error_msg()
        assert wait_until(lambda: gone(pid), 60)

        stream.send("i", image[:1])
        third = stream.recv("o", WAIT_MS)
        assert not third.has_error() and third.get("pid") != pid

        mark = folder / "mark"
        hang = stream.create_buffer(image[:1])
        hang.set("do", "hang")
        hang.set("mark", str(mark))
        stream.send("i", hang)
        assert wait_until(mark.exists, 60)
        assert flow.stop(grace=0.1)
        assert gone(third.get("pid"))


def test_what_can_not_be_isolated_says_why(folder: Path) -> None:
    for options, message in (
        ("isolation=process,processes=1,refuse=true", "refused"),
        ("isolation=process,processes=0", "processes must be 1 to 64, not 0"),
        ("isolation=container", "isolation must be thread or process, not 'container'"),
    ):
        with pytest.raises(FlowError) as raised:
            flow_of(folder, options)
        assert message in str(raised.value)


def test_a_worker_ends_with_its_flow(folder: Path) -> None:
    """The flow's process is killed: the lifeline's end ends the worker, even in the middle of a call."""
    import subprocess
    import sys

    mark = folder / "mark"
    code = (
        "import sys, time, numpy as np\nfrom runyard.flow.sdk import Flow\n"
        "from runyard.flow.document import FlowDocument\n"
        "folder, dot, mark = sys.argv[1:]\n"
        "flow = Flow.load(FlowDocument(dot=dot, directories=(folder,)))\n"
        "stream = flow.create_stream_io()\nstream.send('i', np.zeros(3))\n"
        "print(stream.recv('o').get('pid'), flush=True)\n"
        "hang = stream.create_buffer(np.zeros(3))\nhang.set('do', 'hang')\nhang.set('mark', mark)\n"
        "stream.send('i', hang)\ntime.sleep(600)\n"
    )
    dot = "digraph { i[type=input] w[flowunit=worker,isolation=process,processes=1] o[type=output] i->w:in w:out->o }"
    environ: Any = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folder), dot, str(mark)], stdout=subprocess.PIPE, text=True, env=environ
    )
    with process:
        assert process.stdout is not None
        worker = int(process.stdout.readline())
        assert wait_until(mark.exists, 60)
        process.send_signal(signal.SIGKILL)
    assert wait_until(lambda: not alive(worker), 60)
