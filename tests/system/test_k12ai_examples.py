"""The frameworks of examples/k12ai, as their users start, watch and stop them: over K12AI's protocol."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from runyard.client import Client
from tests.helpers import deadline
from tests.system.native import JOBS, ended
from tests.system.server import Server

EXAMPLES = Path(__file__).parents[2] / "examples"
SEVEN = base64.b64encode((EXAMPLES / "flow" / "digits" / "seven.png").read_bytes()).decode()
STARTING, RUNNING, FINISHED, STOPPED, PAUSED = 100001, 100002, 100003, 100004, 100005
DATASET = {"_k12.data.dataset_name": "digits"}
Json = dict[str, Any]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server as `make run` configures it."""
    server = Server(tmp_path_factory.mktemp("k12ai"), "--config", str(EXAMPLES / "runyard.toml"))
    try:
        yield server.start()
    finally:
        server.close()


class Project:
    """One project, with queues of its own."""

    def __init__(self, http: httpx2.Client, service: str, uuid: str) -> None:
        self._http = http
        self._ids = {"user": "ann", "service_name": service, "service_uuid": uuid, "appId": f"app-{uuid}"}

    def ask(self, op: str, **params: Any) -> int:
        route = op.partition(".")[0] if op.endswith((".start", ".stop")) else "execute"
        answer = self._http.post(f"/k12ai/framework/{route}", json=self._ids | {"op": op, "service_params": params})
        assert answer.status_code == 200, answer.text
        return int(answer.json()["code"])

    def pop(self, type: str, wait: float = 0) -> list[Json]:
        query: Json = {"key": f"{self._ids['appId']}.{type}", "wait": wait}
        found: list[Json] = self._http.get("/k12ai/private/popmsg", params=query).json()
        assert all(message["type"] == type and message["user"] == "ann" for message in found)
        return found

    def all(self, type: str) -> list[Json]:
        """What is in the queue, to the last message: once the task has ended, nothing is missing."""
        found: list[Json] = []
        while part := self.pop(type):
            found += part
        return found

    def end(self) -> list[Json]:
        """The messages of type `error`, up to the one that ends the task."""
        told: list[Json] = []
        for _ in deadline(90, f"the end of {self._ids['service_uuid']}: {told}"):
            told += self.pop("error", wait=5)
            if told and told[-1]["error"]["code"] > RUNNING:
                return told
        raise AssertionError

    def learn(self, epochs: int) -> list[Json]:
        """Metrics, until so many epochs are through."""
        seen: list[Json] = []
        for _ in deadline(90, f"{epochs} epochs"):
            seen += self.pop("metrics", wait=5)
            if sum("val_accuracy" in message["metrics"] for message in seen) >= epochs:
                return seen
        raise AssertionError

    def done(self, op: str, **params: Any) -> None:
        assert self.ask(op, **params) == 100000
        assert codes(self.end()) == [STARTING, RUNNING, FINISHED]


def codes(told: list[Json]) -> list[int]:
    return [message["error"]["code"] for message in told]


def last_values(metrics: list[Json]) -> Json:
    values: Json = {}
    for message in metrics:
        values |= message["metrics"]
    return values


def items(metrics: list[Json], type: str) -> dict[str, Json]:
    """The typed objects, by title."""
    found = [item for message in metrics for item in message["data"] if item["type"] == type]
    return {item["data"]["title"]: item["data"] for item in found}


def steps(metrics: list[Json]) -> list[int]:
    charts = [items([message], "scalar").get("train_loss") for message in metrics]
    return [chart["payload"]["x"]["value"] for chart in charts if chart is not None]


def test_pictures_are_learned_judged_and_read(http: httpx2.Client, client: Client) -> None:
    project = Project(http, "k12cv", "pictures")
    project.done("train.start", **DATASET, **{"solver.max_epoch": 4})
    learned = project.all("metrics")
    assert steps(learned) == list(range(1, 4 * 45 + 1)), "one for each step, in order"
    values = last_values(learned)
    assert values["val_accuracy"] > 0.85 and values["train_progress"] == 100.0
    confusion = items(learned, "matrix")["val_confusion"]
    assert sum(map(sum, confusion["payload"])) == 360 and len(confusion["labels"]) == 10
    assert items(learned, "image")["train_filters"]["format"] == "base64string"
    assert items(learned, "text")["train_remain_time"]["payload"] == "0:00:00"

    project.done("evaluate.start")
    judged = project.all("metrics")
    assert last_values(judged)["evaluate_accuracy"] == values["val_accuracy"]
    assert items(judged, "matrix")["evaluate_confusion"]["payload"] == confusion["payload"]
    assert len(items(judged, "scalar")["evaluate_recall"]["payload"]["y"]) == 10

    project.done("predict.start", **{"_k12.predict_images": [{"name": "seven.png", "content": SEVEN}] * 2})
    read = [message["predict"] for message in project.all("predict")]
    assert [one["index"] for one in read] == [0, 1]
    for one in read:
        said = json.loads(one["prediction"])
        assert said["label"] == "7" and said["name"].endswith("seven.png") and len(said["probabilities"]) == 10

    # The same task, as any job.
    (job,) = (job for job in client.jobs() if job.name == "train.start-ann-pictures")
    assert (ended(http, job.id)["state"], job.labels["k12ai.service.name"]) == ("succeeded", "k12cv")
    curves = http.get(f"{JOBS}/{job.id}/metrics", params={"names": "val_accuracy", "points": 2}).json()
    (curve,) = curves["items"]
    assert (curve["count"], curve["last"]) == (4, values["val_accuracy"])


