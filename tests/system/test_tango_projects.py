"""Projects on a running server, whose members are real HTTP servers: the native API, the door, and the job behind."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.system.members import START, STATUS_REQUEST, STOP, FakeMember, Said, members, report
from tests.system.native import ended, state_of, submit
from tests.system.server import Server, ask_until

PROJECTS = "/api/v1/projects"
Json = dict[str, Any]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    settings = {
        "RUNYARD_DOORS__TANGO__HEARTBEAT": "0.1",
        "RUNYARD_DOORS__TANGO__READ_TIMEOUT": "3",
        "RUNYARD_DOORS__TANGO__MEMBERS": "autonn=http://127.0.0.1:9",
        "TANGO_BMS_URL": "http://127.0.0.1:9",
    }
    server = Server(tmp_path_factory.mktemp("server"), env=settings)
    try:
        yield server.start()
    finally:
        server.close()


@pytest.fixture
def member() -> Iterator[FakeMember]:
    with members(FakeMember()) as (fake,):
        yield fake


def create(http: httpx2.Client, name: str, *steps: Json, start: bool = True, **fields: Any) -> Json:
    body = {"name": name, "user_id": "u", **({"steps": list(steps)} if steps else {}), **fields}
    answer = http.post(PROJECTS, json=body, params={"start": "true"} if start else {})
    assert answer.status_code == 201, answer.text
    found: Json = answer.json()
    return found


def show(http: httpx2.Client, ref: str) -> Json:
    found: Json = http.get(f"{PROJECTS}/{ref}").json()
    return found


def act(http: httpx2.Client, ref: str, action: str, code: int = 200, **body: Any) -> Json:
    answer = http.post(f"{PROJECTS}/{ref}/{action}", json=body)
    assert answer.status_code == code, answer.text
    found: Json = answer.json()
    return found


def until(http: httpx2.Client, ref: str, phase: str) -> Json:
    """The project once it stands so, and its job with it if it is over."""

    def good(project: Json) -> bool:
        return project["phase"] == phase and (phase not in ("completed", "failed", "stopped") or project["ended_at"])

    return ask_until(lambda: show(http, ref), good, what=f"project {ref} being {phase}")


def until_step(http: httpx2.Client, ref: str, container: str, *phases: str) -> Json:
    def step(project: Json) -> Json:
        found: Json = next(step for step in project["steps"] if step["container"] == container)
        return found

    return step(
        ask_until(lambda: show(http, ref), lambda found: step(found)["phase"] in phases, what=f"{container} {phases}")
    )


def steps_of(project: Json) -> dict[str, str]:
    return {step["container"]: step["phase"] for step in project["steps"]}


def test_a_project_of_all_three_kinds_of_members_runs_to_its_end(
    server: Server, http: httpx2.Client, member: FakeMember
) -> None:
    project = create(
        http,
        "kinds",
        {"container": "labeling", "url": member.url, "inputs": {"dataset": "coco 128"}},
        {"container": "train", "command": ["sh", "-c", "echo $TANGO_USER_ID/$TANGO_PROJECT_ID; echo w > weights; pwd"]},
        {"container": "codeGen", "url": member.url, "url_style": "query"},
        dataset="coco128",
        target="Jetson_Nano",
    )
    ref = project["id"]
    until_step(http, ref, "labelling", "running")
    why = http.get(f"/api/v1/jobs/{ref}/why").json()
    assert "waits for labelling" in why["summary"]
    assert why["blockers"][0]["url"] == member.url
    member.finish()
    assert report(server.url, '"labeling"', "u", ref, "'success'") == 200
    until_step(http, ref, "code_gen", "started", "running")
    # A second report of the first step is late, and one of a step that did nothing is heard.
    assert report(server.url, "labelling", "u", ref, "failed") == 200
    assert report(server.url, "code_gen", "u", ref, "success", form="query") == 200
    over = until(http, ref, "completed")
    assert steps_of(over) == {"labelling": "completed", "train": "completed", "code_gen": "completed"}
    job = http.get(f"/api/v1/jobs/{ref}").json()
    assert (job["kind"], job["state"], job["exit_code"], job["name"]) == ("project", "succeeded", 0, "kinds")
    # The wire: ids by name, the user's first, more parameters behind them; the query form where it is wanted.
    starts = [call.target for call in member.calls if call.operation == START]
    assert starts == [
        f"/start?user_id=u&project_id={ref}&dataset=coco%20128",
        f"/?start&user_id=u&project_id={ref}",
    ]
    # The folder: what the manager writes, what a local step wrote, and the log.
    folder = Path(over["folder"])
    files = http.get(f"{PROJECTS}/{ref}/files").json()["files"]
    assert files["project_info"]["target_info"] == "jetson_nano" and files["project_info"]["memory"] == 4
    assert (folder / "weights").read_text() == "w\n"
    log = (folder / "log.txt").read_text()
    assert log == http.get(f"/api/v1/jobs/{ref}/logs").text
    assert "labelling | reports success" in log and "project | completed" in log
    train = next(step["job"] for step in over["steps"] if step["container"] == "train")
    assert http.get(f"/api/v1/jobs/{train}/logs").text == f"u/{ref}\n{folder}\n"
    assert http.get(f"/api/v1/jobs/{train}").json()["labels"] == {"project": ref, "container": "train"}
    events = [
        event["data"]
        for event in http.get("/api/v1/events", params={"job": ref, "type": "project.step"}).json()["items"]
    ]
    assert [data["container"] for data in events if data["status"] == "completed"] == ["labelling", "train", "code_gen"]
    # Gone, with its job and its folder.
    assert http.delete(f"{PROJECTS}/{ref}").status_code == 204
    assert http.get(f"{PROJECTS}/{ref}").status_code == 404
    assert http.get(f"/api/v1/jobs/{ref}").status_code == 404
    assert not folder.exists()


def test_polling_alone_moves_a_project(http: httpx2.Client) -> None:
    with members(FakeMember(quoted=True), FakeMember(forms=("query",))) as (one, two):
        ref = create(http, "polled", {"container": "one", "url": one.url}, {"container": "two", "url": two.url})["id"]
        until_step(http, ref, "one", "running")
        one.finish()
        until_step(http, ref, "two", "running")
        two.finish()
        until(http, ref, "completed")
        assert one.count(START) == two.count(START) == 1
        assert one.count(STOP) == two.count(STOP) == 0


def test_a_project_is_a_job(http: httpx2.Client, member: FakeMember, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gate")
    first = submit(http, name="data", command=["sh", "-c", "read x < gate"], cwd=str(tmp_path))
    project = create(http, "as-a-job", {"container": "a", "url": member.url, "needs": [first["id"]]}, start=False)
    ref = project["id"]
    assert (project["phase"], project["state"]) == ("ready", "pending")
    after = submit(http, name="follows", command=["true"], after=["as-a-job"])
    # Any door starts it: it is a job that is held.
    assert http.patch(f"/api/v1/jobs/{ref}", json={"hold": False}).status_code == 200
    step = until_step(http, ref, "a", "waiting")
    waiting = ask_until(lambda: until_step(http, ref, "a", "waiting"), lambda step: "needs job" in step["waits_for"])
    assert step["container"] == waiting["container"]
    (tmp_path / "gate").write_text("go\n")
    until_step(http, ref, "a", "running")
    # Any door stops it, and its member with it.
    http.post(f"/api/v1/jobs/{ref}/cancel", json={})
    assert until(http, ref, "stopped")["state"] == "cancelled"
    assert member.count(STOP) == 1
    assert ended(http, after["id"])["state"] == "failed"
    # Any door starts it again.
    assert http.post(f"/api/v1/jobs/{ref}/restart", json={}).status_code == 200
    until_step(http, ref, "a", "running")
    member.finish()
    assert until(http, ref, "completed")["steps"][0]["run"] == 2
    bad = http.post("/api/v1/jobs", json={"command": ["x"], "executor": "project"})
    assert bad.status_code == 400 and "/api/v1/projects" in bad.json()["detail"]


def test_a_project_that_ends_before_it_was_started(http: httpx2.Client) -> None:
    step = {"container": "a", "command": ["true"]}
    assert ended(http, submit(http, name="spoilt", command=["false"])["id"])["state"] == "failed"
    over = until(http, create(http, "hopeless", step, after=["spoilt"])["id"], "failed")
    assert "spoilt" in over["reason"] and over["status"] == "failed"
    ref = create(http, "hasty", step, start=False)["id"]
    assert act(http, ref, "stop")["status"] == "stopped"
    # It comes back held as it was, and is started nevertheless.
    act(http, ref, "start")
    until(http, ref, "completed")


def test_of_projects_with_one_id_only_the_first_is_made(server: Server) -> None:
    def make(number: int) -> int:
        body = {"name": f"same-{number}", "user_id": "u", "project_id": "same", "steps": [{"container": "user_edit"}]}
        with server.http() as http:
            return http.post(PROJECTS, json=body).status_code

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(make, range(4))) == [201, 409, 409, 409]


def test_step_by_step(http: httpx2.Client, member: FakeMember) -> None:
    steps = [{"container": "a", "url": member.url}, {"container": "user_edit"}, {"container": "b", "url": member.url}]
    ref = create(http, "manual", *steps, start=False, project_type="manual")["id"]
    assert act(http, "manual", "advance", 409)["code"] == "conflict"
    act(http, "manual", "start")
    until_step(http, ref, "a", "running")
    act(http, "manual", "start", 409)
    assert http.delete(f"{PROJECTS}/manual").status_code == 409
    member.finish()
    act(http, ref, "report", container="a", status="success")
    assert until_step(http, ref, "a", "completed")["run"] == 1
    assert act(http, ref, "advance")["waits_for"] == [
        "user_edit: it needs a person's confirmation: runyard project advance"
    ]
    # That is nobody's who has no credentials.
    said = {"container_id": "user_edit", "user_id": "u", "project_id": ref, "status": "success"}
    assert http.get("/status_report", params=said).status_code == 400
    act(http, ref, "advance")
    assert act(http, ref, "advance", 400, container="nothing")["errors"][0]["field"] == "container"
    act(http, ref, "advance", container="b")
    until_step(http, ref, "b", "running")
    # A failure ends it; the next start goes on there, a fresh one at the beginning.
    member.finish("failed")
    act(http, ref, "report", container="b", status="failed")
    assert "b failed" in until(http, ref, "failed")["reason"]
    act(http, ref, "start")
    assert steps_of(show(http, ref)) | {"b": ""} == {"a": "completed", "user_edit": "completed", "b": ""}
    until_step(http, ref, "b", "running")
    act(http, ref, "stop")
    until(http, ref, "stopped")
    act(http, ref, "start", fresh=True)
    until_step(http, ref, "a", "running")
    act(http, ref, "stop")
    until(http, ref, "stopped")


def test_members_of_two_projects_take_turns(http: httpx2.Client, member: FakeMember) -> None:
    step = {"container": "only", "url": member.url}
    first, second = create(http, "turn-1", step)["id"], None
    until_step(http, first, "only", "running")
    second = create(http, "turn-2", step)["id"]
    waiting = ask_until(
        lambda: until_step(http, second, "only", "waiting"), lambda step: "project turn-1" in step["waits_for"]
    )
    assert waiting["run"] == 1
    member.finish()
    until_step(http, second, "only", "running")
    member.finish()
    until(http, first, "completed")
    until(http, second, "completed")
    assert member.count(START) == 2


def test_a_failed_local_step_can_be_deleted_at_once(http: httpx2.Client) -> None:
    ref = create(http, "fails", {"container": "a", "command": ["sh", "-c", "exit 3"]})["id"]
    over = until(http, ref, "failed")
    assert "exit code 3" in over["reason"]
    job = over["steps"][0]["job"]
    assert http.delete(f"/api/v1/jobs/{job}").status_code == 204
    assert http.delete(f"{PROJECTS}/fails").status_code == 204


def test_telemetry_becomes_events_and_never_shows_what_is_no_number(
    server: Server, http: httpx2.Client, member: FakeMember
) -> None:
    ref = create(http, "measured", {"container": "autonn", "url": member.url})["id"]
    task = {"container_id": "autonn", "user_id": "u", "project_id": ref}
    loss = '{"epoch": 1, "box": Infinity, "cls": NaN, "class": 2}'
    for body in (
        json.dumps(task | {"update_id": "train_loss", "update_content": loss}),
        json.dumps(task | {"update_id": "system", "update_content": {"torch": "2"}}),
    ):
        answer = http.post("/status_update", content=body, headers={"Content-Type": "text/json"})
        assert (answer.status_code, answer.json()) == (200, {"status": 200})
    answer = http.get("/status_update/", params=task | {"update_id": "anchors", "update_content": '{"x": 1}'})
    assert answer.status_code == 200
    kept = http.get(f"{PROJECTS}/{ref}/metrics").json()["containers"]["autonn"]
    assert kept["train_loss"] == {"epoch": 1, "box": None, "cls": None, "class_type": 2}
    assert kept["progress"] == 3.0
    items = http.get("/api/v1/events", params={"job": ref, "type": "project.metrics"}).json()["items"]
    assert [item["data"]["update"] for item in items] == ["train_loss", "system", "anchors"]
    curves = http.get(f"/api/v1/jobs/{ref}/metrics").json()["items"]
    assert {curve["name"]: curve["last"] for curve in curves} == {
        "autonn.train_loss.epoch": 1,
        "autonn.train_loss.class_type": 2,
        "autonn.anchors.x": 1,
    }
    # A kind of the member's own that is called as the mark is.
    assert http.post("/status_update", json=task | {"update_id": "progress"}).status_code == 200
    assert http.post("/status_update", json=task | {"update_id": "train_end"}).status_code == 200
    assert http.get(f"{PROJECTS}/{ref}/metrics").json()["containers"]["autonn"]["progress"] == 4.0
    bad = http.post("/status_update", json=task | {"update_id": "x", "update_content": "{"})
    assert bad.status_code == 400 and bad.json()["status"] == "error"
    act(http, ref, "stop")
    until(http, ref, "stopped")


def test_readiness_and_configured_addresses(http: httpx2.Client, member: FakeMember) -> None:
    ref = create(
        http,
        "ready",
        {"container": "bms"},
        {"container": "autonn"},
        {"container": "neck_nas", "url": member.url},
        {"container": "local", "command": ["true"]},
        start=False,
    )["id"]
    found = {item["container"]: item for item in http.get(f"{PROJECTS}/{ref}/members").json()["items"]}
    assert [found[name]["ready"] for name in ("bms", "autonn", "neck_nas", "local")] == [False, False, True, True]
    assert found["bms"]["url"] == found["autonn"]["url"] == "http://127.0.0.1:9"
    assert "no connection to 127.0.0.1:9" in found["bms"]["said"]
    calls = [call for call in member.calls if call.operation == STATUS_REQUEST]
    assert calls and all((call.user, call.project) == ("", "") for call in calls)
    assert http.delete(f"{PROJECTS}/{ref}").status_code == 204
    chain = create(http, "chain", start=False, visualiser=True, nas_type="neck_nas", target="K8S")
    assert [(step["container"], step["url"]) for step in chain["steps"]] == [
        ("bms", "http://127.0.0.1:9"),
        ("vis2code", "http://visualization:8091"),
        ("neck_nas", "http://neck_nas:8089"),
        ("code_gen", "http://codeGen:8888"),
        ("cloud_deploy", "http://cloud-deploy:8890"),
    ]
    assert http.delete(f"{PROJECTS}/chain").status_code == 204


def _hang(handler: BaseHTTPRequestHandler) -> None:
    """Says nothing until the caller has gone."""
    handler.connection.settimeout(60)
    while handler.connection.recv(4096):
        pass


def _flood(handler: BaseHTTPRequestHandler) -> None:
    """1 GB, for whoever wants it."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(1 << 30))
    handler.end_headers()
    try:
        for _ in range(1 << 14):
            handler.wfile.write(b"x" * 65536)
    except OSError:
        return


