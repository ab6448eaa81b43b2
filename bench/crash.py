"""Crash: server, agent or both killed at random moments under load; then every job, start and event is counted.

The storm itself is `tests/faults.py`, of which the test suite runs a short one.
"""

from __future__ import annotations

import sys
import time

from bench.figure import Figure
from bench.server import fresh
from tests.faults import Storm
from tests.system.server import Server


def measure(rounds: int = 200, seed: int = 1) -> list[Figure]:
    server = Server(fresh("crash"))
    try:
        storm = Storm(server.start(), seed)
        begin = time.perf_counter()
        storm.blow(rounds)
        seconds = time.perf_counter() - begin
    finally:
        server.close()
    for failure in storm.failures[:20]:
        print(f"crash, seed {seed}: {failure[:2000]}", file=sys.stderr)
    kills = ", ".join(f"{kind} {count}" for kind, count in sorted(storm.kills.items()))
    return [
        Figure(name=f"crash: rounds ({kills})", unit="", measured=storm.kills.total(), least=rounds),
        Figure(name="crash: jobs answered", unit="", measured=len(storm.answered)),
        Figure(name="crash: failures", unit="", measured=len(storm.failures), most=0),
        Figure(name="crash: seconds a round", unit="s", measured=seconds / rounds),
    ]
