"""Launch: `/bin/true` jobs in bulk through HTTP until all have ended durably, beside a bare windowed `os.posix_spawn`.

HyperQueue, where it is installed (extra `bench`), runs the same program as tasks of one job in a local cluster.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import httpx2

from bench.figure import Figure
from bench.server import BenchServer, fresh

WARM_UP = 3000
CHUNK = 500


def bare(count: int, window: int = 4) -> float:
    """Jobs per second of the bare loop. A session for each child, as for ours: Linux schedules by sessions."""
    live = started = done = 0
    begin = time.perf_counter()
    while done < count:
        while live < window and started < count:
            os.posix_spawn("/bin/true", ["true"], {}, setsid=True)
            live += 1
            started += 1
        os.waitpid(-1, 0)
        live -= 1
        done += 1
    return count / (time.perf_counter() - begin)


def ours(server: BenchServer, client: httpx2.Client, count: int) -> tuple[float, float]:
    """Jobs per second, and own CPU milliseconds a job. `count` is a multiple of `CHUNK`."""
    body = b"[" + b",".join([b'{"command":["/bin/true"]}'] * CHUNK) + b"]"
    cursor = client.get("/api/v1/events", params={"after": "latest"}).json()["next"]
    params = {"after": cursor, "type": "job.succeeded,job.failed"}
    cpu = server.cpu_seconds()
    begin = time.perf_counter()
    for _ in range(count // CHUNK):
        client.post("/api/v1/jobs:batch", content=body).raise_for_status()
    ended = 0
    with client.stream("GET", "/api/v1/events", params=params, headers={"Accept": "application/x-ndjson"}) as stream:
        for piece in stream.iter_bytes():
            if b"job.failed" in piece:
                raise RuntimeError(f"a job has failed: {piece.decode()[:1000]}")
            ended += piece.count(b"\n")
            if ended >= count:
                break
    wall = time.perf_counter() - begin
    return count / wall, (server.cpu_seconds() - cpu) / count * 1000


def hyperqueue(count: int) -> float:
    """Jobs per second. In a process of its own: its cluster lives in the caller's."""
    command = [sys.executable, "-m", "bench.peer", str(count)]
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    answer = subprocess.run(command, cwd=fresh("hyperqueue"), env=env, capture_output=True, text=True, check=True)
    return float(answer.stdout.split()[-1])


def measure(count: int = 5000, rounds: int = 3) -> list[Figure]:
    references, rates, costs, peers = [], [], [], []
    peer = find_spec("hyperqueue") is not None
    with BenchServer() as server, httpx2.Client(base_url=server.url, timeout=60) as client:
        ours(server, client, WARM_UP)
        for _ in range(rounds):
            references.append(bare(count))
            rate, cost = ours(server, client, count)
            rates.append(rate)
            costs.append(cost)
            if peer:
                peers.append(hyperqueue(count // 10))
    rate = median(rates)
    figures = [
        Figure(name="launch: jobs, to bare spawn", unit="/s", measured=rate, reference=median(references), least=0.6),
        Figure(name="launch: own CPU a job", unit="ms", measured=median(costs), most=0.5),
    ]
    if peer:
        figures.append(Figure(name="launch: jobs, to HyperQueue", unit="/s", measured=rate, reference=median(peers)))
    return figures
