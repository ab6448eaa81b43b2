"""Million: a store with a million ended jobs beside one with a few thousand: reads, the rate of launches, memory.

The small store has as many jobs as it takes to fill the same pages, so that both answer with the same amount of data.
"""

from __future__ import annotations

from pathlib import Path
from statistics import median
from urllib.parse import urlencode

import httpx2

from bench import launch
from bench.figure import Figure
from bench.load import load
from bench.server import BenchServer, fresh, pss
from bench.store import Lives
from runyard.store.store import Store

SMALL = 5000
GROUP = 2000
#: As much as 30 % more than with the small store.
MOST = 1.3
LISTS: dict[str, dict[str, str | int]] = {
    "list": {"limit": 100},
    "list, state": {"state": "failed", "limit": 20},
    "list, owner": {"owner": "user-3", "limit": 20},
    "list, owner and state": {"owner": "user-0", "state": "failed", "limit": 5},
    "list, name": {"name": "job-400", "limit": 1},
}


def populate(folder: Path, jobs: int) -> None:
    """Fills a new store with ended jobs."""
    lives = Lives()
    with Store.open(folder) as store:
        while jobs:
            count = min(jobs, GROUP)
            store.commit(lives.ended(count))
            jobs -= count


def measure(jobs: int = 1_000_000, count: int = 500, rounds: int = 5) -> list[Figure]:
    few, many = fresh("few"), fresh("many")
    populate(few, SMALL)
    populate(many, jobs)
    # Nothing is cleared away during the measurement.
    env = {"RUNYARD_RETENTION__FINISHED_JOBS_MAX": str(10 * jobs)}
    with BenchServer(few, env) as small, BenchServer(many, env) as large:
        ready = pss(large.pid) / 1e6
        figures = [_read(name, small, large, count, rounds, jobs) for name in ("status", "deep page", *LISTS)]
        figures.append(_search(large, jobs))
        figures.append(_launches(small, large, rounds))
        memory = pss(large.pid) / 1e6
    return [
        *figures,
        Figure(name="million: memory of the server at its start", unit="MB", measured=ready),
        Figure(name="million: memory of the server after all this", unit="MB", measured=memory, most=250),
    ]


def _read(name: str, small: BenchServer, large: BenchServer, count: int, rounds: int, jobs: int) -> Figure:
    """Median time of one request at a time, A B A B."""
    servers = {small: _path(name, small, SMALL), large: _path(name, large, jobs)}
    times: dict[BenchServer, list[float]] = {small: [], large: []}
    for number in range(rounds + 1):
        for server, path in servers.items():
            found = load(server.port, "GET", path, clients=1, count=count, status=200)
            if number:
                times[server].append(found.p50)
    return Figure(
        name=f"million: {name}", unit="ms", measured=median(times[large]), reference=median(times[small]), most=MOST
    )


def _path(name: str, server: BenchServer, jobs: int) -> str:
    if name in LISTS:
        return "/api/v1/jobs?" + urlencode(LISTS[name])
    # Ids are ordered by time: a middle one, by walking there from the newest in a straight line.
    newest, oldest = _newest(server), _newest(server, after_all=True)
    middle = _newest(server, before=(newest + oldest) // 2)
    return f"/api/v1/jobs/{middle}" if name == "status" else f"/api/v1/jobs?limit=100&cursor={middle}"


def _newest(server: BenchServer, before: int | None = None, after_all: bool = False) -> int:
    """The newest job, or the newest one with a smaller id; or the job of the oldest event."""
    if after_all:
        page = httpx2.get(f"{server.url}/api/v1/events", params={"limit": 1}, timeout=30).json()
        return int(page["items"][0]["job"])
    params = {"limit": 1} | ({} if before is None else {"cursor": before})
    return int(httpx2.get(f"{server.url}/api/v1/jobs", params=params, timeout=30).json()["items"][0]["id"])


def _search(large: BenchServer, jobs: int) -> Figure:
    """A text that no job has: one request looks at a bounded number of jobs, however many there are."""
    found = load(large.port, "GET", "/api/v1/jobs?q=no-such-text", clients=1, count=20, status=200)
    return Figure(name="million: search for what is not there, one page", unit="ms", measured=found.p50)


def _launches(small: BenchServer, large: BenchServer, rounds: int) -> Figure:
    rates: dict[BenchServer, list[float]] = {small: [], large: []}
    for number in range(rounds + 1):
        for server in (small, large):
            with httpx2.Client(base_url=server.url, timeout=60) as client:
                rate, _ = launch.ours(server, client, launch.WARM_UP if number == 0 else 2000)
            if number:
                rates[server].append(rate)
    ours, reference = median(rates[large]), median(rates[small])
    return Figure(name="million: launches", unit="/s", measured=ours, reference=reference, least=1 / MOST)
