"""Reports: metric messages that a program prints as lines of stdout, until they are on disk and can be read.

One job prints them as fast as it can; what is measured is the time until the server has stored all of them. The same
through `runyard.report`, and what one of its calls costs the program.
"""

from __future__ import annotations

import json
import sys
import time
import urllib.request
from typing import Any

from bench.figure import Figure
from bench.server import BenchServer

_LINES = """
import sys
line = '@runyard {"type":"metrics","body":{"loss":0.5,"accuracy":0.25,"step":%d}}\\n'
for start in range(0, COUNT, 1000):
    sys.stdout.write("".join(line % step for step in range(start, start + 1000)))
"""
_CALLS = """
import time
from runyard import report
begin = time.perf_counter()
for step in range(COUNT):
    report.metrics(loss=0.5, accuracy=0.25, step=step)
report.text("cost", (time.perf_counter() - begin) / COUNT * 1e6)
"""
#: Above what any job is expected to say: nothing shall be sampled here.
_RATE = "1000000"


def measure(count: int = 200_000) -> list[Figure]:
    with BenchServer(env={"RUNYARD_MESSAGES__MAX_RATE": _RATE, "RUNYARD_MESSAGES__MAX_PER_JOB": _RATE}) as server:
        lines = _messages_per_second(server, _LINES, count)
        calls = _messages_per_second(server, _CALLS, count // 4)
    return [
        Figure(name="reports: metric messages by stdout, stored", unit="/s", measured=lines, least=20_000),
        Figure(name="reports: metric messages by runyard.report, stored", unit="/s", measured=calls),
    ]


def _messages_per_second(server: BenchServer, program: str, count: int) -> float:
    url = f"http://127.0.0.1:{server.port}/api/v1/jobs"
    command = [sys.executable, "-c", f"COUNT = {count}\n{program}"]
    begin = time.perf_counter()
    job = _ask(url, {"command": command})["id"]
    stored = 0
    while stored < count:
        time.sleep(0.05)
        series = _ask(f"{url}/{job}/metrics?points=2&name=loss")["items"]
        stored = series[0]["count"] if series else 0
    return count / (time.perf_counter() - begin)


def _ask(url: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)
