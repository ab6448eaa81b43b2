"""Both clients against a real HTTP server, with connections that really break."""

from __future__ import annotations

import asyncio
import inspect
import socket
import threading
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import msgspec
import pytest

from runyard.client import AsyncClient, Client, UnexpectedAnswer, Unreachable, WaitTimeout, request
from runyard.client.error import from_answer, from_problem
from runyard.model import errors
from runyard.model.job import JobDoc, JobSpec
from tests.unit.native_server import NativeServer, serving


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.now = 0.0

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    async def async_sleep(self, seconds: float) -> None:
        self.now += seconds


class Caller:
    """Calls either client alike: `caller(lambda client: client.job("x"))` gives the result, or a list of what an
    iterator yields (the first `take` of it)."""

    def __init__(self, kind: str, url: str) -> None:
        self.kind = kind
        self.url = url
        self.clock = Clock()

    def __call__(self, act: Callable[[Any], Any], take: int | None = None) -> Any:
        return self._sync(act, take) if self.kind == "sync" else asyncio.run(self._async(act, take))

    def _sync(self, act: Callable[[Any], Any], take: int | None) -> Any:
        with Client(self.url, timeout=5, sleep=self.clock.sleep, clock=self.clock.time) as client:
            result = act(client)
            return list(islice(result, take)) if isinstance(result, Iterator) else result

    async def _async(self, act: Callable[[Any], Any], take: int | None) -> Any:
        async with AsyncClient(self.url, timeout=5, sleep=self.clock.async_sleep, clock=self.clock.time) as client:
            result = act(client)
            if not inspect.isasyncgen(result):
                return await result
            items: list[Any] = []
            async for item in result:
                items.append(item)
                if len(items) == take:
                    await result.aclose()
                    break
            return items


@pytest.fixture
def server() -> Iterator[NativeServer]:
    with serving() as server:
        yield server


@pytest.fixture(params=["sync", "async"])
def call(request: pytest.FixtureRequest, server: NativeServer) -> Caller:
    return Caller(request.param, server.url)


def count(server: NativeServer, method: str, path: str) -> int:
    return sum(1 for request in server.requests if request[:2] == (method, path))


def test_submit_by_spec_and_by_fields(server: NativeServer, call: Caller) -> None:
    by_spec = call(lambda client: client.submit(JobSpec(command=["true"], name="one")))
    by_fields = call(lambda client: client.submit(command=["true"], name="two", time_limit="1h"))
    assert isinstance(by_spec, JobDoc)
    assert (by_spec.name, by_spec.state, by_spec.spec.command) == ("one", "pending", ["true"])
    assert by_fields.name == "two"


def test_a_lost_answer_to_submit_makes_one_job(server: NativeServer, call: Caller) -> None:
    server.fail("POST", "/api/v1/jobs", "lost", "lost")
    job = call(lambda client: client.submit(command=["true"]))
    assert list(server.jobs) == [job.id]
    assert count(server, "POST", "/api/v1/jobs") == 3
    assert len({request[3]["Idempotency-Key"] for request in server.requests}) == 1
    assert call.clock.now == pytest.approx(0.3)


def test_each_submit_has_its_own_key(server: NativeServer, call: Caller) -> None:
    assert call(lambda client: client.submit(command=["a"])).id != call(lambda client: client.submit(command=["a"])).id
    same = [call(lambda client: client.submit(command=["a"], idempotency_key="k")).id for _ in range(2)]
    assert same[0] == same[1]


def test_what_is_not_repeatable_is_sent_once(server: NativeServer, call: Caller) -> None:
    job = server.submit({"command": ["true"]})["id"]
    server.fail("POST", f"/api/v1/jobs/{job}/restart", "lost")
    with pytest.raises(Unreachable, match="may or may not have been carried out"):
        call(lambda client: client.restart(job))
    assert count(server, "POST", f"/api/v1/jobs/{job}/restart") == 1


def test_unavailable_is_waited_out(server: NativeServer, call: Caller) -> None:
    job = server.submit({"command": ["true"]})["id"]
    server.fail("POST", f"/api/v1/jobs/{job}/restart", 503, 503, 503)
    assert call(lambda client: client.restart(job)).id == job


