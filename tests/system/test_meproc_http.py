"""The Meproc door on the wire: the document's own exchanges, the envelope, and what is refused with which words."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runyard.api.server import SEED_PORTS
from tests.helpers import wait_until
from tests.system.meproc import EXISTS, NOT_EXISTS, OK, Door, Json, meproc, shell
from tests.system.server import LOOPBACK, Server

REQUIRED = {"code": 400, "msg": "JSON body is required"}
INVALID = {"code": 400, "msg": "Invalid JSON field"}
NAME = {"code": 400, "msg": "name is required"}
METHOD = {"code": 405, "msg": "Method not allowed"}


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with meproc(tmp_path_factory.mktemp("meproc")) as door:
        yield door


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "door" in request.fixturenames:
        request.getfixturevalue("door").clear()


# The document -----------------------------------------------------------------------------------------------------


@pytest.fixture
def guest() -> Iterator[None]:
    """The account of the document's example, where it can be made."""
    try:
        pwd.getpwnam("guest")
        made = False
    except KeyError:
        made = shutil.which("useradd") is not None and subprocess.run(["useradd", "-M", "guest"]).returncode == 0
    yield
    if made:
        subprocess.run(["userdel", "-f", "guest"], check=True, capture_output=True)


def test_the_documents_command_lines_typed_as_they_stand(tmp_path: Path, guest: None) -> None:
    try:
        for port in SEED_PORTS.values():
            socket.create_server((LOOPBACK, port)).close()
    except OSError as error:
        pytest.skip(f"a usual port of the doors is taken: {error}")
    server = Server(tmp_path / "server", "--seed-ports").start()
    try:
        assert server.door_port("meproc") == 8606
        started = shell(
            """curl -XPOST http://127.1:8606/proc -d '{"name": "task1", "cmd": "sleep 5", "type": "once", """
            """"replica": 2, "user": "guest", "deps": ["task0"]}'"""
        )
        assert (started.status, started.content_type, started.json) == (200, "application/json", OK)
        wait_until(lambda: len(shell("curl -XGET http://127.1:8606/proc").json["data"]["running"]) == 2)
        shown = shell("curl -XGET http://127.1:8606/proc")
        assert (shown.status, shown.content_type) == (200, "application/json")
        assert shown.json["code"] == 200 and shown.json["msg"] == "OK" and set(shown.json) == {"code", "msg", "data"}
        first, second = shown.json["data"]["running"]
        assert (first["command"], first["alias"], second["alias"]) == ("sleep 5", "task1:0", "task1:1")
        assert type(first["pid"]) is int and set(first) == {"command", "pid", "alias"}
        task = shown.json["data"]["tasks"]["task1"]
        sample = {
            "name": "task1", "cmd": "sleep 5", "type": "once", "replica": 2, "user": "guest", "deps": ["task0"],
            "interval": 3, "run_flag": False, "running": 2, "group": None,
        }  # fmt: skip
        assert {key: task[key] for key in sample} == sample
        assert set(task) == {*sample, "last_time", "start_time"}
        assert 1_700_000_000 < task["start_time"] <= task["last_time"] and type(task["last_time"]) is int

        restarted = shell("curl -XPUT http://127.1:8606/proc?name=task1")
        assert (restarted.status, restarted.json) == (200, OK)
        old = {first["pid"], second["pid"]}

        def pids() -> set[int]:
            return {entry["pid"] for entry in shell("curl -XGET http://127.1:8606/proc").json["data"]["running"]}

        wait_until(lambda: len(pids()) == 2 and not pids() & old, 60, "the new generation")
        stopped = shell("curl -XDELETE http://127.1:8606/proc?name=task1")
        assert (stopped.status, stopped.json) == (200, OK)
        wait_until(lambda: not pids(), 60, "the end of all processes")
        empty = {"code": 200, "msg": "OK", "data": {"running": [], "tasks": {}}}
        assert shell("curl -XGET http://127.1:8606/proc").json == empty
    finally:
        server.close()


