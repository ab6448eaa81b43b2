"""What the tests of the store share: records, ways to open a store, and a PostgreSQL cluster of their own."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from runyard.core.record import JobRecord, Replica
from runyard.model.event import Event
from runyard.model.ids import JobIds
from runyard.model.job import JobSpec
from runyard.model.node import Share
from runyard.model.state import State
from runyard.store.batch import Batch
from tests.helpers import wait_until

T0 = 1_790_000_000.0
SHARES = [Share("host", [0, 1], [7], 1024)]


class Jobs:
    """Makes records whose ids and times go up by a second each."""

    def __init__(self, after: int = 0) -> None:
        self.ids = JobIds(after=after)
        self.now = T0

    def new(self, owner: str = "ann", kind: str = "batch", origin: str = "native", **spec: Any) -> JobRecord:
        self.now += 1.0
        spec.setdefault("command", ["echo", "hello"])
        made = JobSpec(**spec)
        return JobRecord(
            id=self.ids.next(self.now),
            spec=made,
            kind=kind,
            origin=origin,
            owner=owner,
            submitted_at=self.now,
            priority=made.priority,
            hold=made.hold,
            replicas=[Replica() for _ in range(made.replicas)],
        )


def started(record: JobRecord, index: int = 0, attempt: int = 1) -> Replica:
    """The replica, changed to have a run that is up."""
    replica = record.replicas[index] = Replica(
        state=State.RUNNING, attempt=attempt, pid=4242, shares=SHARES, started_at=record.submitted_at + 1
    )
    record.state = State.RUNNING
    return replica


def ended(record: JobRecord, state: State = State.SUCCEEDED, after: float = 5.0) -> JobRecord:
    """The record, changed to have ended, as have its runs."""
    record.state = state
    record.ended_at = record.submitted_at + after
    for replica in record.replicas:
        if replica.attempt:
            replica.state = replica.ended_as = state
            replica.ended_at, replica.exit_code = record.ended_at, 3
            replica.cpu_seconds, replica.max_rss, replica.reason = 0.25, 4096, "said so"
        else:
            replica.state = state
    return record


def saved(*records: JobRecord, new: bool = True) -> Batch:
    """A batch with those jobs and the runs that they have."""
    batch = Batch()
    for record in records:
        batch.save_job(record, new=new)
        for index, replica in enumerate(record.replicas):
            if replica.attempt:
                batch.save_run(record.id, index, replica)
    return batch


def event(seq: int, job: int = 0, type: str = "job.submitted", at: float = T0, **data: Any) -> Event:
    return Event(seq, at, type, job, State.PENDING if job else None, 0, 0, data or None)


# PostgreSQL ---------------------------------------------------------------------------------------------------------


def _binaries() -> Path:
    found = shutil.which("initdb")
    places = [Path(found).resolve().parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if places and (places[-1] / "initdb").exists():
        return places[-1]
    message = "initdb was not found: install PostgreSQL (Debian: apt-get install postgresql)"
    if os.environ.get("RUNYARD_REQUIRE_POSTGRES") == "1":
        pytest.fail(message)
    pytest.skip(message)


@contextmanager
def postgres_cluster() -> Iterator[str]:
    """A cluster in a folder of its own, reached by a socket in it. Gives the folder."""
    binaries = _binaries()
    folder = tempfile.mkdtemp(prefix="runyard-pg-")
    options: dict[str, Any] = {}
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        user = pwd.getpwnam("nobody")
        os.chown(folder, user.pw_uid, user.pw_gid)
        options = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    data = Path(folder) / "data"
    server = None
    try:
        subprocess.run(
            [binaries / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=folder,
            **options,
        )
        with (Path(folder) / "log").open("wb") as log:
            server = subprocess.Popen(
                [binaries / "postgres", "-D", data, "-k", folder, "-c", "listen_addresses=", "-c", "fsync=off"],
                stdout=log,
                stderr=log,
                cwd=folder,
                **options,
            )
        wait_until(lambda: _answers(folder), 60, "an answer from PostgreSQL")
        yield folder
    finally:
        if server is not None:
            server.send_signal(signal.SIGQUIT)  # at once: nobody needs the data
            server.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


def _answers(folder: str) -> bool:
    try:
        psycopg.connect(host=folder, user="postgres", dbname="postgres").close()
    except psycopg.OperationalError:
        return False
    return True


def new_database(folder: str, name: str) -> str:
    """The URL of an empty database."""
    with psycopg.connect(host=folder, user="postgres", dbname="postgres", autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"'.encode())
    return f"postgresql+psycopg://postgres@/{name}?host={folder}"