def test_a_training_goes_on_after_a_pause_and_ends_by_request(http: httpx2.Client) -> None:
    project = Project(http, "k12nlp", "sentences")
    assert project.ask("train.start", trainer={"num_epochs": 100_000, "batch_size": 27}) == 100000
    learned = project.learn(2)
    assert project.ask("train.start") == 100204
    assert project.ask("train.pause") == 100000
    assert codes(project.end()) == [STARTING, RUNNING, PAUSED]
    learned += project.all("metrics")
    reached = steps(learned)
    assert reached == list(range(1, len(reached) + 1))

    assert project.ask("train.resume") == 100000
    resumed = project.learn(1)
    first = steps(resumed)[0]
    assert 4 < first <= reached[-1] + 1, "it goes on behind the last epoch that was through"
    assert project.ask("train.stop") == 100000
    told = project.end()
    assert codes(told) == [STARTING, RUNNING, STOPPED]
    assert {message["op"] for message in told} == {"train.resume"}
    assert project.ask("train.stop") == 100205
    project.all("metrics")

    project.done("evaluate.start")
    assert last_values(project.all("metrics"))["evaluate_accuracy"] > 0.7
    project.done("predict.start", input_text="Snow and rain all night.\nBoil the potatoes in salted water.")
    said = [json.loads(message["predict"]["prediction"]) for message in project.all("predict")]
    assert [one["label"] for one in said] == ["weather", "cooking"]


def test_what_goes_wrong_is_told_with_its_code(http: httpx2.Client) -> None:
    expected: dict[str, tuple[int, Json]] = {
        "broken": (999999, {**DATASET, "network.name": "broken"}),
        "nan": (100907, {**DATASET, "solver.lr": 1e12}),
        "layers": (100302, {**DATASET, "network": {"name": "resnet"}}),
        "epochs": (100231, {**DATASET, "solver.max_epoch": 0}),
        "dataset": (100216, {}),
    }
    projects = {name: Project(http, "k12cv", f"wrong-{name}") for name in expected}
    for name, (_, params) in expected.items():
        assert projects[name].ask("train.start", **params) == 100000
    last = {name: project.end()[-1]["error"] for name, project in projects.items()}
    assert {name: error["code"] for name, error in last.items()} == {name: code for name, (code, _) in expected.items()}

    detail = last["broken"]["detail"]
    assert detail["exc_type"] == "ValueError" and "mismatch" in detail["exc_text"]
    assert [frame["funcname"] for frame in detail["traceback"]] == ["main", "work", "forward"]
    place = detail["traceback"][-1]
    assert place["filename"] == "convnet.py" and place["linenum"] > 0 and 'w["output"]' in place["source"]
    assert last["nan"]["detail"]["exc_type"] == "LossNanError"
    assert "conv, dense, broken" in last["layers"]["message"]

    never = Project(http, "k12cv", "never-trained")
    assert never.ask("evaluate.start") == 100000
    assert codes(never.end())[-1] == 100209


def test_the_frameworks_are_listed_with_their_forms(http: httpx2.Client) -> None:
    listed = {one["service_name"]: one for one in http.get("/k12ai/services").json()["data"]}
    for name in ("k12cv", "k12nlp"):
        assert listed[name]["phases"] == ["train", "evaluate", "predict"]
        asked = {"service_name": name, "service_task": "train", "dataset_name": "digits", "network_type": "base"}
        answer = http.post("/k12ai/framework/schema", json=asked).json()
        assert answer["code"] == 100000
        form = json.loads(answer["data"])
        assert (form["version"], form["type"]) == ("1", "page") and form["objs"]
        assert http.post("/k12ai/framework/schema", json={**asked, "version": "1"}).json()["code"] == 100010