def test_the_sample_record_has_every_field_with_its_type(door: Door) -> None:
    door.start("t", "sleep 60", replica=1)
    door.until_up("t")
    task = door.task("t")
    types: dict[str, type] = {
        "name": str, "cmd": str, "type": str, "replica": int, "user": type(None), "deps": list, "interval": int,
        "last_time": int, "run_flag": bool, "start_time": int, "running": int, "group": type(None),
    }  # fmt: skip
    assert {key: type(value) for key, value in task.items()} == types
    assert list(task)[:4] == ["name", "cmd", "type", "replica"]


def test_an_empty_set_of_tasks_is_an_object(door: Door) -> None:
    assert door.get() == {"running": [], "tasks": {}}
    assert door.http.get("/proc").content == b'{"code":200,"msg":"OK","data":{"running":[],"tasks":{}}}'


# What is refused --------------------------------------------------------------------------------------------------

GOOD: Json = {"name": "x", "cmd": "true", "type": "once"}


def but(**changes: Any) -> Json:
    """A good record with these fields; a field that is `...` is left out."""
    return {key: value for key, value in (GOOD | changes).items() if value is not ...}


@pytest.mark.parametrize(
    "body",
    [
        b"", b" \n", b"{}", b"[]", b"null", b"0", b"5", b'"abc"', b"true", b"false", b'""', b"{", b"no JSON",
        b'{"name": "x", "cmd": "true", "type": "once"} trailing', b'{"name": "\xff", "cmd": "true", "type": "once"}',
        rb'{"name": "\ud800", "cmd": "true", "type": "once"}', b"name=x&cmd=true&type=once", b"[" * 100_000,
        b'{"name": "x", "cmd": "true", "type": "once", "replica": NaN}',
    ],
    ids=lambda body: repr(body[:40]),
)  # fmt: skip
def test_a_body_that_is_no_record(door: Door, body: bytes) -> None:
    assert door.send("POST", content=body) == REQUIRED


@pytest.mark.parametrize(
    "record",
    [
        [GOOD], but(name=...), but(name=""), but(name=None), but(name=5), but(name=["x"]), but(name="x" * 256),
        but(name="ä" * 128), but(name="a\nb"), but(name="a\x00b"), but(name="a\x7fb"), but(cmd=...), but(cmd=""),
        but(cmd=None), but(cmd=7), but(cmd={"x": 1}), but(cmd="a\x00b"), but(type=...), but(type=""), but(type=None),
        but(type="Once"), but(type="batch"), but(type=1), but(cron=5), but(type="cron", cron=["*"]), but(user=1),
        but(user=["root"]), but(group=1), but(group={}), but(replica="2"), but(replica=1.5), but(replica=True),
        but(replica=[]), but(replica=1001), but(replica=10**30), but(interval="3"), but(interval=0.5),
        but(interval=False), but(interval={}), but(deps="a"), but(deps={"a": 1}), but(deps=[1]), but(deps=["a", None]),
        but(deps=5),
    ],
    ids=lambda record: json.dumps(record)[:70],
)  # fmt: skip
def test_a_record_that_breaks_the_schema(door: Door, record: Any) -> None:
    assert door.send("POST", json=record) == INVALID
    assert door.get()["tasks"] == {}


@pytest.mark.parametrize(
    ("record", "msg"),
    [
        (but(name="__coroutine__"), "name '__coroutine__' is reserved"),
        (but(interval=0), "Interval must be a positive integer'"),
        (but(interval=-5), "Interval must be a positive integer'"),
        (but(replica=0), "Replica must be a positive integer'"),
        (but(replica=-1), "Replica must be a positive integer'"),
        (but(type="cron", cron="* * *"), "Invalid cron format"),
        (but(type="cron", cron="61 * * * *"), "Invalid cron format"),
        (but(type="cron", cron="@reboot"), "Invalid cron format"),
        # The order: whatever comes first in the list of checks answers.
        (but(name="__coroutine__", replica="x"), "Invalid JSON field"),
        (but(name="__coroutine__", interval=0, replica=0), "name '__coroutine__' is reserved"),
        (but(interval=0, replica=0), "Interval must be a positive integer'"),
        (but(replica=0, type="cron", cron="bad"), "Replica must be a positive integer'"),
        (but(name="taken", replica=0), "Replica must be a positive integer'"),
        (but(name="taken", type="cron", cron="bad"), "Invalid cron format"),
    ],
    ids=lambda value: json.dumps(value)[:60],
)
def test_a_record_that_breaks_a_rule(door: Door, record: Json, msg: str) -> None:
    door.start("taken", "true")
    assert door.send("POST", json=record) == {"code": 400, "msg": msg}
    assert set(door.get()["tasks"]) == {"taken"}


