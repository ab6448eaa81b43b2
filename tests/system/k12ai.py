"""A client of the K12AI door, as the notebooks have one: requests, and queues that are popped."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2

from tests.helpers import deadline
from tests.system.server import Server

Json = dict[str, Any]
OK = 100000
ENDS = frozenset({100003, 100004, 100005, 100006})
#: A framework: does what its parameters say.
PROGRAM = """
import json, os, sys, time

config = json.load(open(sys.argv[1]))
for line in config.get("say", []):
    print(line if isinstance(line, str) else "@k12ai " + json.dumps(line), flush=True)
if config.get("show"):
    names = [name for name in os.environ if name.startswith("K12AI_")]
    body = {"env": {name: os.environ[name] for name in names}, "config": config, "argv": sys.argv[1:]}
    print("@k12ai " + json.dumps({"type": "info", "body": body}), flush=True)
if config.get("leave"):
    os.makedirs(os.path.dirname(config["leave"]) or ".", exist_ok=True)
    open(config["leave"], "w").write("x")
for index in range(config.get("flood", 0)):
    print('@k12ai {"type":"metrics","body":{"n":%d}}' % index)
if "wait" in config:
    sys.stdout.flush()
    while not os.path.exists(config["wait"]):
        time.sleep(0.01)
if config.get("fail"):
    {}[config["fail"]]
sys.exit(config.get("exit", 0))
"""


def services(folder: Path, more: str = "") -> str:
    """The configuration of a server with services; the program is written into `folder`."""
    program = folder / "program.py"
    program.write_text(PROGRAM)
    command = f'["{sys.executable}", "{program}", "{{config}}"]'
    return f"""
[services.k12nlp]
commands = {{ train = {command}, evaluate = {command}, predict = {command} }}
resume = {{ flag = "network.resume", ckpt = "ckpt" }}
model = "model/best"
env = {{ WHERE = "{{cache}}/{{phase}}/{{user}}/{{uuid}}" }}
[services.k12cv]
commands = {{ predict = {command} }}
images = true
[services.speaks]
commands = {{ train = {command} }}
says_running = true
[services.strict]
commands = {{ train = {command} }}
required = ["_k12.data.dataset_name", "lr"]
[services.rules]
commands = {{ train = {command} }}
report = [{{ pattern = 'loss=(?P<loss>\\S+)' }}]
[services.nowhere]
commands = {{ train = ["/no/such/program"] }}
[doors.k12ai]
max_tasks = 0
{more}
"""


class Door:
    """The door of one server."""

    def __init__(self, server: Server, http: httpx2.Client | None = None) -> None:
        self.server = server
        self.http = http or server.http()

    def execute(self, op: str, uuid: str, route: str = "execute", **more: Any) -> Json:
        body = {"op": op, "user": "u1", "service_name": "k12nlp", "service_uuid": uuid, "service_params": {}} | more
        return self.post(f"/k12ai/framework/{route}", body)

    def post(self, path: str, body: Any, status: int = 200) -> Json:
        answer = self.http.post(path, json=body)
        assert answer.status_code == status, answer.text
        value: Json = answer.json()
        assert {"code", "descr", "message"} <= value.keys()
        return value

    def pop(self, *queues: str, **query: Any) -> list[Any]:
        answer = self.http.get("/k12ai/private/popmsg", params={"key": ",".join(queues)} | query)
        assert answer.status_code == 200, answer.text
        found: list[Any] = answer.json()
        return found

    def project(self) -> Project:
        return Project(self)


class Project:
    """A project of its own, whose messages are in queues of its own."""

    def __init__(self, door: Door) -> None:
        self.door = door
        self.uuid = f"p{uuid4().hex[:12]}"
        self.app = f"app-{self.uuid}"
        self.seen: list[Json] = []

    def ask(self, op: str, params: Any = None, **more: Any) -> int:
        """The code of the answer."""
        given = {"service_params": {} if params is None else params, "appId": self.app, "token": "t-1"} | more
        code: int = self.door.execute(op, self.uuid, **given)["code"]
        return code

    def until(self, code: int, what: str = "") -> Json:
        """The first message of that code that was not looked for yet."""
        types = ("error", "metrics", "info", "runlog", "predict", "status")
        for _ in deadline(60, f"{what or code} of {self.uuid}; seen: {[codes(m) for m in self.seen]}"):
            for message in self.door.pop(*(f"{self.app}.{name}" for name in types), wait=1):
                self.seen.append(message)
            for place, message in enumerate(self.seen):
                if message["type"] == "error" and message["error"]["code"] == code and not message.get("looked"):
                    message["looked"] = True
                    return self.seen[place]
        raise AssertionError

    def codes(self) -> list[int]:
        return [code for message in self.seen if (code := codes(message))]

    def of(self, kind: str) -> list[Json]:
        return [message for message in self.seen if message["type"] == kind]


def codes(message: Json) -> int:
    return message["error"]["code"] if message["type"] == "error" else 0


def serve_door(folder: Path, more: str = "", **env: str) -> Server:
    """A server with the services, not started."""
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "runyard.toml"
    config.write_text(services(folder, more))
    return Server(folder, "--config", str(config), env=env)
