"""The contract of the store, on every database it runs on."""

from __future__ import annotations

import itertools
import re
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, select, text
from sqlalchemy.exc import IntegrityError

from runyard.core.record import Intent, JobRecord, Need, Replica
from runyard.model.errors import ConfigError, Conflict, Expired
from runyard.model.ids import RunKey
from runyard.model.job import Condition, Dependency, Lifecycle, RunDoc, Schedule
from runyard.model.state import LIVE, State
from runyard.store import migrations, tables
from runyard.store.batch import Batch
from runyard.store.store import FILE, Store
from tests.integration.store_rig import SHARES, T0, Jobs, ended, event, new_database, postgres_cluster, saved, started

Open = Callable[[], Store]


@pytest.fixture(scope="session")
def cluster() -> Iterator[str]:
    with postgres_cluster() as folder:
        yield folder


_databases = itertools.count()


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """A place where no store is yet."""
    if request.param == "sqlite":
        return tmp_path / "data"
    return new_database(request.getfixturevalue("cluster"), f"store{next(_databases)}")


@pytest.fixture
def store(where: Path | str) -> Iterator[Store]:
    with Store.open(where) as opened:
        yield opened


@pytest.fixture
def jobs() -> Jobs:
    return Jobs()


def full(jobs: Jobs) -> JobRecord:
    """A live job with something in every field."""
    record = jobs.new(
        name="nightly",
        script="echo 'ä' && exit 3",
        command=None,
        env={"A": "1"},
        replicas=2,
        lifecycle=Lifecycle.CRON,
        schedule=Schedule(cron="0 2 * * *"),
        after=["one", Dependency("two", Condition.FINISHED)],
        labels={"team": "ml", "x": ""},
        time_limit=1.5,
        priority=-7,
        hold=True,
    )
    started(record, 1)
    record.reason, record.intent, record.armed = "waits", Intent.REPLACE, False
    record.started_at, record.exit_code, record.signal = T0 + 0.125, 255, 64
    record.restarts, record.version, record.next_fire, record.backlog = 3, 1 << 40, T0 + 60, 2
    record.needs = [Need("two", "finished", 99)]
    return record


def test_what_was_committed_is_read_back_whole(store: Store, jobs: Jobs) -> None:
    record = full(jobs)
    store.commit(saved(record))
    assert store.job(record.id) == record
    assert list(store.load_live()) == [record]
    assert store.job(record.id + 1) is None


def test_a_store_opened_again_holds_what_was_committed(where: Path | str, jobs: Jobs) -> None:
    records = [full(jobs), ended(jobs.new())]
    with Store.open(where) as store:
        batch = saved(*records)
        batch.add_events([event(1, records[0].id), event(2, records[1].id)])
        store.commit(batch)
        counts = store.counts()
    with Store.open(where) as store:
        assert store.counts() == counts
        assert [store.job(record.id) for record in records] == records
        assert store.last_seq() == 2
        assert store.last_job_id() == records[1].id