def test_what_is_lenient_where_the_original_is_not(door: Door) -> None:
    """`null` and "" mean "not set"; a whole number may be written 2.0; a cron text of other types has no effect."""
    lenient = but(user=None, group="", replica=2.0, interval=None, deps=None, cron="no cron at all", extra={"a": [1]})
    assert door.send("POST", json=lenient) == OK
    task = door.until_ended("x")
    assert (task["user"], task["group"], task["replica"], task["interval"], task["deps"]) == (None, None, 2, 3, [])
    assert task["extra"] == {"a": [1]} and "cron" not in task
    # The server's own fields are never taken from a client; of a key that stands twice, the last one counts.
    body = b'{"name": "y", "cmd": "false", "type": "once", "running": 9, "last_time": -1,'
    assert door.send("POST", content=body + b'"start_time": "x", "run_flag": 1, "cmd": "true"}') == OK
    task = door.until_ended("y")
    assert (task["cmd"], task["running"], task["run_flag"]) == ("true", 0, False)
    assert task["last_time"] > 1_700_000_000 and task["start_time"] > 1_700_000_000


def test_the_strict_door_refuses_what_the_original_refuses(tmp_path: Path) -> None:
    settings = {"RUNYARD_DOORS__MEPROC__STRICT": "true", "RUNYARD_DOORS__MEPROC__MAX_REPLICA": "3"}
    with meproc(tmp_path, env=settings) as door:
        only = {"code": 400, "msg": "Type of cron job must be 'cron'"}
        for value in (None, "", "* * * * *"):
            assert door.send("POST", json=but(cron=value)) == only
        assert door.send("POST", json=but(type="cron", cron="* * * * * *"))["msg"] == "Invalid cron format"
        assert door.send("POST", json=but(replica=4)) == INVALID
        assert door.send("POST", json=but(replica=3)) == OK


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_a_name_is_needed_and_must_be_known(door: Door, method: str) -> None:
    for query in ("", "?", "?name", "?name=", "?other=x", "?name=a=b"):
        assert door.send(method, "/proc" + query) == NAME
    assert door.send(method, "/proc?name=nobody") == NOT_EXISTS
    assert door.send("GET", "/proc/output") == NAME
    assert door.send("GET", "/proc/output?name=nobody") == NOT_EXISTS


@pytest.mark.parametrize("method", ["PATCH", "OPTIONS", "TRACE"])
def test_other_methods(door: Door, method: str) -> None:
    assert door.send(method, "/proc") == METHOD


def test_head_and_methods_that_nobody_knows_leave_the_server_alive(door: Door) -> None:
    assert door.http.head("/proc").status_code == 405
    assert door.http.request("PROPFIND", "/proc").status_code in (400, 405)
    for line in ("BREW /proc HTTP/1.1", "\x16\x03\x01\x02", "GET /proc HTTP/9"):
        with socket.create_connection((LOOPBACK, door.port), 60) as connection:
            connection.sendall(f"{line}\r\n\r\n".encode("latin-1"))
            connection.shutdown(socket.SHUT_WR)
            answer = connection.makefile("rb").readline()
            assert answer.startswith(b"HTTP/1.1 400 "), line
    assert door.get() == {"running": [], "tasks": {}}


