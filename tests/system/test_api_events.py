"""The native door over real HTTP: events, each once and in order, however they are read."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import httpx2
import pytest

from runyard.client import Client
from tests.helpers import wait_until
from tests.system.server import Server

EVENTS = "/api/v1/events"
Json = dict[str, Any]
NDJSON, SSE = {"Accept": "application/x-ndjson"}, {"Accept": "text/event-stream"}
LIFE = ["job.submitted", "job.starting", "job.running", "run.started", "run.exited", "job.succeeded"]


def page(http: httpx2.Client, **params: Any) -> Json:
    answer = http.get(EVENTS, params=params)
    assert answer.status_code == 200, answer.text
    found: Json = answer.json()
    return found


def sse(lines: Iterator[str]) -> Iterator[Json]:
    """The events of a stream; checks that id, name and data agree."""
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(":")
            if name:
                fields[name] = value.removeprefix(" ")
        elif fields:
            event = json.loads(fields["data"])
            assert fields == {"id": str(event["seq"]), "event": event["type"], "data": fields["data"]}
            yield event
            fields = {}


@pytest.fixture
def done(client: Client) -> str:
    """The id of a job that has succeeded."""
    return client.wait(client.submit(command=["true"]).id, 60).id


def test_a_job_tells_its_whole_life(http: httpx2.Client, done: str) -> None:
    items = page(http, job=done)["items"]
    assert sorted(event["type"] for event in items) == sorted(LIFE)
    assert items[0]["type"] == "job.submitted" and items[-1]["type"] == "job.succeeded"
    seqs = [event["seq"] for event in items]
    assert seqs == sorted(seqs)
    assert {event["job"] for event in items} == {done}
    exited = next(event for event in items if event["type"] == "run.exited")
    assert (exited["replica"], exited["attempt"]) == (0, 1)
    assert items[0]["replica"] is None and items[0]["at"].endswith("Z")
    assert http.get(f"/api/v1/jobs/{done}/events").json()["items"] == items
    assert http.get(f"/api/v1/jobs/{done}").json()["version"] == seqs[-1]


def test_pages_follow_on_one_another_without_gap(http: httpx2.Client, done: str) -> None:
    whole = page(http, limit=1000)
    cursor: int | None = None
    seen: list[Json] = []
    while True:
        part = page(http, limit=3) if cursor is None else page(http, limit=3, after=cursor)
        if not part["items"]:
            break
        assert len(part["items"]) <= 3
        seen += part["items"]
        cursor = part["next"]
    assert seen == whole["items"]
    assert [later["seq"] - earlier["seq"] for earlier, later in pairwise(seen)] == [1] * (len(seen) - 1)
    assert whole["next"] == cursor == seen[-1]["seq"]


@pytest.mark.parametrize(
    ("params", "types"),
    [
        ({"type": "run.exited"}, ["run.exited"]),
        ({"type": "job.submitted,job.succeeded"}, ["job.submitted", "job.succeeded"]),
        ({"state": "succeeded"}, ["job.succeeded"]),
        ({"type": "job.succeeded", "state": "failed"}, []),
        ({"limit": 1}, ["job.submitted"]),
    ],
)
def test_filters(http: httpx2.Client, done: str, params: Json, types: list[str]) -> None:
    items = page(http, job=done, **params)["items"]
    assert [event["type"] for event in items if event["type"] in types] == types
    assert {event["type"] for event in items} <= set(types)


def test_latest_and_a_cursor_from_the_future(http: httpx2.Client, done: str) -> None:
    last = page(http, after="latest", limit=1)
    assert last["items"] == [] and last["next"] >= page(http, job=done)["items"][-1]["seq"]
    assert page(http, after=10**17) == last


def test_a_long_poll_answers_with_the_first_event_or_when_time_is_up(
    server: Server, http: httpx2.Client, client: Client
) -> None:
    cursor = page(http, after="latest")["next"]
    assert page(http, after=cursor, wait=0.05)["items"] == []
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(page, http, after=cursor, wait=30, type="job.submitted")
        job = client.submit(command=["true"], hold=True)
        (event,) = waiting.result(60)["items"]
    assert (event["type"], event["job"]) == ("job.submitted", job.id)
    # A filter that takes nothing does not make the poll spin: it still ends in time, with the cursor moved on.
    assert page(http, after=cursor, wait=0.05, state="timed_out") == {
        "items": [],
        "next": page(http, after="latest")["next"],
    }
    client.cancel(job.id)


@pytest.mark.parametrize("headers", [NDJSON, SSE], ids=["ndjson", "sse"])
def test_streams_give_what_was_and_what_comes(http: httpx2.Client, client: Client, done: str, headers: Json) -> None:
    kind = headers["Accept"]
    with http.stream("GET", EVENTS, params={"after": 0}, headers=headers) as answer:
        assert answer.status_code == 200 and answer.headers["Content-Type"].startswith(kind)
        assert answer.headers["Cache-Control"] == "no-store"
        lines = answer.iter_lines()
        events = sse(lines) if kind == SSE["Accept"] else map(json.loads, lines)
        old = page(http, limit=1000)["items"]
        assert [next(events) for _ in old] == old
        job = client.submit(command=["true"])
        assert next(events)["job"] == job.id
        client.wait(job.id, 60)


def test_a_job_s_stream_ends_with_the_job(http: httpx2.Client, client: Client) -> None:
    job = client.submit(command=["true"], hold=True)
    with http.stream("GET", f"/api/v1/jobs/{job.id}/events", headers=NDJSON) as answer:
        client.amend(job.id, hold=False)
        types = [json.loads(line)["type"] for line in answer.iter_lines()]
    assert types[-1] == "job.succeeded" and sorted(set(types) - {"job.amended", "job.pending"}) == sorted(LIFE)


def test_last_event_id_goes_before_after(http: httpx2.Client, done: str) -> None:
    items = page(http, job=done)["items"]
    headers = SSE | {"Last-Event-ID": str(items[2]["seq"])}
    with http.stream("GET", EVENTS, params={"after": 0, "job": done}, headers=headers) as answer:
        events = sse(answer.iter_lines())
        assert [next(events) for _ in items[3:]] == items[3:]
    bad = http.get(EVENTS, headers=SSE | {"Last-Event-ID": "x"})
    assert bad.status_code == 400 and bad.headers["Content-Type"] == "application/problem+json"


def test_several_readers_that_reconnect_under_load_see_everything_once(server: Server, client: Client) -> None:
    with server.http() as http:
        start = page(http, after="latest")["next"]
    finish = threading.Event()
    last: list[int] = []

    def complete(seen: list[int]) -> bool:
        return finish.is_set() and bool(seen) and seen[-1] >= last[0]

    def read(number: int) -> list[int]:
        """By its own way, breaking its connection off again and again, in the middle of whatever is under way."""
        dice = random.Random(number)
        seen: list[int] = []
        with server.http() as http:
            while not complete(seen):
                cursor = seen[-1] if seen else start
                if number % 3 == 0:
                    seen += [e["seq"] for e in page(http, after=cursor, wait=1, limit=dice.randint(1, 300))["items"]]
                    continue
                headers = SSE | {"Last-Event-ID": str(cursor)} if number % 3 == 1 else NDJSON
                with http.stream("GET", EVENTS, params={"after": cursor}, headers=headers) as answer:
                    lines = answer.iter_lines()
                    events = sse(lines) if number % 3 == 1 else map(json.loads, lines)
                    for event, _ in zip(events, range(dice.randint(1, 400)), strict=False):
                        seen.append(event["seq"])
                        if complete(seen):
                            break
        return seen

    with ThreadPoolExecutor(8) as pool:
        readers = [pool.submit(read, number) for number in range(6)]
        writers = [pool.submit(client_load, server, 250) for _ in range(2)]
        jobs = [job for writer in writers for job in writer.result(90)]
        for job in client.wait_many(jobs, 90):
            assert job.state == "succeeded"
        with server.http() as http:
            last.append(page(http, after="latest")["next"])
        finish.set()
        # Readers in a quiet stream are waiting: one more event lets them look up.
        client.cancel(client.submit(command=["true"], hold=True).id)
        for reader in readers:
            seen = reader.result(60)
            assert seen[: last[0] - start] == list(range(start + 1, last[0] + 1))
    assert last[0] - start >= 500 * len(LIFE)


def client_load(server: Server, count: int) -> list[str]:
    with server.client() as own:
        results = own.submit_many([{"command": ["true"]} for _ in range(count)], chunk=50)
        return [job.id for job in results]  # type: ignore[union-attr]


def test_a_cursor_older_than_what_is_kept_is_gone_not_skipped(serve: Callable[..., Server]) -> None:
    server = serve(RUNYARD_RETENTION__EVENTS_MAX_AGE="0.2", RUNYARD_RETENTION__INTERVAL="0.1")
    with server.http() as http, server.client() as client:
        client.wait(client.submit(command=["true"]).id, 60)
        # What the server still has in memory it goes on to give.
        server.end()
        server.start()
        wait_until(lambda: http.get(EVENTS, params={"after": 1}).status_code == 410, 60, "events removed by age")
        gone = http.get(EVENTS, params={"after": 1}).json()
        assert gone["code"] == "expired" and gone["detail"]
        for headers in (NDJSON, SSE):
            assert http.get(EVENTS, params={"after": 1}, headers=headers).status_code == 410
        # Without a cursor a reader gets what there is.
        assert http.get(EVENTS).status_code == 200
