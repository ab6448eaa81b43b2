"""Messages over real HTTP and WebSockets: said, read, followed, drawn; by whom; and what a crash leaves."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from socket import SHUT_WR, create_connection
from typing import Any

import httpx2
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from runyard.client import Client
from tests.helpers import wait_until
from tests.system.accounts import Crowd
from tests.system.server import LOOPBACK, Server, ask_until

Json = dict[str, Any]
API = "/api/v1"
NDJSON, SSE = {"Accept": "application/x-ndjson"}, {"Accept": "text/event-stream"}
PATIENCE = 60


def metric(number: int, **more: Any) -> Json:
    return {"type": "metrics", "body": {"n": number, "step": number}} | more


def path(job: str, what: str = "messages") -> str:
    return f"{API}/jobs/{job}/{what}"


def say(http: httpx2.Client, job: str, *messages: Json) -> Json:
    answer = http.post(path(job), json=list(messages))
    assert answer.status_code == 201, answer.text
    taken: Json = answer.json()
    return taken


def page(http: httpx2.Client, job: str, **params: Any) -> list[Json]:
    answer = http.get(path(job), params=params)
    assert answer.status_code == 200, answer.text
    items: list[Json] = answer.json()["items"]
    return items


def numbers(messages: list[Json]) -> list[int]:
    return [message["body"]["values"]["n"] for message in messages]


def sse(lines: Iterator[str]) -> Iterator[Json]:
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        if name:
            fields[name] = value
        elif "data" in fields:
            message = json.loads(fields["data"])
            assert fields == {"id": str(message["seq"]), "data": fields["data"]}
            yield message
        if not line:
            fields = {}


def socket(server: Server, address: str, **headers: str) -> ClientConnection:
    url = server.url.replace("http://", "ws://") + address
    return connect(url, additional_headers=headers, open_timeout=PATIENCE, close_timeout=PATIENCE)


@pytest.fixture
def job(client: Client) -> str:
    """The id of a job that does not start."""
    return client.submit(command=["true"], hold=True).id


# Saying and reading -------------------------------------------------------------------------------------------------


def test_what_is_said_is_read_in_pages_by_a_cursor(http: httpx2.Client, job: str) -> None:
    taken = say(http, job, metric(1, at=5, rank=2), {"type": "error", "body": {"code": 7}}, metric(2))
    assert (taken["kept"], taken["dropped"]) == (3, 0)
    items = page(http, job)
    assert [item["seq"] for item in items] == list(range(taken["last"] - 2, taken["last"] + 1))
    assert items[0] == {
        "seq": taken["last"] - 2,
        "job": job,
        "type": "metrics",
        "at": "1970-01-01T00:00:05Z",
        "source": "http",
        "rank": 2,
        "body": {"values": {"n": 1}, "step": 1},
    }
    assert page(http, job, kind="error") == items[1:2]
    assert page(http, job, kind="metrics,info", limit=1) == items[:1]
    assert page(http, job, after=items[0]["seq"]) == items[1:]
    assert page(http, job, after="latest") == []
    everywhere = http.get(f"{API}/messages", params={"after": items[0]["seq"] - 1, "job": job}).json()
    assert everywhere["items"] == items and everywhere["next"] >= taken["last"]
    assert items[1] in http.get(f"{API}/messages", params={"kind": "error", "limit": 1000}).json()["items"]


def test_a_body_is_an_object_an_array_or_lines(http: httpx2.Client, job: str) -> None:
    assert http.post(path(job), json=metric(1)).status_code == 201
    lines = b'{"type":"metrics","body":{"n":2,"loss":NaN}}\n\n{"type":"metrics","metrics":{"n":3}}'
    assert http.post(path(job), content=lines, headers={"Content-Type": "application/x-ndjson"}).json()["kept"] == 2
    assert numbers(page(http, job)) == [1, 2, 3]
    assert page(http, job)[1]["body"]["values"]["loss"] is None


def test_a_repeated_request_says_nothing_twice(http: httpx2.Client, job: str) -> None:
    key = {"Idempotency-Key": f"key of {job}"}
    first = http.post(path(job), json=[metric(1)], headers=key)
    again = http.post(path(job), json=[metric(1)], headers=key)
    assert (again.status_code, again.json()) == (201, first.json())
    assert again.headers["Idempotency-Replayed"] == "true"
    assert http.post(path(job), json=[metric(2)], headers=key).status_code == 409
    assert numbers(page(http, job)) == [1]


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ("", 400, "empty"),
        ("[]", 400, "no message"),
        ("{", 400, "not JSON"),
        ("3", 400, "a message is an object"),
        ('[{"type":"info"},{"type":"metrics","body":{"a":"b"}}]', 400, "message 1: body.a: must be a number"),
        ('{"type":"info","body":' + "[" * 100 + "]" * 100 + "}", 400, "levels"),
        ("[" * 100_000, 400, "nested too deeply"),
        ('{"type":"info","body":"\\ud800"}', 400, "surrogate"),
        ("[" + ",".join(['{"type":"info"}'] * 1001) + "]", 413, "at most 1000"),
        ('{"type":"info","body":"' + "a" * 1_000_001 + '"}', 413, "at most 1000000"),
        ("x" * 8_400_000, 413, "max_body"),
    ],
)
def test_what_is_refused_leaves_nothing(http: httpx2.Client, job: str, body: str, status: int, words: str) -> None:
    answer = http.post(path(job), content=body)
    assert answer.status_code == status and words in answer.json()["detail"], answer.text
    assert page(http, job) == []


@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("jobs/nobody/messages", 404),
        ("jobs/nobody/metrics", 404),
        ("messages?after=x", 400),
        ("messages?after=-1", 400),
        ("messages?kind=A", 400),
        ("messages?limit=0", 400),
        ("messages?wait=61", 400),
        ("messages?job=nobody", 404),
    ],
)
def test_questions_that_make_no_sense(http: httpx2.Client, address: str, status: int) -> None:
    answer = http.get(f"{API}/{address}")
    assert answer.status_code == status and answer.json()["code"] in ("invalid_input", "not_found")


def test_a_job_that_has_ended_can_still_be_spoken_for_until_it_is_removed(http: httpx2.Client, client: Client) -> None:
    ended = client.wait(client.submit(command=["true"]).id, PATIENCE).id
    say(http, ended, metric(1))
    assert numbers(page(http, ended)) == [1]
    client.delete(ended)
    assert http.get(path(ended)).status_code == 404
    assert http.post(path(ended), json=metric(2)).status_code == 404


# Curves -------------------------------------------------------------------------------------------------------------


def test_metrics_come_back_as_curves(http: httpx2.Client, job: str, server: Server) -> None:
    for start in (0, 1000):
        say(
            http,
            job,
            *({"type": "metrics", "body": {"loss": 1 / (n + 1), "step": n}} for n in range(start, start + 1000)),
        )
    say(http, job, {"type": "metrics", "body": {"acc": 0.5}})
    found = http.get(path(job, "metrics"), params={"points": 100}).json()
    loss, acc = found["items"]
    assert (loss["name"], loss["count"], loss["min"], loss["max"]) == ("loss", 2000, 1 / 2000, 1.0)
    assert len(loss["points"]) <= 100
    assert [loss["points"][place][0] for place in (0, -1)] == [0, 1999]
    assert [(step, value) for step, _, value in acc["points"]] == [(None, 0.5)]
    assert found["names"] == ["loss", "acc"]
    only = http.get(path(job, "metrics"), params={"names": "acc,nothing"}).json()
    assert [curve["name"] for curve in only["items"]] == ["acc"]
    for bad in ("1", "5000", "x"):
        assert http.get(path(job, "metrics"), params={"points": bad}).status_code == 400
    shown = server.run("metrics", job)
    assert shown.returncode == 0 and "loss" in shown.stdout and "▁▁▁" in shown.stdout, shown.stderr
    missing = server.run("metrics", job, "nothing", "-o", "json")
    assert (missing.returncode, json.loads(missing.stdout)) == (1, []) and "no metric 'nothing'" in missing.stderr


# Following ----------------------------------------------------------------------------------------------------------


def test_all_ways_to_follow_tell_the_same_until_the_job_has_ended(
    server: Server, http: httpx2.Client, client: Client, job: str
) -> None:
    say(http, job, metric(1))
    standing = threading.Barrier(4, timeout=PATIENCE)

    def lines(headers: dict[str, str], read: Callable[[Iterator[str]], Iterator[Json]]) -> list[Json]:
        with server.http() as own, own.stream("GET", path(job), headers=headers, timeout=PATIENCE) as stream:
            found = read(stream.iter_lines())
            first = next(found)
            standing.wait()
            return [first, *found]

    def frames() -> list[Json]:
        with socket(server, path(job) + "/ws") as ws:
            found = [json.loads(ws.recv(PATIENCE))]
            standing.wait()
            with pytest.raises(ConnectionClosed) as closed:
                while True:
                    found.append(json.loads(ws.recv(PATIENCE)))
            assert closed.value.rcvd is not None and closed.value.rcvd.code == 1000
            return found

    def as_json(stream: Iterator[str]) -> Iterator[Json]:
        return (json.loads(line) for line in stream if line)

    with ThreadPoolExecutor() as pool:
        streams = [pool.submit(lines, SSE, sse), pool.submit(lines, NDJSON, as_json), pool.submit(frames)]
        standing.wait()
        say(http, job, *(metric(n) for n in range(2, 200)))
        say(http, job, {"type": "error", "body": {"code": 1}})
        client.cancel(job)
        everything = [stream.result(PATIENCE) for stream in streams]
    expected = page(http, job, limit=1000)
    assert len(expected) == 200 and all(found == expected for found in everything)
    # Who comes late, or comes back.
    cursor = expected[150]["seq"]
    with http.stream("GET", path(job), headers=SSE | {"Last-Event-ID": str(cursor)}) as stream:
        assert list(sse(stream.iter_lines())) == expected[151:]
    with socket(server, f"{path(job)}/ws?after={cursor}&kind=error") as ws:
        assert json.loads(ws.recv(PATIENCE)) == expected[-1]


def test_a_long_poll_waits_for_the_first_message(server: Server, http: httpx2.Client, job: str) -> None:
    def poll() -> Json:
        with server.http() as own:
            answer: Json = own.get(path(job), params={"wait": 20, "kind": "error"}).json()
            return answer

    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(poll)
        say(http, job, metric(1))
        say(http, job, {"type": "error", "body": {"code": 1}})
        assert [item["type"] for item in waiting.result(PATIENCE)["items"]] == ["error"]
    assert http.get(path(job), params={"after": "latest", "wait": 0.01}).json()["items"] == []


def test_readers_who_never_read_hold_nobody_up(server: Server, http: httpx2.Client, job: str) -> None:
    before = say(http, job, metric(0))["last"]
    with ExitStack() as stack:
        for _ in range(3):
            silent = stack.enter_context(create_connection((LOOPBACK, server.port)))
            silent.sendall(f"GET {path(job)} HTTP/1.1\r\nHost: {LOOPBACK}\r\nAccept: {SSE['Accept']}\r\n\r\n".encode())
            assert silent.recv(1)
        for start in (1, 1001):
            batch = [{"type": "log", "body": {"text": "x" * 5000, "n": n}} for n in range(start, start + 1000)]
            say(http, job, *batch)
        with http.stream("GET", path(job), headers=NDJSON, params={"after": before}) as stream:
            lines = stream.iter_lines()
            assert [json.loads(next(lines))["body"]["n"] for _ in range(2000)] == list(range(1, 2001))
        assert http.get("/livez").status_code == 200


def test_the_client_and_the_command_follow_too(server: Server, client: Client, job: str) -> None:
    with ThreadPoolExecutor() as pool:
        following = pool.submit(lambda: list(client.messages(job, follow=True)))
        shown = pool.submit(server.run, "messages", job, "-f")
        client.say(job, [metric(1), {"type": "info", "body": "hello \x1b[31m"}])
        client.cancel(job)
        assert [message.type for message in following.result(PATIENCE)] == ["metrics", "info"]
        line = shown.result(60)
    assert line.returncode == 0 and "step=1 n=1" in line.stdout and "hello \\x1b[31m" in line.stdout
    assert [message.body for message in client.messages(job, kinds="info")] == [{"text": "hello \x1b[31m"}]
    printed = server.run("messages", job, "-t", "metrics", "-o", "jsonl").stdout
    assert json.loads(printed)["body"] == {"values": {"n": 1}, "step": 1}


def test_a_socket_is_refused_with_an_answer_that_says_why(server: Server, job: str) -> None:
    for address, headers, status, words in (
        (path(job) + "/ws", {"Origin": "https://evil.example"}, 403, "allowed_origins"),
        (path(job) + "/ws", {"Sec-Fetch-Site": "cross-site"}, 403, "another site"),
        (path("nobody") + "/ws", {}, 404, "no job"),
        (path(job) + "/ws?after=x", {}, 400, "after"),
        (path(job), {}, 404, "no WebSocket"),
        ("/nothing", {}, 404, "no WebSocket"),
    ):
        with pytest.raises(InvalidStatus) as refused:
            socket(server, address, **headers)
        answer = refused.value.response
        assert answer.status_code == status and words in json.loads(answer.body or b"{}")["detail"]
    with socket(server, path(job) + "/ws", Origin=server.url) as ws:
        ws.send("what a client sends is passed over")


#: What RFC 6455 does not allow: a text that is none, a frame without a mask, one of no kind. And a farewell.
NO_TEXT, UNMASKED, UNKNOWN = b"\x81\x81\0\0\0\0\xff", b"\x81\x02hi", b"\x83\x80\0\0\0\0"
FAREWELL = b"\x88\x80\0\0\0\0"


@pytest.mark.parametrize("frames", [NO_TEXT, UNMASKED, FAREWELL + NO_TEXT, FAREWELL + UNKNOWN])
def test_no_frame_of_a_client_is_worth_a_line_in_the_log(server: Server, job: str, frames: bytes) -> None:
    before = server.log.stat().st_size
    for address in (path(job) + "/ws", path("nobody") + "/ws"):
        with create_connection((LOOPBACK, server.port), PATIENCE) as raw:
            head = f"GET {address} HTTP/1.1\r\nHost: {LOOPBACK}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            key = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            raw.sendall((head + key).encode())
            assert raw.recv(65_536).startswith(b"HTTP/1.1 101" if job in address else b"HTTP/1.1 404")
            # It may hang up before it has read everything.
            with suppress(OSError):
                raw.sendall(frames)
                raw.shutdown(SHUT_WR)
                while raw.recv(65_536):
                    pass
    assert server.get("/livez").status_code == 200
    assert server.log.stat().st_size == before, server.log.read_text()[-2000:]


# With accounts, and after a crash -----------------------------------------------------------------------------------


def test_only_the_owner_speaks_for_a_job_and_others_do_not_listen(tmp_path: Path) -> None:
    crowd = Crowd(tmp_path / "server" / "data")
    server = Server(tmp_path / "server", env={"RUNYARD_AUTH__ENABLED": "true"})
    who: dict[str, httpx2.Client] = {}
    try:
        who |= crowd.clients(server.start())
        job = who["ann"].post(f"{API}/jobs", json={"command": ["true"], "hold": True}).json()["id"]
        for name, status in {
            "nobody": 401,
            "viewer": 403,
            "bob": 403,
            "ann-reads": 403,
            "ann": 201,
            "root": 201,
        }.items():
            assert who[name].post(path(job), json=metric(1)).status_code == status, name
        for name, status in {"nobody": 401, "viewer": 200, "bob": 403, "ann-reads": 200, "root": 200}.items():
            assert who[name].get(path(job)).status_code == status, name
            assert who[name].get(path(job, "metrics")).status_code == status, name
            headers = {} if name == "nobody" else {"Authorization": f"Bearer {crowd.tokens[name]}"}
            if status == 200:
                with socket(server, path(job) + "/ws", **headers) as ws:
                    assert json.loads(ws.recv(PATIENCE))["job"] == job
            else:
                with pytest.raises(InvalidStatus) as refused:
                    socket(server, path(job) + "/ws", **headers)
                assert refused.value.response.status_code == status, name
        for name, count in {"bob": 0, "ann": 2, "viewer": 2, "root": 2}.items():
            assert len(who[name].get(f"{API}/messages").json()["items"]) == count, name
    finally:
        for own in who.values():
            own.close()
        crowd.close()
        server.close()


def test_what_was_answered_outlives_the_server_and_followers_go_on(tmp_path: Path) -> None:
    server = Server(
        tmp_path / "server", env={"RUNYARD_RETENTION__INTERVAL": "3600", "RUNYARD_MESSAGES__MAX_RATE": "100"}
    )
    try:
        with server.start().client() as client, ThreadPoolExecutor() as pool:
            job = client.submit(command=["true"], hold=True).id
            seen: list[int] = []

            def follow() -> None:
                for message in client.messages(job, follow=True, kinds=["error"]):
                    seen.append(message.body["n"])

            following = pool.submit(follow)
            for number in range(5):
                client.say(job, [{"type": "error", "body": {"n": number}}])
            wait_until(lambda: len(seen) == 5, PATIENCE)
            server.kill()
            server.start()
            client.say(job, [{"type": "error", "body": {"n": 5}}])
            # A flood is sampled, and says so; errors get through.
            taken = client.say(job, [metric(n) for n in range(999)] + [{"type": "error", "body": {"n": 6}}])
            assert 0 < taken.dropped < 999 and taken.kept == 1000 - taken.dropped
            notice = ask_until(lambda: list(client.messages(job, kinds=["info"])), bool, PATIENCE)[0]
            assert (notice.source, notice.body["code"]) == ("server", "dropped")
            # The server says good bye in good order: the stream's end is not the job's.
            with socket(server, f"{path(job)}/ws?after=latest") as ws:
                server.end()
                with pytest.raises(ConnectionClosed) as closed:
                    ws.recv(PATIENCE)
                assert closed.value.rcvd is not None and closed.value.rcvd.code == 1012
            server.start()
            client.say(job, [{"type": "error", "body": {"n": 7}}])
            client.cancel(job)
            following.result(60)
            assert seen == list(range(8))
            assert [message.body["n"] for message in client.messages(job, kinds=["error"])] == seen
    finally:
        server.close()
