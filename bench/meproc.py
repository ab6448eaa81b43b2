"""The Meproc door: starting many tasks, listing them, and clients that are silent or rude."""

from __future__ import annotations

import json
import os
import socket
import time
from http.client import HTTPConnection
from statistics import median
from typing import Any

from bench.figure import Figure
from bench.load import Load, load
from bench.server import BenchServer

TASKS = 100
CROWD = 200
ROUNDS = 3
SETTINGS = {"RUNYARD_DOORS__MEPROC__STOP_GRACE": "1"}


class Door:
    """One client with one connection, as a script would be."""

    def __init__(self, port: int) -> None:
        self._http = HTTPConnection("127.0.0.1", port, timeout=60)

    def ask(self, method: str, path: str = "/proc", body: object = None) -> Any:
        """`data` of the answer. Raises RuntimeError if it is not 200."""
        content = None if body is None else json.dumps(body)
        self._http.request(method, path, content)
        answer = json.loads(self._http.getresponse().read())
        if answer["code"] != 200:
            raise RuntimeError(f"{method} {path} {content}: {answer}")
        return answer.get("data")

    def start(self, name: str, cmd: str, replica: int = 1) -> None:
        self.ask("POST", body={"name": name, "cmd": cmd, "type": "once", "replica": replica})

    def hold(self) -> None:
        """A job of the native door that does not start."""
        self._http.request("POST", "/api/v1/jobs", '{"script": "true", "hold": true}')
        self._http.getresponse().read()

    def tasks(self) -> dict[str, Any]:
        tasks: dict[str, Any] = self.ask("GET")["tasks"]
        return tasks

    def until_ended(self, names: set[str]) -> None:
        while not all(self._has_ended(task) for name, task in self.tasks().items() if name in names):
            time.sleep(0.01)

    @staticmethod
    def _has_ended(task: dict[str, Any]) -> bool:
        return bool(task["last_time"]) and not task["running"] and not task["run_flag"]


def listing(port: int) -> Load:
    return load(port, "GET", "/proc", clients=8, count=2000, status=200)


def measure() -> list[Figure]:
    return [*_bursts(), *_replicas(), *_listings()]


def _bursts(count: int = 200) -> list[Figure]:
    """One-shot tasks, one request after the other: when all are answered, and when all have ended.

    Each answer waits for the disk; so do those of the native door to jobs that are held, which are the reference.
    """
    answered, ended, native = [], [], []
    with BenchServer(env=SETTINGS) as server:
        door = Door(server.port)
        for number in range(ROUNDS):
            names = {f"t{number}-{index}" for index in range(count)}
            begin = time.perf_counter()
            for name in names:
                door.start(name, "true")
            answered.append(time.perf_counter() - begin)
            door.until_ended(names)
            ended.append(time.perf_counter() - begin)
            begin = time.perf_counter()
            for _ in range(count):
                door.hold()
            native.append(time.perf_counter() - begin)
    return [
        Figure(name=f"meproc: {count} one-shot tasks answered", unit="s", measured=median(answered), most=1),
        Figure(
            name=f"meproc: {count} one-shot tasks answered, to held native jobs",
            unit="s",
            measured=median(answered),
            # For comparison only: these are neither started nor ended, so less is written.
            reference=median(native),
        ),
        Figure(name=f"meproc: {count} one-shot tasks ended", unit="s", measured=median(ended), most=2),
    ]


def _replicas(count: int = 500) -> list[Figure]:
    times = []
    with BenchServer(env=SETTINGS) as server:
        door = Door(server.port)
        for number in range(ROUNDS):
            begin = time.perf_counter()
            door.start(f"many{number}", "sleep 600", count)
            while len(door.ask("GET", f"/proc?name=many{number}")["running"]) < count:
                time.sleep(0.01)
            times.append(time.perf_counter() - begin)
            door.ask("DELETE", f"/proc?name=many{number}")
            while door.ask("GET")["running"]:
                time.sleep(0.05)
    return [Figure(name=f"meproc: {count} replicas of one task up", unit="s", measured=median(times), most=2)]


def _listings() -> list[Figure]:
    """GET with no task, with many, and with a crowd that is silent or sends what is no HTTP."""
    empty, full, crowded, quiet = [], [], [], []
    with BenchServer(env=SETTINGS) as none, BenchServer(env=SETTINGS) as server:
        door = Door(server.port)
        for number in range(TASKS):
            door.start(f"task{number}", "true" if number % 2 else "sleep 600")
        door.until_ended({f"task{number}" for number in range(1, TASKS, 2)})
        for _ in range(ROUNDS):
            empty.append(listing(none.port).rate)
            before = listing(server.port)
            crowd = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(CROWD)]
            for index, connection in enumerate(crowd):
                if index % 2:
                    connection.sendall(os.urandom(64))
            after = listing(server.port)
            for connection in crowd:
                connection.close()
            full.append(before.rate)
            quiet.append(before.p50)
            crowded.append(after.p50)
    return [
        Figure(
            name=f"meproc: GET with {TASKS} tasks, to none",
            unit="/s",
            measured=median(full),
            reference=median(empty),
            least=0.5,
        ),
        Figure(
            name=f"meproc: GET beside {CROWD} silent or rude clients, to none",
            unit="ms",
            measured=median(crowded),
            reference=median(quiet),
            most=1.5,
        ),
    ]
