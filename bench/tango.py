"""Projects: heartbeats to 2,000 members, 1,000 projects at once, from a report to the next `start`, and kills.

The members are one process of their own (this module as a program); each has its own address in 127.0.0.0/8.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from typing import Any
from urllib.parse import parse_qsl

from bench.figure import Figure
from bench.server import BenchServer, process_seconds

MEMBERS, PROJECTS, STEPS, ROUNDS = 2000, 1000, 3, 200
BEAT = 2.0
SECONDS = 10.0


class Members:
    """All members, as a process."""

    def __init__(self) -> None:
        self.process = subprocess.Popen([sys.executable, "-m", "bench.tango"], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def __enter__(self) -> Members:
        return self

    def __exit__(self, *_: object) -> None:
        with self.process as process:
            process.kill()

    def url(self, number: int) -> str:
        return f"http://127.0.{1 + number // 250}.{1 + number % 250}:{self.port}"

    def tell(self, what: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{what}", timeout=60) as answer:
            return json.loads(answer.read())


def call(server: BenchServer, method: str, path: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{server.url}/api/v1{path}", data, headers, method=method)
    with urllib.request.urlopen(request, timeout=60) as answer:
        text = answer.read()
    return json.loads(text) if text else None


def create(server: BenchServer, name: str, urls: list[str], **fields: Any) -> str:
    steps = [{"container": f"s{n}", "url": url, "url_style": "path"} for n, url in enumerate(urls)]
    definition = {"name": name, "user_id": "u", "steps": steps, **fields}
    found: str = call(server, "POST", "/projects?start=true", definition)["id"]
    return found


def wait_over(server: BenchServer, refs: list[str]) -> Counter[str]:
    return Counter(call(server, "GET", f"/jobs/{ref}/wait?timeout=120")["state"] for ref in refs)


def measure(rounds: int | None = None, seed: int = 1) -> list[Figure]:
    with Members() as members:
        return [
            *heartbeats(members),
            *_clients(members),
            *latency(members),
            *kills(members, rounds or ROUNDS, seed),
        ]


def heartbeats(members: Members) -> list[Figure]:
    """What asking 2,000 members every 2 s costs the server."""
    with BenchServer(env={"RUNYARD_DOORS__TANGO__HEARTBEAT": str(BEAT)}) as server:
        members.tell("reset?mode=run")
        for number in range(MEMBERS):
            create(server, f"p{number}", [members.url(number)])
        while members.tell("count")["start"] < MEMBERS:
            time.sleep(0.1)
        time.sleep(BEAT)
        before, begin, used = members.tell("count"), time.perf_counter(), process_seconds(server.pid)
        time.sleep(SECONDS)
        after, seconds = members.tell("count"), time.perf_counter() - begin
        cores = (process_seconds(server.pid) - used) / seconds
        rate = (after["status_request"] - before["status_request"]) / seconds
    name = f"heartbeats to {MEMBERS} members every {BEAT:g} s"
    return [
        Figure(name=f"{name}: server", unit="cores", measured=cores, most=1.0),
        Figure(name=f"{name}: questions", unit="/s", measured=rate, reference=MEMBERS / BEAT, least=0.9),
    ]


def _clients(members: Members) -> list[Figure]:
    """A question through the client of `runyard.project.http`, and through httpx2."""
    import httpx2
    import uvloop

    from runyard.project.http import Client

    count = 2000

    async def ours() -> float:
        client = Client()
        begin = time.process_time()
        for _ in range(count // 100):
            urls = [f"{members.url(number)}/status_request?user_id=u&project_id=1" for number in range(100)]
            await asyncio.gather(*(client.get(url, limit=4096) for url in urls))
        used = time.process_time() - begin
        await client.close()
        return used / count * 1e6

    async def theirs() -> float:
        async with httpx2.AsyncClient(limits=httpx2.Limits(max_connections=200)) as client:
            begin = time.process_time()
            for _ in range(count // 100):
                urls = [f"{members.url(number)}/status_request?user_id=u&project_id=1" for number in range(100)]
                await asyncio.gather(*(client.get(url) for url in urls))
            return (time.process_time() - begin) / count * 1e6

    measured, reference = uvloop.run(ours()), uvloop.run(theirs())
    return [Figure(name="one question: CPU (httpx2)", unit="us", measured=measured, reference=reference, most=0.5)]


def latency(members: Members) -> list[Figure]:
    """From a report to the next start: alone, and with 1,000 projects at once."""
    figures: list[Figure] = []
    for count in (1, PROJECTS):
        with BenchServer() as server:
            members.tell(f"reset?mode=report&manager={server.port}&steps={STEPS}")
            begin = time.perf_counter()
            if count == 1:
                for number in range(100):
                    wait_over(server, [create(server, f"p{number}", [members.url(step) for step in range(STEPS)])])
            else:
                refs = [
                    create(server, f"p{number}", [members.url(number + step) for step in range(STEPS)])
                    for number in range(count)
                ]
                states = wait_over(server, refs)
                assert states == {"succeeded": count}, states
            seconds = time.perf_counter() - begin
            waits = members.tell("latencies")
        p50 = statistics.median(waits) * 1000
        if count == 1:
            figures.append(Figure(name="report to next start, p50", unit="ms", measured=p50, most=20.0))
        else:
            name = f"{count} projects of {STEPS} steps"
            figures.append(Figure(name=f"{name}: report to next start, p50", unit="ms", measured=p50))
            figures.append(Figure(name=f"{name}: steps", unit="/s", measured=count * STEPS / seconds))
    return figures


def kills(members: Members, rounds: int, seed: int) -> list[Figure]:
    """The server killed at random moments of a project: each must complete, and each step begin once."""
    chance = random.Random(seed)
    twice = unfinished = 0
    with BenchServer(env={"RUNYARD_DOORS__TANGO__HEARTBEAT": "0.2"}) as server:
        for number in range(rounds):
            members.tell(f"reset?mode=work&manager={server.port}&steps={STEPS}&seed={seed + number}")
            ref = create(server, f"k{number}", [members.url(step) for step in range(STEPS)])
            time.sleep(chance.uniform(0.0, 0.3))
            server.kill()
            server.start()
            states = wait_over(server, [ref])
            starts = members.tell("begun")
            unfinished += states != {"succeeded": 1}
            twice += any(count != 1 for count in starts.values())
    return [
        Figure(name=f"{rounds} kills: projects that did not complete", unit="", measured=unfinished, most=0),
        Figure(name=f"{rounds} kills: steps begun twice", unit="", measured=twice, most=0),
    ]


# The members --------------------------------------------------------------------------------------------------------


class _All:
    """What the members know. Tasks go by member and project."""

    def __init__(self) -> None:
        self.tasks_under_way: set[asyncio.Task[None]] = set()
        self.reset({})

    def reset(self, given: dict[str, str]) -> None:
        self.mode = given.get("mode", "run")
        self.manager = int(given.get("manager", 0))
        self.random = random.Random(int(given.get("seed", 0)))
        self.counts: Counter[str] = Counter()
        self.tasks: dict[tuple[str, str], str] = {}
        self.begun: Counter[str] = Counter()
        self.reported: dict[str, float] = {}
        self.steps: Counter[str] = Counter()
        self.latencies: list[float] = []

    def answer(self, member: str, path: str, given: dict[str, str]) -> str:
        operation = path.strip("/")
        self.counts[operation] += 1
        project = given.get("project_id", "")
        task = member, project
        if operation == "start":
            if self.tasks.get(task) == "running":
                return "error"
            if project in self.reported:
                self.latencies.append(time.perf_counter() - self.reported.pop(project))
            step = self.steps[project]
            self.steps[project] += 1
            self.tasks[task] = "running"
            self.begun[f"{member} {project}"] += 1
            if self.mode != "run":
                delay = 0.0 if self.mode == "report" else self.random.uniform(0.0, 0.15)
                reporting = asyncio.get_running_loop().create_task(self.report(task, step, given, delay))
                self.tasks_under_way.add(reporting)
                reporting.add_done_callback(self.tasks_under_way.discard)
            return "starting"
        if operation == "stop":
            self.tasks[task] = "stopped"
            return "finished"
        return self.tasks.get(task, "ready") if project else "ready"

    async def report(self, task: tuple[str, str], step: int, given: dict[str, str], delay: float) -> None:
        if delay:
            await asyncio.sleep(delay)
        else:
            await asyncio.sleep(0.005)
        self.tasks[task] = "completed"
        query = f"container_id=s{step}&user_id={given['user_id']}&project_id={task[1]}&status=success"
        self.reported[task[1]] = time.perf_counter()
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.manager)
            writer.write(
                f"GET /status_report?{query} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
            )
            await reader.read()
            writer.close()
        except OSError:
            # It is being killed: the heartbeat will tell.
            return


class _Connection(asyncio.Protocol):
    def __init__(self, all: _All) -> None:
        self._all = all
        self._rest = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._name = transport.get_extra_info("sockname")[0]

    def data_received(self, data: bytes) -> None:
        self._rest += data
        while b"\r\n\r\n" in self._rest:
            head, _, self._rest = self._rest.partition(b"\r\n\r\n")
            path, _, query = head.split(b" ", 2)[1].decode().partition("?")
            given = dict(parse_qsl(query, keep_blank_values=True))
            body = self._control(path, given)
            self._transport.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
            )

    def _control(self, path: str, given: dict[str, str]) -> bytes:
        known = self._all
        if path == "/reset":
            known.reset(given)
            return b"{}"
        if path == "/count":
            return json.dumps({name: known.counts[name] for name in ("start", "status_request")}).encode()
        if path == "/latencies":
            return json.dumps(known.latencies).encode()
        if path == "/begun":
            return json.dumps(known.begun).encode()
        return known.answer(self._name, path, given).encode()


async def _serve() -> None:
    import resource

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    known = _All()
    server = await asyncio.get_running_loop().create_server(lambda: _Connection(known), "0.0.0.0", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    parent = os.getppid()
    while os.getppid() == parent:
        await asyncio.sleep(1)


if __name__ == "__main__":
    import uvloop

    uvloop.run(_serve())