def test_paths(door: Door) -> None:
    door.start("t", "true")
    for path in ("/proc", "/proc/", "/Proc", "/Proc/", "/proc/index", "/Proc/index", "/proc?name=t", "/proc/?name=t"):
        assert set(door.send("GET", path)["data"]["tasks"]) == {"t"}, path
    for path in ("/Proc/output", "/proc/output", "/proc/output/"):
        assert set(door.send("GET", f"{path}?name=t")["data"]) == {"t:0"}, path
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert set(door.send(method, "/proc/output?name=t")["data"]) == {"t:0"}, method
    for path in ("/proc/other", "/proc/output/x", "/Proc/x/y/z"):
        assert door.send("GET", path) == {"code": 404, "msg": "Not Found"}, path
    for path in ("/PROC", "/procs", "/nothing"):
        assert door.http.get(path).status_code == 404, path


# The way in -------------------------------------------------------------------------------------------------------


def test_the_legacy_verbs(door: Door) -> None:
    """Before 14 November 2023, PUT with a body started and POST with a name restarted."""
    assert door.send("PUT", json=but(cmd="sleep 60")) == OK
    before = door.until_up("x")
    assert door.send("PUT", json=but(cmd="sleep 60")) == EXISTS
    assert door.send("POST", "/proc?name=x") == OK
    door.until_up("x", but=before)
    assert door.send("POST", "/proc?name=nobody") == NOT_EXISTS
    # A body wins over a name: it is a start.
    assert door.send("POST", "/proc?name=x", json=but(name="y")) == OK
    log = door.server.log.read_text()
    assert "should POST" in log and "should PUT" in log


@pytest.mark.parametrize(
    ("name", "query"),
    [
        ("a b", "a%20b"), ("a b", "a+b"), ("100%", "100%25"), ("a&b=c", "a%26b%3Dc"), ("tâche", "t%C3%A2che"),
        ("作業", "%E4%BD%9C%E6%A5%AD"), ("a:b", "a:b"), ("../../etc", "../../etc"), ("a/b", "a%2Fb"),
        ("'; rm -rf x", "%27;%20rm%20-rf%20x"), (" around ", "%20around%20"), ("123", "123"),
        ('q"uote', "q%22uote"), (".hidden", ".hidden"),
        # No such name when decoded, but so when not.
        ("a+b", "a+b"), ("a%20c", "a%20c"),
    ],
)  # fmt: skip
def test_any_name_can_be_started_seen_read_and_stopped(door: Door, name: str, query: str) -> None:
    door.start(name, 'printf %s "$MEPROC_ALIAS"')
    door.until_written(name, f"{name}:0".encode())
    assert shell(f"curl -XPUT '{door.url}/proc?name={query}'").json == OK
    door.until_ended(name)
    assert set(shell(f"curl '{door.url}/proc/output?name={query}'").json["data"]) == {f"{name}:0"}
    assert set(shell(f"curl '{door.url}/proc?name={query}'").json["data"]["tasks"]) == {name}
    assert shell(f"curl -XDELETE '{door.url}/proc?x=1&name=nobody&name={query}&y'").json == OK
    assert shell(f"curl -XDELETE '{door.url}/proc?name={query}'").json == NOT_EXISTS
    assert list(door.server.folder.rglob("etc")) == []


def test_control_characters_in_a_command_leave_the_answer_valid_json(door: Door) -> None:
    command = 'printf "one\ttwo"\nprintf "\x01\x1b[0m"\n# "quotes" \\ and \u2028'
    door.start("t", command)
    door.until_ended("t")
    assert door.task("t")["cmd"] == command
    assert door.output("t") == {"t:0": b"one\ttwo\x01\x1b[0m"}


def raw(door: Door, request: str | bytes) -> tuple[int, Json]:
    """The status and body of one answer to these bytes, on a connection of its own."""
    with socket.create_connection((LOOPBACK, door.port), 60) as connection:
        connection.sendall(request.encode() if isinstance(request, str) else request)
        with connection.makefile("rb") as file:
            status = int(file.readline().split()[1])
            if status == 100:
                assert file.readline() == b"\r\n"
                status = int(file.readline().split()[1])
            length = 0
            while (line := file.readline().strip().lower()) != b"":
                if line.startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            return status, json.loads(file.read(length))