def _late_end(handler: BaseHTTPRequestHandler) -> None:
    """The first word of the reply, and no end (HTTP/1.0, as old ondevice members have it)."""
    handler.wfile.write(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nstarting")
    handler.wfile.flush()
    _hang(handler)


@pytest.mark.parametrize(
    ("what", "answer", "reason"),
    [
        ("500", Said(b"<h1>Server Error</h1>", 500, "text/html"), "refused: HTTP 500"),
        ("html", Said(b"<!DOCTYPE html><p>" + b"x" * 100_000, 200, "text/html"), "to start"),
        ("missing", Said(b"<!DOCTYPE html>", 404, "text/html"), "does not understand start"),
        ("json", Said(b'{"status_code":400,"detail":"failed"}', 200, "application/json"), "refused: 'failed'"),
        ("gigabyte", _flood, "to start"),
        ("nothing", _hang, "did not answer in time"),
    ],
)
def test_what_bad_members_answer_to_start(
    http: httpx2.Client, what: str, answer: Said | Callable[[BaseHTTPRequestHandler], None], reason: str
) -> None:
    bad = FakeMember()
    bad.answers = {START: answer, STATUS_REQUEST: Said(b"ready")}
    with members(bad):
        ref = create(http, f"bad-{what}", {"container": "a", "url": bad.url})["id"]
        over = until(http, ref, "failed")
        assert reason in over["reason"]
        assert bad.count(START, ref) == (2 if what == "missing" else 1)


def test_a_start_reply_without_an_end_is_taken_and_strange_beats_do_no_harm(http: httpx2.Client) -> None:
    odd = FakeMember()
    odd.answers = {START: _late_end}
    with members(odd):
        ref = create(http, "odd", {"container": "a", "url": odd.url})["id"]
        until_step(http, ref, "a", "started", "running")
        for answer in (Said(b"<html>"), _flood, Said(b"", 500), Said(b"unknown")):
            seen = odd.count(STATUS_REQUEST, ref)
            odd.answers[STATUS_REQUEST] = answer
            odd.until_called(STATUS_REQUEST, ref, seen + 2)
        # The member is gone for a while, and comes back knowing its task.
        odd.stop()
        ask_until(lambda: show(http, ref)["steps"][0], lambda step: step["reachable"] is False, what="missed beats")
        odd.answers.clear()
        odd.start()
        odd.finish()
        until(http, ref, "completed")


def test_a_member_that_restarts_in_the_middle_has_lost_its_task(http: httpx2.Client, member: FakeMember) -> None:
    ref = create(http, "restarted", {"container": "a", "url": member.url})["id"]
    until_step(http, ref, "a", "running")
    member.states.clear()
    assert "lost_state" in until(http, ref, "failed")["reason"]


def test_a_report_before_the_start_reply(server: Server, http: httpx2.Client) -> None:
    quick = FakeMember()
    done = threading.Event()

    def before(user: str, project: str) -> None:
        report(server.url, "a", user, project, "success")
        done.set()

    quick.on_start = before
    with members(quick):
        ref = create(http, "quick", {"container": "a", "url": quick.url}, {"container": "b", "command": ["true"]})["id"]
        until(http, ref, "completed")
        assert done.is_set() and quick.count(START, ref) == 1


def _reported(manager: str, container: str, user: str, project: str) -> None:
    assert report(manager, container, user, project, "success") == 200


def test_fifty_projects_at_once_wait_for_nobody(server: Server, http: httpx2.Client) -> None:
    slow = FakeMember()
    slow.answers = {START: _hang}
    one, two = FakeMember(), FakeMember()
    for name, fake in (("a", one), ("b", two)):
        fake.on_start = partial(_reported, server.url, name)
    with members(slow, one, two):
        stuck = create(http, "stuck", {"container": "a", "url": slow.url}, heartbeat=2)["id"]
        steps = [{"container": name, "url": fake.url, "concurrency": 50} for name, fake in (("a", one), ("b", two))]
        refs = [create(http, f"crowd-{number}", *steps, heartbeat=5)["id"] for number in range(50)]
        for ref in refs:
            assert ended(http, ref)["state"] == "succeeded"
        assert one.count(START) == two.count(START) == 50
        act(http, stuck, "stop")
        until(http, stuck, "stopped")
        page = http.get(PROJECTS, params={"limit": 20}).json()
        assert len(page["items"]) == 20
        rest = http.get(PROJECTS, params={"limit": 1000, "cursor": page["next"]}).json()
        assert {ref for ref in refs} <= {item["id"] for item in page["items"] + rest["items"]}


# Bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "project"),
        ({"name": ""}, "name"),
        ({"name": "a/b", "steps": [{"container": "x", "command": ["true"]}]}, "name"),
        ({"name": "x", "colour": "red"}, "colour"),
        ({"name": "x", "user_id": "../up"}, "user_id"),
        ({"name": "x", "project_id": "a/b"}, "project_id"),
        ({"name": "x", "project_type": "magic"}, "project_type"),
        ({"name": "x", "steps": [{"container": "mine"}]}, "steps"),
        ({"name": "x", "steps": [{"container": "a b", "command": ["true"]}]}, "steps[0].container"),
        ({"name": "x", "steps": [{"container": "a", "url": "file:///etc/passwd"}]}, "steps[0].url"),
        ({"name": "x", "steps": [{"container": "a", "url": "http://h", "command": ["true"]}]}, "steps[0].command"),
        ({"name": "x", "steps": [{"container": "a", "command": []}]}, "steps[0].command"),
        ({"name": "x", "steps": [{"container": "a", "job": {"script": "x", "hold": True}}]}, "steps[0].job.hold"),
        ({"name": "x", "steps": [{"container": "a", "command": ["x"], "after": ["b"]}]}, "steps[0].after"),
        ({"name": "x", "steps": [{"container": "bms"}, {"container": "bms"}]}, "steps[1].container"),
        ({"name": "x", "steps": [{"container": "a", "url": "http://h", "needs": ["nobody"]}]}, "steps.a.needs"),
        ({"name": "x", "steps": [{"container": "a", "url": "http://h", "when": {"no": "x"}}]}, "steps[0].when"),
        ({"name": "x", "heartbeat": "soon"}, "heartbeat"),
        ({"name": "x", "after": ["nobody"]}, "after[0]"),
    ],
)
def test_definitions_that_are_refused(http: httpx2.Client, body: Json, field: str) -> None:
    answer = http.post(PROJECTS, json=body)
    assert answer.status_code == 400, answer.text
    errors = answer.json()["errors"]
    assert errors[0]["field"] == field and errors[0]["rule"]