def test_unavailable_for_ever_is_raised(server: NativeServer, call: Caller) -> None:
    server.fail("GET", "/version", *[503] * 1000)
    with pytest.raises(errors.Unavailable, match="told to fail"):
        call(lambda client: client.version())
    assert 20 < call.clock.now <= 30


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_refused_says_how_to_start(kind: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        caller = Caller(kind, f"http://127.0.0.1:{unused.getsockname()[1]}")
        with pytest.raises(Unreachable, match="start it with `runyard serve`"):
            caller(lambda client: client.version())
    assert caller.clock.now == 0


def test_problems_become_exceptions(server: NativeServer, call: Caller) -> None:
    with pytest.raises(errors.NotFound, match="there is no job nobody"):
        call(lambda client: client.job("nobody"))
    with pytest.raises(errors.InvalidInput) as caught:
        call(lambda client: client.submit(command=["x"], replicas=0))
    assert caught.value.fields["errors"] == [{"field": "replicas", "value": 0, "rule": "must be between 1 and 10000"}]
    job = server.submit({"command": ["true"]})["id"]
    with pytest.raises(errors.Conflict):
        call(lambda client: client.delete(job))
    server.end(job, "succeeded", 0)
    assert call(lambda client: client.delete(job)) is None
    assert job not in server.jobs


@pytest.mark.parametrize(
    "kind",
    [
        errors.InvalidInput, errors.NotFound, errors.Conflict, errors.PreconditionFailed, errors.Expired,
        errors.TooLarge, errors.TooMany, errors.Forbidden, errors.Unavailable, errors.StorageFull,
    ],
)  # fmt: skip
def test_each_code_and_each_status_has_its_class(kind: type[errors.RunyardError]) -> None:
    assert type(from_problem({"code": kind.code, "detail": "x"})) is kind
    assert type(from_problem({"code": "new_in_a_later_version", "status": kind.status})) is kind


def test_a_stranger_is_recognised() -> None:
    error = from_answer("http://x", 404, "text/html", b"<html>")
    assert isinstance(error, UnexpectedAnswer)
    assert "is this a Runyard server" in error.detail
    with pytest.raises(UnexpectedAnswer, match="same version"):
        request.read(request.version(), "http://x", 200, "application/json", b"[]")


def test_jobs_go_on_across_pages(server: NativeServer, call: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request, "PAGE", 3)
    ids = [server.submit({"command": ["true"]})["id"] for _ in range(8)]
    assert [job.id for job in call(lambda client: client.jobs())] == ids[::-1]
    assert [job.id for job in call(lambda client: client.jobs(limit=5))] == ids[::-1][:5]
    assert call(lambda client: client.jobs(state=("running", "failed"))) == []
    assert server.requests[-1][2]["state"] == "running,failed"


def test_submit_many_answers_for_each_in_order(server: NativeServer, call: Caller) -> None:
    progress: list[int] = []
    specs: list[dict[str, Any]] = [{"command": ["true"], "name": f"job-{number}"} for number in range(7)]
    specs[4] = {"name": "nothing to run"}
    results = call(lambda client: client.submit_many(iter(specs), chunk=3, on_progress=progress.append))
    assert progress == [3, 6, 7]
    assert isinstance(results[4], errors.InvalidInput)
    assert [result.name for number, result in enumerate(results) if number != 4] == [
        spec["name"] for number, spec in enumerate(specs) if number != 4
    ]


def test_a_lost_answer_to_a_bulk_request_makes_no_job_twice(server: NativeServer, call: Caller) -> None:
    server.fail("POST", "/api/v1/jobs:batch", "lost")
    results = call(lambda client: client.submit_many([{"command": ["true"]}] * 5, chunk=3))
    assert [job.id for job in results] == list(server.jobs)
    assert count(server, "POST", "/api/v1/jobs:batch") == 3


def test_bulk_requests_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request, "BULK_BYTES", 100)
    spec = {"command": ["x" * 30]}
    groups = list(request.bulks([spec] * 10, chunk=1000))
    assert all(sum(len(line) + 1 for line in group) <= 101 for group in groups)
    assert [msgspec.json.decode(line) for group in groups for line in group] == [spec] * 10


def test_wait(server: NativeServer, call: Caller) -> None:
    server.programs["quick"] = lambda server, ref: server.end(ref, "succeeded", 0)
    job = call(lambda client: client.submit(command=["quick"]))
    assert call(lambda client: client.wait(job.id, timeout=20)).state == "succeeded"
    other = server.submit({"command": ["never"]})["id"]
    with pytest.raises(WaitTimeout, match="still pending"):
        call(lambda client: client.wait(other, timeout=0))


def test_wait_many_yields_as_they_end(server: NativeServer, call: Caller) -> None:
    first, second, third = (server.submit({"command": ["x"]})["id"] for _ in range(3))
    server.end(third, "failed", 1)

    def finish(waiting: NativeServer) -> None:
        # Only once the client waits for events can the rest end.
        waiting.until(lambda: any(r[2].get("wait") for r in waiting.requests if r[1] == "/api/v1/events"), 10)
        waiting.end(second, "succeeded", 0)
        waiting.end(first, "cancelled")

    thread = threading.Thread(target=finish, args=(server,))
    thread.start()
    ended = call(lambda client: client.wait_many([first, second, third], timeout=60))
    thread.join()
    assert [(job.id, job.state) for job in ended] == [(third, "failed"), (second, "succeeded"), (first, "cancelled")]


def test_logs_go_on_at_the_byte_where_the_connection_broke(server: NativeServer, call: Caller) -> None:
    job = server.submit({"command": ["x"]})["id"]
    text = bytes(range(256)) * 100
    server.start(job)
    server.write(job, text)
    server.end(job, "succeeded", 0)
    path = f"/api/v1/jobs/{job}/logs"
    for follow in (True, False):
        server.fail("GET", path, "cut:1", "cut:9999", "cut:70")
        before = count(server, "GET", path)
        follow_now = follow
        assert b"".join(call(lambda client: client.logs(job, follow=follow_now))) == text  # noqa: B023
        assert count(server, "GET", path) == before + 4


