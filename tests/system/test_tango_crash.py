"""A project manager that is killed in the middle, again and again: it goes on where it was, nothing starts twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from tests.system.members import START, FakeMember, members, report
from tests.system.native import ended
from tests.system.server import Server, ask_until

PROJECTS = "/api/v1/projects"


def test_a_manager_that_is_killed_in_each_step_starts_each_once(serve: Callable[..., Server]) -> None:
    server = serve(RUNYARD_DOORS__TANGO__HEARTBEAT="0.1")
    fakes = [FakeMember() for _ in range(3)]
    with members(*fakes), server.http() as http:
        steps: list[dict[str, Any]] = [
            {"container": f"step{number}", "url": fake.url} for number, fake in enumerate(fakes)
        ]
        steps.append({"container": "local", "command": ["sh", "-c", "echo began"]})
        ref = http.post(PROJECTS, json={"name": "p", "user_id": "u", "steps": steps}, params={"start": "true"}).json()[
            "id"
        ]
        for number, fake in enumerate(fakes):
            # Round by round the kill comes at another moment: before the first beat, after it, and behind the report.
            fake.until_called(START, ref)
            if number == 1:
                fake.until_called("status_request", ref, 2)
            fake.finish()
            if number == 2:
                assert report(server.url, "step2", "u", ref, "success") == 200
                # What waits for a person is there again as well.
                other = {"name": "q", "user_id": "u", "steps": [{"container": "user_edit"}]}
                assert http.post(PROJECTS, json=other, params={"start": "true"}).status_code == 201
            server.kill()
            server.start()
        assert ended(http, ref)["state"] == "succeeded"
        found = http.get(f"{PROJECTS}/{ref}").json()
        assert Counter(step["phase"] for step in found["steps"]) == {"completed": 4}
        assert [fake.count(START, ref) for fake in fakes] == [1, 1, 1]
        local = found["steps"][3]["job"]
        assert http.get(f"/api/v1/jobs/{local}/logs").text == "began\n"
        jobs = http.get("/api/v1/jobs", params={"name": "p.local"}).json()["items"]
        assert [job["id"] for job in jobs] == [local]
        ask_until(lambda: http.get(f"{PROJECTS}/q").json()["phase"], lambda phase: phase == "running")
        assert http.post(f"{PROJECTS}/q/advance", json={}).status_code == 200
        assert ended(http, "q")["state"] == "succeeded"


def test_a_manager_that_no_longer_knows_where_a_member_is(serve: Callable[..., Server]) -> None:
    with members(FakeMember()) as (fake,):
        server = serve(RUNYARD_DOORS__TANGO__HEARTBEAT="0.1", TANGO_MINE_URL=fake.url)
        body = {"user_id": "u", "steps": [{"container": "mine"}], "max_missed_beats": 2}
        with server.http() as http:
            for name in ("begun", "held"):
                start = {"start": "true"} if name == "begun" else {}
                assert http.post(PROJECTS, json=body | {"name": name}, params=start).status_code == 201
            fake.until_called(START, http.get(f"{PROJECTS}/begun").json()["id"])
        server.kill()
        server.set_env(TANGO_MINE_URL="")
        server.start()
        with server.http() as http:
            assert http.post(f"{PROJECTS}/held/start", json={}).status_code == 200
            for name in ("begun", "held"):
                assert ended(http, name)["state"] == "failed"
                assert "its address is configured no longer" in http.get(f"{PROJECTS}/{name}").json()["reason"]


def test_the_seed_port_and_the_allow_list(serve: Callable[..., Server]) -> None:
    server = serve(
        RUNYARD_DOORS__TANGO__PORT="0",
        RUNYARD_DOORS__TANGO__COMPAT_ERRORS_200="true",
        RUNYARD_DOORS__TANGO__ALLOW="10.0.0.0/8",
    )
    import httpx2

    port = server.door_port("tango")
    answer = httpx2.get(f"http://127.0.0.1:{port}/status_report", timeout=60)
    assert answer.status_code == 200
    assert answer.json()["status"] == "error" and "allow" in answer.json()["message"]
