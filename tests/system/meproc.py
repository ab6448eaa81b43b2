"""A client of the Meproc door, as scripts have them: one URL, JSON in, an envelope out."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx2

from tests.system.server import LOOPBACK, Server, ask_until

Json = dict[str, Any]
OK = {"code": 200, "msg": "OK"}
EXISTS = {"code": 403, "msg": "Program exists, please stop it at first"}
NOT_EXISTS = {"code": 403, "msg": "Program not exists, please start it at first"}
INVALID_USER_TEXT = b"nobody-of-that-name"
STATUS = "\n%{http_code} %{content_type}"


class Answer(NamedTuple):
    status: int
    content_type: str
    body: bytes

    @property
    def json(self) -> Json:
        value: Json = json.loads(self.body)
        return value


class Door:
    """The door of one running server, through its own port."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.open()

    def open(self) -> None:
        """To be called again after each start of the server."""
        self.port = self.server.door_port("meproc")
        self.url = f"http://{LOOPBACK}:{self.port}"
        self.http = httpx2.Client(base_url=self.url, timeout=60)

    def close(self) -> None:
        self.http.close()

    def restart_server(self) -> None:
        """Kills the server as the out-of-memory killer would, and starts it again."""
        self.close()
        self.server.kill()
        self.server.start()
        self.open()

    # Requests -----------------------------------------------------------------------------------------------------

    def send(self, method: str, path: str = "/proc", **options: Any) -> Json:
        """The envelope; its `code` is the status, always."""
        answer = self.http.request(method, path, **options)
        value: Json = answer.json()
        assert answer.headers["Content-Type"] == "application/json"
        assert int(answer.headers["Content-Length"]) == len(answer.content)
        assert value["code"] == answer.status_code and list(value) in (["code", "msg"], ["code", "msg", "data"])
        return value

    def post(self, name: str, cmd: str, type: str = "once", **more: Any) -> Json:
        return self.send("POST", json={"name": name, "cmd": cmd, "type": type, **more})

    def start(self, name: str, cmd: str, type: str = "once", **more: Any) -> None:
        assert self.post(name, cmd, type, **more) == OK

    def put(self, name: str) -> Json:
        return self.send("PUT", params={"name": name})

    def delete(self, name: str) -> Json:
        return self.send("DELETE", params={"name": name})

    def get(self, name: str | None = None) -> Json:
        """`data` of all tasks, or of one."""
        envelope = self.send("GET", params={"name": name} if name is not None else {})
        data: Json = envelope["data"]
        assert envelope["msg"] == "OK" and set(data) == {"running", "tasks"}
        return data

    def task(self, name: str) -> Json:
        record: Json = self.get(name)["tasks"][name]
        return record

    def pids(self, name: str) -> list[int]:
        return [entry["pid"] for entry in self.get(name)["running"]]

    def output(self, name: str, **arguments: Any) -> dict[str, bytes]:
        """By alias, decoded."""
        data = self.send("GET", "/proc/output", params={"name": name} | arguments)["data"]
        return {alias: base64.b64decode(text, validate=True) for alias, text in data.items()}

    # Waiting ------------------------------------------------------------------------------------------------------

    def until(self, name: str, good: Callable[[Json], object], timeout: float = 60, what: str = "") -> Json:
        """The task's record once it is good."""
        return ask_until(lambda: self.task(name), good, timeout, f"{what or 'a good record'} of task {name}")

    def until_up(self, name: str, count: int = 1, but: list[int] | None = None) -> list[int]:
        """The pids of so many processes of the task, none of which is among `but`."""
        old = set(but or ())
        return ask_until(
            lambda: self.pids(name), lambda pids: len(pids) == count and not old & {*pids}, 60, f"{count} of {name} up"
        )

    def until_ended(self, name: str) -> Json:
        """The record of a task of one run, once that is over."""
        return self.until(name, lambda task: task["last_time"] and not task["running"], what="the end")

    def until_written(self, name: str, text: bytes, replica: int = 0) -> bytes:
        """The replica's output once `text` is in it."""
        alias = f"{name}:{replica}"
        return ask_until(lambda: self.output(name)[alias], lambda out: text in out, 60, f"{text!r} from {alias}")

    def clear(self) -> None:
        """Deletes all tasks, and waits for the end of their processes."""
        for name in self.get()["tasks"]:
            self.delete(name)
        ask_until(lambda: self.get()["running"], lambda running: not running, 60, "the end of all processes")


@contextmanager
def meproc(folder: Path, *arguments: str, env: Mapping[str, str] | None = None) -> Iterator[Door]:
    """A server whose Meproc door listens on any free port, with a short grace for what does not want to end."""
    settings = {"RUNYARD_DOORS__MEPROC__PORT": "0", "RUNYARD_DOORS__MEPROC__STOP_GRACE": "4"}
    server = Server(folder, *arguments, env=settings | dict(env or {}))
    try:
        door = Door(server.start())
        try:
            yield door
        finally:
            door.close()
    finally:
        server.close()


def shell(line: str) -> Answer:
    """A command line with curl, as somebody types it; the status and content type are asked for in addition."""
    done = subprocess.run(
        ["/bin/sh", "-c", f"{line} -sS -w '{STATUS}'"], capture_output=True, timeout=60, env={"PATH": "/usr/bin:/bin"}
    )
    assert done.returncode == 0, done.stderr
    body, _, last = done.stdout.rpartition(b"\n")
    status, _, kind = last.decode().partition(" ")
    return Answer(int(status), kind, body)
