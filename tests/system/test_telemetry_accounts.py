"""Who sees which figures, on a server with accounts: one's own; viewers and admins all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx2
import pytest

from tests.system.accounts import PASSWORD, Crowd
from tests.system.server import Server, ask_until

STATS, CONTROL = "/k12ai/platform/stats", "/k12ai/platform/control"


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, httpx2.Client]]:
    folder = tmp_path_factory.mktemp("server")
    env = {"RUNYARD_AUTH__ENABLED": "1", "RUNYARD_TELEMETRY__INTERVAL": "0.1", "RUNYARD_TELEMETRY__DOCKER": "none"}
    server = Server(folder, env=env)
    crowd = Crowd(server.data)
    with ExitStack() as stack:
        stack.callback(crowd.close)
        stack.callback(server.close)
        server.start()
        yield {name: stack.enter_context(client) for name, client in crowd.clients(server).items()}


@pytest.fixture(scope="module")
def jobs(clients: dict[str, httpx2.Client]) -> dict[str, str]:
    """One job each of ann and bob, both running; their ids by owner."""
    made = {}
    for name in ("ann", "bob"):
        answer = clients[name].post("/api/v1/jobs", json={"command": ["sleep", "600"], "name": f"of-{name}"})
        made[name] = answer.json()["id"]

    def running() -> bool:
        return all(clients["root"].get(f"/api/v1/jobs/{job}").json()["state"] == "running" for job in made.values())

    ask_until(running, bool, 60)
    return made


def loads(client: httpx2.Client, **body: Any) -> set[str]:
    doc = client.post(STATS, json={"query": {"containers": True}, **body}).json()
    return {one["service_uuid"] for one in doc["info"]["containers"]}


def test_everybody_sees_their_own_jobs_and_viewers_and_admins_all(
    clients: dict[str, httpx2.Client], jobs: dict[str, str]
) -> None:
    both = {"of-ann", "of-bob"}
    shown = {name: loads(clients[name]) for name in ("ann", "ann-reads", "bob", "viewer", "root")}
    assert shown == {"ann": {"of-ann"}, "ann-reads": {"of-ann"}, "bob": {"of-bob"}, "viewer": both, "root": both}
    # The document's own credentials, which it says are not used.
    assert loads(clients["nobody"], username="ann", password=PASSWORD) == {"of-ann"}

    def scraped(name: str) -> set[str]:
        text = clients[name].get("/metrics").text
        return {owner for owner, job in jobs.items() if f'runyard_job_memory_bytes{{job="{job}"' in text}

    ask_until(lambda: scraped("root"), lambda found: found == {"ann", "bob"}, 60)
    assert (scraped("ann"), scraped("viewer")) == ({"ann"}, {"ann", "bob"})


def test_what_is_not_the_callers_is_refused(clients: dict[str, httpx2.Client], jobs: dict[str, str]) -> None:
    stop = {"op": "container.stop", "params": {"id": jobs["bob"]}}
    answers = [
        clients["ann"].get(f"/api/v1/jobs/{jobs['bob']}/usage"),
        clients["nobody"].get(f"/api/v1/jobs/{jobs['bob']}/usage"),
        clients["nobody"].post(STATS, json={}),
        clients["nobody"].post(STATS, json={"username": "ann", "password": "wrong"}),
        clients["nobody"].post(CONTROL, json=stop),
        clients["ann"].post(CONTROL, json=stop),
        clients["viewer"].post(CONTROL, json=stop),
        clients["ann-reads"].post(CONTROL, json={"op": "container.stop", "params": {"id": jobs["ann"]}}),
    ]
    assert [answer.status_code for answer in answers] == [403, 401, 401, 401, 401, 403, 403, 403]
    assert all(answer.json()["code"] for answer in answers)
    states = {clients["root"].get(f"/api/v1/jobs/{job}").json()["state"] for job in jobs.values()}
    assert states == {"running"}
    own = {"op": "container.stop", "params": {"id": "of-ann"}}
    assert clients["ann"].post(CONTROL, json=own).json()["code"] == 100000
    ended = clients["root"].get(f"/api/v1/jobs/{jobs['ann']}/wait", params={"timeout": 25}).json()
    assert ended["state"] == "cancelled"