def test_logs_follow_a_service_from_run_to_run(server: NativeServer, call: Caller) -> None:
    job = server.submit({"command": ["x"], "lifecycle": "service"})["id"]

    def live(server: NativeServer) -> None:
        server.until(lambda: count(server, "GET", f"/api/v1/jobs/{job}/logs") > 0, 10)
        for attempt in (1, 2, 3):
            server.start(job, attempt)
            for word in (b"one ", b"two ", b"three\n"):
                server.write(job, str(attempt).encode() + word, attempt=attempt)
            server.end_run(job, "failed", attempt)
        server.end(job, "cancelled")

    server.fail("GET", f"/api/v1/jobs/{job}/logs", "cut:3", "cut:2", "cut:4")
    thread = threading.Thread(target=live, args=(server,))
    server.start(job, 1)
    thread.start()
    output = b"".join(call(lambda client: client.logs(job, follow=True)))
    thread.join()
    assert output == b"1one 1two 1three\n2one 2two 2three\n3one 3two 3three\n"


def test_a_clean_end_of_a_stream_is_not_believed_while_the_run_is_up(server: NativeServer, call: Caller) -> None:
    """As when a server stops in good order."""
    job = server.submit({"command": ["x"]})["id"]
    server.start(job)
    server.write(job, b"first ")
    server.fail("GET", f"/api/v1/jobs/{job}/logs", "end:6", "end:2")

    def finish() -> None:
        server.until(lambda: count(server, "GET", f"/api/v1/jobs/{job}/logs") == 2, 10)
        server.write(job, b"second")
        server.end(job, "succeeded", 0)

    thread = threading.Thread(target=finish)
    thread.start()
    assert b"".join(call(lambda client: client.logs(job, follow=True))) == b"first second"
    thread.join()


def test_tail_and_nothing_yet(server: NativeServer, call: Caller) -> None:
    job = server.submit({"command": ["x"]})["id"]
    assert call(lambda client: client.logs(job)) == []
    server.start(job)
    server.write(job, b"one\ntwo\nthree\n")
    assert b"".join(call(lambda client: client.logs(job, tail=2))) == b"two\nthree\n"
    with pytest.raises(errors.InvalidInput, match="is not a stream"):
        call(lambda client: client.logs(job, stream="stdin"))


def test_events_go_on_without_gap_or_repetition(server: NativeServer, call: Caller) -> None:
    for _ in range(40):
        server.submit({"command": ["x"]})
    line = len(msgspec.json.encode(server.events[0]))
    server.fail("GET", "/api/v1/events", f"cut:{line * 3 + 5}", f"cut:{line // 2}", f"cut:{line * 20}", 503)
    seen = call(lambda client: client.events(follow=True, after=0), take=40)
    assert [event.seq for event in seen] == list(range(1, 41))
    assert call(lambda client: client.events(follow=True, after=38, limit=2))[-1].seq == 40


def test_events_of_the_past(server: NativeServer, call: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request, "PAGE", 4)
    job = [server.submit({"command": ["x"]})["id"] for _ in range(10)][3]
    assert [event.seq for event in call(lambda client: client.events(after=2))] == list(range(3, 11))
    assert [event.job for event in call(lambda client: client.events(job=job))] == [job]


def test_the_rest(server: NativeServer, call: Caller) -> None:
    job = server.submit({"command": ["x"], "name": "a name with ünicode?"})["id"]
    assert call(lambda client: client.job("a name with ünicode?")).id == job
    assert call(lambda client: client.amend(job, hold=True, priority=5)).priority == 5
    assert call(lambda client: client.why(job)).summary == "it waits for nothing"
    assert call(lambda client: client.runs(job)) == []
    assert call(lambda client: client.signal(job, "SIGUSR1")).id == job
    assert server.events[-1]["data"] == {"signal": "SIGUSR1"}
    assert call(lambda client: client.cancel(job)).state == "cancelled"
    assert call(lambda client: client.nodes())[0].memory.free == 1 << 29
    assert [item.cron for item in call(lambda client: client.schedules())] == ["@daily"]
    assert len(call(lambda client: client.preview("@daily", count=3))) == 3
    assert call(lambda client: client.version()).version == "9.9"
    with pytest.raises(errors.InvalidInput, match="nothing to change"):
        call(lambda client: client.amend(job))


def test_url_and_token_come_from_the_environment(server: NativeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNYARD_URL", server.url + "/")
    monkeypatch.setenv("RUNYARD_TOKEN", "secret")
    with Client() as client:
        client.version()
    assert server.requests[-1][1] == "/version"
    assert server.requests[-1][3]["Authorization"] == "Bearer secret"


def test_both_clients_have_the_same_methods() -> None:
    def methods(kind: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(member).parameters)
            for name, member in vars(kind).items()
            if callable(member) and not name.startswith("_")
        }

    assert methods(Client) == methods(AsyncClient)
