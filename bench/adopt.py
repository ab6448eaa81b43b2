"""Adopt: a thousand running children, the server killed, and started again; then the same with the agent killed too."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx2

from bench.figure import Figure
from bench.server import BenchServer

CHILDREN = 1000


def measure(children: int = CHILDREN) -> list[Figure]:
    figures = []
    with BenchServer() as server:
        body = [{"command": ["sleep", "100000"], "labels": {"bench": "adopt"}}] * children
        httpx2.post(f"{server.url}/api/v1/jobs:batch", json=body, timeout=60).raise_for_status()
        before = _running(server, children)
        for name, both in (("the server", False), ("server and agent", True)):
            server.kill()
            if both:
                server.kill_agent()
            seconds = server.start()
            lost, extra = _differences(server, before)
            figures += [
                Figure(name=f"adopt: ready after kill -9 of {name}", unit="s", measured=seconds, most=2),
                Figure(name=f"adopt: {children} children, lost", unit="", measured=lost, most=0),
                Figure(name=f"adopt: {children} children, started twice", unit="", measured=extra, most=0),
            ]
    return figures


def _running(server: BenchServer, children: int) -> dict[str, int]:
    """The pid of each job, once all run."""
    until = time.monotonic() + 60
    while True:
        pids = {job["id"]: job["runs"][0]["pid"] for job in _jobs(server) if job["state"] == "running"}
        if len(pids) == children:
            return pids
        if time.monotonic() > until:
            raise RuntimeError(f"{len(pids)} of {children} jobs run after a minute")
        time.sleep(0.05)


def _jobs(server: BenchServer) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    params = {"limit": "1000"}
    while True:
        page = httpx2.get(f"{server.url}/api/v1/jobs", params=params, timeout=60).json()
        found += page["items"]
        if page["next"] is None:
            return found
        params["cursor"] = page["next"]


def _differences(server: BenchServer, before: dict[str, int]) -> tuple[int, int]:
    """Jobs that no longer run as the same process, and processes there are too many of."""
    mark = b"RUNYARD_AGENT=" + (server.folder / "agent" / "id").read_bytes() + b"\0"
    living: Counter[int] = Counter()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if mark in (entry / "environ").read_bytes() + b"\0":
                    living[int(entry.name)] += 1
            except OSError:
                continue  # it has just ended, or is not ours
    now = {job["id"]: job["runs"][0] for job in _jobs(server) if job["state"] == "running"}
    same = [job for job, pid in before.items() if job in now and now[job]["pid"] == pid and pid in living]
    again = sum(run["attempt"] != 1 for run in now.values())
    return len(before) - len(same), again + len(living.keys() - set(before.values()))
