"""The echo flow over HTTP, beside the barest handler on uvicorn: the same HTTP parser and loop without a flow.

python -m bench.echo            prints the figures
python -m bench.echo --bare     serves the bare handler, and prints its port
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil

from bench.figure import Figure, table
from bench.load import Load, load

ROUNDS = 3
COUNT = 10_000
PATH = "/echo"
BODY = "hello, world"
DOT = """digraph echo {
    receive[flowunit=httpserver_sync_receive, endpoint="http://127.0.0.1:0/echo"]
    reply[flowunit=httpserver_sync_reply]
    receive:out_request_info -> reply:in_reply_info
}"""


def serve_bare() -> None:
    """Answers each request with its body, as an ASGI application that does nothing else."""
    import asyncio

    import uvicorn
    import uvloop

    async def echo(scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body += message["body"]
            more = message["more_body"]
        headers = [(b"content-type", b"text/plain;charset=utf-8"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def serve() -> None:
        config = uvicorn.Config(
            echo, http="httptools", ws="none", lifespan="off", access_log=False, log_config=None, server_header=False
        )
        with socket.create_server(("127.0.0.1", 0)) as listener:
            print(listener.getsockname()[1], flush=True)
            await uvicorn.Server(config).serve(sockets=[listener])

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())


@contextmanager
def started(command: list[str], spec: str = "") -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A server as a process of its own, and the port that its first line names."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdin is not None
        try:
            if spec:
                process.stdin.write(spec)
            process.stdin.close()
            line = process.stdout.readline()
            found = re.search(r"(\d+)(/echo)?$", line.strip())
            if found is None:
                raise RuntimeError(f"{command[-1]} did not start: {line}{process.stdout.read()}")
            yield process, int(found[1])
        finally:
            process.kill()


def cpu_time(pid: int) -> float:
    """Seconds that the process has computed."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def measure() -> list[Figure]:
    """Both servers are up all the time and are asked in turns; the best round of each counts."""
    document = {"graph": {"format": "graphviz", "graphconf": DOT}}
    spec = json.dumps({"name": "echo", "document": json.dumps(document), "format": "json"})
    with (
        started([sys.executable, "-m", "bench.echo", "--bare"]) as (bare, bare_port),
        started([sys.executable, "-m", "runyard.flowhost", "--spec", "-"], spec) as (host, port),
    ):

        def ask(at: int, clients: int) -> Load:
            return load(at, "POST", PATH, BODY, clients=clients, count=COUNT, status=200)

        ask(bare_port, 16), ask(port, 16)
        rates: dict[int, list[float]] = {port: [], bare_port: []}
        costs: dict[int, list[float]] = {port: [], bare_port: []}
        tails = []
        for _ in range(ROUNDS):
            for at, pid in ((bare_port, bare.pid), (port, host.pid)):
                before = cpu_time(pid)
                rates[at].append(ask(at, 16).rate)
                costs[at].append((cpu_time(pid) - before) / COUNT * 1000)
            many = ask(port, 64)
            tails.append(many.p99 / many.p50)
    ours, other = max(rates[port]), max(rates[bare_port])
    return [
        Figure(name="echo flow: requests at 16 connections", unit="1/s", measured=ours, least=4000),
        Figure(name="echo flow: beside a bare handler", unit="1/s", measured=ours, reference=other, least=0.5),
        Figure(name="echo flow: own CPU", unit="ms", measured=min(costs[port]), most=0.4),
        Figure(
            name="echo flow: CPU beside a bare handler",
            unit="ms",
            measured=min(costs[port]),
            reference=min(costs[bare_port]),
        ),
        Figure(name="echo flow: p99 over p50 at 64 connections", unit="x", measured=min(tails), most=5),
    ]


if __name__ == "__main__":
    if "--bare" in sys.argv[1:]:
        serve_bare()
    else:
        print(table(measure()))