def test_bodies_that_are_no_definitions(http: httpx2.Client) -> None:
    for content in (b"", b"[]", b"{", b'"x"', b"\xff", b"[" * 100_000):
        assert http.post(PROJECTS, content=content).status_code == 400
    toml = {"Content-Type": "application/toml"}
    assert http.post(PROJECTS, content=b"name =", headers=toml).status_code == 400
    answer = http.post(
        PROJECTS, content=b'name = "toml"\n[[steps]]\ncontainer = "a"\ncommand = ["true"]\n', headers=toml
    )
    assert answer.status_code == 201
    again = http.post(PROJECTS, json={"name": "toml", "steps": [{"container": "a", "command": ["true"]}]})
    assert again.status_code == 409
    assert http.delete(f"{PROJECTS}/toml").status_code == 204
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/start"), ("GET", "/members"), ("GET", "/files")):
        assert http.request(method, f"{PROJECTS}/nobody{path}").status_code == 404
    assert http.get(PROJECTS, params={"cursor": "x"}).status_code == 400


def test_reports_that_are_refused(server: Server, http: httpx2.Client, member: FakeMember) -> None:
    ref = create(http, "reported", {"container": "bms", "url": member.url}, start=False)["id"]
    good = {"container_id": "bms", "user_id": "u", "project_id": ref, "status": "success"}
    for change, status in (
        ({"container_id": "nobody"}, 400),
        ({"container_id": "code_gen"}, 400),
        ({"container_id": ""}, 400),
        ({"user_id": '""'}, 400),
        ({"project_id": "1"}, 404),
        ({"user_id": "other"}, 404),
        ({"status": "well"}, 400),
        ({"status": ""}, 400),
    ):
        answer = http.get("/status_report", params=good | change)
        assert answer.status_code == status, change
        assert answer.json()["status"] == "error" and answer.json()["message"]
    assert http.get("/status_report", params=good).json() == {"status": 200}
    assert http.post("/status_report", data=good).json() == {"status": 200}
    assert http.post("/status_report", json=good).json() == {"status": 200}
    assert http.options("/status_report").status_code == 200
    assert http.get("/", params={"status_report": "", **good}).json() == {"status": 200}
    assert http.post("/status_report", content=b"{" * 200_000).status_code == 413
    # A page of somebody else can report, and nothing more.
    foreign = {"Host": "evil.example", "Origin": "http://evil.example"}
    assert http.get("/status_report", params=good, headers=foreign).status_code == 200
    assert http.post(PROJECTS, json={"name": "evil"}, headers=foreign).status_code == 403
    assert http.post(f"{PROJECTS}/{ref}/start", headers=foreign).status_code == 403
    assert http.delete(f"{PROJECTS}/{ref}").status_code == 204


