"""Idle: what the command line and a server with nothing to do cost."""

from __future__ import annotations

import subprocess
import time
from statistics import median

from bench.figure import Figure
from bench.server import RUNYARD, BenchServer, pss


def help_time() -> float:
    """Milliseconds of `runyard --help`."""
    begin = time.perf_counter()
    subprocess.run([RUNYARD, "--help"], check=True, capture_output=True)
    return (time.perf_counter() - begin) * 1000


def measure(rounds: int = 15) -> list[Figure]:
    help_time()  # the files come into memory
    times = [help_time() for _ in range(rounds)]
    with BenchServer() as server:
        memory = (pss(server.pid) + pss(server.agent_pid)) / 1e6
        cpu = server.cpu_seconds()
        time.sleep(5)
        used = (server.cpu_seconds() - cpu) / 5
    return [
        Figure(name="idle: runyard --help", unit="ms", measured=median(times), most=150),
        Figure(name="idle: memory of server and agent", unit="MB", measured=memory, most=120),
        Figure(name="idle: CPU of server and agent", unit="%", measured=used * 100, most=1),
    ]
