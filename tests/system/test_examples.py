"""The examples, as `make run` starts them, over the death of the server."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2
import pytest

from runyard.client import Client
from runyard.model.job import JobDoc
from tests.helpers import free_port, wait_until
from tests.system.server import LOOPBACK, Server, alive, ask_until

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = {"digits", "health", "disk-usage"}


@pytest.fixture(scope="module")
def port() -> int:
    """A free port for the example service, whose own may be taken."""
    return free_port()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, port: int) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("examples")
    shutil.copytree(EXAMPLES, folder / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    file = folder / "examples" / "jobs.toml"
    text = file.read_text()
    assert '"7080"' in text
    file.write_text(text.replace('"7080"', f'"{port}"'))
    server = Server(folder, "--jobs", str(file))
    try:
        yield server.start()
    finally:
        server.close()


def process(job: JobDoc) -> int:
    (run,) = job.runs
    assert run.pid is not None
    return run.pid


def curves(server: Server) -> dict[str, int]:
    """Names and numbers of points."""
    found = server.get("/api/v1/jobs/digits/metrics").json()["items"]
    return {curve["name"]: curve["count"] for curve in found}


def health(port: int) -> int:
    """The pid that the service itself answers with; 0 while it does not answer."""
    try:
        answer = httpx2.get(f"http://{LOOPBACK}:{port}/health", timeout=60)
    except httpx2.TransportError:
        return 0
    assert answer.json()["status"] == "ok"
    return int(answer.json()["pid"])


def test_the_examples_run_and_survive_their_server(server: Server, client: Client, port: int) -> None:
    jobs = {job.name: job for job in client.jobs()}
    assert set(jobs) == NAMES and [job.kind for job in jobs.values()].count("batch") == 1
    server.until(client, "digits", "running", 60)
    service = ask_until(lambda: health(port), bool, 60, "the health service")
    assert process(server.until(client, "health", "running")) == service
    before = datetime.now(UTC)
    cron = client.job("disk-usage")
    assert cron.state == "pending" and cron.next_fire_at is not None
    assert before - timedelta(seconds=1) < cron.next_fire_at <= datetime.now(UTC) + timedelta(seconds=61)
    training = process(client.job("digits"))
    ask_until(lambda: b"".join(client.logs("digits")), lambda text: b"epoch  1/40" in text, 60, "an epoch")

    server.kill()
    assert alive(service) and alive(training) and health(port) == service
    server.start()

    again = {job.name: job for job in client.jobs()}
    assert {name: job.id for name, job in again.items()} == {name: job.id for name, job in jobs.items()}
    assert len(list(client.jobs())) == 3, "nothing is submitted a second time"
    for name, pid in (("health", service), ("digits", training)):
        job = server.until(client, name, "running")
        assert process(job) == pid and job.runs[0].attempt == 1 and job.restarts == 0
    assert client.job("disk-usage").next_fire_at is not None

    # The service stays up: killed, it comes back.
    os.kill(service, signal.SIGKILL)
    wait_until(lambda: health(port) not in (0, service), 60, "the service's return")
    revived = client.job("health")
    assert (revived.restarts, revived.runs[0].attempt) == (1, 2) and process(revived) == health(port)
    assert [run.signal for run in client.runs("health")][-1] == "SIGKILL"

    done = client.wait("digits", 120)
    assert (done.state, done.exit_code, done.runs[0].attempt) == ("succeeded", 0, 1)
    text = b"".join(client.logs("digits")).decode()
    epochs = re.findall(r"^epoch +(\d+)/40 +loss (\S+) +accuracy (\S+)", text, re.M)
    assert [int(number) for number, _, _ in epochs] == list(range(1, 41)), "no line is lost, none is there twice"
    losses = [float(loss) for _, loss, _ in epochs]
    assert losses[-1] < losses[0] / 4 and float(epochs[-1][2]) > 0.95
    assert text.rstrip().splitlines()[-1] == f"done: accuracy {epochs[-1][2]} on the held-out images"

    # The rules of jobs.toml have made curves of those lines, and lost none over the death of the server.
    ask_until(lambda: curves(server), lambda found: found == {"loss": 40, "accuracy": 40}, 60, "the curves of digits")

    # Ended jobs are there after another death, too.
    server.kill()
    server.start()
    assert client.job("digits") == done and health(port) == process(client.job("health"))
    client.cancel("health")
    assert client.wait("health", 60).state == "cancelled"
    wait_until(lambda: health(port) == 0, 60, "the end of the service")
