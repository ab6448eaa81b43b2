"""Lists: the right jobs in the right order whatever is asked for, and by a walk along an index."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event as sql_event

from runyard.core.record import JobRecord
from runyard.model.state import BY_CODE, State
from runyard.store.batch import Batch
from runyard.store.listing import Filter
from runyard.store.store import Store
from tests.integration.store_rig import T0, Jobs, event, new_database, postgres_cluster, saved

STATES = list(State)
NAMES = ["train", "Train-2", "50%_done", None]
COMMANDS = ["python train.py", "echo 100%", "a_b", "ab"]
LABELS: list[dict[str, str]] = [{}, {"team": "ml"}, {"team": "ops", "x": "1"}, {"x": "1"}]


def varied(count: int) -> list[JobRecord]:
    """Jobs in which every combination of small properties comes up, at odds with each other."""
    jobs = Jobs()
    records = []
    for n in range(count):
        record = jobs.new(
            owner=("ann", "bob")[n // 2 % 2],
            kind=("batch", "service", "cron")[n % 3],
            origin=("native", "flux")[n // 5 % 2],
            name=NAMES[n % 4],
            command=COMMANDS[n // 3 % 4].split(),
            labels=LABELS[n // 7 % 4],
        )
        record.state = STATES[n * n % 8]
        records.append(record)
    return records


RECORDS = varied(240)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    @contextmanager
    def filled(where: Path | str) -> Iterator[Store]:
        with Store.open(where) as store:
            store.commit(saved(*RECORDS))
            yield store

    if request.param == "sqlite":
        with filled(tmp_path_factory.mktemp("list") / "data") as opened:
            yield opened
    else:
        with postgres_cluster() as folder, filled(new_database(folder, "list")) as opened:
            yield opened


def passes(record: JobRecord, wanted: Filter) -> bool:
    """The filter's meaning, spelled out."""
    spec = record.spec
    text = [(spec.name or "").lower(), " ".join(spec.command or []).lower()]
    return (
        (not wanted.states or record.state in wanted.states)
        and wanted.kind in (None, record.kind)
        and wanted.origin in (None, record.origin)
        and wanted.owner in (None, record.owner)
        and wanted.name in (None, spec.name)
        and wanted.labels.items() <= spec.labels.items()
        and (wanted.q is None or any(wanted.q.lower() in part for part in text))
        and (wanted.since is None or record.submitted_at >= wanted.since)
        and (wanted.before is None or record.id < wanted.before)
    )


maybe = st.none()
filters = st.builds(
    Filter,
    states=st.frozensets(st.sampled_from(STATES), max_size=4),
    kind=maybe | st.sampled_from(["batch", "service", "none such"]),
    origin=maybe | st.sampled_from(["native", "flux"]),
    owner=maybe | st.sampled_from(["ann", "bob"]),
    name=maybe | st.sampled_from(["train", "Train-2", "no"]),
    labels=st.sampled_from([*LABELS, {"team": "none"}]),
    q=maybe | st.sampled_from(["train", "TRAIN", "%", "_", "0%", "a_b", "\\", ""]),
    since=maybe | st.floats(T0 - 5, T0 + 250),
    before=maybe | st.sampled_from([RECORDS[0].id, RECORDS[100].id, RECORDS[200].id + 1]),
    limit=st.integers(1, 50),
)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(wanted=filters, steps=st.sampled_from([(2, 5), (1,), (10, 20, 40), (2000,)]))
def test_pages_together_are_what_the_filter_means(store: Store, wanted: Filter, steps: tuple[int, ...]) -> None:
    expected = [record.id for record in reversed(RECORDS) if passes(record, wanted)]
    seen: list[int] = []
    cursor = wanted.before
    for _ in range(len(RECORDS) + 2):
        page = store.list_jobs(
            Filter(
                **{name: getattr(wanted, name) for name in wanted.__struct_fields__ if name != "before"}, before=cursor
            ),
            steps,
        )
        assert len(page.jobs) <= wanted.limit
        seen += [record.id for record in page.jobs]
        if page.next is None:
            break
        assert cursor is None or page.next < cursor
        cursor = page.next
    else:
        raise AssertionError("the pages do not come to an end")
    assert seen == expected


@pytest.mark.parametrize("asked", [{"q": "\0"}, {"name": "a\0"}, {"owner": "\0b"}, {"labels": {"x": "\0"}}])
def test_nothing_is_called_by_nul(store: Store, asked: dict[str, Any]) -> None:
    assert store.list_jobs(Filter(**asked)) == ([], None)
    assert store.find_by_name("\0") is None


def test_one_call_gives_a_full_page_where_few_jobs_must_be_looked_at(store: Store) -> None:
    page = store.list_jobs(Filter(owner="ann", states=frozenset({State.PENDING, State.FAILED}), q="train", limit=3))
    assert len(page.jobs) == 3
    assert page.next == page.jobs[-1].id
    assert page.jobs == [store.job(record.id) for record in page.jobs]


# Plans --------------------------------------------------------------------------------------------------------------

