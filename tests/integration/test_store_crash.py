"""Kills, full disks and lost permissions: what was acknowledged is there whole, and what was not, not in part."""

from __future__ import annotations

import asyncio
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runyard.model.errors import StorageFull
from runyard.store.batch import Batch
from runyard.store.store import FILE, Store
from runyard.store.writer import Writer
from tests.helpers import wait_until
from tests.integration.store_child import EVENTS, JOBS
from tests.integration.store_rig import Jobs, event, saved

CHILD = "tests.integration.store_child"


def child(*arguments: object) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path("src").absolute()), str(Path().absolute())])}
    return subprocess.Popen(
        [sys.executable, "-m", CHILD, *map(str, arguments)], stdout=subprocess.PIPE, env=environment, bufsize=0
    )


@pytest.mark.parametrize("seed", range(6))
def test_after_a_kill_every_acknowledged_batch_is_there_and_none_in_part(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    writer = child("commit", tmp_path / "data")
    assert writer.stdout is not None
    # Killed a moment after a number of acknowledgements, and so in any part of a later commit.
    acknowledged = b""
    enough = chance.randrange(1, 60)
    while acknowledged.count(b"\n") < enough:
        acknowledged += writer.stdout.read(1)
    moment = time.perf_counter() + chance.random() * 0.01
    while time.perf_counter() < moment:
        pass
    writer.kill()
    acknowledged += writer.stdout.read()
    writer.stdout.close()
    assert writer.wait() == -signal.SIGKILL
    last = int(acknowledged.splitlines()[-1]) if acknowledged.endswith(b"\n") else acknowledged.count(b"\n")

    with Store.open(tmp_path / "data") as store:  # and the lock did not outlive its holder
        batches = int(store.meta("batch") or 0)
        assert batches in (last, last + 1)
        assert store.last_seq() == batches * EVENTS
        records = list(store.load_live())
        assert len(records) == sum(store.counts().values()) == batches * JOBS
        assert {record.reason for record in records} == {f"batch {number}" for number in range(1, batches + 1)}
        assert all(len(store.runs(record.id).runs) == 1 for record in records[-2 * JOBS :])
        assert all(record.replicas[0].attempt == 1 for record in records)
        with store._readers.connect() as connection:
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
        store.commit(saved(Jobs(after=store.last_job_id()).new()))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB of its own."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system takes root")
    folder = tmp_path / "small"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", folder], capture_output=True)
    if made.returncode != 0:
        pytest.skip(f"mount: {made.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_refuses_a_batch_whole_and_works_again_with_room(small_disk: Path) -> None:
    jobs = Jobs()
    ballast = small_disk / "ballast"
    with Store.open(small_disk / "data") as store:
        first = jobs.new()
        store.commit(saved(first))
        free = os.statvfs(small_disk)
        ballast.write_bytes(b"x" * (free.f_bavail * free.f_bsize - 256 * 1024))
        kept, seq = 1, 0
        with pytest.raises(StorageFull, match="can't write: database or disk is full") as caught:
            for _ in range(100):
                batch = saved(*(jobs.new() for _ in range(50)))
                batch.add_events(event(seq + n) for n in range(1, 51))
                store.commit(batch)
                kept, seq = kept + 50, seq + 50
        assert str(small_disk / "data") in caught.value.detail
        assert not store.probe()
        assert store.last_seq() == seq
        assert sum(store.counts().values()) == len(list(store.load_live())) == kept
        assert store.job(first.id) == first, "reading goes on"
        ballast.unlink()
        assert store.probe()
        store.commit(batch)
        assert store.last_seq() == seq + 50
    with Store.open(small_disk / "data") as store:
        assert sum(store.counts().values()) == kept + 50


def test_a_limit_on_the_size_of_files_refuses_a_batch_whole(tmp_path: Path) -> None:
    jobs = Jobs()
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with Store.open(tmp_path / "data") as store:
            size = (tmp_path / "data" / f"{FILE}-wal").stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10_000, hard))
            with pytest.raises(StorageFull):
                store.commit(saved(*(jobs.new() for _ in range(500))))
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            assert store.probe()
            assert sum(store.counts().values()) == len(list(store.load_live())) == 0
            store.commit(saved(jobs.new()))
            assert len(list(store.load_live())) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


