"""A service behind another gateway: the task runs there, and is one of this server as well (spec/k12ai.md, 3.8)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.k12ai import OK, Door, serve_door
from tests.system.server import Server


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    folder: Path = tmp_path_factory.mktemp("k12ai")
    far = serve_door(folder / "far")
    near = Server(folder / "near")
    try:
        far.start()
        near.folder.mkdir()
        config = near.folder / "runyard.toml"
        config.write_text(f'[services.k12nlp]\nagent = "{far.url}"\n[services.gone]\nagent = "http://127.0.0.1:9"\n')
        near = Server(near.folder, "--config", str(config)).start()
        door = Door(near)
        yield door
        door.http.close()
    finally:
        near.close()
        far.close()


def test_a_training_elsewhere(door: Door) -> None:
    project = door.project()
    said = [{"type": "metrics", "body": {"loss": 0.5, "step": 3}}, {"type": "log", "body": "hello"}]
    assert project.ask("train.start", {"say": said}) == OK
    last = project.until(100003)
    assert project.codes() == [100001, 100002, 100003]
    assert [message["metrics"] for message in project.of("metrics")] == [{"loss": 0.5}]
    assert [message["runlog"]["log"] for message in project.of("runlog")] == ["hello"]
    assert (last["appId"], last["token"]) == (project.app, "t-1")


def test_its_failures_are_those_of_the_task(door: Door) -> None:
    project = door.project()
    assert project.ask("train.start", {"fail": "lr"}) == OK
    error = project.until(100913)["error"]
    assert error["detail"]["traceback"][-1]["filename"] == "program.py"
    assert project.ask("evaluate.start", {}, service_name="gone") == OK
    assert "can't be reached" in project.until(100201)["error"]["message"]


def test_it_is_stopped_elsewhere_too(door: Door) -> None:
    project = door.project()
    assert project.ask("train.start", {"wait": "/no/such/file"}) == OK
    project.until(100002)
    assert project.ask("train.stop") == OK
    project.until(100004)
    # The project is free on both sides.
    assert project.ask("train.start", {}) == OK
    project.until(100003)
