"""The native door over real HTTP: why a job is where it is, for every reason there is."""

from __future__ import annotations

import os
from datetime import datetime

import httpx2
import pytest

from tests.helpers import wait_until
from tests.system.native import JOBS, Json, act, ended, show, state_of, submit

pytestmark = pytest.mark.usefixtures("nothing_left_over")


def why(http: httpx2.Client, ref: str) -> Json:
    answer = http.get(f"{JOBS}/{ref}/why")
    assert answer.status_code == 200
    found: Json = answer.json()
    return found


def test_why_held(http: httpx2.Client) -> None:
    job = submit(http, command=["true"], hold=True)
    found = why(http, job["id"])
    assert (found["state"], found["reason"]) == ("pending", "held")
    assert f"runyard release {job['id']}" in found["summary"] and found["blockers"] == [{"kind": "hold"}]
    http.patch(f"{JOBS}/{job['id']}", json={"hold": False})
    ended(http, job["id"])
    assert why(http, job["id"])["summary"] == "It has succeeded."


def test_why_dependency(http: httpx2.Client) -> None:
    first = submit(http, command=["true"], hold=True, name="why-first")
    second = submit(http, command=["true"], after=["why-first"])
    found = why(http, second["id"])
    assert found["reason"] == "dependency" and "why-first" in found["summary"]
    (blocker,) = found["blockers"]
    assert blocker["job"] == first["id"] and blocker["name"] == "why-first" and blocker["condition"] == "succeeded"
    act(http, first["id"], "cancel")
    done = ended(http, second["id"])
    assert done["state"] in ("failed", "cancelled") and "why-first" in done["reason"]
    assert done["reason"] in why(http, second["id"])["summary"]


def test_why_schedule(http: httpx2.Client) -> None:
    job = submit(http, command=["true"], lifecycle="cron", schedule={"cron": "0 0 1 1 *"})
    found = why(http, job["id"])
    assert found["reason"] == "schedule"
    assert datetime.fromisoformat(found["expected_start"]) == datetime.fromisoformat(job["next_fire_at"])
    assert job["next_fire_at"][:10].endswith("-01-01")
    act(http, job["id"], "cancel")


def test_why_resources_names_who_holds_them(http: httpx2.Client) -> None:
    cores = sorted(os.sched_getaffinity(0))
    all_cores = {"cores_per_task": len(cores)}
    holder = submit(http, command=["sleep", "1000"], name="holder", resources=all_cores, time_limit="1h")
    state_of(http, holder["id"], "running")
    low = submit(http, command=["true"], resources={"cores_per_task": 1})
    high = submit(http, command=["true"], resources={"cores_per_task": 1}, priority=9)
    found = why(http, low["id"])
    assert found["reason"] == "resources" and found["position"] == 2 and why(http, high["id"])["position"] == 1
    (blocker,) = found["blockers"]
    assert (blocker["job"], blocker["name"]) == (holder["id"], "holder")
    assert blocker["holds"][0]["cores"] == cores
    assert "job holder holds " in found["summary"]
    assert datetime.fromisoformat(found["expected_start"]) > datetime.fromisoformat(low["submitted_at"])
    act(http, holder["id"], "cancel")
    assert ended(http, low["id"])["state"] == ended(http, high["id"])["state"] == "succeeded"


def test_why_a_whole_node_is_not_free_while_a_job_without_reservation_runs(http: httpx2.Client) -> None:
    small = submit(http, command=["sleep", "1000"], name="small")
    state_of(http, small["id"], "running")
    whole = submit(http, command=["true"], resources={"exclusive": True})
    found = why(http, whole["id"])
    assert found["reason"] == "resources" and "a whole node" in found["summary"]
    assert "small" in [blocker["name"] for blocker in found["blockers"]]
    act(http, whole["id"], "cancel")
    act(http, small["id"], "cancel")


def test_why_more_than_there_is(http: httpx2.Client) -> None:
    for resources, reason in (
        ({"cores_per_task": 90_000}, "needs 90000 cores, the largest node has "),
        ({"tasks": 5000, "cores_per_task": 1}, "needs 5000 cores, the largest node has "),
        ({"tasks": 5000}, "needs 5000 process slots, the largest node has 4096"),
        ({"gpus_per_task": 900}, "needs 900 GPUs, the largest node has "),
        ({"nodes": 3, "tasks": 3}, "needs 3 such nodes, there is 1"),
        ({"nodes": 2, "exclusive": True}, "needs 2 such nodes, there is 1"),
    ):
        job = submit(http, command=["true"], resources=resources)
        done = ended(http, job["id"])
        assert done["state"] == "failed" and reason in done["reason"] and not done["runs"]
        assert done["reason"] in why(http, job["id"])["summary"]


def test_why_backoff(http: httpx2.Client) -> None:
    job = submit(
        http, command=["false"], lifecycle="service", restart={"policy": "always", "delay": "1h", "max_delay": "1h"}
    )
    wait_until(lambda: show(http, job["id"])["reason"] == "backoff", 60, "the back-off")
    found = why(http, job["id"])
    assert found["state"] == "pending" and "exit code 1" in found["summary"] and found["expected_start"]
    act(http, job["id"], "cancel")


def test_why_running(http: httpx2.Client) -> None:
    job = submit(http, command=["sleep", "1000"], replicas=2)
    state_of(http, job["id"], "running")
    wait_until(lambda: "2 of 2 replicas are running" in why(http, job["id"])["summary"], 60)
    act(http, job["id"], "cancel")
