"""Code that somebody has typed: live output, pictures, limits, errors with the user's lines only."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import wait_until


class Ended:
    def __init__(self, code: int, out: str, err: str, report: Path) -> None:
        self.code, self.out, self.err = code, out, err
        self.told = [json.loads(line) for line in report.read_bytes().splitlines()]
        self.log = "".join(body["log"] for body in self.bodies("log") if "log" in body)
        self.statuses = [line["body"]["status"] for line in self.told if line["type"] in ("status", "error")]

    def bodies(self, kind: str) -> list[dict[str, Any]]:
        return [line["body"] for line in self.told if line["type"] == kind]

    @property
    def detail(self) -> dict[str, Any]:
        (error,) = self.bodies("error")
        found: dict[str, Any] = error["detail"]
        return found


def _start(folder: Path, code: str, *options: str) -> subprocess.Popen[str]:
    file = folder / "code.py"
    file.write_text(code, errors="surrogateescape")
    return subprocess.Popen(
        [sys.executable, "-m", "runyard.runcode", str(file), *options],
        env={**os.environ, "RUNYARD_REPORT": str(folder / "run.rep")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        cwd=folder,
    )


def _run(folder: Path, code: str, *options: str) -> Ended:
    with _start(folder, code, *options) as process:
        out, err = process.communicate(timeout=60)
    return Ended(process.returncode, out, err, folder / "run.rep")


def test_output_and_pictures_come_in_order(tmp_path: Path) -> None:
    ended = _run(
        tmp_path,
        """
import os, sys
print("one")
from PIL import Image
Image.new("RGB", (2, 2)).show()
print("two", file=sys.stderr)
os.write(1, b"three\\n")
os.system("echo four")
import pickle
class Thing: pass
print(type(pickle.loads(pickle.dumps(Thing()))).__name__, __name__, __file__)
""",
    )
    assert (ended.code, ended.statuses) == (0, ["running", "finished"])
    assert ended.out == "one\nthree\nfour\nThing __main__ pyrcode\n"
    assert ended.err == "two\n"
    logs = ended.bodies("log")
    place = next(number for number, body in enumerate(logs) if "imshow" in body)
    assert "".join(body["log"] for body in logs[:place]) == "one\n"
    assert sorted(ended.log.split()) == sorted((ended.out + ended.err).split())


def test_errors_show_the_users_lines_only(tmp_path: Path) -> None:
    ended = _run(tmp_path, "import json\ndef f(x):\n    return json.loads(x)\nf('{')\n")
    assert (ended.code, ended.statuses) == (1, ["running", "crash"])
    assert ended.detail["exc_type"] == "JSONDecodeError"
    assert ended.detail["traceback"] == [
        {"filename": "pyrcode", "linenum": 4, "funcname": "<module>", "source": "f('{')"},
        {"filename": "pyrcode", "linenum": 3, "funcname": "f", "source": "return json.loads(x)"},
    ]
    assert 'File "pyrcode", line 3, in f' in ended.err and "runcode" not in ended.err


@pytest.mark.parametrize(
    ("code", "exit_code", "kind", "line"),
    [
        ("x = 1\nif x\n", 1, "SyntaxError", 2),
        ("import sys\nsys.exit(3)\n", 3, "SystemExit", 2),
        ("import sys\nsys.exit('no more')\n", 1, "SystemExit", 2),
        ("import os\nos._exit(4)\n", 4, "SystemExit", None),
        ("import os\nos.kill(os.getpid(), 9)\n", 137, "Killed", None),
        ("def f(): return f()\nf()\n", 1, "RecursionError", 1),
        ("import sys\nsys.stderr.close()\n1 / 0\n", 1, "ZeroDivisionError", 3),
        ("'\x0c\x1c'\n1 / 0\n", 1, "ZeroDivisionError", 2),
    ],
)
def test_other_ends(tmp_path: Path, code: str, exit_code: int, kind: str, line: int | None) -> None:
    ended = _run(tmp_path, code)
    assert (ended.code, ended.statuses, ended.detail["exc_type"]) == (exit_code, ["running", "crash"], kind)
    assert [frame["linenum"] for frame in ended.detail["traceback"]][-1:] == ([] if line is None else [line])


@pytest.mark.parametrize("code", ["import sys\nsys.exit()\n", "import sys\nsys.stdout.close()\n", "\ufeff1\n"])
def test_a_quiet_exit_is_no_error(tmp_path: Path, code: str) -> None:
    ended = _run(tmp_path, code)
    assert (ended.code, ended.statuses, ended.err) == (0, ["running", "finished"], "")


def test_code_runs_as_it_would_by_itself(tmp_path: Path) -> None:
    assert _run(tmp_path, "def f(x: int): pass\nprint(f.__annotations__)\n").out == "{'x': <class 'int'>}\n"


@pytest.mark.parametrize("code", ["import os\nos.closerange(3, 1000)\n1 / 0\n", "# \udcff\n1 / 0\n"])
def test_whatever_goes_wrong_shows_the_users_lines_only(tmp_path: Path, code: str) -> None:
    ended = _run(tmp_path, code)
    assert (ended.code, ended.statuses) == (1, ["running", "crash"])
    assert "pyrcode" in ended.err and "runyard" not in ended.err


def test_what_ends_within_a_character_is_told(tmp_path: Path) -> None:
    assert _run(tmp_path, "import os\nos.write(1, b'a\\xc3')\n").log == "a\ufffd"


def test_the_time_limit_ends_the_whole_group(tmp_path: Path) -> None:
    marker = f"{tmp_path}/marker"
    code = f"""
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)", {marker!r}])
while True:
    time.sleep(1)
