"""Messages: how many are taken in, how soon many readers have one, and what a flood does to everybody else.

    python -m bench.messages PORT JOB COUNT

is the crowd of readers, in a process of its own: it prints how long each message was under way, in milliseconds.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from http.client import HTTPConnection
from typing import Any

import uvloop

from bench.figure import Figure
from bench.load import load
from bench.server import BenchServer

BATCH = 100
READERS = 500
#: Messages for the readers, and seconds between two.
SENT, PAUSE = 200, 0.02
_JSON = "application/json"


def measure() -> list[Figure]:
    # So that none is left out.
    with BenchServer(env={"RUNYARD_MESSAGES__MAX_RATE": "1000000"}) as server:
        figures = [_ingest(server.port)]
    with BenchServer() as server:
        return [*figures, *_fan_out(server.port), *_flood(server.port)]


def _job(http: HTTPConnection) -> str:
    """A job that stays pending."""
    http.request("POST", "/api/v1/jobs", '{"script": "true", "hold": true}', {"Content-Type": _JSON})
    return str(json.loads(http.getresponse().read())["id"])


def _kept(http: HTTPConnection, path: str) -> int:
    """How many metrics of the job are on disk."""
    http.request("GET", path.replace("/messages", "/metrics?points=2"))
    return int(json.loads(http.getresponse().read())["items"][0]["count"])


def _body(count: int, **more: Any) -> str:
    return json.dumps([{"type": "metrics", "body": {"loss": 0.25, "step": step} | more} for step in range(count)])


def _ingest(port: int, count: int = 2000) -> Figure:
    """Metrics of one job by HTTP, in batches of 100; each answer waits for the disk."""
    http = HTTPConnection("127.0.0.1", port, timeout=60)
    path = f"/api/v1/jobs/{_job(http)}/messages"
    load(port, "POST", path, _body(BATCH), clients=8, count=100, status=201)
    found = load(port, "POST", path, _body(BATCH), clients=8, count=count, status=201)
    if (kept := _kept(http, path)) != (100 + count) * BATCH:
        raise RuntimeError(f"{kept} messages were kept of {(100 + count) * BATCH}")
    return Figure(name="messages by HTTP, in batches of 100", unit="/s", measured=found.rate * BATCH, least=20_000)


def _fan_out(port: int) -> list[Figure]:
    """One message after the other to readers by SSE."""
    http = HTTPConnection("127.0.0.1", port, timeout=60)
    job = _job(http)
    command = [sys.executable, "-m", "bench.messages", str(port), job, str(SENT)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as crowd:
        assert crowd.stdout is not None
        crowd.stdout.readline()
        for _ in range(SENT):
            http.request(
                "POST", f"/api/v1/jobs/{job}/messages", _body(1, sent=time.monotonic()), {"Content-Type": _JSON}
            )
            http.getresponse().read()
            time.sleep(PAUSE)
        times = sorted(json.loads(crowd.stdout.read()))
    name = f"a message to {READERS} readers by SSE"
    return [
        Figure(name=f"{name}, median", unit="ms", measured=times[len(times) // 2]),
        Figure(name=f"{name}, p99", unit="ms", measured=times[len(times) * 99 // 100], most=100),
    ]


def _flood(port: int) -> list[Figure]:
    """A job that says as much as it can, in batches of 1000, while somebody else asks for something small."""
    http = HTTPConnection("127.0.0.1", port, timeout=60)
    job = _job(http)
    path = f"/api/v1/jobs/{job}/messages"
    command = [sys.executable, "-m", "bench.load", str(port), "POST", path, "--body", _body(1000)]
    with subprocess.Popen([*command, "--clients", "4", "--count", "300"], stdout=subprocess.PIPE) as flood:
        asked = load(port, "GET", f"/api/v1/jobs/{job}", clients=1, count=300, status=200)
        rate = json.loads(flood.communicate()[0])["rate"]
    return [
        Figure(name="a flood of messages by HTTP, in batches of 1000", unit="/s", measured=rate * 1000),
        Figure(name="  of which were kept", unit="%", measured=100 * _kept(http, path) / 300_000),
        Figure(name="  a small request meanwhile, p99", unit="ms", measured=asked.p99, most=100),
    ]


# The crowd ------------------------------------------------------------------------------------------------------------


class _Reader(asyncio.Protocol):
    """One stream of server-sent events; notes how long each message was under way."""

    def __init__(self, crowd: _Crowd) -> None:
        self._crowd = crowd
        self._buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.write(self._crowd.request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        self._buffer += data
        *lines, rest = self._buffer.split(b"\n")
        self._buffer = bytearray(rest)
        for line in lines:
            if line.startswith(b": runyard"):
                self._crowd.stands()
            elif line.startswith(b"data: "):
                message = json.loads(line[6:])
                self._crowd.note((now - message["body"]["values"]["sent"]) * 1000)


class _Crowd:
    def __init__(self, port: int, job: str, count: int) -> None:
        head = (
            f"GET /api/v1/jobs/{job}/messages HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAccept: text/event-stream\r\n\r\n"
        )
        self.request = head.encode()
        self.times: list[float] = []
        self.done = asyncio.Event()
        self._standing, self._wanted = 0, count * READERS

    def stands(self) -> None:
        self._standing += 1
        if self._standing == READERS:
            print("ready", flush=True)

    def note(self, milliseconds: float) -> None:
        self.times.append(milliseconds)
        if len(self.times) == self._wanted:
            self.done.set()


async def _read(port: int, job: str, count: int) -> list[float]:
    crowd = _Crowd(port, job, count)
    loop = asyncio.get_running_loop()
    for _ in range(READERS):
        await loop.create_connection(lambda: _Reader(crowd), "127.0.0.1", port)
    async with asyncio.timeout(120):
        await crowd.done.wait()
    return crowd.times


if __name__ == "__main__":
    print(json.dumps(uvloop.run(_read(int(sys.argv[1]), sys.argv[2], int(sys.argv[3])))))
