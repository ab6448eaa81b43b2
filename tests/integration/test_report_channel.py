"""Where reports go: the file of a run, standard output, nowhere; and what becomes of them when there is no room."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runyard.message.line import read_report
from runyard.report import channel, facade, failure
from runyard.report.channel import Channel
from runyard.store.output import OutputFiles


@pytest.fixture(autouse=True)
def _afresh() -> Iterator[None]:
    facade.reset()
    yield
    facade.reset()


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def _python(program: str, **env: str) -> subprocess.CompletedProcess[str]:
    given = {**os.environ, **env}
    return subprocess.run([sys.executable, "-c", program], env=given, capture_output=True, text=True, timeout=60)


def test_a_program_reports_into_its_file(tmp_path: Path) -> None:
    file = tmp_path / "run.rep"
    program = "from runyard import report\nreport.metrics(loss=0.5, step=1)\nreport.log('ä')"
    ended = _python(program, RUNYARD_REPORT=str(file), RUNYARD_TASK_RANK="3")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    first, second = _lines(file)
    assert (first["type"], first["body"], first["rank"]) == ("metrics", {"values": {"loss": 0.5}, "step": 1}, 3)
    assert second["body"] == {"log": "ä"} and second["at"] >= first["at"] > 1e9
    assert file.stat().st_mode & 0o777 == 0o600


def test_sigterm_ends_a_program_as_stopped(tmp_path: Path) -> None:
    file = tmp_path / "run.rep"
    program = """
import signal
from runyard import report
with report.run():
    try:
        signal.raise_signal(signal.SIGTERM)
    finally:
        print("cleaned")
"""
    ended = _python(program, RUNYARD_REPORT=str(file))
    assert (ended.returncode, ended.stdout) == (128 + signal.SIGTERM, "cleaned\n")
    assert [line["body"]["status"] for line in _lines(file)] == ["running", "stopped"]


@pytest.mark.parametrize("target", ["-", "/nowhere/at/all.rep"])
def test_standard_output_is_there_in_any_case(target: str) -> None:
    ended = _python("from runyard import report\nreport.metrics(loss=0.5)", RUNYARD_REPORT=target)
    assert ended.stdout.startswith('@runyard {"type":"metrics","body":{"values":{"loss":0.5}}')
    assert ended.returncode == 0


def test_it_loads_nothing_but_the_standard_library() -> None:
    program = """
import sys
before = set(sys.modules)
from runyard import report
report.metrics(loss=1)
with report.run():
    report.matrix("m", [[1]])
foreign = {name.partition(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)
print(sorted(foreign))
late = {"base64", "traceback", "zlib", "linecache", "dataclasses", "asyncio", "logging", "inspect"}
print(sorted(late & (set(sys.modules) - before)))
"""
    assert _python(program, RUNYARD_REPORT="").stdout.splitlines() == ["['runyard']", "[]"]


def test_lines_of_several_processes_do_not_mix(tmp_path: Path) -> None:
    file = tmp_path / "run.rep"
    program = """
import os
import signal
from runyard import report
report.log("first")
children = []
for child in range(4):
    if (pid := os.fork()) == 0:
        for number in range(200):
            report.log(f"{child} " + "x" * 5000)
        os._exit(0)
    children.append(pid)
for pid in children:
    os.waitpid(pid, 0)
"""
    assert _python(program, RUNYARD_REPORT=str(file)).returncode == 0
    told = [line["body"]["log"] for line in _lines(file)]
    assert len(told) == 801
    assert {text.split()[0] for text in told} == {"first", "0", "1", "2", "3"}
    assert {len(text) for text in told} == {5, 5002}


def test_a_lock_that_another_thread_held_stops_no_child_and_one_of_its_own_no_handler_of_signals(
    tmp_path: Path,
) -> None:
    file = tmp_path / "run.rep"
    program = """
import os
import signal
import threading
from runyard import report
from runyard.report import facade
report.log("first")
held, done = threading.Event(), threading.Event()
def hold():
    with facade._current()._mutex:
        held.set()
        done.wait()
thread = threading.Thread(target=hold)
thread.start()
held.wait()
if (pid := os.fork()) == 0:
    report.log("child")
    os._exit(0)
os.waitpid(pid, 0)
done.set()
thread.join()
signal.signal(signal.SIGUSR1, lambda *args: report.log("handler"))
with facade._current()._mutex:
    signal.raise_signal(signal.SIGUSR1)
"""
    assert _python(program, RUNYARD_REPORT=str(file)).returncode == 0
    assert [line["body"]["log"] for line in _lines(file)] == ["first", "child", "handler"]


def test_what_is_no_character_costs_no_report(tmp_path: Path) -> None:
    file = tmp_path / "run.rep"
    assert Channel(str(file)).send("log", {"log": "/名/\udcff"})
    (line,) = file.read_bytes().splitlines()
    assert read_report(line, 1, 0.0, "report").body == {"log": "/名/?"}


def test_what_nobody_reads_is_bounded_and_said(tmp_path: Path) -> None:
    file = tmp_path / "run.rep"
    told = Channel(str(file))
    for size in (100_000, 1000, 10):
        for _ in range(10_000):
            if not told.send("log", {"log": "x" * size}):
                break
        else:
            raise AssertionError("there is no bound")
    assert file.stat().st_blocks * 512 <= channel.MAX_UNREAD + channel.RESERVE
    # What must get through does.
    assert told.send("error", {"status": "crash"})
    size = file.stat().st_size
    # The server has read it, and given the room back.
    OutputFiles(tmp_path).free(file, size)
    assert told.send("metrics", {"values": {"loss": 2}})
    notice, last = (json.loads(line) for line in file.read_bytes()[size:].splitlines()[-2:])
    assert (notice["type"], notice["body"]["code"]) == ("info", "dropped")
    assert notice["body"]["count"] >= 1
    assert last["body"] == {"values": {"loss": 2}}
    assert told.dropped == 0


def test_a_report_that_is_too_large_is_said_to_be(tmp_path: Path) -> None:
    file = tmp_path / "run.rep"
    Channel(str(file)).send("log", {"log": "x" * 2_000_000})
    (line,) = _lines(file)
    assert (line["type"], line["body"]["code"], line["body"]["type"]) == ("info", 100011, "log")


def test_no_link_is_followed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "precious"
    (tmp_path / "run.rep").symlink_to(target)
    Channel(str(tmp_path / "run.rep")).send("log", {"log": "x"})
    assert not target.exists()
    assert capfd.readouterr().out.startswith("@runyard ")


def test_a_full_disk_disturbs_nobody() -> None:
    told = Channel("/dev/full")
    assert told.active
    assert not told.send("metrics", {"values": {"loss": 1}})
    assert told.dropped == 1


@pytest.mark.parametrize(
    ("program", "kind", "line"),
    [
        ("def f():\n    raise MemoryError\nf()\n", "MemoryError", 2),
        ("x = (\n", "SyntaxError", 1),
        ("import json\njson.loads('x')\n", "JSONDecodeError", None),
        ("def f(n):\n    return f(n + 1)\nf(0)\n", "RecursionError", None),
        ("class MyError(Exception): pass\nraise MyError('two\\nlines')\n", "MyError", 2),
    ],
)
def test_the_last_words_of_real_programs(program: str, kind: str, line: int | None) -> None:
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    detail = failure.of_text(ended.stderr)
    assert detail is not None
    assert detail["exc_type"] == kind
    if line is not None:
        assert detail["traceback"][-1]["linenum"] == line
