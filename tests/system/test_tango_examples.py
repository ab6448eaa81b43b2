"""The example project as `make run` starts it: from scikit-learn's digits to a service that reads them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx2
import numpy as np
import pytest
import yaml

from runyard.client import Client
from tests.helpers import free_port, wait_until
from tests.system.server import LOOPBACK, Server

EXAMPLES = Path(__file__).parents[2] / "examples" / "tango"
PORTS = ("7070", "8095", "8081", "8087", "8888", "8898")


@pytest.fixture(scope="module")
def ports() -> dict[str, str]:
    """Free ports in place of the example's."""
    found: set[int] = set()
    while len(found) < len(PORTS):
        found.add(free_port())
    return dict(zip(PORTS, map(str, found), strict=True))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, ports: dict[str, str]) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("tango")
    copy = folder / "tango"
    shutil.copytree(EXAMPLES, copy, ignore=shutil.ignore_patterns("__pycache__", "shared"))
    for file in (copy / "jobs.toml", copy / "project.toml"):
        text = file.read_text()
        file.write_text(re.sub(r"\b\d{4}\b", lambda found: ports.get(found[0], found[0]), text))
    settings = {"RUNYARD_DOORS__TANGO__SHARED": str(copy / "shared")}
    server = Server(folder, "--jobs", str(copy / "jobs.toml"), env=settings)
    server.port = int(ports["7070"])
    try:
        yield server.start()
    finally:
        server.close()


def healthy(http: httpx2.Client) -> bool:
    with suppress(httpx2.TransportError):
        return http.get("/health").status_code == 200
    return False


def test_a_project_goes_from_data_to_a_service(server: Server, client: Client, ports: dict[str, str]) -> None:
    assert client.wait("tango", 60).state == "succeeded", b"".join(client.logs("tango"))
    over = client.wait("digit-reader", 120)
    log = b"".join(client.logs("digit-reader")).decode()
    assert (over.state, over.kind) == ("succeeded", "project"), log
    project = client.project("digit-reader")
    assert [(step.container, step.phase, step.run) for step in project.steps] == [
        (name, "completed", 1) for name in ("labelling", "bms", "backbone_nas", "code_gen", "ondevice_deploy")
    ]
    assert {step.container: step.kind for step in project.steps}["ondevice_deploy"] == "local"
    folder = Path(project.folder)
    base = yaml.safe_load((folder / "basemodel.yaml").read_text())
    found = yaml.safe_load((folder / "neural_net_info.yaml").read_text())
    assert base["name"] != "large", "it is larger than the project allows"
    assert found["tried"] > 3 and found["test_accuracy"] > 0.93
    # The service answers, as well as the search has said.
    data = np.load(folder.parents[2] / "datasets" / "digits" / "digits.npz")
    assert len(data["train_x"]) == 1200
    with httpx2.Client(base_url=f"http://{LOOPBACK}:{ports['8898']}", timeout=60) as http:
        # It counts as deployed once it has run for a while, and answers when it has loaded its libraries.
        wait_until(lambda: healthy(http), 60, "the predictor's health")
        images = data["test_x"][:30].tolist()
        answers = [http.post("/predict", json={"image": image}).json() for image in images]
        right = sum(int(answer["label"]) == label for answer, label in zip(answers, data["test_y"][:30], strict=True))
        assert right >= 25
        assert http.post("/predict", json={"image": [1, 2]}).status_code == 400
    # What the members told on the way is the project's telemetry.
    metrics = server.get(f"/api/v1/projects/{project.id}/metrics").json()
    assert "basemodel" in str(metrics) and "nas_end" in str(metrics)