def test_counts_do_not_wait_for_the_disk(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        found: list[int] = []
        with store._mutex:
            asker = threading.Thread(target=lambda: found.append(sum(store.counts().values())), daemon=True)
            asker.start()
            asker.join(60)
        assert found == [0]


def test_a_change_of_a_job_leaves_its_specification(store: Store, jobs: Jobs) -> None:
    record = full(jobs)
    store.commit(saved(record))
    record.state, record.priority, record.version = State.STOPPING, 9, record.version + 1
    store.commit(saved(record, new=False))
    assert store.job(record.id) == record


def test_an_ended_job_comes_back_with_its_last_runs(store: Store, jobs: Jobs) -> None:
    record = jobs.new(replicas=3, lifecycle=Lifecycle.SERVICE)
    record.armed_at = record.submitted_at + 0.9
    started(record, 0)
    started(record, 1)
    store.commit(saved(record))
    started(record, 1, attempt=2)
    ended(record, State.FAILED)
    store.commit(saved(record, new=False))
    found = store.job(record.id)
    assert found == record
    assert found is not None
    assert [replica.attempt for replica in found.replicas] == [1, 2, 0]
    assert list(store.load_live()) == []


def test_an_ended_job_can_be_started_again(store: Store, jobs: Jobs) -> None:
    record = jobs.new()
    started(record)
    store.commit(saved(ended(record)))
    again = store.job(record.id)
    assert again is not None
    again.state, again.ended_at, again.replicas = State.PENDING, None, [Replica(attempt=1)]
    batch = Batch()
    batch.save_job(again)
    store.commit(batch)
    assert list(store.load_live()) == [again]
    assert store.counts()[State.SUCCEEDED] == 0
    assert store.counts()[State.PENDING] == 1


def test_an_ended_cron_job_comes_back_unarmed(store: Store, jobs: Jobs) -> None:
    record = jobs.new(lifecycle=Lifecycle.CRON, schedule=Schedule(cron="@daily"))
    record.armed = False
    store.commit(saved(ended(record, State.CANCELLED)))
    assert store.job(record.id) == record


def test_a_run_keeps_its_place_after_the_engine_let_it_go(store: Store, jobs: Jobs) -> None:
    record = jobs.new()
    replica = started(record)
    store.commit(saved(record))
    ended(record)
    replica.shares, replica.signal, replica.exit_code = [], 9, None
    store.commit(saved(record, new=False))
    assert store.runs(record.id).runs == [
        RunDoc(
            replica=0,
            attempt=1,
            state=State.SUCCEEDED,
            reason="said so",
            node="host",
            pid=4242,
            cores=[0, 1],
            gpus=[7],
            started_at=datetime.fromtimestamp(record.submitted_at + 1, UTC),
            ended_at=datetime.fromtimestamp(record.submitted_at + 5, UTC),
            signal="SIGKILL",
            cpu_seconds=0.25,
            max_rss=4096,
        )
    ]
    found = store.job(record.id)
    assert found is not None and found.replicas[0].shares == SHARES


def test_runs_are_paged_newest_first(store: Store, jobs: Jobs) -> None:
    record = jobs.new(replicas=2)
    batch = saved(record)
    for attempt in range(1, 6):
        for index in range(2):
            batch.save_run(record.id, index, started(record, index, attempt))
    store.commit(batch)
    seen, before = [], None
    while True:
        page = store.runs(record.id, 3, before)
        assert 0 < len(page.runs) <= 3
        seen += [(run.attempt, run.replica) for run in page.runs]
        if page.next is None:
            break
        before = page.next
    assert seen == [(attempt, index) for attempt in range(5, 0, -1) for index in (1, 0)]
    assert sorted(store.run_keys([record.id, 1])) == sorted(RunKey(record.id, index, n) for n, index in seen)


def test_of_several_saves_in_a_batch_the_last_counts(store: Store, jobs: Jobs) -> None:
    record = jobs.new()
    batch = Batch()
    batch.save_job(record, new=True)
    batch.save_run(record.id, 0, started(record))
    batch.save_job(record)
    ended(record)
    batch.save_run(record.id, 0, record.replicas[0])
    batch.save_job(record)
    assert len(batch.jobs) == len(batch.runs) == 1
    store.commit(batch)
    assert store.job(record.id) == record


def test_a_batch_is_a_snapshot(store: Store, jobs: Jobs) -> None:
    record = jobs.new(env={"A": "1"})
    batch = saved(record)
    record.state, record.reason = State.FAILED, "changed after it was added"
    record.replicas.clear()
    store.commit(batch)
    found = store.job(record.id)
    assert found is not None
    assert (found.state, found.reason, len(found.replicas)) == (State.PENDING, None, 1)


def test_a_batch_knows_whether_it_holds_anything(jobs: Jobs) -> None:
    assert not Batch()
    assert saved(jobs.new())
    trim = Batch()
    trim.trim_events(0)
    assert trim


def test_a_run_that_never_was_cannot_be_saved(jobs: Jobs) -> None:
    with pytest.raises(ValueError, match="has had no run"):
        Batch().save_run(1, 0, jobs.new().replicas[0])


def test_nothing_is_kept_of_a_batch_that_contradicts_the_store(store: Store, jobs: Jobs) -> None:
    kept, stranger, fresh = jobs.new(), jobs.new(), jobs.new()
    store.commit(saved(kept))
    unknown = saved(fresh)
    unknown.save_job(stranger)
    with pytest.raises(LookupError, match="1 of the 1 changed jobs are not in the store"):
        store.commit(unknown)
    twice = saved(kept, fresh)
    twice.add_events([event(1, fresh.id)])
    with pytest.raises(IntegrityError):
        store.commit(twice)
    assert store.job(fresh.id) is None
    assert store.last_seq() == 0
    assert sum(store.counts().values()) == 1
    store.commit(saved(fresh))
    assert store.job(fresh.id) == fresh


def test_counts_follow_every_change(where: Path | str, jobs: Jobs) -> None:
    with Store.open(where) as store:
        a, b, c = jobs.new(), jobs.new(), jobs.new()
        store.commit(saved(a, b, c))
        started(a)
        ended(b, State.TIMED_OUT)
        store.commit(saved(a, b, new=False))
        batch = Batch()
        batch.delete_job(c.id)
        store.commit(batch)
        counts = store.counts()
        assert {state: count for state, count in counts.items() if count} == {State.RUNNING: 1, State.TIMED_OUT: 1}
        assert set(counts) == set(State)
    with Store.open(where) as store:
        assert store.counts() == counts


def test_a_deleted_job_leaves_nothing_but_its_events(store: Store, jobs: Jobs) -> None:
    kept, gone = (ended(jobs.new(name="same", labels={"a": "1"})) for _ in range(2))
    started(gone)
    ended(gone)
    batch = saved(kept, gone)
    batch.add_events([event(1, gone.id)])
    store.commit(batch)
    batch = Batch()
    batch.delete_job(gone.id)
    with pytest.raises(ValueError, match="is deleted in this batch"):
        batch.save_job(gone)
    store.commit(batch)
    assert store.job(gone.id) is None
    assert store.runs(gone.id).runs == []
    assert store.find_by_name("same") == kept
    assert [found.job for found in store.events(job=gone.id).events] == [gone.id]
    assert store.last_job_id() == gone.id, "its id must not come again"
    with store._readers.connect() as connection:
        for table in (tables.specs, tables.job_labels):
            assert connection.execute(table.select().where(table.c.job == gone.id)).all() == []


def test_the_newest_job_of_a_name_is_found(store: Store, jobs: Jobs) -> None:
    first, second, other = jobs.new(name="n"), jobs.new(name="n"), jobs.new(name="n", owner="bob")
    store.commit(saved(first, second, other))
    assert store.find_by_name("n") == other
    assert store.find_by_name("n", "ann") == second
    assert store.find_by_name("m") is None
    assert store.states([first.id, 5]) == {first.id: State.PENDING}
    assert store.jobs([first.id, 5, other.id]) == {first.id: first, other.id: other}
    assert store.jobs([]) == {}
    assert store.states([]) == {}


def test_live_jobs_come_oldest_first_however_many(store: Store, jobs: Jobs) -> None:
    records = [jobs.new() for _ in range(1203)]
    for record in records[::3]:
        ended(record)
    store.commit(saved(*records))
    assert [record.id for record in store.load_live()] == [r.id for r in records if r.state in LIVE]


def test_events_have_no_gaps_and_no_duplicates_for_a_reader_that_resumes(store: Store) -> None:
    for start in range(1, 100, 7):
        batch = Batch()
        batch.add_events([event(seq, seq % 3, note=seq) for seq in range(start, min(start + 7, 101))])
        store.commit(batch)
    seen, after = [], 0
    while after < store.last_seq():
        page = store.events(after, 9)
        seen += page.events
        after = page.upto
    assert seen == [event(seq, seq % 3, note=seq) for seq in range(1, 101)]
    assert store.events(after).events == []
    assert store.events(after).upto == after
    assert store.events(after + 50).upto == after + 50, "a cursor never goes back"


def test_events_can_be_chosen(store: Store) -> None:
    batch = Batch()
    batch.add_events(event(seq, job=seq % 4, type=("node.up", "job.failed")[seq % 2]) for seq in range(1, 41))
    store.commit(batch)
    assert [e.seq for e in store.events(job=2).events] == list(range(2, 41, 4))
    assert store.events(job=2).upto == 40
    assert [e.seq for e in store.events(10, types=["job.failed"]).events] == list(range(11, 41, 2))
    assert [e.seq for e in store.events(30, states=[State.PENDING]).events] == [n for n in range(31, 41) if n % 4]
    assert store.events(types=[]).events == []
    page = store.events(types=["job.failed"], limit=3)
    assert ([e.seq for e in page.events], page.upto) == ([1, 3, 5], 5)


def test_removed_events_are_expired_and_the_cursor_does_not_start_anew(where: Path | str) -> None:
    with Store.open(where) as store:
        batch = Batch()
        batch.add_events(event(seq) for seq in range(1, 11))
        store.commit(batch)
        assert (store.horizon(), store.last_seq()) == (1, 10)
        batch = Batch()
        batch.trim_events(8)
        store.commit(batch)
        assert store.horizon() == 8
        for old in (0, 6):
            with pytest.raises(Expired, match="no longer kept") as caught:
                store.events(old)
            assert caught.value.fields == {"after": old, "oldest": 8}
        assert [e.seq for e in store.events(7).events] == [8, 9, 10]
        assert [e.seq for e in store.events().events] == [8, 9, 10]
        batch = Batch()
        batch.trim_events(11)
        store.commit(batch)
    with Store.open(where) as store:
        assert (store.horizon(), store.last_seq()) == (11, 10)
        assert store.events(10).events == []


def test_an_answer_is_remembered_for_its_key_and_owner(store: Store) -> None:
    batch = Batch()
    batch.remember("k", "ann", b"\x00hash", 201, b"{}", T0)
    batch.remember("k", "bob", b"other", 202, b"[]", T0 + 9)
    batch.set_meta("boot:a", "one")
    store.commit(batch)
    found = store.idempotent("k", "ann")
    assert found == (b"\x00hash", 201, b"{}", T0)
    assert store.idempotent("k", "eve") is None
    batch = Batch()
    batch.remember("k", "ann", b"new", 200, b"1", T0 + 5)
    batch.set_meta("boot:a", "two")
    store.commit(batch)
    found = store.idempotent("k", "ann")
    assert found is not None and found.request == b"new"
    assert (store.meta("boot:a"), store.meta("boot:b")) == ("two", None)
    batch = Batch()
    batch.forget_remembered(T0 + 7)
    store.commit(batch)
    assert store.idempotent("k", "ann") is None
    assert store.idempotent("k", "bob") is not None


def test_what_a_door_keeps_is_there_until_it_is_taken_away(store: Store) -> None:
    """A project's definition and state, for one."""
    for kept in ({"1": b"\x00\xff", "2": b"{}"}, {"1": b"new"}, {"2": None, "3": None}):
        batch = Batch()
        for key, body in kept.items():
            batch.keep_for_door("tango", key, body)
        batch.keep_for_door("other", "1", b"other")
        store.commit(batch)
    assert store.door_records("tango") == {"1": b"new"}
    assert store.door_records("other") == {"1": b"other"}


def test_a_probe_writes(store: Store) -> None:
    before = store.meta("probe")
    assert store.probe()
    first = store.meta("probe")
    assert store.probe()
    assert len({before, first, store.meta("probe")}) == 3


def test_readers_cannot_write(store: Store) -> None:
    with store._readers.connect() as connection, pytest.raises(Exception, match=r"(?i)read-?only"):
        connection.execute(text("DELETE FROM jobs"))


def test_a_second_server_is_kept_out(where: Path | str) -> None:
    with Store.open(where), pytest.raises(Conflict, match="in use by another Runyard server"):
        Store.open(where)
    Store.open(where).close()


@pytest.mark.parametrize("new", [True, False])
def test_the_schema_after_all_migrations_is_that_of_the_tables(store: Store, new: bool) -> None:
    """And that of a new store, which takes no step of them."""
    with store._readers.connect() as connection:
        rows = {(key, value) for key, value in connection.execute(select(tables.meta))}
    if not new:
        with store._writer.begin() as connection:
            tables.metadata.drop_all(connection)
            connection.execute(text("DROP TABLE alembic_version"))
            migrations.migrate(connection, None)
            seeds = {(key, value) for key, value in connection.execute(select(tables.meta))}
            assert seeds == {("accounts", "0")} and seeds <= rows
    with store._readers.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, tables.metadata) == []
        assert context.get_current_revision() == migrations.HEAD
        if store._readers.dialect.name == "sqlite":
            fresh = create_engine("sqlite://")
            tables.metadata.create_all(fresh)
            query = text("SELECT name, sql FROM sqlite_master WHERE name NOT LIKE 'alembic%' AND sql IS NOT NULL")
            with fresh.connect() as other:
                expected = {name: re.sub(r"\s", "", sql) for name, sql in other.execute(query)}
            fresh.dispose()
            assert {name: re.sub(r"\s", "", sql) for name, sql in connection.execute(query)} == expected


def test_the_newest_revision_is_the_one_that_is_asked_for() -> None:
    folder = Path(migrations.__file__).parent
    assert ScriptDirectory(str(folder)).get_current_head() == migrations.HEAD


def test_a_store_of_a_newer_version_is_left_alone(where: Path | str) -> None:
    with Store.open(where) as store, store._writer.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    for _ in range(2):  # and no lock stays behind
        with pytest.raises(ConfigError, match="schema 9999, which this version of Runyard does not know"):
            Store.open(where)


@pytest.mark.parametrize("url", ["mysql://host/db", "sqlite:///file", "://"])
def test_other_databases_are_refused(url: str) -> None:
    with pytest.raises(ConfigError):
        Store.open(url)


def test_the_database_is_for_its_owner_only(tmp_path: Path) -> None:
    with Store.open(tmp_path / "data") as store:
        store.probe()
        modes = {file.name: file.stat().st_mode & 0o777 for file in (tmp_path / "data").iterdir()}
    assert modes[FILE] == modes[f"{FILE}-wal"] == 0o600, "specifications may hold secrets"
