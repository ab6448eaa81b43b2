"""Accounts over HTTP: who gets which answer from which route, what the audit trail says, what jobs inherit."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import jwt
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from runyard.auth.accounts import Accounts
from runyard.model.account import Role
from tests.system.accounts import CALLERS, FULL, PASSWORD, WRITE, Crowd, basic, bearer
from tests.system.native import JOBS, Json, ended, submit
from tests.system.server import Server, ask_until

SECRET = "the-secret-that-all-clients-share"
ENV = {
    "RUNYARD_AUTH__ENABLED": "true",
    "RUNYARD_AUTH__MAX_FAILURES": "4",
    "FLUX_USER": "fluxuser",
    "FLUX_TOKEN": "a-password-for-flux",
    "FLUX_SECRET_KEY": SECRET,
    "RUNYARD_TOKEN": "not-for-jobs",
}
#: Signed by the secret that all clients share: it must not open anything by itself.
FORGED = jwt.encode(
    {"iss": "runyard", "aud": "runyard", "sub": "root", "gen": 0, "scope": "admin", "iat": 1, "exp": 4e9, "jti": "1"},
    SECRET,
)
PUBLIC = ("/livez", "/readyz", "/version", "/openapi.json")


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Crowd]]:
    server = Server(tmp_path_factory.mktemp("server"), env=ENV)
    crowd = Crowd(server.data)
    try:
        yield server.start(), crowd
    finally:
        crowd.close()
        server.close()


@pytest.fixture(scope="module")
def server(setting: tuple[Server, Crowd]) -> Server:
    return setting[0]


@pytest.fixture(scope="module")
def accounts(setting: tuple[Server, Crowd]) -> Accounts:
    return setting[1].accounts


@pytest.fixture(scope="module")
def callers(setting: tuple[Server, Crowd]) -> Iterator[dict[str, httpx2.Client]]:
    made = setting[1].clients(setting[0])
    yield made
    for client in made.values():
        client.close()


def events(client: httpx2.Client, types: str, after: int = 0) -> list[Json]:
    found: list[Json] = client.get("/api/v1/events", params={"type": types, "after": after, "limit": 1000}).json()[
        "items"
    ]
    return found


def last_seq(client: httpx2.Client) -> int:
    return int(client.get("/api/v1/events", params={"after": "latest"}).json()["next"])


# Route by caller --------------------------------------------------------------------------------------------------

ALL_SEE = {"ann": 200, "ann-reads": 200, "bob": 403, "viewer": 200, "root": 200, "root-writes": 200}
OWNERS_CHANGE = {"ann": 200, "ann-reads": 403, "bob": 403, "viewer": 403, "root": 200, "root-writes": 200}
SUBMIT = {"ann": 201, "ann-reads": 403, "bob": 201, "viewer": 403, "root": 201, "root-writes": 201}
READERS = dict.fromkeys(CALLERS, 200)


def only(status: int, of: dict[str, int]) -> dict[str, int]:
    """The same callers let through, to an answer with another status."""
    return {name: status if found < 300 else found for name, found in of.items()}


#: Method, path, body, and the status for each caller. `{held}` is a job of ann's that is held, `{ended}` one that has
#: ended: a fresh one for each request, so that none sees what another has done.
ROUTES: list[tuple[str, str, Any, dict[str, int]]] = [
    ("POST", "/api/v1/jobs", {"command": ["true"], "hold": True}, SUBMIT),
    ("POST", "/api/v1/jobs:batch", [{"command": ["true"], "hold": True}], only(200, SUBMIT)),
    ("GET", "/api/v1/jobs", None, READERS),
    ("GET", "/api/v1/jobs?owner=ann", None, ALL_SEE),
    ("GET", "/api/v1/jobs/{held}", None, ALL_SEE),
    ("PATCH", "/api/v1/jobs/{held}", {"priority": 3}, OWNERS_CHANGE),
    ("DELETE", "/api/v1/jobs/{ended}", None, only(204, OWNERS_CHANGE)),
    ("DELETE", "/api/v1/jobs/{held}", None, only(409, OWNERS_CHANGE)),
    ("POST", "/api/v1/jobs/{held}/cancel", {}, OWNERS_CHANGE),
    ("POST", "/api/v1/jobs/{held}/restart", {}, OWNERS_CHANGE),
    ("POST", "/api/v1/jobs/{ended}/restart", {}, OWNERS_CHANGE),
    ("POST", "/api/v1/jobs/{held}/signal", {"signal": "SIGUSR1"}, only(409, OWNERS_CHANGE)),
    ("GET", "/api/v1/jobs/{held}/wait?timeout=0", None, ALL_SEE),
    ("GET", "/api/v1/jobs/{held}/why", None, ALL_SEE),
    ("GET", "/api/v1/jobs/{held}/runs", None, ALL_SEE),
    ("GET", "/api/v1/jobs/{held}/events", None, ALL_SEE),
    ("GET", "/api/v1/jobs/{ended}/logs", None, ALL_SEE),
    ("GET", "/api/v1/jobs/{ended}/logs?follow=true", None, ALL_SEE),
    ("GET", "/api/v1/events?job={held}", None, ALL_SEE),
    ("GET", "/api/v1/events", None, READERS),
    ("GET", "/api/v1/nodes", None, READERS),
    ("GET", "/api/v1/schedules", None, READERS),
    ("POST", "/api/v1/schedules:preview", {"cron": "@daily"}, READERS),
    ("GET", "/metrics", None, READERS),
]


@pytest.mark.parametrize(("method", "path", "body", "expected"), ROUTES, ids=[f"{row[0]} {row[1]}" for row in ROUTES])
def test_routes_of_the_native_door(
    callers: dict[str, httpx2.Client], method: str, path: str, body: Any, expected: dict[str, int]
) -> None:
    ann = callers["ann"]
    names = ["nobody", *expected]
    ids = dict.fromkeys(names, "")
    if "{held}" in path:
        ids = {name: submit(ann, command=["true"], hold=True)["id"] for name in names}
    elif "{ended}" in path:
        ids = {name: submit(ann, command=["echo", "hello"])["id"] for name in names}
        for job in ids.values():
            ended(ann, job)
    found = {}
    for name in names:
        answer = callers[name].request(method, path.format(held=ids[name], ended=ids[name]), json=body)
        found[name] = answer.status_code
        if answer.status_code in (401, 403):
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json()["code"] == ("unauthenticated" if name == "nobody" else "forbidden")
    assert found == {"nobody": 401, **expected}


MEPROC: list[tuple[str, str, Any, dict[str, int]]] = [
    ("GET", "/proc", None, READERS),
    ("GET", "/proc?name={task}", None, READERS),
    ("POST", "/proc", {"name": "{new}", "cmd": "true", "type": "once"}, only(200, SUBMIT)),
    ("PUT", "/proc?name={task}", None, OWNERS_CHANGE),
    ("POST", "/proc?name={task}", None, OWNERS_CHANGE),
    ("DELETE", "/proc?name={task}", None, OWNERS_CHANGE),
    ("GET", "/proc/output?name={task}", None, ALL_SEE),
    ("GET", "/Proc/nothing", None, dict.fromkeys(CALLERS, 404)),
]


@pytest.mark.parametrize(("method", "path", "body", "expected"), MEPROC, ids=[f"{row[0]} {row[1]}" for row in MEPROC])
def test_routes_of_the_meproc_door(
    callers: dict[str, httpx2.Client], method: str, path: str, body: Any, expected: dict[str, int]
) -> None:
    ann = callers["ann"]
    names = ["nobody", *expected]
    mark = f"{method}-{MEPROC.index((method, path, body, expected))}"
    tasks = {name: f"{mark}-{name}" for name in names}
    if "{task}" in path:
        for task in tasks.values():
            answer = ann.post("/proc", json={"name": task, "cmd": "echo hello", "type": "once"})
            assert answer.status_code == 200, answer.text
        for task in tasks.values():
            # One of a task that is still starting would change under the request.
            (job,) = ann.get(JOBS, params={"name": task}).json()["items"]
            ended(ann, job["id"])
    found = {}
    for name in names:
        sent = None if body is None else json.loads(json.dumps(body).replace("{new}", f"{mark}-{name}"))
        answer = callers[name].request(method, path.format(task=tasks[name]), json=sent)
        found[name] = answer.status_code
        assert answer.json()["code"] == answer.status_code
        if name == "nobody":
            assert answer.headers["www-authenticate"].startswith("Bearer")
    assert found == {"nobody": 401, **expected}


def test_every_described_route_asks_for_credentials_unless_it_is_public(callers: dict[str, httpx2.Client]) -> None:
    nobody = callers["nobody"]
    described = nobody.get("/openapi.json").json()["paths"]
    for path, operations in described.items():
        for method in operations:
            answer = nobody.request(method, path.replace("{ref}", "1"))
            assert (answer.status_code == 401) == (path not in PUBLIC), f"{method} {path}: {answer.status_code}"
    for path in PUBLIC:
        # Credentials that are wrong do no harm where none are needed.
        assert nobody.get(path, headers={"Authorization": "Bearer wrong"}).status_code == 200


# What lists show --------------------------------------------------------------------------------------------------


def test_lists_show_ones_own_jobs_and_to_viewers_and_admins_all(callers: dict[str, httpx2.Client]) -> None:
    label = {"test": "lists"}
    for name in ("ann", "bob", "root"):
        submit(callers[name], command=["true"], hold=True, labels=label)
        cron = {"cron": "0 0 1 1 *"}
        submit(callers[name], command=["true"], lifecycle="cron", schedule=cron, labels=label, name=f"cron-{name}")
    for name, shown in (
        ("ann", {"ann"}),
        ("ann-reads", {"ann"}),
        ("bob", {"bob"}),
        ("viewer", {"ann", "bob", "root"}),
        ("root", {"ann", "bob", "root"}),
    ):
        found = callers[name].get(JOBS, params={"label": "test=lists"}).json()["items"]
        assert {job["owner"] for job in found} == shown
        schedules = callers[name].get("/api/v1/schedules").json()["items"]
        assert {item["name"] for item in schedules} == {f"cron-{owner}" for owner in shown}


def test_the_meproc_list_shows_ones_own_tasks_and_jobs(callers: dict[str, httpx2.Client]) -> None:
    for name in ("ann", "bob"):
        task = {"name": f"shown-{name}", "cmd": "true", "type": "once"}
        assert callers[name].post("/proc", json=task).status_code == 200
        submit(callers[name], name=f"job-{name}", command=["true"], hold=True)

    def tasks(caller: str, **params: str) -> set[str]:
        names = callers[caller].get("/proc", params=params).json()["data"]["tasks"]
        return {task for task in names if task.startswith(("shown-", "job-"))}

    assert tasks("ann") == {"shown-ann", "job-ann"}
    assert tasks("bob") == {"shown-bob", "job-bob"}
    assert tasks("root") == tasks("viewer") == {"shown-ann", "shown-bob", "job-ann", "job-bob"}
    assert tasks("bob", name="shown-ann") == tasks("bob", name="job-ann") == set()
    # A name that another has taken is taken.
    again = callers["bob"].post("/proc", json={"name": "shown-ann", "cmd": "true", "type": "once"})
    assert again.status_code == 403


def test_a_name_means_ones_own_job_first(callers: dict[str, httpx2.Client]) -> None:
    mine = submit(callers["ann"], name="same-name", command=["true"], hold=True)["id"]
    other = submit(callers["bob"], name="same-name", command=["true"], hold=True)["id"]
    assert callers["ann"].get(f"{JOBS}/same-name").json()["id"] == mine
    assert callers["bob"].get(f"{JOBS}/same-name").json()["id"] == other
    assert callers["root"].get(f"{JOBS}/same-name").json()["id"] == other
    for after in ("same-name", {"job": "same-name", "condition": "finished"}):
        waits = submit(callers["ann"], command=["true"], after=[after])["id"]
        (blocker,) = callers["ann"].get(f"{JOBS}/{waits}/why").json()["blockers"]
        assert blocker["job"] == mine


def test_nobody_waits_for_another_persons_job(callers: dict[str, httpx2.Client]) -> None:
    job = submit(callers["ann"], name="not-for-bob", command=["true"], hold=True)["id"]
    for ref in (job, "not-for-bob"):
        answer = callers["bob"].post(JOBS, json={"command": ["true"], "after": [ref]})
        assert answer.status_code == 403, answer.text
        batch = callers["bob"].post(f"{JOBS}:batch", json=[{"command": ["true"], "after": [ref], "hold": True}])
        assert [item["status"] for item in batch.json()["items"]] == [403]
    assert submit(callers["root"], command=["true"], after=[job], hold=True)


def test_only_admins_choose_the_account_of_the_operating_system(callers: dict[str, httpx2.Client]) -> None:
    for field in ("user", "group"):
        for name, status in (("ann", 403), ("root-writes", 403), ("root", 201)):
            spec = {"command": ["true"], "hold": True, field: "nobody"}
            assert callers[name].post(JOBS, json=spec).status_code == status, (name, field)


def test_a_stream_of_events_has_ones_own_jobs_only(callers: dict[str, httpx2.Client]) -> None:
    after = last_seq(callers["root"])
    ids = {}
    for name in ("bob", "ann"):
        ids[name] = submit(callers[name], command=["true"])["id"]
        ended(callers[name], ids[name])
    callers["bob"].get(f"{JOBS}/{ids['ann']}")
    assert callers["ann"].delete(f"{JOBS}/{ids['ann']}").status_code == 204
    headers = {"Accept": "application/x-ndjson"}
    for name, shown in (("ann", {"ann"}), ("viewer", {"ann", "bob"})):
        seen: list[Json] = []
        with callers[name].stream("GET", "/api/v1/events", params={"after": after}, headers=headers) as stream:
            for line in stream.iter_lines():
                if line:
                    seen.append(json.loads(line))
                    if seen[-1]["type"] == "job.deleted" and seen[-1]["job"] == ids["ann"]:
                        break
        assert {ids[owner] for owner in shown} <= {event["job"] for event in seen}
        if name == "ann":
            assert ids["bob"] not in {event["job"] for event in seen}
        assert not [event for event in seen if event["type"].startswith(("auth.", "user.", "token."))]
    found = callers["ann"].get("/api/v1/events", params={"after": after, "limit": 2}).json()
    assert [event["job"] for event in found["items"]] == [ids["ann"]] * 2
    refusals = events(callers["root"], "auth.refused", after)
    assert [event["data"]["account"] for event in refusals if ids["ann"] in event["data"]["path"]] == ["bob"]


# Coming in --------------------------------------------------------------------------------------------------------


def test_every_way_to_prove_oneself_works_on_every_door(server: Server, setting: tuple[Server, Crowd]) -> None:
    token = setting[1].tokens["ann"]
    with basic(server, "ann", PASSWORD) as by_password, basic(server, "ann", token) as by_token:
        for path in (JOBS, "/proc", "/api/v1/nodes"):
            assert by_password.get(path).status_code == by_token.get(path).status_code == 200
    with basic(server, "fluxuser", ENV["FLUX_TOKEN"]) as admin:
        assert admin.get("/api/v1/events", params={"type": "user.added"}).json()["items"]
    with server.client(token=token) as client, server.client(token=f"ann:{PASSWORD}") as named:
        job = client.submit(command=["true"], hold=True)
        assert job.owner == "ann" and named.job(job.id).owner == "ann"
        client.cancel(job.id)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer x",
        "Bearer ryd_0123456789_x",
        "Bearer a.b.c",
        "Basic !",
        "Basic YW5u",
        "Digest x",
        f"Bearer {FORGED}",
    ],
)
def test_bad_credentials_get_401_and_how_to_do_better(callers: dict[str, httpx2.Client], header: str) -> None:
    answer = callers["nobody"].get(JOBS, headers={"Authorization": header})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == 'Bearer realm="runyard", Basic realm="runyard", charset="UTF-8"'
    assert answer.json()["code"] == "unauthenticated" and answer.json()["detail"]


def test_what_a_stranger_sends_from_a_page_does_not_look_as_if_it_were_done(callers: dict[str, httpx2.Client]) -> None:
    answer = callers["nobody"].post("/job/1/cancel")
    assert answer.status_code == 401 and "<title>Log in" in answer.text
    answer = callers["nobody"].get("/")
    assert answer.status_code == 200 and "<title>Log in" in answer.text


def test_a_signed_request_with_half_a_character_harms_nobody(callers: dict[str, httpx2.Client]) -> None:
    for name, password in (("an\ud800n", "x"), ("ann", "\ud800")):
        signed = jwt.encode({"user": name, "pass": password, "scope": "token"}, SECRET)
        answer = callers["nobody"].post("/v1/token", headers={"Authorization": f"Bearer {signed}"})
        assert (answer.status_code, answer.json()) == (400, {"Message": "Denied"})
    assert callers["nobody"].get("/readyz").status_code == 200


def test_bodies_of_strangers_are_not_read(callers: dict[str, httpx2.Client]) -> None:
    answer = callers["nobody"].post(JOBS, content=b"{" * 1000)
    assert answer.status_code == 401


def test_failed_logins_are_limited_and_other_accounts_are_not_held_up(server: Server, accounts: Accounts) -> None:
    accounts.add_user("careless", time.time(), Role.USER, PASSWORD)
    with basic(server, "careless", "wrong-word") as client:
        assert [client.get(JOBS).status_code for _ in range(4)] == [401] * 4
        answer = client.get(JOBS)
        assert answer.status_code == 429 and answer.json()["code"] == "too_many"
        assert 0 < int(answer.headers["retry-after"]) <= 301
    with basic(server, "careless", PASSWORD) as client:
        assert client.get(JOBS).status_code == 429
        # The Meproc door says the same in its own words.
        refused = client.get("/proc")
        assert refused.json()["code"] == refused.status_code == 429 and refused.headers["retry-after"]
    with basic(server, "ann", PASSWORD) as client:
        assert client.get(JOBS).status_code == 200


def test_what_the_command_line_changes_is_in_force_at_once(server: Server, accounts: Accounts) -> None:
    now = time.time()
    accounts.add_user("dora", now)
    made = accounts.create_token("dora", now, WRITE, None)
    with bearer(server, made.secret) as client:
        assert client.get(JOBS).status_code == 200
        accounts.set_disabled("dora", True, now)
        refused = client.get(JOBS)
        assert refused.status_code == 403 and "disabled" in refused.json()["detail"]
        accounts.set_disabled("dora", False, now)
        assert client.get(JOBS).status_code == 200
        accounts.set_role("dora", Role.VIEWER, now)
        assert client.post(JOBS, json={"command": ["true"]}).status_code == 403
        accounts.revoke_token(made.token.id, now)
        assert client.get(JOBS).status_code == 401


def test_streams_end_when_their_token_is_revoked(server: Server, accounts: Accounts) -> None:
    now = time.time()
    accounts.add_user("emma", now)
    made = accounts.create_token("emma", now, WRITE, None)
    with bearer(server, made.secret) as client:
        job = submit(client, command=["sleep", "600"])["id"]
        own = f"{JOBS}/{job}"
        sse = {"Accept": "text/event-stream"}
        with (
            client.stream("GET", "/api/v1/events", headers=sse) as events,
            client.stream("GET", f"{own}/logs", params={"follow": "true"}) as logs,
            client.stream("GET", f"/v1/jobs/{job}/output/stream", headers=sse) as output,
            client.stream("GET", "/k12ai/stream", headers=sse) as messages,
            connect(
                f"ws{server.url.removeprefix('http')}{own}/messages/ws",
                additional_headers={"Authorization": f"Bearer {made.secret}"},
            ) as socket,
        ):
            accounts.revoke_token(made.token.id, now)
            for stream in (events, logs, output, messages):
                assert stream.status_code == 200
                stream.read()
            with pytest.raises(ConnectionClosed):
                socket.recv(timeout=60)
            assert socket.close_code == 1012, "not 1000: the job goes on"
        assert client.get(own).status_code == 401
    accounts.set_disabled("emma", True, now)


# Secrets and the audit trail --------------------------------------------------------------------------------------


def test_the_audit_trail_names_who_did_what_and_no_secret(
    server: Server, callers: dict[str, httpx2.Client], accounts: Accounts
) -> None:
    root = callers["root"]
    after = last_seq(root)
    now = time.time()
    accounts.add_user("eve", now, Role.USER, PASSWORD)
    made = accounts.create_token("eve", now, FULL, None)
    with basic(server, "eve", PASSWORD) as eve:
        job = submit(eve, command=["true"], hold=True)["id"]
    assert callers["bob"].post(f"{JOBS}/{job}/cancel", json={}).status_code == 403
    assert root.post(f"{JOBS}/{job}/cancel", json={}).status_code == 200
    accounts.remove_user("eve", now)
    wanted = "user.added,user.removed,token.created,auth.login,auth.refused,auth.admin"
    found = ask_until(
        lambda: events(root, wanted, after),
        lambda seen: {"user.removed", "auth.admin"} <= {event["type"] for event in seen},
    )

    def data(type: str, **known: str) -> Json:
        (one,) = [e["data"] for e in found if e["type"] == type and known.items() <= e["data"].items()]
        value: Json = one
        return value

    path = f"{JOBS}/{job}/cancel"
    assert data("user.added", account="eve")["by"] == "tester"
    assert data("token.created", account="eve")["token"] == made.token.id
    assert data("auth.login", account="eve")["address"] == "127.0.0.1"
    assert data("auth.refused", path=path)["account"] == "bob"
    assert data("auth.admin", path=path) | {"address": ""} == {
        "account": "root",
        "address": "",
        "method": "POST",
        "path": path,
        "does": "changes a job of 'eve'",
    }
    everything = json.dumps(events(root, wanted)) + server.log.read_text()
    for secret in (PASSWORD, made.secret, SECRET, ENV["FLUX_TOKEN"]):
        assert secret not in everything
    for name in ("ann", "viewer", "root-writes"):
        assert events(callers[name], wanted) == []


def test_jobs_inherit_no_secret(callers: dict[str, httpx2.Client]) -> None:
    ann = callers["ann"]
    job = submit(ann, command=["env"])["id"]
    assert ended(ann, job)["state"] == "succeeded"
    output = ann.get(f"{JOBS}/{job}/logs").text
    assert "RUNYARD_JOB_ID=" in output
    for name, value in ENV.items():
        assert name not in output and (len(value) < 8 or value not in output)


def test_the_stream_of_output_asks_for_credentials(callers: dict[str, httpx2.Client]) -> None:
    job = submit(callers["ann"], script="echo mine; exec sleep 1000")["id"]
    path = f"{JOBS}/{job}/logs?follow=true"

    def first(caller: str) -> Callable[[], tuple[int, str]]:
        def look() -> tuple[int, str]:
            with callers[caller].stream("GET", path) as stream:
                return stream.status_code, next(stream.iter_text(), "") if stream.status_code == 200 else ""

        return look

    assert ask_until(first("ann"), lambda found: found[0] != 404) == (200, "mine\n")
    assert first("nobody")() == (401, "")
    assert first("bob")() == (403, "")
    assert first("viewer")() == (200, "mine\n")
    callers["ann"].post(f"{JOBS}/{job}/cancel", json={})


def test_why_names_other_peoples_jobs_to_viewers_only(callers: dict[str, httpx2.Client]) -> None:
    (node,) = (n for n in callers["root"].get("/api/v1/nodes").json()["items"] if n["executor"] == "local")
    need = {"cores_per_task": len(node["cores"]["total"])}
    holder = submit(callers["ann"], name="secret-plan", command=["sleep", "1000"], resources=need)["id"]
    waiter = submit(callers["bob"], command=["true"], resources=need)["id"]

    def why(caller: str) -> Json:
        found: Json = callers[caller].get(f"{JOBS}/{waiter}/why").json()
        return found

    found = ask_until(lambda: why("bob"), lambda found: found["blockers"])
    assert found["blockers"][0]["job"] == holder and found["blockers"][0]["owner"] == "ann"
    assert "secret-plan" not in json.dumps(found)
    assert "secret-plan" in json.dumps(why("viewer"))
    for name, job in (("bob", waiter), ("ann", holder)):
        assert callers[name].post(f"{JOBS}/{job}/cancel", json={}).status_code == 200
        ended(callers[name], job)