def test_a_folder_that_cannot_be_written_is_refused_with_its_name(tmp_path: Path) -> None:
    Store.open(tmp_path / "data").close()
    for parent in (tmp_path, *tmp_path.parents[:2]):
        parent.chmod(0o755)  # root's child gives up its rights below, and must still get here
    (tmp_path / "data").chmod(0o555)
    (tmp_path / "data" / FILE).chmod(0o444)
    for folder in (tmp_path / "data", tmp_path / "data" / "new"):
        refused = child("open", folder)
        said, _ = refused.communicate(timeout=60)
        text = said.decode()
        assert text.startswith("StorageFull: "), text
        assert str(folder) in text
        assert "Permission denied" in text


def test_a_database_that_became_read_only_is_told_on_commit(tmp_path: Path) -> None:
    jobs = Jobs()
    with Store.open(tmp_path / "data") as store:
        with store._writer.connect() as connection:
            connection.exec_driver_sql("PRAGMA query_only=1")
        with pytest.raises(StorageFull, match="readonly"):
            store.commit(saved(jobs.new()))
        assert not store.probe()
        assert list(store.load_live()) == []


def test_a_database_held_by_another_program_is_told_on_commit(tmp_path: Path) -> None:
    import sqlite3

    jobs = Jobs()
    with Store.open(tmp_path / "data") as store:
        with store._writer.connect() as connection:
            connection.exec_driver_sql("PRAGMA busy_timeout=20")
        other = sqlite3.connect(tmp_path / "data" / FILE, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageFull, match="database is locked"):
            store.commit(saved(jobs.new()))
        other.execute("ROLLBACK")
        other.close()
        assert store.probe()


def test_what_is_not_a_database_is_told_on_opening(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"this is no database" * 1000)
    with pytest.raises(StorageFull, match="file is not a database"):
        Store.open(tmp_path)


# The writer ---------------------------------------------------------------------------------------------------------


def test_the_writer_commits_in_order_and_off_the_loop(tmp_path: Path) -> None:
    async def main(store: Store) -> None:
        writer = Writer(store)
        futures = []
        for seq in range(1, 21):
            batch = Batch()
            batch.add_events([event(seq)])
            futures.append(writer.commit(batch))
        done: list[int] = []
        for number, future in enumerate(futures):
            future.add_done_callback(lambda _, n=number: done.append(n))  # type: ignore[misc]
        await asyncio.gather(*futures)
        await asyncio.sleep(0)
        assert done == list(range(20))
        assert store.last_seq() == 20
        assert await writer.probe()
        await writer.close()

    with Store.open(tmp_path) as store:
        asyncio.run(main(store))


def test_a_cancelled_waiter_does_not_take_its_batch_back(tmp_path: Path) -> None:
    async def main(store: Store) -> None:
        writer = Writer(store)
        futures = []
        for seq in (1, 2, 3):
            batch = Batch()
            batch.add_events([event(seq)])
            futures.append(writer.commit(batch))
        futures[1].cancel()
        await writer.close()

    with Store.open(tmp_path) as store:
        asyncio.run(main(store))
        assert [found.seq for found in store.events().events] == [1, 2, 3]


def test_a_failure_comes_to_the_one_who_waits_and_the_writer_goes_on(tmp_path: Path) -> None:
    async def main(store: Store) -> None:
        writer = Writer(store)
        first, bad, good = Batch(), Batch(), Batch()
        first.add_events([event(1)])
        bad.add_events([event(2), event(1)])
        good.add_events([event(2)])
        results = await asyncio.gather(*map(writer.commit, (first, bad, good)), return_exceptions=True)
        assert [type(result).__name__ for result in results] == ["NoneType", "IntegrityError", "NoneType"]
        await writer.close()

    with Store.open(tmp_path) as store:
        asyncio.run(main(store))
        assert store.last_seq() == 2


def test_an_idle_writer_carries_the_log_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runyard.store.writer.IDLE", 0.01)
    database = tmp_path / FILE

    async def main(store: Store) -> None:
        writer = Writer(store)
        size = database.stat().st_size
        await writer.commit(saved(*(Jobs().new() for _ in range(1)), *(record for record in made)))
        await asyncio.to_thread(wait_until, lambda: database.stat().st_size > size)
        await writer.close()

    jobs = Jobs()
    made = [jobs.new(owner="bob") for _ in range(200)][1:]
    with Store.open(tmp_path) as store:
        asyncio.run(main(store))