"""
    ended = _run(tmp_path, code, "--time-limit", "0.7")
    assert (ended.code, ended.detail["exc_type"]) == (124, "TimeoutError")
    assert ended.bodies("error")[0]["code"] == 100299
    wait_until(lambda: not _with_argument(marker.encode()), what="the end of all that was started")


def _with_argument(text: bytes) -> list[str]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if text in (folder / "cmdline").read_bytes().split(b"\0"):
                found.append(folder.name)
    return found


def test_memory_and_output_have_limits(tmp_path: Path) -> None:
    code = """
for _ in range(300):
    print("x" * 99)
all = []
while True:
    all.append(bytearray(50_000_000))
"""
    ended = _run(tmp_path, code, "--memory", "300M", "--output", "10K")
    assert ended.detail["exc_type"] == "MemoryError"
    assert len(ended.out) + len(ended.err) == 10 * 1024
    assert ended.log.count("the output limit of 10240 bytes was reached") == 1


def test_without_network(tmp_path: Path) -> None:
    code = """
import socket
with socket.create_server(("127.0.0.1", 0)) as server:
    try:
        socket.create_connection(server.getsockname(), 10).close()
        print("connected")
    except OSError as error:
        print("refused")
"""
    assert _run(tmp_path, code).out == "connected\n"
    leave = "from runyard.runcode import limits; assert limits.leave_network() is None"
    allowed = subprocess.run([sys.executable, "-c", leave], capture_output=True).returncode == 0
    ended = _run(tmp_path, code, "--no-network")
    if allowed:
        assert ended.out == "refused\n"
    else:
        assert [body["code"] for body in ended.bodies("info")] == ["network"]


def test_a_stop_is_told_as_such(tmp_path: Path) -> None:
    with _start(tmp_path, "print('up')\nimport time\ntime.sleep(1000)\n") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM
        ended = Ended(process.returncode, "", "", tmp_path / "run.rep")
    assert ended.statuses == ["running", "stopped"]
    assert ended.log == "up\n"


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "runyard.runcode", str(tmp_path / "missing.py")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ})
    assert ended.returncode == 1 and "No such file" in ended.stderr and "Traceback" not in ended.stderr


def test_figures_are_shown(tmp_path: Path) -> None:
    ended = _run(tmp_path, "from matplotlib import pyplot\npyplot.plot([1, 2])\npyplot.show()\n")
    assert [body["format"] for body in ended.bodies("log")] == ["base64string"]
