"""The platform's figures: how fast they are answered while 1,000 jobs run, and what one sample costs."""

from __future__ import annotations

import http.client
import json
import time
from statistics import median

from bench.figure import Figure
from bench.server import BenchServer, process_seconds

JOBS = 1000
COUNT = 500
PATH = "/k12ai/platform/stats"
BODY = json.dumps(
    {"username": "b", "password": "b", "query": {"cpus": True, "gpus": True, "disks": True, "containers": True}}
)


def measure(jobs: int = JOBS, count: int = COUNT) -> list[Figure]:
    with BenchServer() as server:
        client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        batch = json.dumps([{"command": ["sleep", "3600"]}] * jobs)
        _ask(client, "POST", "/api/v1/jobs:batch", batch)
        while json.loads(_ask(client, "GET", "/api/v1/nodes"))["items"][0]["runs"] < jobs or _running(client) < jobs:
            time.sleep(0.1)
        begin = time.perf_counter()
        _ask(client, "POST", PATH, BODY)
        first = (time.perf_counter() - begin) * 1000
        times, sizes = [], []
        cpu, started = process_seconds(server.pid), time.perf_counter()
        for _ in range(count):
            begin = time.perf_counter()
            answer = _ask(client, "POST", PATH, BODY)
            times.append((time.perf_counter() - begin) * 1000)
            sizes.append(len(answer))
            # A page that is drawn anew 50 times a second: over several samples, not between two.
            time.sleep(0.02)
        cpu = (process_seconds(server.pid) - cpu) / (time.perf_counter() - started)
        listed = len(json.loads(answer)["info"]["containers"])
        if listed != jobs:
            raise RuntimeError(f"{listed} of {jobs} jobs are among the containers")
        client.close()
    times.sort()
    return [
        Figure(name=f"stats: p99, {jobs} live jobs", unit="ms", measured=times[len(times) * 99 // 100], most=20),
        Figure(name="stats: p50", unit="ms", measured=median(times)),
        Figure(name="stats: the first answer, with a fresh sample", unit="ms", measured=first),
        Figure(name="stats: size of an answer", unit="KB", measured=median(sizes) / 1000),
        Figure(name="stats: CPU of the server meanwhile", unit="%", measured=cpu * 100),
    ]


def _running(client: http.client.HTTPConnection) -> int:
    text = _ask(client, "GET", "/metrics").decode()
    line = next(line for line in text.splitlines() if line.startswith('runyard_jobs{state="running"}'))
    return int(float(line.split()[-1]))


def _ask(client: http.client.HTTPConnection, method: str, path: str, body: str | None = None) -> bytes:
    client.request(method, path, body)
    answer = client.getresponse()
    content = answer.read()
    if answer.status != 200 or (path == PATH and not content.startswith(b'{"code":100000,')):
        raise RuntimeError(f"{method} {path}: {answer.status} {content[:500]!r}")
    return content
