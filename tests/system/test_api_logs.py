"""The native door over real HTTP: the output of runs."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from runyard.client import Client
from runyard.model.job import JobDoc
from tests.helpers import deadline, wait_until
from tests.system.server import LOOPBACK, Server

TEXT = "text/plain; charset=utf-8"
#: Not UTF-8, with NUL, CR, and no newline at the end.
BYTES = bytes(range(256)) * 3 + b"\xff\xfe\x00end"


@pytest.fixture(scope="module")
def finished(client: Client) -> JobDoc:
    """A job that wrote three lines to stdout and `BYTES` to stderr."""
    code = f"import sys; print('one'); print('two'); print('three'); sys.stderr.buffer.write({BYTES!r})"
    return client.wait(client.submit(command=["python", "-c", code], name="finished").id, 60)


def path(job: JobDoc) -> str:
    return f"/api/v1/jobs/{job.id}/logs"


@pytest.mark.parametrize(
    ("query", "body", "offset"),
    [
        ({}, b"one\ntwo\nthree\n", 0),
        ({"stream": "stdout"}, b"one\ntwo\nthree\n", 0),
        ({"stream": "stderr"}, BYTES, 0),
        ({"offset": 4}, b"two\nthree\n", 4),
        ({"offset": 4, "limit": 3}, b"two", 4),
        ({"limit": 0}, b"", 0),
        ({"limit": 5}, b"one\nt", 0),
        ({"offset": 14}, b"", 14),
        ({"offset": 10**30}, b"", 10**30),
        ({"tail": 0}, b"", 14),
        ({"tail": 1}, b"three\n", 8),
        ({"tail": 2}, b"two\nthree\n", 4),
        ({"tail": 10**20}, b"one\ntwo\nthree\n", 0),
        ({"tail": 2, "limit": 3}, b"two", 4),
        ({"attempt": 1, "replica": 0}, b"one\ntwo\nthree\n", 0),
        ({"follow": "true"}, b"one\ntwo\nthree\n", 0),
        ({"follow": "true", "offset": 8}, b"three\n", 8),
        ({"follow": "true", "offset": 2**63 - 1}, b"", 2**63 - 1),
        ({"follow": "true", "tail": 1, "attempt": 1}, b"three\n", 8),
        ({"follow": "true", "stream": "stderr"}, BYTES, 0),
    ],
)
def test_any_part_of_the_output(
    http: httpx2.Client, finished: JobDoc, query: dict[str, Any], body: bytes, offset: int
) -> None:
    answer = http.get(path(finished), params=query)
    assert (answer.status_code, answer.content) == (200, body)
    assert answer.headers["Content-Type"] == TEXT
    assert answer.headers["X-Log-Offset"] == str(offset)
    assert answer.headers["X-Log-Size"] == str(len(BYTES) if query.get("stream") == "stderr" else 14)


@pytest.mark.parametrize(
    ("asked", "status", "body", "described"),
    [
        ("bytes=0-2", 206, b"one", "bytes 0-2/14"),
        ("bytes=4-", 206, b"two\nthree\n", "bytes 4-13/14"),
        ("bytes=4-9999", 206, b"two\nthree\n", "bytes 4-13/14"),
        ("bytes=-6", 206, b"three\n", "bytes 8-13/14"),
        ("bytes=-9999", 206, b"one\ntwo\nthree\n", "bytes 0-13/14"),
        ("bytes=14-", 416, None, "bytes */14"),
        ("bytes=-0", 416, None, "bytes */14"),
        # RFC 9110: what makes no sense is ignored.
        ("bytes=5-3", 200, b"one\ntwo\nthree\n", None),
        ("bytes=-", 200, b"one\ntwo\nthree\n", None),
        ("lines=1-2", 200, b"one\ntwo\nthree\n", None),
        ("bytes=0-1,3-4", 200, b"one\ntwo\nthree\n", None),
    ],
)
def test_ranges(
    http: httpx2.Client, finished: JobDoc, asked: str, status: int, body: bytes | None, described: str | None
) -> None:
    answer = http.get(path(finished), headers={"Range": asked})
    assert answer.status_code == status and answer.headers.get("Content-Range") == described
    if body is None:
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.json()["code"] == "range_not_satisfiable" and "14 bytes" in answer.json()["detail"]
    else:
        assert answer.content == body and answer.headers["Accept-Ranges"] == "bytes"


@pytest.mark.parametrize(
    ("query", "status", "says"),
    [
        ({"stream": "both"}, 400, "stream"),
        ({"offset": -1}, 400, "offset"),
        ({"limit": "x"}, 400, "limit"),
        ({"tail": -1}, 400, "tail"),
        ({"attempt": 0}, 400, "attempt"),
        ({"attempt": 2}, 404, "the last is 1"),
        ({"replica": 1}, 404, "it has 1"),
        ({"follow": "perhaps"}, 400, "follow"),
    ],
)
def test_questions_that_make_no_sense(
    http: httpx2.Client, finished: JobDoc, query: dict[str, Any], status: int, says: str
) -> None:
    answer = http.get(path(finished), params=query)
    assert answer.status_code == status and says in answer.json()["detail"]


def test_each_replica_and_each_attempt_has_an_output_of_its_own(http: httpx2.Client, client: Client) -> None:
    job = client.submit(
        script="echo replica $RUNYARD_REPLICA attempt $RUNYARD_ATTEMPT; exit 1",
        replicas=2,
        restart={"policy": "on-failure", "delay": 0, "max": 1},
    )
    client.wait(job.id, 60)
    for replica in (0, 1):
        for attempt in (1, 2):
            answer = http.get(path(job), params={"replica": replica, "attempt": attempt})
            assert answer.text == f"replica {replica} attempt {attempt}\n"
            assert answer.headers["X-Log-Attempt"] == str(attempt)
        assert http.get(path(job), params={"replica": replica}).text == f"replica {replica} attempt 2\n"


class Fifo:
    """Lets a test say when a job writes: the job copies this pipe to its output."""

    def __init__(self, file: Path) -> None:
        self.file = file
        os.mkfifo(file)
        # Open for both, so that neither side waits for the other.
        self.end = os.open(file, os.O_RDWR)

    def write(self, data: bytes) -> None:
        os.write(self.end, data)


@pytest.fixture
def fifo(tmp_path: Path) -> Iterator[Fifo]:
    fifo = Fifo(tmp_path / "fifo")
    yield fifo
    os.close(fifo.end)


def test_follow_a_growing_file_to_its_end(http: httpx2.Client, client: Client, fifo: Fifo) -> None:
    job = client.submit(script=f'while read -r line; do echo "$line"; [ "$line" = stop ] && exit 3; done < {fifo.file}')
    seen = b""
    with http.stream("GET", path(job), params={"follow": "true"}) as answer:
        pieces = answer.iter_raw()
        for number in range(5):
            fifo.write(b"line %d\n" % number)
            # Each line arrives before the next is written: nothing is held back until a buffer is full.
            while not seen.endswith(b"line %d\n" % number):
                seen += next(pieces)
        fifo.write(b"stop\n")
        seen += b"".join(pieces)
    assert seen == b"".join(b"line %d\n" % number for number in range(5)) + b"stop\n"
    assert client.wait(job.id, 60).exit_code == 3


def test_several_followers_see_the_same_from_wherever_they_begin(client: Client, server: Server, fifo: Fifo) -> None:
    from concurrent.futures import ThreadPoolExecutor

    job = client.submit(script=f"head -c 300000 {fifo.file}")
    whole = os.urandom(300_000)

    def follow(offset: int) -> bytes:
        with server.client() as own:
            return b"".join(own.logs(job.id, follow=True, offset=offset))

    with ThreadPoolExecutor(5) as pool:
        readers = {offset: pool.submit(follow, offset) for offset in (0, 1, 65_536, 299_999)}
        for start in range(0, len(whole), 30_000):
            fifo.write(whole[start : start + 30_000])
        for offset, reader in readers.items():
            assert reader.result(60) == whole[offset:]


def test_a_follower_of_a_pending_job_waits_for_its_start(http: httpx2.Client, client: Client) -> None:
    job = client.submit(command=["echo", "at last"], hold=True)
    assert http.get(path(job)).content == b""
    with http.stream("GET", path(job), params={"follow": "true"}) as answer:
        assert answer.status_code == 200
        client.amend(job.id, hold=False)
        assert b"".join(answer.iter_raw()) == b"at last\n"


def test_a_follower_of_a_service_goes_on_with_the_next_attempt(http: httpx2.Client, client: Client) -> None:
    job = client.submit(
        script="echo attempt $RUNYARD_ATTEMPT; [ $RUNYARD_ATTEMPT -ge 3 ] && exec sleep 1000; exit 1",
        lifecycle="service",
        restart={"policy": "always", "delay": 0},
        hold=True,
    )
    seen = b""
    with http.stream("GET", path(job), params={"follow": "true"}) as answer:
        pieces = answer.iter_raw()
        client.amend(job.id, hold=False)
        while b"attempt 3\n" not in seen:
            seen += next(pieces)
        client.cancel(job.id)
        seen += b"".join(pieces)
    assert seen == b"attempt 1\nattempt 2\nattempt 3\n"
    with http.stream("GET", path(job), params={"follow": "true", "attempt": 2}) as answer:
        assert answer.read() == b"attempt 2\n"


def test_a_huge_output_is_streamed_and_arrives_whole(server: Server, http: httpx2.Client, client: Client) -> None:
    size = 96 * 1024 * 1024
    job = client.submit(script=f"head -c {size} /dev/zero | tr '\\0' x; echo end")
    client.wait(job.id, 60)
    before = _peak(server.pid)
    digest, length = hashlib.sha256(), 0
    with http.stream("GET", path(job)) as answer:
        assert answer.headers["Content-Length"] == str(size + 4)
        for piece in answer.iter_raw():
            digest.update(piece)
            length += len(piece)
    assert length == size + 4
    expected = hashlib.sha256()
    for _ in range(96):
        expected.update(b"x" * 1024 * 1024)
    expected.update(b"end\n")
    assert digest.digest() == expected.digest()
    assert http.get(path(job), params={"tail": 1, "limit": 8}).content == b"xxxxxxxx"
    assert http.get(path(job), headers={"Range": "bytes=-4"}).content == b"end\n"
    assert _peak(server.pid) - before < 48 * 1024 * 1024, "the server holds pieces, not the file"


def _peak(pid: int) -> int:
    """The largest resident size that the process ever had, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the kernel says nothing about memory")


