"""The native door over real HTTP: jobs, and what can be done to them. docs/doors/native.md says what must come out."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from itertools import pairwise
from typing import Any

import httpx2
import msgspec
import pytest

from runyard.client import Client
from runyard.model.ids import f58
from runyard.model.job import JobDoc
from tests.helpers import wait_until
from tests.system.native import JOBS, Json, act, ended, local_node, show, state_of, submit
from tests.system.server import Server, ask_until

pytestmark = pytest.mark.usefixtures("nothing_left_over")


@pytest.mark.parametrize(
    ("spec", "kind", "ends"),
    [
        ({"command": ["true"]}, "batch", {"state": "succeeded", "exit_code": 0, "signal": None}),
        ({"command": ["false"]}, "batch", {"state": "failed", "exit_code": 1, "reason": "exit code 1"}),
        ({"script": "exit 7"}, "batch", {"state": "failed", "exit_code": 7}),
        ({"script": "kill -KILL $$"}, "batch", {"state": "failed", "exit_code": None, "signal": "SIGKILL"}),
        ({"script": 'test "$A" = "ä b"', "env": {"A": "ä b"}}, "batch", {"exit_code": 0}),
        ({"script": 'test "$PWD" = /', "cwd": "/"}, "batch", {"exit_code": 0}),
        ({"script": 'test "$(umask)" = 0077', "umask": "077"}, "batch", {"exit_code": 0}),
        ({"command": ["sleep", "60"], "time_limit": "50ms", "stop": {"grace": 1}}, "batch", {"state": "timed_out"}),
        ({"command": ["true"], "replicas": 3, "labels": {"a": "1", "b": ""}}, "batch", {"state": "succeeded"}),
        ({"command": ["true"], "resources": {"cores_per_task": 1, "memory": "1M"}}, "batch", {"state": "succeeded"}),
        ({"command": ["true"], "limits": {"open_files": 64, "nice": 5}}, "batch", {"state": "succeeded"}),
        (
            {"command": ["false"], "restart": {"policy": "on-failure", "delay": 0, "max": 2}},
            "batch",
            {"state": "failed", "restarts": 2},
        ),
    ],
)
def test_every_shape_of_job_runs_to_its_end(http: httpx2.Client, spec: Json, kind: str, ends: Json) -> None:
    answer = http.post(JOBS, json=spec)
    assert answer.status_code == 201
    job = answer.json()
    assert answer.headers["Location"] == f"{JOBS}/{job['id']}"
    assert answer.headers["ETag"] == f'"{job["version"]}"'
    assert job["kind"] == kind and job["origin"] == "native" and job["f58"] == f58(int(job["id"]))
    done = ended(http, job["id"])
    assert {key: done[key] for key in ends} == ends
    assert len(done["runs"]) == spec.get("replicas", 1)
    assert datetime.fromisoformat(done["submitted_at"]) <= datetime.fromisoformat(done["ended_at"])
    # What a client decodes is what was sent.
    assert msgspec.convert(done, JobDoc, strict=True).labels == spec.get("labels", {})


def test_reserved_cores_are_named_and_given_back(http: httpx2.Client) -> None:
    job = submit(
        http,
        script="echo $RUNYARD_CORES; exec taskset -p $$ >&2; read x",
        resources={"cores_per_task": 1},
        name="cored",
    )
    done = ended(http, job["id"])
    assert len(done["runs"][0]["cores"]) == 1
    assert http.get(f"{JOBS}/{job['id']}/logs").text.strip() == str(done["runs"][0]["cores"][0])
    node = local_node(http)
    assert node["cores"]["free"] == node["cores"]["total"] == sorted(os.sched_getaffinity(0))


def test_tasks_are_processes_of_one_run(http: httpx2.Client) -> None:
    job = submit(
        http,
        script='echo "$RUNYARD_TASK_RANK of $RUNYARD_TASKS on $RUNYARD_NODES, $FLUX_JOB_ID"; exit $RUNYARD_TASK_RANK',
        resources={"tasks": 3},
    )
    done = ended(http, job["id"])
    assert (done["state"], done["exit_code"], len(done["runs"])) == ("failed", 2, 1)
    assert " of 3 failed first: exit code " in done["reason"]
    node = local_node(http)["name"]
    lines = http.get(f"{JOBS}/{job['id']}/logs").text.splitlines()
    assert sorted(lines) == [f"{rank} of 3 on {node}, {job['f58']}" for rank in range(3)]
    lost = ended(http, submit(http, command=["no-such-program-here"], resources={"tasks": 2})["id"])
    assert lost["state"] == "failed" and "task 0 of 2: there is no program" in lost["reason"]
    assert lost["started_at"] is None


def test_a_reference_is_an_id_its_f58_form_or_a_name(http: httpx2.Client) -> None:
    old = submit(http, command=["true"], name="twice")
    ended(http, old["id"])
    live = submit(http, command=["true"], name="twice", hold=True)
    assert show(http, "twice")["id"] == live["id"]
    for ref in (old["id"], old["f58"], "f" + old["f58"][1:]):
        assert show(http, ref)["id"] == old["id"]
    newest = submit(http, command=["true"], name="twice")
    ended(http, newest["id"])
    # The newest live one goes before the newest.
    assert show(http, "twice")["id"] == live["id"]
    act(http, live["id"], "cancel")
    assert show(http, "twice")["id"] == newest["id"]


# Bulk -------------------------------------------------------------------------------------------------------------

BATCH: list[Json] = [
    {"command": ["true"], "name": "bulk-b", "after": ["bulk-a"]},
    {"comand": ["true"]},
    {"command": ["true"], "name": "bulk-a"},
    {"command": ["true"], "after": ["nobody"]},
    {"command": []},
]


@pytest.mark.parametrize("form", ["json", "ndjson"])
def test_bulk_takes_good_jobs_and_names_what_is_wrong_with_the_others(http: httpx2.Client, form: str) -> None:
    if form == "json":
        answer = http.post(f"{JOBS}:batch", json=BATCH)
    else:
        lines = "\n\n".join(json.dumps(spec) for spec in BATCH) + "\n"
        answer = http.post(
            f"{JOBS}:batch", content=lines, headers={"Content-Type": "application/x-ndjson; charset=utf-8"}
        )
    assert answer.status_code == 200
    items = answer.json()["items"]
    assert [item["status"] for item in items] == [201, 400, 201, 400, 400]
    second, first = items[0]["job"], items[2]["job"]
    assert "did you mean 'command'" in items[1]["problem"]["detail"]
    assert "after[0]" in items[3]["problem"]["detail"] and items[3]["problem"]["code"] == "invalid_input"
    assert "must name a program" in items[4]["problem"]["detail"]
    assert all("problem" not in item for item in items if item["status"] == 201)
    done = ended(http, second["id"])
    # The dependency by name meant the job of the same request.
    assert done["started_at"] >= ended(http, first["id"])["ended_at"]


def test_a_circle_in_a_bulk_request_is_refused_with_its_path_and_the_rest_stands(http: httpx2.Client) -> None:
    specs = [
        {"command": ["true"], "name": "c1", "after": ["c3"]},
        {"command": ["true"], "name": "c2", "after": ["c1"]},
        {"command": ["true"], "name": "c3", "after": ["c2"]},
        {"command": ["true"], "after": ["c2"]},
        {"command": ["true"]},
    ]
    items = http.post(f"{JOBS}:batch", json=specs).json()["items"]
    assert [item["status"] for item in items] == [400, 400, 400, 400, 201]
    assert "circle: " in items[0]["problem"]["detail"] and " -> " in items[0]["problem"]["detail"]
    assert "was refused" in items[3]["problem"]["detail"]
    assert ended(http, items[4]["job"]["id"])["state"] == "succeeded"


def test_a_batch_is_one_transaction_with_ids_in_order(http: httpx2.Client) -> None:
    items = http.post(f"{JOBS}:batch", json=[{"command": ["true"], "hold": True}] * 50).json()["items"]
    ids = [int(item["job"]["id"]) for item in items]
    assert ids == sorted(ids) and len(set(ids)) == 50
    versions = [item["job"]["version"] for item in items]
    assert max(versions) - min(versions) < 100, "the events of one transaction stand together"
    for job in ids:
        act(http, str(job), "cancel")


# Listing ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def listed(http: httpx2.Client) -> dict[str, str]:
    """Some jobs that differ in everything that a list can be narrowed by: their ids by what they are called here."""
    common = {"mark": "listed"}
    specs: dict[str, Json] = {
        "done": {"command": ["echo", "needle-one"], "labels": common},
        "bad": {"command": ["false"], "labels": common | {"x": "1"}},
        "held": {"command": ["true"], "hold": True, "labels": common | {"x": "1", "y": "2"}},
        "named": {"command": ["true"], "name": "Needle-Two", "labels": common | {"y": "2"}},
        "service": {"command": ["sleep", "1000"], "lifecycle": "service", "labels": common},
        "cron": {"command": ["true"], "lifecycle": "cron", "schedule": {"cron": "0 0 1 1 *"}, "labels": common},
    }
    ids = {name: submit(http, **spec)["id"] for name, spec in specs.items()}
    for name in ("done", "bad", "named"):
        ended(http, ids[name])
    state_of(http, ids["service"], "running")
    return ids


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ({}, ["cron", "service", "named", "held", "bad", "done"]),
        ({"state": "failed"}, ["bad"]),
        ({"state": "pending,running"}, ["cron", "service", "held"]),
        ({"state": "succeeded, failed"}, ["named", "bad", "done"]),
        ({"kind": "service"}, ["service"]),
        ({"kind": "batch", "state": "pending"}, ["held"]),
        ({"origin": "flux"}, []),
        ({"owner": "nobody-at-all"}, []),
        ({"name": "Needle-Two"}, ["named"]),
        ({"name": "needle-two"}, []),
        ({"q": "needle"}, ["named", "done"]),
        ({"q": "100%"}, []),
        ({"label": ["x=1"]}, ["held", "bad"]),
        ({"label": ["x=1", "y=2"]}, ["held"]),
        ({"label": ["y=3"]}, []),
        ({"since": "2020-01-01T00:00:00Z", "kind": "cron"}, ["cron"]),
        ({"since": "4000000000"}, []),
        ({"since": "2090-01-01T00:00:00+02:00"}, []),
        ({"limit": "1"}, ["cron"]),
    ],
)
def test_every_filter_of_the_list(
    http: httpx2.Client, listed: dict[str, str], query: dict[str, Any], names: list[str]
) -> None:
    query = {**query, "label": ["mark=listed", *query.get("label", [])]}
    items = http.get(JOBS, params=query).json()["items"]
    by_id = {job: name for name, job in listed.items()}
    assert [by_id[item["id"]] for item in items] == names


def test_the_owner_is_who_runs_the_server(http: httpx2.Client, listed: dict[str, str]) -> None:
    owner = show(http, listed["done"])["owner"]
    found = http.get(JOBS, params={"owner": owner, "origin": "native", "label": "mark=listed"}).json()["items"]
    assert len(found) == len(listed)


def test_a_walk_by_cursor_sees_every_job_once_while_new_ones_come(http: httpx2.Client) -> None:
    batch = [{"command": ["true"], "hold": True, "labels": {"walk": "1"}}] * 25
    wanted = [item["job"]["id"] for item in http.post(f"{JOBS}:batch", json=batch).json()["items"]]
    seen: list[str] = []
    params: dict[str, Any] = {"label": "walk=1", "limit": 7}
    while True:
        page = http.get(JOBS, params=params).json()
        assert len(page["items"]) <= 7
        seen += [item["id"] for item in page["items"]]
        if page["next"] is None:
            break
        params["cursor"] = page["next"]
        submit(http, command=["true"], hold=True, labels={"walk": "1"})
    assert seen == wanted[::-1]
    for job in http.get(JOBS, params={"label": "walk=1"}).json()["items"]:
        act(http, job["id"], "cancel")


# Versions and repetition ------------------------------------------------------------------------------------------


def test_etags_tell_whether_a_job_has_changed(http: httpx2.Client) -> None:
    job = submit(http, command=["true"], hold=True)
    path = f"{JOBS}/{job['id']}"
    shown = http.get(path)
    tag = shown.headers["ETag"]
    same = http.get(path, headers={"If-None-Match": tag})
    assert (same.status_code, same.content, same.headers["ETag"]) == (304, b"", tag)
    assert http.get(path, headers={"If-None-Match": f'"1", {tag}'}).status_code == 304
    assert http.get(path, headers={"If-None-Match": '"1"'}).status_code == 200

    changed = http.patch(path, json={"priority": 5}, headers={"If-Match": tag})
    assert changed.status_code == 200 and changed.json()["priority"] == 5 and changed.headers["ETag"] != tag
    assert http.get(path, headers={"If-None-Match": tag}).status_code == 200
    for stale in (tag, '"nonsense"'):
        late = http.patch(path, json={"priority": 6}, headers={"If-Match": stale})
        assert late.status_code == 412 and late.json()["code"] == "precondition_failed"
    assert http.patch(path, json={"priority": 6}, headers={"If-Match": f'"{"1" * 5000}"'}).status_code == 412
    assert http.patch(path, json={"hold": False}, headers={"If-Match": "*"}).json()["hold"] is False
    assert ended(http, job["id"])["priority"] == 5


def test_of_writers_with_the_same_version_one_wins(server: Server, http: httpx2.Client) -> None:
    job = submit(http, command=["true"], hold=True)
    tag = http.get(f"{JOBS}/{job['id']}").headers["ETag"]

    def change(priority: int) -> int:
        with server.http() as own:
            return own.patch(f"{JOBS}/{job['id']}", json={"priority": priority}, headers={"If-Match": tag}).status_code

    with ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(change, range(1, 9)))
    assert sorted(codes) == [200] + [412] * 7
    act(http, job["id"], "cancel")


def test_an_idempotency_key_brings_back_the_first_answer(http: httpx2.Client) -> None:
    key = {"Idempotency-Key": "key-1"}
    body = {"command": ["true"], "name": "once"}
    first = http.post(JOBS, json=body, headers=key)
    ended(http, first.json()["id"])
    again = http.post(JOBS, json=body, headers=key)
    assert (again.status_code, again.content) == (201, first.content)
    assert again.headers["Idempotency-Replayed"] == "true" and "Idempotency-Replayed" not in first.headers
    assert again.headers["Location"] == first.headers["Location"]
    other = http.post(JOBS, json=body | {"name": "other"}, headers=key)
    assert other.status_code == 409 and other.json()["code"] == "conflict" and "key-1" in other.json()["detail"]
    assert len(http.get(JOBS, params={"name": "once"}).json()["items"]) == 1


def test_the_same_key_on_another_route_is_another_request(http: httpx2.Client) -> None:
    line = b'{"command": ["true"], "name": "two-routes"}'
    headers = {"Idempotency-Key": "key-2", "Content-Type": "application/x-ndjson"}
    assert http.post(JOBS, content=line, headers=headers).status_code == 201
    assert http.post(f"{JOBS}:batch", content=line, headers=headers).status_code == 409


def test_a_refused_request_leaves_its_key_free(http: httpx2.Client) -> None:
    key = {"Idempotency-Key": "key-3"}
    assert http.post(JOBS, json={"command": ["true"], "after": ["nobody"]}, headers=key).status_code == 400
    answer = http.post(JOBS, json={"command": ["true"]}, headers=key)
    assert answer.status_code == 201 and "Idempotency-Replayed" not in answer.headers


def test_bulk_requests_replay_too(http: httpx2.Client) -> None:
    key = {"Idempotency-Key": "key-4"}
    first = http.post(f"{JOBS}:batch", json=[{"command": ["true"]}, {}], headers=key)
    again = http.post(f"{JOBS}:batch", json=[{"command": ["true"]}, {}], headers=key)
    assert again.content == first.content and again.headers["Idempotency-Replayed"] == "true"


def test_the_same_key_at_the_same_time_makes_one_job(server: Server, http: httpx2.Client) -> None:
    def post(_: int) -> tuple[int, str, bool]:
        with server.http() as own:
            answer = own.post(
                JOBS, json={"command": ["true"], "name": "same-key"}, headers={"Idempotency-Key": "key-5"}
            )
            return answer.status_code, answer.json()["id"], "Idempotency-Replayed" in answer.headers

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(post, range(12)))
    assert {status for status, _, _ in answers} == {201}
    assert len({job for _, job, _ in answers}) == 1
    assert sorted(replayed for _, _, replayed in answers) == [False] + [True] * 11
    assert len(http.get(JOBS, params={"name": "same-key"}).json()["items"]) == 1


# Acting -----------------------------------------------------------------------------------------------------------


def test_cancel_a_pending_and_a_running_job(http: httpx2.Client) -> None:
    held = submit(http, command=["true"], hold=True)
    assert act(http, held["id"], "cancel")["state"] == "cancelled"
    running = submit(http, command=["sleep", "1000"])
    pid = state_of(http, running["id"], "running")["runs"][0]["pid"]
    assert act(http, running["id"], "cancel")["state"] in ("stopping", "cancelled")
    done = ended(http, running["id"])
    assert (done["state"], done["signal"]) == ("cancelled", "SIGTERM")
    assert not os.path.exists(f"/proc/{pid}")
    again = act(http, running["id"], "cancel", 409)
    assert again["code"] == "conflict" and "cancelled" in again["detail"]


def test_cancel_kills_what_does_not_listen_and_its_children(http: httpx2.Client) -> None:
    job = submit(
        http,
        script='trap "" TERM; setsid sleep 1000 & echo $!; while :; do sleep 0.05; done',
        stop={"grace": "200ms"},
    )
    child = int(wait_until(lambda: http.get(f"{JOBS}/{job['id']}/logs").text.strip(), 60, "the child's pid"))
    act(http, job["id"], "cancel")
    assert ended(http, job["id"])["signal"] == "SIGKILL"
    wait_until(lambda: not os.path.exists(f"/proc/{child}"), 60, "the end of the child in its own session")


def test_restart_a_live_and_an_ended_job(http: httpx2.Client) -> None:
    job = submit(http, command=["sleep", "1000"])
    before = state_of(http, job["id"], "running")["runs"][0]
    act(http, job["id"], "restart")
    after = ask_until(
        lambda: show(http, job["id"])["runs"][0], lambda run: run["attempt"] == 2 and run["pid"], what="a second run"
    )
    assert after["pid"] != before["pid"] and after["state"] in ("starting", "running")
    act(http, job["id"], "cancel")
    ended(http, job["id"])
    act(http, job["id"], "restart")
    third = state_of(http, job["id"], "running")
    assert third["runs"][0]["attempt"] == 3 and third["ended_at"] is None
    act(http, job["id"], "cancel")
    ended(http, job["id"])
    page = http.get(f"{JOBS}/{job['id']}/runs", params={"limit": 2}).json()
    assert [run["attempt"] for run in page["items"]] == [3, 2]
    rest = http.get(f"{JOBS}/{job['id']}/runs", params={"limit": 2, "cursor": page["next"]}).json()
    assert [(run["attempt"], run["pid"]) for run in rest["items"]] == [(1, before["pid"])]
    assert rest["next"] is None


@pytest.mark.parametrize("name", ["SIGUSR1", "usr1", "10", 10])
def test_signal_reaches_the_process_and_changes_no_state(http: httpx2.Client, name: str | int) -> None:
    job = submit(http, script='trap "echo got it" USR1; echo ready; while :; do sleep 0.02; done')
    logs = f"{JOBS}/{job['id']}/logs"
    wait_until(lambda: http.get(logs).text == "ready\n", 60, "the trap")
    assert act(http, job["id"], "signal", signal=name)["state"] == "running"
    wait_until(lambda: http.get(logs).text == "ready\ngot it\n", 60, "the signal")
    act(http, job["id"], "cancel")


def test_delete_takes_an_ended_job_with_its_output_and_leaves_its_events(server: Server, http: httpx2.Client) -> None:
    job = submit(http, command=["echo", "gone"], name="deleted")
    done = ended(http, job["id"])
    assert http.get(f"{JOBS}/{job['id']}/logs").text == "gone\n"
    files = [path for path in (server.data / "output").rglob("*") if path.is_file() and job["id"] in str(path)]
    assert files
    assert http.delete(f"{JOBS}/{job['id']}").status_code == 204
    assert not [path for path in files if path.exists()]
    for path in ("", "/logs", "/runs", "/why", "/wait"):
        gone = http.get(f"{JOBS}/{job['id']}{path}")
        assert gone.status_code == 404 and gone.json()["code"] == "not_found"
    assert http.delete(f"{JOBS}/{job['id']}").status_code == 404
    events = http.get("/api/v1/events", params={"after": done["version"] - 1}).json()["items"]
    assert [event["type"] for event in events if event["job"] == job["id"]] == ["job.succeeded", "job.deleted"]


@pytest.mark.parametrize("action", ["cancel", "signal", "amend"])
def test_an_ended_job_takes_no_orders(http: httpx2.Client, action: str) -> None:
    job = submit(http, command=["true"])
    ended(http, job["id"])
    if action == "amend":
        answer = http.patch(f"{JOBS}/{job['id']}", json={"priority": 1})
    else:
        answer = http.post(f"{JOBS}/{job['id']}/{action}", json={"signal": "TERM"} if action == "signal" else {})
    assert answer.status_code == 409 and answer.json()["code"] == "conflict"
    assert "succeeded" in answer.json()["detail"]


def test_wait_answers_at_the_end_or_when_time_is_up(http: httpx2.Client) -> None:
    job = submit(http, command=["cat", "/dev/zero"], hold=True)
    assert http.get(f"{JOBS}/{job['id']}/wait", params={"timeout": 0}).json()["state"] == "pending"
    assert http.get(f"{JOBS}/{job['id']}/wait", params={"timeout": 0.05}).json()["state"] == "pending"
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(ended, http, job["id"]) for _ in range(3)]
        act(http, job["id"], "cancel")
        assert {future.result()["state"] for future in waiting} == {"cancelled"}


# The rest of the door ---------------------------------------------------------------------------------------------


def test_nodes_say_what_is_free(http: httpx2.Client) -> None:
    job = submit(http, command=["sleep", "1000"], resources={"cores_per_task": 1, "memory": "64M"})
    state_of(http, job["id"], "running")
    node = local_node(http)
    cores = sorted(os.sched_getaffinity(0))
    assert (node["state"], node["executor"], node["cores"]["total"]) == ("up", "local", cores)
    taken = show(http, job["id"])["runs"][0]["cores"]
    assert set(node["cores"]["free"]) == set(cores) - set(taken)
    assert node["memory"]["total"] - node["memory"]["free"] == 64 * 1024**2
    assert node["runs"] >= 1 and node["host"]["memory_total"] > 0
    act(http, job["id"], "cancel")
    ended(http, job["id"])


def test_schedules_and_their_preview(http: httpx2.Client) -> None:
    jobs = {
        cron: submit(http, command=["true"], lifecycle="cron", schedule={"cron": cron, "timezone": "Europe/Berlin"})[
            "id"
        ]
        for cron in ("0 0 1 1 *", "30 2 * * *")
    }
    items = {item["job"]: item for item in http.get("/api/v1/schedules").json()["items"]}
    order = [item["next_fire_at"] for item in items.values()]
    assert order == sorted(order)
    for cron, job in jobs.items():
        assert (items[job]["cron"], items[job]["timezone"]) == (cron, "Europe/Berlin")
        body = {"cron": cron, "timezone": "Europe/Berlin", "count": 3}
        times = http.post("/api/v1/schedules:preview", json=body).json()["fire_times"]
        assert times[0] == items[job]["next_fire_at"] and len(times) == 3
        assert all(earlier < later for earlier, later in pairwise(times))
        act(http, job, "cancel")
    assert not jobs.keys() & {item["job"] for item in http.get("/api/v1/schedules").json()["items"]}


def test_a_cron_job_fires_and_goes_on(http: httpx2.Client, client: Client) -> None:
    job = submit(http, command=["echo", "tick"], lifecycle="cron", schedule={"cron": "* * * * * *"})
    runs = ask_until(lambda: list(client.runs(job["id"])), lambda found: len(found) >= 2)
    assert {run.state for run in runs[1:]} == {"succeeded"}
    assert show(http, job["id"])["next_fire_at"]
    act(http, job["id"], "cancel")
    assert ended(http, job["id"])["state"] == "cancelled"


def test_health_routes(http: httpx2.Client) -> None:
    assert http.get("/livez").json() == {"status": "ok"}
    ready = http.get("/readyz")
    assert ready.status_code == 200 and set(ready.json()["checks"].values()) == {"ok"}
    version = http.get("/version").json()
    assert version["api"] == "v1" and version["version"].count(".") == 2
    metrics = http.get("/metrics")
    assert metrics.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    job = submit(http, command=["true"])
    ended(http, job["id"])
    figures = dict(line.rsplit(" ", 1) for line in http.get("/metrics").text.splitlines() if not line.startswith("#"))
    assert float(figures['runyard_jobs{state="succeeded"}']) >= 1
    assert float(figures["runyard_launches_total"]) >= 1
    assert float(figures[next(name for name in figures if name.startswith("runyard_node_up"))]) == 1


def test_without_an_agent_the_server_is_not_ready_and_gets_it_back(serve: Callable[..., Server]) -> None:
    server = serve()
    with server.client() as client, server.http() as http:
        job = client.submit(command=["sleep", "1000"], name="sleeper")
        pid = server.until(client, job.id, "running").runs[0].pid
        agent = json.loads(server.run("agent", "status", "--data-dir", str(server.data), "-o", "json").stdout)["pid"]
        os.kill(agent, 9)
        wait_until(lambda: any(e.type == "node.down" for e in client.events()), 60, "node.down")
        wait_until(lambda: http.get("/readyz").status_code == 200, 60, "a new agent")
        adopted = client.job(job.id)
        assert adopted.state == "running" and adopted.runs[0].pid == pid and adopted.runs[0].attempt == 1
        client.cancel(job.id)
        assert client.wait(job.id, 60).state == "cancelled"


def test_an_order_that_crosses_the_end_of_its_job_is_a_conflict(server: Server, http: httpx2.Client) -> None:
    def cancel(ref: str) -> int:
        with server.http() as own:
            return own.post(f"{JOBS}/{ref}/cancel").status_code

    with ThreadPoolExecutor(8) as pool:
        ids = [submit(http, command=["true"])["id"] for _ in range(60)]
        codes = list(pool.map(cancel, ids))
    assert set(codes) <= {200, 409}
    assert {ended(http, job)["state"] for job in ids} <= {"succeeded", "cancelled"}
