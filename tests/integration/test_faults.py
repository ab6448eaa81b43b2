"""Kills at random moments, a full disk, a folder that can't be written: what was answered holds, what runs goes on."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.faults import Storm
from tests.helpers import deadline, wait_until
from tests.system.server import Server, alive

JOBS = "/api/v1/jobs"


@pytest.mark.parametrize("seed", [1, 2])
def test_kills_under_load_lose_nothing_and_start_nothing_twice(tmp_path: Path, seed: int) -> None:
    server = Server(tmp_path)
    try:
        storm = Storm(server.start(), seed)
        storm.blow(4)
    finally:
        server.close()
    assert storm.failures == []
    assert storm.kills.total() == 4
    assert len(storm.answered) > 10, "there was no load"


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Server]:
    """A server, not started yet, with a file system of 16 MiB of its own for its data folder."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system takes root")
    server = Server(tmp_path)
    server.data.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "none", server.data], capture_output=True)
    if made.returncode != 0:
        pytest.skip(f"mount: {made.stderr.decode().strip()}")
    try:
        yield server
    finally:
        subprocess.run(["umount", server.data], check=True)


def test_a_full_disk_refuses_jobs_and_loses_no_exit(small: Server, tmp_path: Path) -> None:
    go = tmp_path / "go"
    ballast = small.data / "ballast"
    script = f"while [ ! -e {go} ]; do sleep 0.05; done; exit 3"
    small.start()
    try:
        with small.http() as http:
            jobs = [http.post(JOBS, json={"script": script}).json()["id"] for _ in range(3)]
            wait_until(lambda: len(_running(http)) == len(jobs), 60, "the start of the runs")
            pids = _running(http)
            with pytest.raises(OSError, match="No space left"), ballast.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
            taken, refused = _submit_until_refused(http)
            problem = refused.json()
            assert (refused.status_code, problem["code"]) == (507, "storage")
            assert refused.headers["Retry-After"]
            for word in (str(small.data), "database or disk is full", "Nothing of this request was kept", "free space"):
                assert word in problem["detail"]

            assert http.get("/readyz").status_code == 503
            assert http.get(f"{JOBS}/{jobs[0]}").json()["state"] == "running", "reading goes on"
            assert all(map(alive, pids)), "what runs goes on"
            go.touch()
            wait_until(lambda: not any(map(alive, pids)), 60, "the end of the runs, with the disk still full")
            assert http.get("/readyz").status_code == 503

            ballast.unlink()
            wait_until(lambda: http.get("/readyz").status_code == 200, 60, "readiness after there was room again")
            for job in jobs:
                ended = http.get(f"{JOBS}/{job}/wait", params={"timeout": 60}).json()
                assert (ended["state"], ended["exit_code"]) == ("failed", 3)
            assert http.post(JOBS, json={"command": ["true"], "name": "after"}).status_code == 201
            stored = {job["name"] for job in http.get(JOBS, params={"limit": 1000}).json()["items"]}
            assert stored == {None, "after", *taken}, "what was refused is not there, what was answered is"
            _check_numbers(http)
    finally:
        small.close()


def _running(http: httpx2.Client) -> list[int]:
    """The process of each running job."""
    jobs = http.get(JOBS, params={"state": "running"}).json()["items"]
    return [run["pid"] for job in jobs for run in job["runs"]]


def _submit_until_refused(http: httpx2.Client) -> tuple[list[str], httpx2.Response]:
    """The names that were still taken: the store's log may have had some room of its own."""
    taken: list[str] = []
    for _ in deadline(60, "a refusal", step=0):
        answer = http.post(JOBS, json={"command": ["true"], "name": f"full-{len(taken)}", "hold": True})
        if answer.status_code != 201:
            return taken, answer
        taken.append(f"full-{len(taken)}")
    raise AssertionError


def _check_numbers(http: httpx2.Client) -> None:
    events = http.get("/api/v1/events", params={"limit": 1000}).json()["items"]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))


def test_a_data_folder_that_cannot_be_written_is_said_at_the_start(small: Server) -> None:
    small.start()
    with small.http() as http:
        job = http.post(JOBS, json={"command": ["true"], "hold": True}).json()["id"]
    small.close()
    remount = ["mount", "-o", "remount,{}", str(small.data)]
    subprocess.run([part.format("ro") for part in remount], check=True)
    refused = small.run("serve", "--port", "0", "--data-dir", str(small.data))
    assert refused.returncode != 0 and refused.stdout == ""
    assert str(small.data) in refused.stderr and "can't be opened for writing" in refused.stderr
    assert "Traceback" not in refused.stderr

    subprocess.run([part.format("rw") for part in remount], check=True)
    small.start()
    try:
        assert small.get(f"{JOBS}/{job}").json()["state"] == "pending"
    finally:
        small.close()
