"""The K12AI door with accounts: whose tasks, whose messages, and credentials in the body (spec/k12ai.md, 1.9)."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.system.accounts import PASSWORD, Crowd
from tests.system.k12ai import OK, Door, codes, serve_door
from tests.system.server import Server

Clients = dict[str, httpx2.Client]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = serve_door(tmp_path_factory.mktemp("k12ai"), 'key = "door-key"\n[auth]\nenabled = true\n')
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(scope="module")
def clients(server: Server) -> Iterator[Clients]:
    crowd = Crowd(server.data)
    server.start()
    clients = crowd.clients(server)
    for client in clients.values():
        client.headers["X-K12AI-Key"] = "door-key"
    yield clients
    for client in clients.values():
        client.close()
    crowd.close()


def start(client: httpx2.Client, user: str, uuid: str, op: str = "train.start", **more: Any) -> tuple[int, int]:
    body = {"op": op, "user": user, "service_name": "k12nlp", "service_uuid": uuid, "service_params": {}} | more
    answer = client.post("/k12ai/framework/execute", json=body)
    return answer.status_code, answer.json()["code"]


def story(client: httpx2.Client, server: Server, uuid: str) -> list[int]:
    """The codes that this client pops of a project, until its end."""
    found: list[int] = []
    while 100003 not in found:
        popped = Door(server, client).pop("talentai.error", wait=30)
        assert popped, f"no end of {uuid} in {found}"
        found += [codes(message) for message in popped if message["service_uuid"] == uuid]
    return found


def test_who_may_start_and_stop(clients: Clients) -> None:
    assert start(clients["nobody"], "ann", "p1") == (401, 100199)
    assert start(clients["viewer"], "viewer", "p1") == (403, 100199)
    assert start(clients["ann-reads"], "ann", "p1") == (403, 100199)
    assert start(clients["ann"], "bob", "p1") == (403, 100199)
    wait = {"wait": "/no/such/file"}
    assert start(clients["ann"], "ann", "p1", service_params=wait) == (200, OK)
    assert start(clients["bob"], "ann", "p1", "train.stop") == (403, 100199)
    assert start(clients["root"], "ann", "p1", "train.stop") == (200, OK)


def test_credentials_in_the_body(clients: Clients) -> None:
    assert start(clients["nobody"], "ann", "none", "train.stop", password=PASSWORD) == (200, 100205)
    assert start(clients["nobody"], "ann", "none", "train.stop", password="wrong") == (401, 100199)
    stats = {"username": "ann", "password": PASSWORD, "query": {"cpus": True}}
    assert clients["nobody"].post("/k12ai/platform/stats", json=stats).json()["code"] == OK
    del stats["password"]
    assert clients["nobody"].post("/k12ai/platform/stats", json=stats).status_code == 401


def test_everybody_pops_ones_own(clients: Clients, server: Server) -> None:
    assert start(clients["ann"], "ann", "mine") == (200, OK)
    assert story(clients["ann"], server, "mine") == [100001, 100002, 100003]
    assert Door(server, clients["bob"]).pop("talentai.error") == []
    # What a user pops is not gone for the gateway, which pops everybody's.
    assert story(clients["root"], server, "mine") == [100001, 100002, 100003]
    for name, path in (("nobody", "/k12ai/private/popmsg"), ("nobody", "/k12ai/stream"), ("nobody", "/k12ai/jobs")):
        assert clients[name].get(path).status_code == 401
    with pytest.raises(InvalidStatus) as caught:
        connect(f"ws://127.0.0.1:{server.port}/k12ai/ws").close()
    assert caught.value.response.status_code == 401
    assert clients["viewer"].get("/k12ai/private/popmsg").status_code == 403
    assert clients["ann"].get("/k12ai/private/dead").status_code == 403
    seen = clients["bob"].get("/k12ai/jobs").json().get("data", [])
    assert all(task["user"] == "bob" for task in seen)
    assert clients["viewer"].get("/k12ai/jobs").json()["data"]


def test_the_key_of_the_door(clients: Clients, server: Server) -> None:
    with server.http() as plain:
        plain.headers["Authorization"] = clients["root"].headers["Authorization"]
        assert plain.get("/k12ai/private/popmsg").status_code == 403
        assert plain.post("/k12ai/private/pushmsg").text == "-1"
        assert plain.get("/k12ai/stream").status_code == 403
        assert plain.get("/k12ai/services").status_code == 200


def test_a_password_is_never_kept(clients: Clients, server: Server, tmp_path: Path) -> None:
    assert start(clients["nobody"], "ann", "kept", password=PASSWORD) == (200, OK)
    story(clients["ann"], server, "kept")
    proof = base64.b64encode(f"ann:{PASSWORD}".encode())
    files = [path for path in server.data.rglob("*") if path.is_file()]
    assert files
    for path in [*files, server.log]:
        text = path.read_bytes()
        assert PASSWORD.encode() not in text and proof not in text, path
