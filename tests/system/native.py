"""Words for talking to the native door over plain HTTP, as any client in any language would."""

from __future__ import annotations

from typing import Any

import httpx2

from tests.system.server import ask_until

JOBS = "/api/v1/jobs"
Json = dict[str, Any]


def submit(http: httpx2.Client, headers: dict[str, str] | None = None, **spec: Any) -> Json:
    answer = http.post(JOBS, json=spec, headers=headers or {})
    assert answer.status_code == 201, answer.text
    found: Json = answer.json()
    return found


def act(http: httpx2.Client, ref: str, action: str, status: int = 200, **body: Any) -> Json:
    answer = http.post(f"{JOBS}/{ref}/{action}", json=body)
    assert answer.status_code == status, answer.text
    found: Json = answer.json()
    return found


def show(http: httpx2.Client, ref: str) -> Json:
    found: Json = http.get(f"{JOBS}/{ref}").json()
    return found


def ended(http: httpx2.Client, ref: str, timeout: float = 60) -> Json:
    found: Json = http.get(f"{JOBS}/{ref}/wait", params={"timeout": timeout}).json()
    assert found["ended_at"], found
    return found


def local_node(http: httpx2.Client) -> Json:
    nodes: list[Json] = http.get("/api/v1/nodes").json()["items"]
    (node,) = (node for node in nodes if node["executor"] == "local")
    return node


def state_of(http: httpx2.Client, ref: str, *states: str) -> Json:
    """The job once it is in one of those states."""
    return ask_until(lambda: show(http, ref), lambda job: job["state"] in states, what=f"{ref} in {states}")