MANY = 100_000


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with Store.open(tmp_path_factory.mktemp("large") / "data") as store:
        jobs = Jobs()
        spec = jobs.new(name="n", labels={"team": "ml"})
        for start in range(0, MANY, 10_000):
            batch = Batch()
            for n in range(start, start + 10_000):
                record = jobs.new() if n % 100 else jobs.new(name="n", labels={"team": "ml"}, owner="bob", kind="cron")
                record.state = State.FAILED if n % 1000 == 0 else State.RUNNING if n % 5000 == 1 else State.SUCCEEDED
                batch.save_job(record, new=True)
            batch.add_events(event(n + 1, n % 50) for n in range(start, start + 10_000))
            store.commit(batch)
        assert spec.id < store.last_job_id()
        yield store


def plans(store: Store, ask: Any) -> list[str]:
    """The plans of all statements that `ask` runs."""
    ran: list[tuple[str, Any]] = []

    def note(_c: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool) -> None:
        ran.append((statement, parameters))

    sql_event.listen(store._readers, "before_cursor_execute", note)
    try:
        ask()
    finally:
        sql_event.remove(store._readers, "before_cursor_execute", note)
    found = []
    with store._readers.connect() as connection:
        for statement, parameters in ran:
            if statement.startswith("SELECT"):
                rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
                found.append("; ".join(str(plan[3]) for plan in rows))
    return found


STATE_LISTS = [frozenset({State.FAILED}), frozenset({State.FAILED, State.RUNNING}), frozenset(BY_CODE.values())]


@pytest.mark.parametrize(
    ("wanted", "index"),
    [
        (Filter(), "PRIMARY KEY|SCAN jobs"),
        (Filter(q="no such thing"), "PRIMARY KEY|SCAN jobs"),
        (Filter(since=T0 + MANY - 50), "PRIMARY KEY"),
        *((Filter(states=states), "jobs_state") for states in STATE_LISTS),
        (Filter(kind="cron"), "jobs_kind"),
        (Filter(origin="native"), "jobs_origin"),
        (Filter(owner="bob"), "jobs_owner"),
        (Filter(name="n"), "jobs_name"),
        (Filter(name="n", q="no"), "jobs_name"),
        (Filter(labels={"team": "ml"}), "job_labels"),
        (Filter(labels={"team": "ml"}, owner="ann"), "job_labels"),
        (Filter(owner="ann", states=frozenset({State.RUNNING})), "jobs_state"),
        (Filter(owner="bob", states=frozenset({State.SUCCEEDED}), kind="cron"), "jobs_(kind|state)"),
    ],
)
@pytest.mark.parametrize("paged", [False, True], ids=["first", "next"])
def test_a_list_walks_along_an_index_and_never_sorts(large: Store, wanted: Filter, index: str, paged: bool) -> None:
    if paged:
        middle = large.list_jobs(Filter()).jobs[0].id
        wanted = Filter(**{n: getattr(wanted, n) for n in wanted.__struct_fields__ if n != "before"}, before=middle)
    found = plans(large, lambda: large.list_jobs(wanted))
    walks = [plan for plan in found if "specs" not in plan and "runs" not in plan]
    assert walks
    assert any(re.search(index, plan) for plan in walks), walks
    for plan in walks:
        assert "TEMP B-TREE" not in plan, plan
        if index != "PRIMARY KEY|SCAN jobs":
            assert "SCAN" not in plan, plan
    for plan in found:
        assert "SCAN runs" not in plan and "SCAN specs" not in plan, plan


def test_the_other_questions_use_an_index_too(large: Store) -> None:
    newest = large.last_job_id()
    asked = {
        "job": lambda: large.job(newest),
        "find_by_name": lambda: large.find_by_name("n", "bob"),
        "states": lambda: large.states([newest]),
        "runs": lambda: large.runs(newest, 10, (5, 0)),
        "live": lambda: list(large.load_live()),
        "events": lambda: large.events(50_000, 10, types=["node.up"]),
        "events of a job": lambda: large.events(50_000, 10, job=7),
        "last": lambda: (large.last_job_id(), large.last_seq(), large.horizon()),
        "old events": lambda: large.old_events(T0, 10),
        "ended": lambda: large.ended_ids(10, T0 + 50, after=5),
    }
    for name, ask in asked.items():
        for plan in plans(large, ask):
            assert not re.search(r"SCAN (jobs|events|runs|specs|job_labels)(?!.*COVERING)", plan), (name, plan)


def test_a_rare_job_among_many_is_found_on_the_first_page(large: Store) -> None:
    wanted = Filter(owner="ann", states=frozenset({State.RUNNING}))
    assert len(large.list_jobs(wanted).jobs) == MANY // 5000
    assert large.list_jobs(wanted).next is None


def test_the_work_for_a_page_is_bounded(large: Store) -> None:
    page = large.list_jobs(Filter(q="no such thing"), steps=(100, 900))
    assert page.jobs == []
    assert page.next is not None
    newest = large.list_jobs(Filter(limit=1000)).jobs
    assert page.next == newest[-1].id
