"""Tasks of the K12AI door, from the request to the one terminal message (spec/k12ai.md, 1.4 and 4)."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import wait_until
from tests.system.k12ai import ENDS, OK, Door, serve_door
from tests.system.server import Server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = serve_door(tmp_path_factory.mktemp("k12ai"), "[messages]\nmax_rate = 500")
    try:
        yield server.start()
    finally:
        server.close()


@pytest.fixture(scope="module")
def door(server: Server) -> Iterator[Door]:
    door = Door(server)
    yield door
    door.http.close()


def test_a_training_from_start_to_end(door: Door, tmp_path: Path) -> None:
    project = door.project()
    go = tmp_path / "go"
    said = [
        {"type": "status", "body": {"status": "running"}},
        {"type": "metrics", "body": {"loss": 0.5, "step": 1}},
        "an ordinary line",
        {"type": "predict", "body": {"index": 0, "prediction": "{}"}},
        {"type": "status", "body": {"status": "finished", "memstat": {"app_cpu_memory_usage_MB": 4.5}}},
    ]
    params = {"say": said, "show": True, "solver.max_epoch": 3, "_k12.model.resume": False, "wait": str(go)}
    assert project.ask("train.start", params) == OK
    assert project.ask("train.start", params) == 100204
    assert project.ask("evaluate.start") == 100204
    assert project.ask("train.resume") == 100204
    project.until(100002)
    listed = door.http.get("/k12ai/jobs", params={"service_uuid": project.uuid}).json()["data"]
    assert [(task["op"], task["live"], task["code"]) for task in listed] == [("train.start", True, 100002)]
    go.touch()
    last = project.until(100003)
    assert project.codes() == [100001, 100002, 100003]
    assert last["data"]["expand"]["memstat"] == {"app_cpu_memory_usage_MB": 4.5}
    assert isinstance(last["data"]["expand"]["uptime"], int)
    assert [message["metrics"] for message in project.of("metrics")] == [{"loss": 0.5}]
    assert project.of("predict")[0]["predict"] == {"index": 0, "prediction": "{}"}
    [info] = project.of("info")
    shown = info["info"]
    assert shown["config"]["solver"] == {"max_epoch": 3} and "_k12" not in shown["config"]
    assert shown["config"]["network"] == {"resume": False}
    assert shown["env"]["K12AI_OP"] == "train.start" and shown["env"]["K12AI_TOKEN"] == "t-1"
    assert shown["env"]["K12AI_UUID"] == project.uuid and shown["env"]["K12AI_CONFIG"] == shown["argv"][0]
    for message in project.seen:
        assert (message["op"], message["user"], message["service_uuid"]) == ("train.start", "u1", project.uuid)
        assert (message["appId"], message["token"], message["tag"]) == (project.app, "t-1", "framework")
    numbers = [message["seq"] for message in project.seen]
    assert len(set(numbers)) == len(numbers)
    job = door.http.get(f"/api/v1/jobs/{listed[0]['job']}").json()
    assert (job["origin"], job["kind"], job["state"]) == ("k12ai", "task", "succeeded")
    assert job["labels"]["k12ai.service.uuid"] == project.uuid


@pytest.mark.parametrize(("action", "code"), [("stop", 100004), ("pause", 100005), ("rob", 100006)])
def test_the_ways_to_end_one(door: Door, action: str, code: int) -> None:
    project = door.project()
    assert project.ask(f"train.{action}") == 100205
    assert project.ask("train.start", {"wait": "/no/such/file"}) == OK
    project.until(100002)
    # Whatever the phase: there is one task of a project.
    assert project.ask("predict.stop" if action == "stop" else f"train.{action}") == OK
    last = project.until(code)
    assert last["op"] == "train.start" and project.codes() == [100001, 100002, code]
    assert project.ask(f"train.{action}") == 100205


def test_pause_resume_and_what_is_stored(door: Door, server: Server) -> None:
    project = door.project()
    assert project.ask("train.resume") == OK
    project.until(100214)
    assert project.ask("evaluate.start") == OK
    project.until(100209)
    assert project.ask("train.start", {"wait": "/no/such/file", "lr": 0.1, "solver.steps": 5}) == OK
    project.until(100002)
    assert project.ask("train.pause") == OK
    project.until(100005)
    checkpoint = server.data / "k12ai" / "u1" / project.uuid / "cache" / "ckpt"
    checkpoint.mkdir()
    end = {"wait": "/", "show": True, "solver.epochs": 2, "leave": "model/best"}
    assert project.ask("train.resume", end) == OK
    assert project.until(100003)["op"] == "train.resume"
    [info] = project.of("info")
    config = info["info"]["config"]
    assert config["lr"] == 0.1 and config["solver"] == {"steps": 5, "epochs": 2}
    assert config["network"] == {"resume": True} and checkpoint.is_dir()
    assert project.ask("evaluate.start", {"say": [], "show": True}) == OK
    assert project.until(100003)["op"] == "evaluate.start"
    assert project.of("info")[1]["info"]["config"]["lr"] == 0.1
    assert project.ask("train.start", {}) == OK
    project.until(100003)
    assert not checkpoint.exists()


def test_evaluate_needs_a_model(door: Door) -> None:
    project = door.project()
    assert project.ask("train.start") == OK
    project.until(100003)
    assert project.ask("predict.start") == OK
    assert "model/best" in project.until(100208)["error"]["message"]


@pytest.mark.parametrize(
    ("params", "code", "detail"),
    [
        ({"fail": "lr"}, 100913, {"exc_type": "KeyError", "exc_text": "'lr'"}),
        ({"exit": 3, "say": ["last words"]}, 100299, {"exc_type": "SystemExit", "exc_text": "exit code 3"}),
        (
            {"say": [{"type": "error", "body": {"status": "error", "code": 100212, "message": "no data"}}]},
            100212,
            None,
        ),
        (
            {
                "say": [
                    {"type": "error", "body": {"status": "crash", "err_type": "IndexError", "err_text": "3"}},
                    {"type": "error", "body": {"status": "crash", "err_type": "NameError", "err_text": "x"}},
                    {"type": "status", "body": {"status": "finished"}},
                ],
                "exit": 1,
            },
            100911,
            {"exc_type": "IndexError", "exc_text": "3"},
        ),
    ],
)
def test_crashes(door: Door, params: dict[str, Any], code: int, detail: dict[str, str] | None) -> None:
    project = door.project()
    assert project.ask("train.start", params) == OK
    error = project.until(code)["error"]
    assert project.codes() == [100001, 100002, code]
    if detail is None:
        assert "detail" not in error and error["message"] == "no data"
    else:
        assert {key: error["detail"][key] for key in detail} == detail
    if "fail" in params:
        frame = error["detail"]["traceback"][-1]
        assert frame["filename"] == "program.py" and frame["source"] == '{}[config["fail"]]' and frame["linenum"] > 10
    if params.get("exit") == 3:
        info = project.seen[-1]["data"]["expand"]["errinfo"]
        assert info["exit_code"] == 3 and info["log"][-1] == "last words"


@pytest.mark.parametrize(
    ("op", "service", "params", "code"),
    [
        ("train.start", "nowhere", {}, 100202),
        ("predict.start", "nowhere", {}, 100902),
        ("train.start", "strict", {"lr": 1}, 100216),
        ("train.start", "strict", {"_k12.data.dataset_name": "d"}, 100233),
        ("predict.start", "k12cv", {}, 100213),
        ("predict.start", "k12cv", {"_k12.predict_images": "x"}, 100215),
        ("train.start", "k12nlp", {".".join("a" * 40): 1}, 100231),
        ("runcode.start", "k12pyr", {}, 100233),
        ("train.start", "k12pyr", {}, 100902),
    ],
)
def test_what_goes_wrong_before_the_start(door: Door, op: str, service: str, params: dict[str, Any], code: int) -> None:
    project = door.project()
    assert project.ask(op, params, service_name=service) == OK
    message = project.until(code)
    assert message["op"] == op and message["error"]["message"]
    # The project is free again.
    assert project.ask(op, params, service_name=service) == OK
    project.until(code)


def test_pictures_are_unpacked(door: Door) -> None:
    project = door.project()
    content = base64.b64encode(b"PNG").decode()
    params = {"_k12.predict_images": [{"name": "a.png", "content": content}], "show": True}
    assert project.ask("predict.start", params, service_name="k12cv") == OK
    project.until(100003)
    [path] = project.of("info")[0]["info"]["config"]["predict_images"]
    assert Path(path).read_bytes() == b"PNG"


def test_a_service_that_says_itself_that_it_runs(door: Door, tmp_path: Path) -> None:
    project, go = door.project(), tmp_path / "go"
    said = [{"type": "status", "body": {"status": "running", "memstat": {"app_cpu_memory_usage_MB": 1.0}}}]
    assert project.ask("train.start", {"say": said, "wait": str(go)}, service_name="speaks") == OK
    query = {"service_uuid": project.uuid}
    wait_until(lambda: door.http.get("/k12ai/jobs", params=query).json()["data"][0]["code"] == 100002)
    go.touch()
    project.until(100003)
    assert project.codes() == [100001, 100002, 100003]
    assert project.of("error")[1]["data"]["expand"]["memstat"]


def test_metrics_by_rules(door: Door) -> None:
    project = door.project()
    assert project.ask("train.start", {"say": ["step 1 loss=0.25"]}, service_name="rules") == OK
    project.until(100003)
    assert [message["metrics"] for message in project.of("metrics")] == [{"loss": 0.25}]


def test_user_code(door: Door) -> None:
    project = door.project()
    code = "print('hello')\ndef f():\n    return 1 / 0\nf()\n"
    assert project.ask("runcode.start", {"code": code}, service_name="k12pyr") == OK
    error = project.until(100930)["error"]
    assert [frame["filename"] for frame in error["detail"]["traceback"]] == ["pyrcode", "pyrcode"]
    assert "hello\n" in "".join(message["runlog"]["log"] for message in project.of("runlog"))
    assert project.codes() == [100001, 100002, 100930]


def test_of_a_hundred_starts_at_once_one_wins(door: Door, tmp_path: Path) -> None:
    project = door.project()
    go = tmp_path / "go"

    def start(_: int) -> int:
        return project.ask("train.start", {"wait": str(go)})

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(start, range(100)))
    assert sorted(answers) == [OK, *[100204] * 99]
    go.touch()
    project.until(100003)
    assert project.codes() == [100001, 100002, 100003]


def test_a_flood_is_sampled_with_a_notice_and_its_end_is_told(door: Door) -> None:
    project = door.project()
    assert project.ask("train.start", {"flood": 20_000}) == OK
    project.until(100003)
    assert project.codes() == [100001, 100002, 100003]
    assert len(project.of("metrics")) < 20_000
    notices = [message["info"] for message in project.of("info") if message["info"].get("code") == "dropped"]
    assert sum(notice["count"] for notice in notices) + len(project.of("metrics")) == 20_000


def test_stopped_by_another_door_or_brought_back(door: Door) -> None:
    project = door.project()
    assert project.ask("train.start", {"wait": "/no/such/file"}) == OK
    project.until(100002)
    [task] = door.http.get("/k12ai/jobs", params={"service_uuid": project.uuid}).json()["data"]
    assert door.http.post(f"/api/v1/jobs/{task['job']}/cancel").status_code == 200
    project.until(100004)
    assert door.http.post(f"/api/v1/jobs/{task['job']}/restart").status_code == 200
    project.until(100002)
    assert project.ask("train.stop") == OK
    project.until(100004)
    assert project.codes() == [100001, 100002, 100004] * 2


def test_the_log_is_that_of_a_job(door: Door, server: Server) -> None:
    project = door.project()
    assert project.ask("train.start", {"say": ["plain"]}) == OK
    project.until(100003)
    [task] = door.http.get("/k12ai/jobs", params={"service_uuid": project.uuid}).json()["data"]
    text = wait_until(lambda: server.get(f"/api/v1/jobs/{task['job']}/logs").text)
    assert "plain" in text
    assert task["live"] is False and task["code"] in ENDS and json.dumps(task)
