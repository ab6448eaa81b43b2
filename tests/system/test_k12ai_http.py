"""Requests of the K12AI door that need no task, and the ways to receive messages (spec/k12ai.md, 1 and 3)."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import pytest
from websockets.sync.client import connect

from tests.system.k12ai import OK, Door, serve_door
from tests.system.server import Server

SCHEMA = {"version": "7", "objs": [{"_id_": "lr", "type": "float", "default": 0.1}]}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder: Path = tmp_path_factory.mktemp("k12ai")
    (folder / "schema").mkdir()
    (folder / "schema" / "sa.json").write_text(json.dumps(SCHEMA))
    (folder / "schema" / "bad.yaml").write_text("a: [")
    (folder / "schema" / "list.yaml").write_text("- 1")
    server = serve_door(folder, '[services.formed]\ncommands = { train = ["true"] }\nschema = "schema"\n')
    try:
        yield server.start()
    finally:
        server.close()


@pytest.fixture(scope="module")
def door(server: Server) -> Iterator[Door]:
    door = Door(server)
    yield door
    door.http.close()


def name() -> str:
    return f"q{uuid4().hex[:12]}"


GOOD: dict[str, Any] = {"op": "train.stop", "user": "u1", "service_name": "k12nlp", "service_uuid": "none"}


@pytest.mark.parametrize(
    ("route", "changes", "code"),
    [
        ("execute", {}, 100205),
        ("train", {}, 100205),
        ("evaluate", {}, 100102),
        ("predict", {"op": "predict.stop"}, 100205),
        ("execute", {"op": "train.start", "service_params": "[1]"}, 100231),
        ("execute", {"op": "train.start", "service_params": None}, 100231),
        ("execute", {"op": "train.start", "service_params": 5}, 100231),
        ("execute", {"user": ...}, 100101),
        ("execute", {"op": ...}, 100101),
        ("execute", {"op": "q"}, 100102),
        ("execute", {"service_name": ...}, 100101),
        ("execute", {"service_uuid": ...}, 100101),
        ("execute", {"service_params": "{"}, 100101),
        ("execute", {"user": 5}, 100102),
        ("execute", {"user": "../x"}, 100102),
        ("execute", {"service_name": "k12none"}, 100201),
        ("execute", {"service_name": ["k12nlp"]}, 100201),
        ("execute", {"op": "train.resume", "service_name": "k12none"}, 100201),
        ("memstat", {"service_name": ...}, 100101),
        ("memstat", {"service_name": "k12none"}, 100201),
        ("memstat", {}, OK),
    ],
)
def test_the_answer_to_a_request(door: Door, route: str, changes: dict[str, Any], code: int) -> None:
    body = {key: value for key, value in (GOOD | changes).items() if value is not ...}
    answer = door.post(f"/k12ai/framework/{route}", body)
    assert answer["code"] == code and answer["message"]["en"] and answer["message"]["cn"]
    if route == "memstat" and code == OK:
        assert answer["data"]["app_cpu_memory_usage_MB"] == 6000 and answer["data"]["sys_cpu_memory_free_MB"] > 0


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff\xfe", b'{"op"', b"[" * 100_000])
def test_bodies_that_are_no_objects(door: Door, body: bytes) -> None:
    answer = door.http.post("/k12ai/framework/execute", content=body)
    assert answer.status_code == 200 and answer.json()["code"] == 100103
    assert answer.json()["expand"]["excinfo"]["err_type"]


def test_what_only_http_can_say(door: Door, server: Server) -> None:
    assert door.http.get("/k12ai/framework/train").status_code == 405
    assert door.http.get("/k12ai/nothing").status_code == 404
    door.post("/k12ai/framework/nothing", {}, status=404)
    door.post("/k12ai/platform/nothing", {}, status=404)
    big = httpx2.post(server.url + "/k12ai/framework/execute", content=b"x" * (9 << 20), timeout=60)
    assert (big.status_code, big.json()["code"]) == (413, 100011)
    foreign = door.http.post("/k12ai/framework/execute", json=GOOD, headers={"Origin": "https://evil.example"})
    assert (foreign.status_code, foreign.json()["code"]) == (403, 100199)
    assert door.http.get("/health").text == "ok" and door.http.get("/status").text == "Success"


def test_forms(door: Door) -> None:
    asked = {"service_name": "formed", "service_task": "sa", "dataset_name": "d", "network_type": "n"}

    def ask(**changes: Any) -> dict[str, Any]:
        body = {key: value for key, value in (asked | changes).items() if value is not ...}
        return door.post("/k12ai/framework/schema", body)

    answer = ask()
    assert answer["code"] == OK and json.loads(answer["data"]) == {"version": "7", "type": "page", **SCHEMA}
    assert ask(version="7")["code"] == 100010 and ask(version="6")["code"] == OK
    for key in asked:
        answer = ask(**{key: ...})
        assert (answer["code"], answer["data"], "expand" in answer) == (100101, f"'{key}'", False)
    for changes, code in (
        ({"network_type": ""}, 100102),
        ({"service_task": 5}, 100102),
        ({"service_name": "k12none"}, 100201),
        ({"service_name": "k12nlp"}, 100206),
        ({"service_task": "other"}, 100206),
        ({"service_task": "../runyard"}, 100206),
        ({"service_task": "bad"}, 100207),
        ({"service_task": "list"}, 100207),
    ):
        assert ask(**changes)["code"] == code, changes
    broken = door.http.post("/k12ai/framework/schema", content=b"{no").json()
    assert (broken["code"], broken["data"]) == (100103, "{no")


def test_which_services_there_are(door: Door) -> None:
    found = {item["service_name"]: item for item in door.http.get("/k12ai/services").json()["data"]}
    assert found["k12nlp"]["phases"] == ["train", "evaluate", "predict"] and found["formed"]["schema"] is True
    assert found["k12pyr"]["source"] == "built in"


# Queues -----------------------------------------------------------------------------------------------------------


def push(door: Door, queue: str, body: bytes) -> str:
    answer = door.http.post("/k12ai/private/pushmsg", params={"key": queue}, content=body)
    assert answer.status_code == 200
    return answer.text


def test_a_queue_is_first_in_first_out_and_popped_once(door: Door) -> None:
    app = name()
    for body in (b'{"n": 1}', b"not json", b'"text"', b"[1, 2]", b""):
        assert push(door, f"{app}.error", body) == "0"
    assert push(door, f"{app}.metrics", b"5") == "0"
    everything = [{"n": 1}, {"raw": "not json"}, "text", [1, 2], {"raw": ""}]
    assert door.pop(f"{app}.error", peek=1) == everything == door.pop(f"{app}.error", peek=1)
    assert door.pop(f"{app}.error", max=2) == everything[:2]
    assert door.pop(f"{app}.error", f"{app}.metrics") == [*everything[2:], 5]
    assert door.pop(f"{app}.error", f"{app}.metrics") == []
    assert push(door, f"{app}.error", b'{"n": 2}') == "0"
    assert door.pop(f"{app}.error", format="str") == ['{"n":2}']
    assert push(door, f"{app}.error", b'"' + b"x" * 1_000_001 + b'"') == "-1"


def test_older_names_and_defaults(door: Door) -> None:
    kind = name()
    assert door.http.get("/k12ai/private/message", params={"type": kind}).text == "0"
    assert door.http.post("/k12ai/private/message", params={"key": f"{kind}.x"}, content=b"1").text == "0"
    assert door.pop(f"k12ai.{kind}") == [{"raw": ""}] and door.pop(f"{kind}.x") == [1]
    assert isinstance(door.http.get("/k12ai/private/popmsg").json(), list)


@pytest.mark.parametrize("query", [{"wait": "x"}, {"wait": "-1"}, {"wait": "61"}, {"max": "0"}, {"max": "x"}])
def test_bad_pops(door: Door, query: dict[str, str]) -> None:
    answer = door.http.get("/k12ai/private/popmsg", params={"key": "a.b", **query})
    assert answer.status_code == 200 and answer.json()["code"] == 100102
    many = door.http.get("/k12ai/private/popmsg", params={"key": ",".join(f"a{n}.b" for n in range(200))})
    assert many.json()["code"] == 100102


def test_each_message_goes_to_one_of_many_who_wait(door: Door, server: Server) -> None:
    queue = f"{name()}.error"
    got: list[Any] = []

    def wait() -> None:
        with server.http() as http:
            while len(got) < 30:
                got.extend(Door(server, http).pop(queue, wait=20, max=1))

    threads = [threading.Thread(target=wait) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(30):
        push(door, queue, str(number).encode())
    # Those who still wait get something too, so that they look again.
    while any(thread.is_alive() for thread in threads):
        push(door, queue, b"-1")
        for thread in threads:
            thread.join(0.02)
    assert sorted(item for item in got if item >= 0) == list(range(30))


def test_who_leaves_while_waiting_takes_nothing_along(door: Door, server: Server) -> None:
    queue = f"{name()}.error"
    with socket.create_connection(("127.0.0.1", server.port)) as gone:
        gone.sendall(
            f"GET /k12ai/private/popmsg?key={queue}&wait=60 HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n\r\n".encode()
        )
    assert push(door, queue, b"1") == "0"
    assert door.pop(queue, wait=10) == [1]


def test_names_of_queues_forge_no_events(door: Door) -> None:
    for queue in (f"{name()}.x\nid: 99", f"{name()}.x\r", "x" * 300):
        assert push(door, queue, b"1") == "-1"


# Streams ----------------------------------------------------------------------------------------------------------


def events(response: httpx2.Response) -> Iterator[dict[str, str]]:
    event: dict[str, str] = {}
    for line in response.iter_lines():
        if not line and event:
            yield event
            event = {}
        elif line and not line.startswith(":"):
            key, _, value = line.partition(": ")
            event[key] = value


def test_a_stream_resumes_and_leaves_the_queue_alone(door: Door) -> None:
    app = name()
    query = {"appId": app}
    with door.http.stream("GET", "/k12ai/stream", params=query) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        found = events(response)
        # Subscribed once the first line is there: what is pushed now must come.
        for number in range(3):
            push(door, f"{app}.error", b'{"n": %d}' % number)
        push(door, f"{app}.metrics", b"{}")
        first = [next(found) for _ in range(4)]
    assert [event["event"] for event in first] == ["error"] * 3 + ["metrics"]
    assert [json.loads(event["data"]) for event in first[:3]] == [{"n": 0}, {"n": 1}, {"n": 2}]
    with door.http.stream("GET", "/k12ai/stream", params=query, headers={"Last-Event-ID": first[0]["id"]}) as response:
        found = events(response)
        assert [next(found)["id"] for _ in range(3)] == [event["id"] for event in first[1:]]
    with door.http.stream("GET", "/k12ai/stream", params=query | {"after": "0", "types": "metrics"}) as response:
        assert next(events(response))["id"] == first[3]["id"]
    assert len(door.pop(f"{app}.error")) == 3
    for bad in ({"after": "x"}, {"after": "-1"}, {"types": "A B"}):
        refused = door.http.get("/k12ai/stream", params=bad).json()
        assert refused["code"] == 100102 and next(iter(bad)) in json.dumps(refused)


def test_a_websocket(door: Door, server: Server) -> None:
    app = name()
    push(door, f"{app}.error", b'{"n": 0}')
    address = f"ws://127.0.0.1:{server.port}/k12ai/ws?appId={app}&after=0"
    with connect(address) as socket:
        assert json.loads(socket.recv(60)) == {"n": 0}
        push(door, f"{app}.error", b'{"n": 1}')
        assert json.loads(socket.recv(60)) == {"n": 1}
    assert door.pop(f"{app}.error") == [{"n": 0}, {"n": 1}]


def test_the_messages_of_one_project_by_stream(door: Door) -> None:
    project = door.project()
    query = {"user": "u1", "service_uuid": project.uuid, "types": "error"}
    with door.http.stream("GET", "/k12ai/stream", params=query) as response:
        # The answer's head is sent when the stream stands.
        assert project.ask("train.start") == OK
        found = events(response)
        codes = [json.loads(next(found)["data"])["error"]["code"] for _ in range(3)]
    assert codes == [100001, 100002, 100003]
    project.until(100003)


def test_asynchronous_figures_come_as_a_message(door: Door) -> None:
    app = name()
    answer = door.post("/k12ai/platform/stats", {"username": "a", "password": "b", "async": True, "appId": app})
    assert answer["code"] == OK and "data" not in answer
    [message] = door.pop(f"{app}.info", wait=30)
    assert (message["type"], message["tag"], message["op"]) == ("info", "platform", "stats")
    assert message["info"]["cpu_memory_total"] > 0 and message["seq"] > 0