def test_calls_on_the_wire_byte_by_byte(http: httpx2.Client) -> None:
    """What a member without any library gets, and may say, on a raw socket."""
    listener = socket.create_server(("127.0.0.1", 0))
    seen: list[bytes] = []

    def serve() -> None:
        replies = {b"/start": b"starting", b"/status": b"running", b"/stop": b"finished"}
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(60)
                request = b""
                while b"\r\n\r\n" not in request and (piece := connection.recv(4096)):
                    request += piece
                seen.append(request)
                target = request.split(b" ")[1] if b" " in request else b""
                body = next((said for prefix, said in replies.items() if target.startswith(prefix)), b"")
                connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n" + body)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        port = listener.getsockname()[1]
        ref = create(http, "raw", {"container": "a", "url": f"http://127.0.0.1:{port}", "url_style": "path"})["id"]
        until_step(http, ref, "a", "running")
        call = next(request for request in list(seen) if b"/start" in request)
        head = call.split(b"\r\n")
        assert head[0] == f"GET /start?user_id=u&project_id={ref} HTTP/1.1".encode()
        assert b"Content-Type: text/plain" in head and f"Host: 127.0.0.1:{port}".encode() in head
    finally:
        listener.close()
        # Closing alone does not wake a thread that waits.
        time.sleep(0)
    http.post(f"{PROJECTS}/{ref}/stop", json={})
    assert state_of(http, ref, "cancelled")["state"] == "cancelled"