def test_old_and_odd_http(door: Door) -> None:
    assert raw(door, "GET /proc HTTP/1.0\r\n\r\n")[1]["data"] == {"running": [], "tasks": {}}
    body = json.dumps(but(cmd="sleep 60"))
    chunked = f"{len(body):x}\r\n{body}\r\n0\r\n\r\n"
    head = f"POST /proc HTTP/1.1\r\nhOsT: {LOOPBACK}:{door.port}\r\n"
    assert raw(door, f"{head}TRANSFER-ENCODING: chunked\r\n\r\n{chunked}") == (200, OK)
    assert raw(door, f"{head}Content-Type: x/y\r\ncontent-LENGTH: {len(body)}\r\n\r\n{body}") == (403, EXISTS)
    expect = f"{head}Expect: 100-continue\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    assert raw(door, expect) == (403, EXISTS)


def test_bodies_up_to_8_mib(door: Door) -> None:
    assert door.send("POST", json=but(note="x" * (8 * 2**20 - 200))) == OK
    assert len(door.task("x")["note"]) == 8 * 2**20 - 200
    answer = door.http.post("/proc", json=but(name="y", note="x" * 8 * 2**20))
    assert answer.status_code == 413
    pieces = (b"x" * 2**20 for _ in range(9))
    assert door.http.post("/proc", content=pieces).status_code == 413
    assert set(door.get()["tasks"]) == {"x"}


def test_pages_of_others_can_not_start_a_process(door: Door) -> None:
    for headers in ({"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Host": "evil.example"}):
        assert door.http.post("/proc", json=GOOD, headers=headers).status_code == 403
    assert door.get()["tasks"] == {}


def test_a_silent_connection_blocks_nobody(door: Door) -> None:
    silent = [socket.create_connection((LOOPBACK, door.port), 60) for _ in range(20)]
    for connection in silent[:10]:
        connection.sendall(b"POST /proc HTTP/1.1\r\nContent-Length: 100\r\n\r\n{")
    assert door.get() == {"running": [], "tasks": {}}
    for connection in silent:
        connection.close()


# Duplicates -------------------------------------------------------------------------------------------------------


def test_a_name_is_taken_while_it_runs_and_after_it_has_ended(door: Door) -> None:
    door.start("t", "sleep 60")
    assert door.post("t", "true") == EXISTS
    assert door.delete("t") == OK
    assert door.delete("t") == NOT_EXISTS
    door.start("t", "true")
    door.until_ended("t")
    assert door.post("t", "true") == EXISTS
    assert door.put("t") == OK
    assert door.delete("t") == OK
    assert door.put("t") == NOT_EXISTS


def test_a_name_whose_process_is_being_stopped_may_be_given_again(door: Door) -> None:
    """The new one is held until the old one is gone, and its output begins afresh."""
    door.start("t", "trap '' TERM; echo old; while :; do sleep 0.1; done")
    (old,) = door.until_up("t")
    door.until_written("t", b"old")
    assert door.delete("t") == OK
    assert "t" not in door.get()["tasks"], "a deleted task is forgotten at once"
    assert door.pids("t") == [old], "but its process is shown as long as it lives"
    door.start("t", "echo new; sleep 60")
    task = door.task("t")
    assert (task["run_flag"], task["running"], task["last_time"]) == (True, 0, 0)
    os.kill(old, signal.SIGKILL)
    door.until_up("t", but=[old])
    assert not Path(f"/proc/{old}").exists()
    assert door.until_written("t", b"new") == b"new\n"


def test_names_posted_at_the_same_moment_are_taken_once(door: Door) -> None:
    lines = [f"""curl -s -XPOST {door.url}/proc -d '{json.dumps(but(cmd="sleep 60"))}'"""] * 8
    script = " & ".join(lines) + " & wait"
    done = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert (done.stdout.count('"code":200'), done.stdout.count('"code":403')) == (1, 7)
    door.until_up("x")
