"""Telemetry as its readers get it, of a server that finds two (made-up) GPUs and a Docker Engine on its host."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from runyard.client import Client
from tests import nvml
from tests.docker_engine import Box, Engine
from tests.system.server import Server, ask_until

MB = 1 << 20
LABELS = {
    "k12ai.service.name": "k12cv", "k12ai.service.op": "train.start",
    "k12ai.service.user": "u1", "k12ai.service.uuid": "p42",
}  # fmt: skip


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine() as engine:
        engine.boxes = [Box("a1", "k12", LABELS), Box("b2", "other", {"x": "y"})]
        yield engine


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, engine: Engine) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    env = nvml.build(folder) | {
        "RUNYARD_TELEMETRY__DOCKER": engine.address,
        "RUNYARD_TELEMETRY__INTERVAL": "0.1",
        "RUNYARD_TELEMETRY__BACKGROUND": "0.2",
        "RUNYARD_TELEMETRY__LINGER": "1",
        "RUNYARD_TELEMETRY__POINTS": "10000",
        "RUNYARD_DOORS__K12AI__STATS_INTERVAL": "0.3",
        "RUNYARD_DOORS__K12AI__STATS_ALWAYS_PUSH": "true",
    }
    server = Server(folder, env=env)
    try:
        yield server.start()
    finally:
        server.close()


@pytest.fixture
def gpu_processes(server: Server) -> Iterator[Path]:
    """The file with the processes of the GPUs."""
    path = server.folder / "processes"
    yield path
    path.unlink(missing_ok=True)


def job_on_a_gpu(client: Client, gpu_processes: Path, name: str, **spec: Any) -> str:
    """A job whose main process has 100 MB and 30 % of the first GPU; its id."""
    job = client.submit({"script": "while :; do :; done & sleep 600", "name": name, **spec})
    pid = ask_until(lambda: client.job(job.id), lambda found: found.runs and found.runs[0].pid).runs[0].pid
    gpu_processes.write_text(f"{pid} 0 {100 * MB} 30 5\n")
    return job.id


def test_a_node_shows_its_host_its_disks_and_its_gpus(http: httpx2.Client) -> None:
    items = ask_until(
        lambda: http.get("/api/v1/nodes").json()["items"],
        lambda items: all(not (item["host"] or {}).get("missing") for item in items),
    )
    host = next(item["host"] for item in items if item["executor"] == "local")
    assert all(item["host"] is None for item in items if item["executor"] != "local")
    assert len(host["cpus"]) > 0 and all(0 <= share <= 100 for share in host["cpus"])
    assert 0 < host["memory_used"] < host["memory_total"] and 0 < host["disk_free"] <= host["disk_total"]
    assert isinstance(host["disks"], list)
    first, second = host["gpus"]
    assert (first["name"], first["percent"], first["memory_used"]) == ("Fake GPU 0", 42.0, 300 * MB)
    assert (first["temperature"], first["power"]) == (55, 70.5)
    assert (second["percent"], second["temperature"]) == (0.0, None)


def test_the_use_of_a_job_now_and_in_the_past(http: httpx2.Client, client: Client, gpu_processes: Path) -> None:
    job = job_on_a_gpu(client, gpu_processes, "burns")

    def usage(query: str = "") -> Any:
        answer = http.get(f"/api/v1/jobs/{job}/usage{query}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def measured(doc: Any) -> object:
        runs = doc["runs"]
        return runs and runs[0]["cpu_seconds"] > 0.1 and runs[0]["processes"] == 3 and doc["history"]["gpu_memory"][-1]

    doc = ask_until(usage, measured, 60)
    (run,) = doc["runs"]
    assert (run["replica"], run["attempt"]) == (0, 1)
    assert run["memory"] > 0 and (run["gpu_percent"], run["gpu_memory"]) == (30.0, 100 * MB)
    assert doc["missing"] is None and doc["job"] == job
    history = doc["history"]
    assert len({len(column) for column in history.values()}) == 1
    assert history["at"] == sorted(history["at"])
    assert history["cpu_seconds"] == sorted(history["cpu_seconds"])
    assert client.usage(job).history["at"][0] == history["at"][0]
    assert doc["total"]["memory_peak"] >= max(history["memory"]) > 0
    # It goes on while nobody asks; `since` is for who has the beginning already.
    last = history["at"][-1]
    later = ask_until(lambda: usage(f"?since={last}"), lambda found: found["history"]["at"], 60)
    assert later["history"]["at"][0] > last
    client.cancel(job)
    client.wait(job, timeout=60)
    ended = usage()
    assert ended["runs"] == [] and "cancelled" in ended["missing"]
    assert ended["history"]["at"][: len(history["at"])] == history["at"]
    # The kernel's own account knows nothing of the loop, for which nobody has waited.
    assert ended["total"]["cpu_seconds"] >= history["cpu_seconds"][-1]


def test_a_job_without_processes_says_why_there_are_no_figures(http: httpx2.Client, client: Client) -> None:
    held = client.submit({"script": "true", "hold": True, "name": "waits"})
    doc = http.get(f"/api/v1/jobs/{held.id}/usage").json()
    assert doc["runs"] == [] and doc["history"]["at"] == []
    assert doc["missing"] == "the job is pending: it has no process now"
    assert doc["total"] == {"cpu_seconds": None, "memory_peak": None}
    client.cancel(held.id)


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/api/v1/jobs/nobody/usage", 404, "not_found"),
        ("/api/v1/jobs/nobody/usage?since=x", 400, "invalid_input"),
        ("/api/v1/jobs/nobody/usage?since=nan", 400, "invalid_input"),
        ("/api/v1/jobs/nobody/usage?since=1e999", 400, "invalid_input"),
    ],
)
def test_questions_that_cannot_be_answered(http: httpx2.Client, path: str, status: int, code: str) -> None:
    answer = http.get(path)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_prometheus_gets_host_gpus_and_jobs(http: httpx2.Client, client: Client, gpu_processes: Path) -> None:
    job = job_on_a_gpu(client, gpu_processes, "scraped")

    def scrape() -> str:
        answer = http.get("/metrics")
        assert answer.status_code == 200
        return answer.text

    mine = f'runyard_job_gpu_memory_bytes{{job="{job}",name="scraped"}} 1.048576e+08'
    text = ask_until(scrape, lambda text: mine in text, 60, mine)
    for line in (
        'runyard_telemetry_up{section="host"} 1.0',
        'runyard_telemetry_up{section="gpus"} 1.0',
        'runyard_gpu_ratio{gpu="0",name="Fake GPU 0",uuid="GPU-fake-0"} 0.42',
        'runyard_gpu_memory_bytes{gpu="1",kind="used",name="Fake GPU 1",uuid="GPU-fake-1"} 5.24288e+08',
        'runyard_host_memory_bytes{kind="total"}',
        "runyard_node_up{node=",
    ):
        assert f"\n{line}" in text
    # One family, one heading: the two parts of the page have no name in common.
    headings = [line for line in text.splitlines() if line.startswith("# TYPE ")]
    assert len(headings) == len(set(headings))
    client.cancel(job)


# In K12AI's words -------------------------------------------------------------------------------------------------

STATS, CONTROL = "/k12ai/platform/stats", "/k12ai/platform/control"
SEED = {"username": "test", "password": "test"}
LATE = {"op": "query", "user": "*", "service_uuid": "0"}


def ask(http: httpx2.Client, body: Any, path: str = STATS, code: int = 100000) -> Any:
    answer = http.post(path, json=body)
    assert answer.status_code == 200, answer.text
    doc = answer.json()
    assert doc["code"] == code, doc
    return doc


def popped(http: httpx2.Client, queue: str) -> Any:
    """The first message that comes out of a queue."""
    (message,) = ask_until(
        lambda: http.get("/k12ai/private/popmsg", params={"key": queue, "max": 1}).json(), lambda found: found, 60
    )
    return message


def test_the_document_s_question_and_its_answer_with_the_later_one_s_around_it(http: httpx2.Client) -> None:
    query = {"cpus": True, "gpus": True, "disks": False, "containers": True}
    # What Docker is slow to tell is left out.
    doc = ask_until(lambda: ask(http, {**SEED, "query": query}), lambda doc: doc["info"]["containers"], 60)
    assert (doc["version"], doc["type"], doc["tag"], doc["op"]) == ("0.1.0", "info", "platform", "stats")
    assert isinstance(doc["timestamp"], int) and len(doc["datetime"]) == 14
    assert doc["message"] == {"en": "success", "cn": "成功"}
    info = doc["info"]
    assert doc["data"] == info and "disks" not in info and "services" not in info
    assert len(info["cpu_percent_list"]) > 0 and 0 <= info["cpu_percent"] <= 100
    assert 0 < info["cpu_memory_usage"] < info["cpu_memory_total"]
    assert info["cpu_memory_total_MB"] == round(info["cpu_memory_total"] / MB, 3)
    first, _ = info["gpus"]
    assert (first["name"], first["gpu_percent"], first["gpu_memory_percent"]) == ("Fake GPU 0", 42.0, 30.0)
    assert (first["gpu_memory_total"], first["gpu_memory_usage"]) == (1000 * MB, 300 * MB)
    # Only the container with the label, with the figures that Docker's documents say.
    (box,) = [one for one in info["containers"] if one["id"] == "a1a1a1a1a1a1"]
    assert (box["op"], box["user"], box["service_uuid"]) == ("train.start", "u1", "p42")
    assert (box["cpu_percent"], box["cpu_memory_percent"]) == (50.0, 8.57)
    assert "b2b2b2b2b2b2" not in str(info)


def test_only_what_is_asked_for_comes(http: httpx2.Client) -> None:
    assert set(ask(http, {**LATE, "service_params": {"disks": True}})["info"]) == {"disks"}
    everything = ask(http, {})["info"]
    assert {"cpu_percent", "gpus", "disks", "containers"} <= everything.keys() and "services" not in everything
    nothing = ask(http, {**LATE, "service_params": {"cpus": False}})
    assert nothing["info"] == {} and "data" not in nothing
    mine = {**LATE, "user": "u1", "service_uuid": "p42", "service_params": {"containers": True}}
    ours = ask_until(lambda: ask(http, mine), lambda doc: doc["info"]["containers"], 60)
    assert [one["id"] for one in ours["info"]["containers"]] == ["a1a1a1a1a1a1"]
    other = ask(http, {**LATE, "user": "u1", "service_uuid": "p4", "service_params": {"containers": True}})
    assert other["info"] == {"containers": []}
    every = {**LATE, "service_params": {"services": True}}
    (service,) = ask_until(lambda: ask(http, every)["info"]["services"], bool, 60)
    assert (service["op"], service["service_pid"]) == ("train.start", 4321)
    assert service["service_starttime"] == "2026-11-22T08:00:00.5Z"


def test_an_asynchronous_answer_is_a_message_in_the_words_of_the_question(http: httpx2.Client) -> None:
    assert "data" not in ask(http, {**SEED, "appId": "seed-app", "async": True, "query": {"containers": False}})
    message = popped(http, "seed-app.info")
    assert (message["type"], message["tag"], message["op"], message["user"]) == ("info", "platform", "stats", "test")
    assert message["info"]["gpus"] == message["data"]["data"]["gpus"] and message["data"]["code"] == 100000
    ask(http, {**LATE, "appId": "late-app", "token": [1], "isasync": True, "service_params": {"cpus": True}})
    message = popped(http, "late-app.resource")
    assert (message["type"], message["op"], message["appId"], message["token"]) == (
        "resource",
        "query",
        "late-app",
        [1],
    )
    assert message["resource"]["cpu_memory_total"] > 0 and "gpus" not in message["resource"]


def test_messages_that_nobody_has_asked_for_as_the_server_is_set_up(http: httpx2.Client) -> None:
    message = popped(http, "k12ai.resource")
    assert (message["user"], message["service_uuid"], message["op"]) == ("admin", "admin", "query")
    assert message["resource"]["cpu_memory_total"] > 0 and len(message["resource"]["gpus"]) == 2
    answer = ask(http, {"appId": "always", "query": {"containers": False}})
    assert popped(http, "always.info")["info"].keys() == answer["info"].keys()


def test_a_job_of_any_door_is_shown_as_a_container_and_stopped_like_one(
    http: httpx2.Client, client: Client, gpu_processes: Path
) -> None:
    labels = {key: value.replace("p42", "p43") for key, value in LABELS.items()}
    task = job_on_a_gpu(client, gpu_processes, "task", labels=labels, limits={"memory": "1G"})
    other = client.submit({"command": ["sleep", "600"], "name": "other-door"}).id
    body = {**LATE, "service_params": {"containers": True, "services": True}}

    def loads() -> dict[str, Any]:
        return {one["service_uuid"]: one for one in ask(http, body)["info"]["containers"]}

    found = ask_until(loads, lambda found: found.get("p43", {}).get("gpu_memory_usage") and "other-door" in found, 60)
    load = found["p43"]
    assert (load["op"], load["user"], load["cpu_memory_total"]) == ("train.start", "u1", 1 << 30)
    assert (load["gpu_percent"], load["gpu_memory_percent"], load["gpu_memory_usage_MB"]) == (30.0, 5.0, 100.0)
    assert (found["other-door"]["op"], found["other-door"]["gpu_memory_usage"]) == ("", 0)
    services = {one["service_uuid"]: one for one in ask(http, body)["info"]["services"]}
    assert services.keys() == {"p42", "p43"} and services["p43"]["id"] == load["id"]
    # By the id among the containers, and by name; what has ended is there no more, and yet no error.
    ask(http, {"op": "container.stop", "params": {"id": load["id"]}}, CONTROL)
    assert client.wait(task, timeout=60).state == "cancelled"
    ask(http, {"op": "container.stop", "service_params": {"id": "other-door"}, "async": True}, CONTROL)
    client.wait(other, timeout=60)
    assert not loads().keys() & {"p43", "other-door"}
    ask(http, {"op": "container.stop", "service_params": {"id": task}}, CONTROL)


def test_a_container_is_stopped_and_its_queue_is_told(http: httpx2.Client, engine: Engine) -> None:
    box = Box("d4", "ends", {**LABELS, "k12ai.service.uuid": "p44"})
    engine.boxes.append(box)
    ask(http, {"op": "container.stop", "service_params": {"id": "d4d4"}}, CONTROL)
    assert not box.running
    message = popped(http, "talentai.error")
    assert (message["op"], message["user"], message["service_uuid"]) == ("train.start", "u1", "p44")
    assert message["error"]["code"] == message["data"]["code"] == 100004
    # It exists, and does not run: that is no error, and no second message.
    ask(http, {"op": "container.stop", "service_params": '{"id": "ends"}'}, CONTROL)
    assert http.get("/k12ai/private/popmsg", params={"key": "talentai.error"}).json() == []
    engine.boxes.remove(box)


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        (STATS, b"{", 100103),
        (STATS, b"[]", 100103),
        (STATS, b"\xff", 100103),
        (STATS, b'{"op": "container.stop"}', 100102),
        (STATS, b'{"query": 5}', 100102),
        (STATS, b'{"query": "{"}', 100101),
        (STATS, b'{"user": 5}', 100102),
        (STATS, b'{"async": "x"}', 100102),
        (CONTROL, b"{}", 100101),
        (CONTROL, b'{"op": "query"}', 100102),
        (CONTROL, b'{"op": {}, "params": {}}', 100102),
        (CONTROL, b'{"op": "container.stop"}', 100101),
        (CONTROL, b'{"op": "container.stop", "params": {}}', 100101),
        (CONTROL, b'{"op": "container.stop", "params": []}', 100102),
        (CONTROL, b'{"op": "container.stop", "params": {"id": 5}}', 100102),
        (CONTROL, b'{"op": "container.stop", "params": {"id": ""}}', 100102),
        (CONTROL, b'{"op": "container.stop", "params": {"id": "nobody"}}', 100205),
        (CONTROL, b'{"op": "container.stop", "params": {"id": "b2b2"}}', 100205),
        (CONTROL, b'{"op": "container.stop", "params": {"id": "../../x"}}', 100205),
        (CONTROL, b'{"op": "oss.remove", "params": {"bucket": "x"}}', 100950),
    ],
)
def test_bad_questions_are_answered_with_their_code(http: httpx2.Client, path: str, body: bytes, code: int) -> None:
    answer = http.post(path, content=body)
    assert (answer.status_code, answer.json()["code"]) == (200, code)
    if code == 100205:
        assert answer.json()["data"].startswith("container:")
