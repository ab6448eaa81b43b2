"""A tiny HTTP client that costs next to nothing: one request again and again over kept connections.

    python -m bench.load PORT METHOD PATH [--body TEXT] [--header TEXT] [--clients N] [--count N]

It runs in a process of its own, so that it takes no time from the one that measures, and prints one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import subprocess
import sys
import time
from collections import Counter

import msgspec
import uvloop

LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")


class Load(msgspec.Struct):
    rate: float
    """Answers per second."""
    p50: float
    p99: float
    """Milliseconds."""
    worst: float
    statuses: dict[str, int]


class Client(asyncio.Protocol):
    """One connection: the next request goes out when the answer is there whole."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._ask()

    def _ask(self) -> None:
        if self._run.left == 0:
            self._transport.close()
            return
        self._run.left -= 1
        self._begin = time.perf_counter()
        self._transport.write(self._run.request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        head = buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        length = LENGTH.search(buffer, 0, head)
        if length is None or len(buffer) < head + 4 + int(length[1]):
            return
        self._run.times.append(time.perf_counter() - self._begin)
        self._run.statuses[buffer[9:12].decode()] += 1
        buffer.clear()
        self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        self._run.open -= 1
        if self._run.open == 0:
            self._run.done.set()


class Run:
    """What the clients of one measurement share."""

    def __init__(self, request: bytes, count: int, clients: int) -> None:
        self.request, self.left, self.open = request, count, clients
        self.times: list[float] = []
        self.statuses: Counter[str] = Counter()
        self.done = asyncio.Event()


async def main(port: int, method: str, path: str, body: str, header: str, clients: int, count: int) -> Load:
    content = body.encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: {len(content)}\r\n"
    head += f"{header}\r\n" if header else ""
    run = Run(f"{head}Content-Type: application/json\r\n\r\n".encode() + content, count, clients)
    loop = asyncio.get_running_loop()
    begin = time.perf_counter()
    for _ in range(clients):
        await loop.create_connection(lambda: Client(run), "127.0.0.1", port)
    await run.done.wait()
    wall = time.perf_counter() - begin
    times = sorted(run.times)
    if len(times) != count:
        raise SystemExit(f"{len(times)} of {count} requests were answered: the server hung up")
    return Load(
        rate=count / wall,
        p50=times[count // 2] * 1000,
        p99=times[count * 99 // 100] * 1000,
        worst=times[-1] * 1000,
        statuses=dict(run.statuses),
    )


def load(
    port: int, method: str, path: str, body: str = "", *, header: str = "", clients: int, count: int, status: int
) -> Load:
    """Does it in a process of its own. Raises RuntimeError if an answer has another status than `status`."""
    options = ["--body", body, "--header", header, "--clients", str(clients), "--count", str(count)]
    command = [sys.executable, "-m", "bench.load", str(port), method, path, *options]
    answer = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    found = msgspec.json.decode(answer.stdout, type=Load)
    if found.statuses != {str(status): count}:
        raise RuntimeError(f"{method} {path} was answered with {found.statuses}, not with {status} alone")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int)
    parser.add_argument("method")
    parser.add_argument("path")
    parser.add_argument("--body", default="")
    parser.add_argument("--header", default="")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--count", type=int, default=4000)
    print(json.dumps(msgspec.to_builtins(uvloop.run(main(**vars(parser.parse_args()))))))
