"""Latency: from sending a job to hearing that it runs, one at a time, beside the time of one `os.posix_spawn`.

The client follows the events as NDJSON on one connection and submits on another.
"""

from __future__ import annotations

import os
import socket
import time
from statistics import median

from bench.figure import Figure
from bench.server import BenchServer

BODY = b'{"command":["/bin/true"]}'


def bare() -> float:
    """Milliseconds until the program has been executed: `posix_spawn` returns then."""
    begin = time.perf_counter()
    pid = os.posix_spawn("/bin/true", ["true"], {})
    taken = time.perf_counter() - begin
    os.waitpid(pid, 0)
    return taken * 1000


def measure(count: int = 300) -> list[Figure]:
    ours, reference = [], []
    with (
        BenchServer() as server,
        socket.create_connection(("127.0.0.1", server.port), 30) as events,
        socket.create_connection(("127.0.0.1", server.port), 30) as submits,
    ):
        host = f"Host: 127.0.0.1:{server.port}\r\n"
        follow = "GET /api/v1/events?after=latest&type=job.running HTTP/1.1\r\nAccept: application/x-ndjson\r\n"
        events.sendall(f"{follow}{host}\r\n".encode())
        _until(events, b"\r\n\r\n")
        head = f"POST /api/v1/jobs HTTP/1.1\r\n{host}Content-Length: {len(BODY)}\r\n\r\n".encode()
        for number in range(count + 20):
            begin = time.perf_counter()
            submits.sendall(head + BODY)
            _until(events, b"job.running")
            taken = (time.perf_counter() - begin) * 1000
            answer = submits.recv(1 << 16)
            if not answer.startswith(b"HTTP/1.1 201"):
                raise RuntimeError(f"a job was refused: {answer.decode()}")
            if number >= 20:
                ours.append(taken)
                reference.append(bare())
    ours.sort()
    middle, spawn = median(ours), median(reference)
    return [
        Figure(name="latency: p50 above a bare spawn", unit="ms", measured=middle - spawn, most=5),
        Figure(name="latency: p50", unit="ms", measured=middle, reference=spawn),
        Figure(name="latency: p99", unit="ms", measured=ours[len(ours) * 99 // 100]),
    ]


def _until(sock: socket.socket, mark: bytes) -> None:
    seen = b""
    while mark not in seen:
        piece = sock.recv(1 << 16)
        if not piece:
            raise RuntimeError(f"the server hung up before {mark!r}")
        seen += piece
