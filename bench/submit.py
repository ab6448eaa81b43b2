"""Submit: single jobs over kept connections from 16 clients, each answered when it is on disk.

The reference is `bench/reference.py`: the same stack without a job server behind it.
"""

from __future__ import annotations

from statistics import median

from bench.figure import Figure
from bench.load import load
from bench.reference import Reference
from bench.server import BenchServer

BODY = '{"command":["/bin/true"],"hold":true}'
CLIENTS = 16


def measure(count: int = 4000, rounds: int = 5) -> list[Figure]:
    rates, bare, middles, tails, costs = [], [], [], [], []
    with BenchServer() as server, Reference() as port:
        for number in range(rounds + 1):
            reference = load(port, "POST", "/api/v1/jobs", BODY, clients=CLIENTS, count=count, status=201)
            cpu = server.cpu_seconds()
            ours = load(server.port, "POST", "/api/v1/jobs", BODY, clients=CLIENTS, count=count, status=201)
            if number == 0:
                continue  # warm-up
            bare.append(reference.rate)
            rates.append(ours.rate)
            middles.append(ours.p50)
            tails.append(ours.p99)
            costs.append((server.cpu_seconds() - cpu) / count * 1000)
    return [
        Figure(name="submit: durable jobs", unit="/s", measured=median(rates), reference=median(bare), least=0.5),
        Figure(name="submit: p99 over p50", unit="ms", measured=median(tails), reference=median(middles), most=10),
        Figure(name="submit: own CPU a job", unit="ms", measured=median(costs)),
    ]
