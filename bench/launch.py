"""Launch: `/bin/true` jobs in bulk through HTTP until all have ended durably, beside a bare windowed `os.posix_spawn`.

Interleaved A B A B; prints the ratio of the rates and the own CPU of server and agent for each job.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time

import httpx2

from server import BenchServer


def bare(count: int, window: int = 4) -> float:
    """Jobs per second of the bare loop."""
    live = started = done = 0
    begin = time.perf_counter()
    while done < count:
        while live < window and started < count:
            os.posix_spawn("/bin/true", ["true"], {})
            live += 1
            started += 1
        os.waitpid(-1, 0)
        live -= 1
        done += 1
    return count / (time.perf_counter() - begin)


def ours(server: BenchServer, client: httpx2.Client, count: int, chunk: int) -> tuple[float, float]:
    """Jobs per second, and own CPU milliseconds a job."""
    body = b"[" + b",".join([b'{"command":["/bin/true"]}'] * chunk) + b"]"
    cursor = client.get("/api/v1/events", params={"after": "latest"}).json()["next"]
    params = {"after": cursor, "type": "job.succeeded,job.failed"}
    cpu = server.cpu_seconds()
    begin = time.perf_counter()
    for _ in range(count // chunk):
        answer = client.post("/api/v1/jobs:batch", content=body)
        answer.raise_for_status()
    ended = 0
    with client.stream("GET", "/api/v1/events", params=params, headers={"Accept": "application/x-ndjson"}) as stream:
        for piece in stream.iter_bytes():
            ended += piece.count(b"\n")
            if ended >= count:
                break
    wall = time.perf_counter() - begin
    return count / wall, (server.cpu_seconds() - cpu) / count * 1000


def measure(count: int = 5000, rounds: int = 3, chunk: int = 500) -> dict[str, float]:
    references: list[float] = []
    rates: list[float] = []
    costs: list[float] = []
    with BenchServer() as server, httpx2.Client(base_url=server.url, timeout=60) as client:
        ours(server, client, chunk, chunk)
        for _ in range(rounds):
            references.append(bare(count))
            rate, cost = ours(server, client, count, chunk)
            rates.append(rate)
            costs.append(cost)
        references.append(bare(count))
    ratio = statistics.median(rates) / statistics.median(references)
    return {
        "bare_per_s": statistics.median(references),
        "ours_per_s": statistics.median(rates),
        "ratio": ratio,
        "own_cpu_ms": statistics.median(costs),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--chunk", type=int, default=500)
    print(json.dumps(measure(**vars(parser.parse_args())), indent=2))
