"""Storms: a real server and its agent under load, killed at random moments; then everything is counted.

The moments come from a seed. What the machine does in between does not, so a failure may take several runs of its seed.
"""

from __future__ import annotations

import os
import random
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx2
import msgspec

from runyard.model.state import ENDED, LIVE, TRANSITIONS, State
from tests.helpers import deadline, wait_until
from tests.system.server import Server

Json = dict[str, Any]
LOADERS = 3
#: Of some runs.
TASKS = 3
#: Seconds for which a run stays up.
STAYS = ("0", "0", "0.2", "0.5")


class Storm:
    """One server, programs that leave a trace of each start, clients that never give up, and a reader of the events."""

    def __init__(self, server: Server, seed: int) -> None:
        """`server` is running."""
        self.server = server
        self.kills: Counter[str] = Counter()
        self.answered: dict[str, str] = {}
        """The id of each name that was answered with 201."""
        self.failures: list[str] = []
        self._http = server.http()
        self._random = random.Random(seed)
        self._seed = seed
        self._trace = server.folder / "trace"
        self._trace.touch()
        self._over = threading.Event()
        self._seen: list[Json] = []
        self._last: int | None = None
        """The last event that the reader has to see."""

    def blow(self, rounds: int) -> None:
        """Kills so many times, then lets everything end, and fills `failures`."""
        loaders = [threading.Thread(target=self._guarded, args=(self._load, n)) for n in range(LOADERS)]
        reader = threading.Thread(target=self._guarded, args=(self._read,))
        for thread in (*loaders, reader):
            thread.start()
        try:
            for _ in range(rounds):
                self._over.wait(self._random.uniform(0.0, 0.3))
                self._kill()
            wait_until(self._ready, 60, "readiness after the last kill")
        finally:
            self._over.set()
            for thread in loaders:
                thread.join()
            try:
                self._drain()
                self._last = self._page("events", after="latest")["next"]
            finally:
                self._last = self._last or 0
                reader.join()
        self._check()
        self._http.close()

    # What goes on -------------------------------------------------------------------------------------------------

    def _guarded(self, action: Any, *arguments: int) -> None:
        try:
            action(*arguments)
        except Exception as error:
            self.failures.append(f"{action.__name__}: {error!r}")

    def _kill(self) -> None:
        kind = self._random.choice(("server", "agent", "both"))
        agent_first = self._random.random() < 0.5
        if kind == "agent" or (kind == "both" and agent_first):
            self._kill_agent()
        if kind != "agent":
            self.server.kill()
            if kind == "both" and not agent_first:
                self._kill_agent()
            self.server.start(ready=False)
            # Now and then the next kill comes while it is still finding its runs again.
            if self._random.random() < 0.7:
                wait_until(self._ready, 60, "readiness")
        self.kills[kind] += 1

    def _kill_agent(self) -> None:
        # The file may be older than the agent is dead: make sure that the number is no other process's by now.
        with suppress(OSError, ValueError):
            pid = int((self.server.data / "agent" / "agent.pid").read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            if b"runyard.agent" in command and str(self.server.data).encode() in command:
                os.kill(pid, signal.SIGKILL)

    def _ready(self) -> bool:
        with suppress(httpx2.TransportError):
            return self._http.get("/readyz").status_code == 200
        return False

    def _load(self, loader: int) -> None:
        """Submits jobs; what was not answered is asked again, with the same key."""
        rng = random.Random(f"{self._seed}-{loader}")
        script = f'echo "$RUNYARD_RUN${{RUNYARD_TASK_RANK:+-$RUNYARD_TASK_RANK}}" >> {self._trace}; exec sleep "$STAY"'
        number = 0
        with self.server.http() as http:
            while not self._over.wait(rng.uniform(0.0, 0.08)):
                specs = []
                for _ in range(10 if rng.random() < 0.2 else 1):
                    number += 1
                    stay = {"STAY": rng.choice(STAYS)}
                    tasks = TASKS if rng.random() < 0.1 else 1
                    resources = {"tasks": tasks}
                    name = f"job-{loader}-{number}"
                    specs.append({"name": name, "script": script, "env": stay, "resources": resources})
                self._submit(http, specs, f"{loader}-{number}")

    def _submit(self, http: httpx2.Client, specs: list[Json], key: str) -> None:
        path, body = ("/api/v1/jobs", specs[0]) if len(specs) == 1 else ("/api/v1/jobs:batch", specs)
        for _ in deadline(60, f"the answer to {key}"):
            with suppress(httpx2.TransportError):
                answer = http.post(path, json=body, headers={"Idempotency-Key": key})
                if answer.status_code == 503:
                    continue  # it is stopping, or its agent is away
                if answer.status_code not in (200, 201):
                    raise AssertionError(f"{key} was answered with {answer.status_code}: {answer.text}")
                found = answer.json()
                jobs = [item["job"] for item in found["items"]] if "items" in found else [found]
                self.answered |= {job["name"]: job["id"] for job in jobs}
                return

    def _read(self) -> None:
        """Follows the events, and after each loss of the connection goes on behind the last one seen."""
        headers = {"Accept": "application/x-ndjson"}
        timeout = httpx2.Timeout(30, read=0.5)
        with httpx2.Client(base_url=self.server.url, timeout=timeout, headers=headers) as http:
            while self._last is None or self._cursor < self._last:
                with suppress(httpx2.TransportError):
                    self._follow(http)
                self._over.wait(0.05)

    def _follow(self, http: httpx2.Client) -> None:
        with http.stream("GET", "/api/v1/events", params={"after": self._cursor}) as stream:
            stream.raise_for_status()
            rest = b""
            for piece in stream.iter_bytes():
                *lines, rest = (rest + piece).split(b"\n")
                self._seen += map(msgspec.json.decode, lines)
                if self._last is not None and self._cursor >= self._last:
                    return

    @property
    def _cursor(self) -> int:
        return self._seen[-1]["seq"] if self._seen else 0

    def _drain(self) -> None:
        live = ",".join(sorted(LIVE))
        wait_until(lambda: not self._page("jobs", state=live, limit=1)["items"], 120, "the end of all jobs")

    # What came of it ----------------------------------------------------------------------------------------------

    def _page(self, what: str, **params: Any) -> Json:
        found: Json = self._http.get(f"/api/v1/{what}", params=params).raise_for_status().json()
        return found

    def _jobs(self) -> Iterator[Json]:
        page = self._page("jobs", limit=1000)
        yield from page["items"]
        while page["next"] is not None:
            page = self._page("jobs", limit=1000, cursor=page["next"])
            yield from page["items"]

    def _events(self) -> Iterator[Json]:
        after = 0
        while items := (page := self._page("events", limit=1000, after=after))["items"]:
            yield from items
            after = page["next"]

    def _check(self) -> None:
        fail = self.failures.append
        jobs = {job["id"]: job for job in self._jobs()}
        starts = Counter(self._trace.read_text().split())
        events = list(self._events())
        names = Counter(job["name"] for job in jobs.values())
        for name, job in self.answered.items():
            if job not in jobs or jobs[job]["name"] != name:
                fail(f"{name} was answered as job {job}, which is not there")
        for name, count in names.items():
            if count > 1:
                fail(f"{name} was submitted with one key, and there are {count} of it")
        for job, found in jobs.items():
            tasks = found["spec"]["resources"]["tasks"]
            for run in [f"{job}.0.1"] if tasks == 1 else [f"{job}.0.1-{rank}" for rank in range(tasks)]:
                if (count := starts.pop(run, 0)) != 1:
                    fail(f"the program of run {run} was started {count} times: {found}")
            if found["exit_code"] not in (0, None) or found["state"] not in ("succeeded", "failed"):
                fail(f"job {job} ended as nobody could have: {found}")
        for run in starts:
            fail(f"the run {run} was started, and belongs to nothing")
        for source, sequence in (("stored", events), ("followed", self._seen)):
            numbers = [event["seq"] for event in sequence]
            if numbers != list(range(1, len(numbers) + 1)):
                fail(f"the {source} events are not numbered 1 to {len(numbers)}: {numbers}")
        if events != self._seen:
            fail(f"{len(events)} events are stored, and {len(self._seen)} were followed, which are not the same")
        self._check_lives(jobs, events)

    def _check_lives(self, jobs: dict[str, Json], events: list[Json]) -> None:
        lives: dict[str, list[Json]] = {}
        for event in events:
            if event["job"] is not None:
                lives.setdefault(event["job"], []).append(event)
        for job, life in lives.items():
            states = [State(event["state"]) for event in life]
            wrong = [f"{a} to {b}" for a, b in pairwise(states) if a != b and b not in TRANSITIONS[a]]
            ends = sum(event["type"] in {f"job.{state}" for state in ENDED} for event in life)
            if wrong or ends != 1 or job not in jobs or jobs[job]["state"] != states[-1]:
                self.failures.append(f"the life of job {job} cannot be: {wrong} {life}")