def test_a_reader_that_does_not_read_holds_up_nobody(server: Server, http: httpx2.Client, client: Client) -> None:
    job = client.submit(script="head -c 20000000 /dev/zero")
    client.wait(job.id, 60)
    before = _peak(server.pid)
    with socket.create_connection((LOOPBACK, server.port)) as lazy:
        lazy.sendall(f"GET {path(job)} HTTP/1.1\r\nHost: {LOOPBACK}:{server.port}\r\n\r\n".encode())
        assert lazy.recv(1) == b"H"
        assert http.get("/livez").status_code == 200
        assert client.wait(client.submit(command=["true"]).id, 60).state == "succeeded"
    assert _peak(server.pid) - before < 16_000_000


def test_open_streams_are_bounded_and_given_back(serve: Callable[..., Server]) -> None:
    server = serve(RUNYARD_SERVER__MAX_STREAMS="2")
    with server.client() as client, server.http() as http:
        job = client.submit(command=["sleep", "1000"])
        follow = {"follow": "true"}
        with (
            http.stream("GET", path(job), params=follow) as first,
            http.stream("GET", "/api/v1/events", headers=SSE) as second,
        ):
            assert first.status_code == second.status_code == 200
            pieces = second.iter_raw()
            next(pieces)

            def third() -> int:
                with http.stream("GET", path(job), params=follow) as answer:
                    return answer.status_code

            # The first one counts as soon as the server has begun to stream it.
            wait_until(lambda: third() == 429, 60, "429")
            refused = http.get("/api/v1/events", headers=SSE)
            assert refused.status_code == 429 and refused.json()["code"] == "too_many"
            assert "max_streams" in refused.json()["detail"] and refused.headers["Retry-After"]
            assert http.get(f"/api/v1/jobs/{job.id}").status_code == 200
        for _ in deadline(60, "the streams given back"):
            with http.stream("GET", "/api/v1/events", headers=SSE) as answer:
                if answer.status_code == 200:
                    break
        client.cancel(job.id)


SSE = {"Accept": "text/event-stream"}
