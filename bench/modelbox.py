"""The ModelBox door: creating and deleting flows, listing many, and what they weigh."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from http.client import HTTPConnection
from pathlib import Path
from statistics import median
from typing import Any

from bench.figure import Figure
from bench.load import load
from bench.server import BenchServer, pss

PATH = "/v1/modelbox/job"
FLOWS = 100
ROUNDS = 20
#: Fed by nobody: it is up, and idle.
IDLE = (
    "digraph { in1[type=input]; d[flowunit=base64_decoder]; out1[type=output]; in1 -> d:in_data; d:out_data -> out1 }"
)


class Door:
    """One client with one connection."""

    def __init__(self, port: int) -> None:
        self._http = HTTPConnection("127.0.0.1", port, timeout=120)

    def ask(self, method: str, path: str = "", body: object = None) -> Any:
        content = None if body is None else json.dumps(body)
        self._http.request(method, PATH + path, content)
        response = self._http.getresponse()
        text = response.read()
        if response.status >= 300:
            raise RuntimeError(f"{method} {path}: {response.status} {text!r}")
        return json.loads(text) if text else None

    def create(self, id: str) -> None:
        self.ask("PUT", body={"job_id": id, "job_graph": {"graph": {"format": "graphviz", "graphconf": IDLE}}})


def measure() -> list[Figure]:
    creates, deletes, bare = [], [], []
    with BenchServer() as server:
        door = Door(server.port)
        for number in range(ROUNDS):
            begin = time.perf_counter()
            subprocess.run([sys.executable, "-c", "pass"], check=True)
            bare.append(1000 * (time.perf_counter() - begin))
            begin = time.perf_counter()
            door.create(f"flow{number}")
            creates.append(1000 * (time.perf_counter() - begin))
            begin = time.perf_counter()
            door.ask("DELETE", f"/flow{number}")
            deletes.append(1000 * (time.perf_counter() - begin))
        # What is kept warm stays.
        before = len(_children(server.agent_pid))
        none = load(server.port, "GET", PATH + "/list/all", clients=4, count=1000, status=200)
        for number in range(FLOWS):
            door.create(f"idle{number}")
        full = load(server.port, "GET", PATH + "/list/all", clients=4, count=1000, status=200)
        pids = _children(server.agent_pid)
        weight = sum(map(pss, pids))
        for number in range(FLOWS):
            door.ask("DELETE", f"/idle{number}")
        left = len(_children(server.agent_pid)) - before
    create = median(creates)
    return [
        Figure(
            name="modelbox: create until RUNNING, to a bare python", unit="ms", measured=create, reference=median(bare)
        ),
        Figure(name="modelbox: create until RUNNING beyond that", unit="ms", measured=create - median(bare), most=25),
        Figure(name="modelbox: delete until gone", unit="ms", measured=median(deletes), most=10),
        Figure(
            name=f"modelbox: GET list/all with {FLOWS} flows, to none",
            unit="ms",
            measured=full.p50,
            reference=none.p50,
        ),
        Figure(name=f"modelbox: memory of {FLOWS} idle flows", unit="MiB", measured=weight / 2**20, most=1000),
        Figure(name=f"modelbox: processes left of {ROUNDS + FLOWS} flows", unit="", measured=left, most=0),
    ]


def _children(parent: int) -> list[int]:
    """The living children of a process."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, ppid = path.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(ppid) == parent and state != "Z":
            found.append(int(path.parent.name))
    return found
