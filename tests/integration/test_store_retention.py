"""Retention: what goes, what stays, and that a crash between files and rows is made good."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from runyard.core.record import JobRecord
from runyard.model.errors import Expired
from runyard.model.ids import RunKey
from runyard.model.job import Lifecycle
from runyard.model.state import State
from runyard.store import retention
from runyard.store.batch import Batch
from runyard.store.output import OutputFiles, Stream
from runyard.store.retention import DAY, Policy, Removed, Retention
from runyard.store.store import Store
from runyard.store.writer import Writer
from tests.integration.store_rig import T0, Jobs, ended, event, saved, started

KEEP_ALL = Policy(
    finished_jobs_max_age=None,
    finished_jobs_max=None,
    events_max_age=None,
    runs_per_job_max=None,
    idempotency_max_age=None,
)


class House:
    """A store with its output files, and the jobs that an engine would hold."""

    def __init__(self, folder: Path) -> None:
        self.store = Store.open(folder / "data")
        self.outputs = OutputFiles(folder / "output")
        self.jobs = Jobs()
        self.live: dict[int, JobRecord] = {}

    def finished(self, count: int, after: float = 5.0) -> list[JobRecord]:
        records = []
        for _ in range(count):
            record = self.jobs.new()
            started(record)
            records.append(ended(record, after=after))
            self.write(RunKey(record.id, 0, 1), b"output")
        self.store.commit(saved(*records))
        return records

    def write(self, run: RunKey, data: bytes, modified: float = T0) -> None:
        path = self.outputs.prepare(run)[0]
        Path(path).write_bytes(data)
        os.utime(path, (modified, modified))

    def kept(self, records: list[JobRecord]) -> list[bool]:
        """For each job, whether its row and its output are there; both or none."""
        there = [self.store.job(record.id) is not None for record in records]
        assert there == [self.outputs.size(RunKey(record.id, 0, 1), Stream.OUT) > 0 for record in records]
        return there

    def apply(self, now: float, live: Callable[[int], JobRecord | None] | None = None, **changes: object) -> Removed:
        settings = {name: getattr(KEEP_ALL, name) for name in KEEP_ALL.__struct_fields__}
        policy = Policy(**{**settings, **changes})

        async def main() -> Removed:
            writer = Writer(self.store)
            try:
                return await Retention(self.store, writer, self.outputs, policy, live or self.live.get).apply(now)
            finally:
                await writer.close()

        return asyncio.run(main())


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


@pytest.fixture(autouse=True)
def closed(house: House) -> object:
    yield
    house.store.close()


def test_the_defaults_are_those_that_are_documented() -> None:
    assert Policy() == Policy(
        finished_jobs_max_age=30 * DAY,
        finished_jobs_max=1_000_000,
        events_max_age=30 * DAY,
        runs_per_job_max=1000,
        output_max_age=None,
        output_max_bytes=None,
        idempotency_max_age=DAY,
    )


def test_a_policy_that_keeps_all_removes_nothing(house: House) -> None:
    records = house.finished(3)
    assert house.apply(T0 + 1e9) == Removed()
    assert house.kept(records) == [True] * 3


def test_old_jobs_go_by_when_they_ended(house: House) -> None:
    old = house.finished(3)
    long = house.finished(1, after=1000.0)
    waiting = house.jobs.new()
    house.store.commit(saved(waiting))
    new = house.finished(2)
    removed = house.apply(new[0].ended_at + 100.0, finished_jobs_max_age=100.0)  # type: ignore[operator]
    assert removed.jobs == 3
    assert house.kept(old + long + new) == [False] * 3 + [True] * 3
    assert house.store.job(waiting.id) == waiting
    assert house.store.counts()[State.SUCCEEDED] == 3


def test_only_so_many_finished_jobs_stay(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "STEP", 4)
    records = house.finished(20)
    assert house.apply(T0, finished_jobs_max=7).jobs == 13
    assert house.kept(records) == [False] * 13 + [True] * 7
    assert house.apply(T0, finished_jobs_max=7).jobs == 0


def test_what_the_engine_holds_stays(house: House) -> None:
    records = house.finished(5)
    house.live[records[1].id] = records[1]
    assert house.apply(T0 + 1e6, finished_jobs_max_age=1.0, finished_jobs_max=0).jobs == 4
    assert house.kept(records) == [False, True, False, False, False]


def test_a_job_started_again_meanwhile_keeps_its_row(house: House) -> None:
    (record,) = house.finished(1)
    asked: list[int] = []

    def live(job: int) -> JobRecord | None:
        asked.append(job)
        return record if len(asked) > 1 else None

    assert house.apply(T0 + 1e6, live, finished_jobs_max_age=1.0).jobs == 0
    assert house.store.job(record.id) is not None


def test_rows_whose_files_went_before_a_crash_are_removed_by_the_next_pass(house: House) -> None:
    (record,) = house.finished(1)
    house.outputs.remove([RunKey(record.id, 0, 1)])
    assert house.apply(T0 + 1e6, finished_jobs_max_age=1.0).jobs == 1
    assert house.kept([record]) == [False]


def test_events_go_from_the_oldest_on_and_leave_a_horizon(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "_EVENT_STEP", 7)
    batch = Batch()
    # One that lies in the past behind a newer one, as after a change of the clock, stays: only a prefix goes.
    batch.add_events(event(seq, at=T0 - 5 if seq == 40 else T0 + seq) for seq in range(1, 51))
    house.store.commit(batch)
    assert house.apply(T0 + 31 + 100, events_max_age=100.0).events == 30
    assert house.store.horizon() == 31
    assert [found.seq for found in house.store.events().events] == list(range(31, 51))
    with pytest.raises(Expired):
        house.store.events(29)
    assert house.apply(T0 + 31 + 100, events_max_age=100.0).events == 0
    assert house.apply(T0 + 1e6, events_max_age=100.0).events == 20
    assert (house.store.horizon(), house.store.last_seq()) == (51, 50)


def test_a_long_lived_job_keeps_its_newest_runs(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "STEP", 3)
    record = house.jobs.new(lifecycle=Lifecycle.SERVICE, replicas=2)
    batch = saved(record)
    batch.save_run(record.id, 0, started(record, 0, 1))
    for attempt in range(1, 21):
        batch.save_run(record.id, 1, started(record, 1, attempt))
        house.write(RunKey(record.id, 1, attempt), b"x")
    batch.save_job(record, new=True)
    house.store.commit(batch)
    house.live[record.id] = record
    assert house.apply(T0, runs_per_job_max=5).runs == 15
    left = {(run.replica, run.attempt) for run in house.store.runs(record.id).runs}
    assert left == {(0, 1), *((1, attempt) for attempt in range(16, 21))}
    files = [file.run for folder in house.outputs.walk() for file in folder]
    assert files == [RunKey(record.id, 1, attempt) for attempt in range(16, 21)]


def test_old_answers_are_forgotten(house: House) -> None:
    batch = Batch()
    batch.remember("old", "ann", b"", 201, b"", T0)
    batch.remember("new", "ann", b"", 201, b"", T0 + 10)
    house.store.commit(batch)
    house.apply(T0 + 105, idempotency_max_age=100.0)
    assert house.store.idempotent("old", "ann") is None
    assert house.store.idempotent("new", "ann") is not None


def test_output_goes_by_age_but_never_that_of_a_present_run(house: House) -> None:
    live = house.jobs.new()
    started(live, attempt=2)
    house.live[live.id] = live
    records = house.finished(2)
    keys = [RunKey(live.id, 0, 1), RunKey(live.id, 0, 2), RunKey(live.id, 0, 3)]
    for key in keys:
        house.write(key, b"present?")
    house.write(RunKey(records[1].id, 0, 1), b"fresh", T0 + 50)
    removed = house.apply(T0 + 100, output_max_age=60.0)
    assert (removed.files, removed.bytes) == (2, 14)
    left = [file.run for folder in house.outputs.walk() for file in folder]
    assert left == [*keys[1:], RunKey(records[1].id, 0, 1)]
    assert all(house.store.job(record.id) is not None for record in records), "the jobs stay"


def test_output_goes_by_size_oldest_jobs_first(house: House) -> None:
    live = house.jobs.new()
    started(live)
    house.live[live.id] = live
    house.write(RunKey(live.id, 0, 1), b"x" * 100)
    records = house.finished(10)
    removed = house.apply(T0, output_max_bytes=100 + 6 * 7 - 1)
    assert (removed.files, removed.bytes) == (4, 24)
    sizes = [house.outputs.size(RunKey(record.id, 0, 1), Stream.OUT) for record in records]
    assert sizes == [0] * 4 + [6] * 6
