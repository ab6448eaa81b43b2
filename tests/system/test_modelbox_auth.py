"""The ModelBox door with accounts: who is let in, and whose flows are whose."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx2
import pytest

from tests.system.accounts import Crowd
from tests.system.modelbox import PATH, SAFE_HEADERS, code, graph
from tests.system.server import Server


@pytest.fixture(scope="module")
def callers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, httpx2.Client]]:
    folder: Path = tmp_path_factory.mktemp("modelbox")
    crowd = Crowd(folder / "data")
    server = Server(folder, env={"RUNYARD_AUTH__ENABLED": "true", "RUNYARD_AUTH__MAX_FAILURES": "1000"})
    with ExitStack() as stack:
        stack.callback(server.close)
        stack.callback(crowd.close)
        server.start()
        clients = crowd.clients(server)
        for client in clients.values():
            client.timeout = 90
            stack.enter_context(client)
        yield clients


def create(client: httpx2.Client, id: str) -> httpx2.Response:
    return client.put(PATH, content=json.dumps({"job_id": id, "job_graph": graph()}))


def listed(client: httpx2.Client) -> set[str]:
    return {job["job_id"] for job in client.get(f"{PATH}/list/all").json()["job_list"]}


def test_everybody_has_flows_of_their_own(callers: dict[str, httpx2.Client]) -> None:
    for name in ("nobody", "ann-reads", "viewer"):
        answer = create(callers[name], "not-made")
        assert code(answer) == (401 if name == "nobody" else 403, "006")
        assert all(header in answer.headers for header in SAFE_HEADERS)
    answer = callers["nobody"].get(f"{PATH}/list/all")
    assert code(answer) == (401, "006")
    assert "Bearer" in answer.headers["www-authenticate"]
    assert create(callers["ann"], "of-ann").status_code == 201
    assert create(callers["bob"], "of-bob").status_code == 201
    assert code(create(callers["bob"], "of-ann")) == (400, "005")
    assert listed(callers["ann"]) == listed(callers["ann-reads"]) == {"of-ann"}
    assert listed(callers["root"]) == listed(callers["viewer"]) == {"of-ann", "of-bob"}
    assert code(callers["bob"].get(f"{PATH}/of-ann")) == (403, "006")
    assert code(callers["bob"].delete(f"{PATH}/of-ann")) == (403, "006")
    assert code(callers["ann-reads"].delete(f"{PATH}/of-ann")) == (403, "006")
    assert callers["ann"].delete(f"{PATH}/of-ann").status_code == 204
    assert callers["root"].delete(f"{PATH}/of-bob").status_code == 204
    flows = "/api/v1/flows"
    sound = json.dumps({"flow": {"graph": json.dumps(graph())}, "name": "native"})
    assert callers["nobody"].post(flows, content=sound).status_code == 401
    assert callers["viewer"].post(flows, content=sound).status_code == 403
    made = callers["ann"].post(flows, content=sound).json()
    assert made["owner"] == "ann"
    for what in ("graph", "statistics"):
        assert callers["bob"].get(f"{flows}/{made['id']}/{what}").status_code == 403
        assert callers["ann"].get(f"{flows}/{made['id']}/{what}").status_code == 200
    assert callers["ann"].delete(f"{PATH}/native").status_code == 204
