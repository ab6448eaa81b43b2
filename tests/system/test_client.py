"""The Python clients against a real server, which is killed and started again under their streams."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from runyard.client import AsyncClient, Client, EventDoc, WaitTimeout
from runyard.model.errors import Conflict, InvalidInput, NotFound, PreconditionFailed
from runyard.model.job import JobDoc, JobSpec, Lifecycle, Schedule
from tests.system.server import Server, ask_until


def test_a_specification_in_every_form(client: Client) -> None:
    spec = JobSpec(command=["true"], name="as-struct", time_limit=5.0)
    jobs = [
        client.submit(spec),
        client.submit({"command": ["true"], "name": "as-mapping"}),
        client.submit(command=["true"], name="as-fields"),
        client.submit(JobSpec(command=["true"], lifecycle=Lifecycle.CRON, schedule=Schedule(cron="@daily"), hold=True)),
    ]
    assert jobs[0].spec == spec
    assert [job.state for job in client.wait_many([job.id for job in jobs[:3]], 60)] == ["succeeded"] * 3
    assert jobs[3].id in {schedule.job for schedule in client.schedules()}
    client.cancel(jobs[3].id)


def test_everything_that_can_be_asked(client: Client) -> None:
    told: list[int] = []
    specs = [{"command": ["true"], "labels": {"many": "1"}} for _ in range(25)] + [{"comand": []}]
    results = client.submit_many(specs, chunk=10, on_progress=told.append)
    assert told == [10, 20, 26] and isinstance(results[-1], InvalidInput)
    ids = [job.id for job in results if isinstance(job, JobDoc)]
    assert sorted(job.id for job in client.wait_many(ids, 60)) == sorted(ids)
    assert [job.id for job in client.jobs(label={"many": "1"})] == ids[::-1]
    assert [job.id for job in client.jobs(label={"many": "1"}, limit=3)] == ids[:-4:-1]
    assert [run.exit_code for run in client.runs(ids[0])] == [0]
    assert client.preview("0 0 1 1 *", count=2)[1].month == 1
    assert client.nodes()[0].state == "up" and client.version().api == "v1"


def test_each_refusal_is_an_exception_of_its_own(client: Client) -> None:
    with pytest.raises(InvalidInput, match="did you mean 'command'") as caught:
        client.submit({"comand": ["true"]})
    assert caught.value.fields["errors"][0]["field"] == "comand"
    with pytest.raises(NotFound):
        client.job("no such job")
    job = client.submit(command=["true"], hold=True)
    with pytest.raises(PreconditionFailed):
        client.amend(job.id, priority=1, version=1)
    assert client.amend(job.id, priority=1, version=job.version).priority == 1
    with pytest.raises(Conflict):
        client.delete(job.id)
    with pytest.raises(WaitTimeout):
        client.wait(job.id, 0.05)
    client.cancel(job.id)
    with pytest.raises(Conflict):
        client.signal(job.id, "USR1")
    client.delete(job.id)
    with pytest.raises(NotFound):
        client.delete(job.id)


def test_a_key_of_ones_own(client: Client) -> None:
    first = client.submit(command=["true"], idempotency_key="mine")
    assert client.submit(command=["true"], idempotency_key="mine").id == first.id


# The server is killed in the middle --------------------------------------------------------------------------------


@contextmanager
def writer(folder: Path) -> Iterator[tuple[str, Callable[[str], int]]]:
    """A pipe that a job copies to its output, and how to write to it."""
    path = folder / "fifo"
    os.mkfifo(path)
    end = os.open(path, os.O_RDWR)
    try:
        yield str(path), lambda text: os.write(end, text.encode())
    finally:
        os.close(end)


def script(fifo: str) -> str:
    return f'while read -r line; do echo "$line"; [ "$line" = end ] && exit 0; done < {fifo}'


SYNC, ASYNC = "Client", "AsyncClient"


def follow_logs(kind: str, url: str, job: str, take: Callable[[bytes], None]) -> None:
    if kind == SYNC:
        with Client(url, retry_for=120) as client:
            for piece in client.logs(job, follow=True):
                take(piece)
        return

    async def follow() -> None:
        async with AsyncClient(url, retry_for=120) as client:
            async for piece in client.logs(job, follow=True):
                take(piece)

    asyncio.run(follow())


def follow_events(kind: str, url: str, after: int, take: Callable[[EventDoc], bool]) -> None:
    """Until `take` says that it is enough."""
    if kind == SYNC:
        with Client(url, retry_for=120) as client:
            for event in client.events(follow=True, after=after):
                if take(event):
                    return

    async def follow() -> None:
        async with AsyncClient(url, retry_for=120) as client:
            async for event in client.events(follow=True, after=after):
                if take(event):
                    return

    if kind == ASYNC:
        asyncio.run(follow())


@pytest.mark.parametrize("kind", [SYNC, ASYNC])
@pytest.mark.parametrize("gently", [False, True], ids=["kill -9", "SIGTERM"])
def test_followers_go_on_where_they_were(serve: Callable[..., Server], tmp_path: Path, kind: str, gently: bool) -> None:
    server = serve()
    seen = bytearray()
    events: list[EventDoc] = []
    last = threading.Event()

    def take(event: EventDoc) -> bool:
        events.append(event)
        return event.type == "job.succeeded" and last.is_set()

    with writer(tmp_path) as (fifo, write), server.client() as client, ThreadPoolExecutor(2) as pool:
        job = client.submit(script=script(fifo))
        first = job.version
        readers = [
            pool.submit(follow_logs, kind, server.url, job.id, seen.extend),
            pool.submit(follow_events, kind, server.url, 0, take),
        ]
        written = ""
        for part in range(2):
            text = "".join(f"part {part} line {number}\n" for number in range(200))
            written += text
            write(text)
            ask_until(lambda: len(seen), len(written).__eq__, 60, "what was written")
            ask_until(lambda: events, lambda taken: taken and taken[-1].seq >= first, 60, "the events up to now")
            if gently:
                assert server.end() == 0
            else:
                server.kill()
            # The job goes on while nobody is there.
            written += f"alone {part}\n"
            write(f"alone {part}\n")
            server.start()
        last.set()
        write("end\n")
        for reader in readers:
            reader.result(60)
        assert seen.decode() == written + "end\n"
        assert client.job(job.id).state == "succeeded" and client.job(job.id).runs[0].attempt == 1
        # Without gap or repetition, and the same for somebody who asks afterwards.
        assert [event.seq for event in events] == list(range(1, events[-1].seq + 1))
        assert list(client.events(limit=len(events))) == events


def test_a_submission_whose_answer_was_lost_makes_one_job(serve: Callable[..., Server]) -> None:
    server = serve()
    stop = threading.Event()

    def submit(number: int) -> list[str]:
        """One after the other, as fast as it goes, over all breaks."""
        ids = []
        with server.client() as client:
            client.version()
            while not stop.is_set():
                ids.append(client.submit(command=["true"], labels={"by": str(number)}).id)
        return ids

    with ThreadPoolExecutor(4) as pool, server.client() as client:
        answered = [pool.submit(submit, number) for number in range(4)]
        for _ in range(3):
            before = latest(server)
            ask_until(lambda: latest(server), before.__lt__, 60)
            server.kill()
            server.start()
        stop.set()
        for number, future in enumerate(answered):
            ids = future.result(90)
            assert [job.id for job in client.jobs(label={"by": str(number)})] == ids[::-1]
            assert {job.state for job in client.wait_many(ids, 90)} == {"succeeded"}


def latest(server: Server) -> int:
    """How far it is, in steps of many events."""
    found: int = server.get("/api/v1/events?after=latest").json()["next"]
    return found // 200
