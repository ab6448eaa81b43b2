"""What one transaction writes, and how.

A `Batch` is filled on the event loop's thread and written by the writer's thread while the loop goes on changing its
records: so everything is copied into tuples as it is added.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import (
    ClauseElement,
    ColumnElement,
    Connection,
    Dialect,
    Table,
    bindparam,
    delete,
    func,
    select,
    update,
)
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.sql.compiler import SQLCompiler

from runyard.core.record import JobRecord, Replica
from runyard.model.event import Event
from runyard.model.ids import RunKey
from runyard.store import row, tables
from runyard.store.row import Values

if TYPE_CHECKING:
    from sqlalchemy.dialects.postgresql import Insert as PostgresInsert

#: Keys of `meta` that the store itself keeps.
HORIZON, LAST_JOB, PROBE = "horizon", "last_job", "probe"
_CHUNK = 500
_GROUPS = (64, 16, 4)
"""Rows that go into one statement, as far as there are so many. A statement is one step in which SQLite leaves Python's
lock to the event loop; to get the lock back, the writer has to wait for its turn each time."""


class Batch:
    """Collects what one commit writes. Of several saves of one job or run, the last one counts."""

    def __init__(self) -> None:
        self.events: list[Values] = []
        self.new_jobs: dict[int, Values] = {}
        self.specs: dict[int, bytes] = {}
        self.labels: dict[int, list[Values]] = {}
        self.jobs: dict[int, Values] = {}
        self.runs: dict[tuple[int, int, int], Values] = {}
        self.meta: dict[str, str] = {}
        self.remembered: dict[tuple[str, str], Values] = {}
        self.door_records: dict[tuple[str, str], bytes | None] = {}
        self.deleted: dict[int, None] = {}
        self.deleted_runs: dict[RunKey, None] = {}
        self.told_changes: list[int] = []
        self.messages: list[Values] = []
        self.deleted_messages: list[int] = []
        self.message_totals: dict[int, tuple[int, int] | None] = {}
        self.events_below: int | None = None
        self.remembered_before: float | None = None

    def __bool__(self) -> bool:
        """Whether there is anything to write."""
        return any(value is not None and value != {} and value != [] for value in vars(self).values())

    def add_events(self, events: Iterable[Event]) -> None:
        """Append facts. Their `seq` must go up, and be new to the store."""
        self.events.extend(map(row.event_values, events))

    def save_job(self, record: JobRecord, new: bool = False) -> None:
        """Write the job as it stands. `new`: it is not in the store yet. Raises ValueError after `delete_job`."""
        job = record.id
        if job in self.deleted:
            raise ValueError(f"job {job} is deleted in this batch and can't be saved as well")
        if new:
            spec = record.spec
            self.new_jobs[job] = row.birth_values(record)
            self.specs[job] = row.encode_spec(spec)
            if spec.labels:
                self.labels[job] = [(key, value, job) for key, value in spec.labels.items()]
        self.jobs[job] = row.job_values(record)

    def save_run(self, job: int, index: int, replica: Replica) -> None:
        """Write the present or last run of a replica (`index` is 0-based). Raises ValueError if it never had one."""
        if replica.attempt < 1:
            raise ValueError(f"replica {index} of job {job} has had no run that could be saved")
        self.runs[job, replica.attempt, index] = row.run_values(job, index, replica)

    def delete_job(self, job: int) -> None:
        """Remove a job with its runs, labels and specification. Its events stay: they are history."""
        for part in (self.new_jobs, self.specs, self.labels, self.jobs):
            part.pop(job, None)
        for key in [key for key in self.runs if key[0] == job]:
            del self.runs[key]
        self.deleted[job] = None

    def delete_runs(self, runs: Iterable[RunKey]) -> None:
        """Remove single runs of a job that stays."""
        self.deleted_runs.update(dict.fromkeys(runs))

    def trim_events(self, below: int) -> None:
        """Remove the events with a smaller `seq`, for good: readers behind that get `Expired`."""
        self.events_below = max(below, self.events_below or 0)

    def remember(self, key: str, owner: str, request: bytes, status: int, response: bytes, at: float) -> None:
        """Keep the answer to a request with an `Idempotency-Key`. `request` is a hash of it; `at` is Unix seconds."""
        self.remembered[key, owner] = (key, owner, request, status, response, at)

    def keep_for_door(self, door: str, key: str, body: bytes | None) -> None:
        """Keep what a front door wants to read back, in place of what was there; None removes it."""
        self.door_records[door, key] = body

    def forget_changes(self, ids: Iterable[int]) -> None:
        """Strike off changes of accounts of which events are made (`store.accounts.Change`)."""
        self.told_changes.extend(ids)

    def add_messages(self, rows: Iterable[Values]) -> None:
        """Append messages (`store.messages.message_values`). Their `seq` must be new to the store."""
        self.messages.extend(rows)

    def delete_messages(self, seqs: Iterable[int]) -> None:
        self.deleted_messages.extend(seqs)

    def set_message_total(self, job: int, count: int, size: int) -> None:
        """How many messages of the job are kept, and how many bytes their bodies have; none at all is forgotten."""
        self.message_totals[job] = (count, size) if count else None

    def forget_remembered(self, before: float) -> None:
        """Drop the answers that were kept before that time (Unix seconds)."""
        self.remembered_before = before

    def set_meta(self, key: str, value: str) -> None:
        self.meta[key] = value


def _insert_for(dialect: str, table: Table) -> PostgresInsert | sqlite.Insert:
    if dialect == "postgresql":
        # Loads every driver's module.
        from sqlalchemy.dialects import postgresql

        return postgresql.insert(table)
    return sqlite.insert(table)


class Statements:
    """The statements of a commit, turned into text once for one kind of database.

    They go to the driver with plain tuples: for hundreds of rows that is several times faster than binding by name.
    """

    def __init__(self, dialect: Dialect) -> None:
        # Positional marks, whatever the driver's own habit is.
        kind = cast("type[DefaultDialect]", type(dialect))
        self._dialect = kind(paramstyle="qmark" if dialect.name == "sqlite" else "format")
        # SQLite's inserts for more than one row, by the text for one.
        self._wide: dict[str, list[tuple[int, str]]] = {}
        jobs, runs, labels = tables.jobs, tables.runs, tables.job_labels
        changing = [column.name for column in jobs.c][-row.CHANGING :]
        self.new_job = self._insert(jobs)
        self.job = self._text(
            update(jobs).where(jobs.c.id == bindparam("job")).values({name: bindparam(name) for name in changing}),
            [*changing, "job"],
        )
        self.spec = self._insert(tables.specs)
        self.label = self._insert(labels)
        # A run's shares are known when it starts; they stay if they are not there any more when it ends.
        self.run = self._insert(runs, replace=True, keep="shares")
        self.event = self._insert(tables.events)
        self.remember = self._insert(tables.idempotency, replace=True)
        self.meta = self._insert(tables.meta, replace=True)
        self.door_record = self._insert(tables.door_records, replace=True)
        self.delete_door_record = self._delete(tables.door_records.c.door, tables.door_records.c.key)
        self.delete_change = self._delete(tables.account_log.c.id)
        self.message = self._insert(tables.messages)
        self.message_total = self._insert(tables.message_totals, replace=True)
        self.delete_message = self._delete(tables.messages.c.seq)
        self.delete_message_total = self._delete(tables.message_totals.c.job)
        self.delete_job = self._delete(jobs.c.id)
        self.delete_spec = self._delete(tables.specs.c.job)
        self.delete_runs = self._delete(runs.c.job)
        self.delete_run = self._delete(runs.c.job, runs.c.replica, runs.c.attempt)
        self.delete_label = self._delete(labels.c.key, labels.c.value, labels.c.job)

    def _text(self, statement: ClauseElement, order: list[str]) -> str:
        compiled = statement.compile(dialect=self._dialect)
        assert isinstance(compiled, SQLCompiler)
        if compiled.positiontup != order:
            raise AssertionError(f"the values would be bound as {compiled.positiontup}, not as {order}")
        return str(compiled)

    def _insert(self, table: Table, replace: bool = False, keep: str | None = None) -> str:
        """A row is inserted, or with `replace` written over the one that has its key, where NULL leaves `keep`."""
        columns = [column.name for column in table.c]
        statement = _insert_for(self._dialect.name, table).values({name: bindparam(name) for name in columns})
        if replace:
            keys = [column.name for column in table.primary_key]
            changes: dict[str, ColumnElement[Any]] = {
                name: statement.excluded[name] for name in columns if name not in keys
            }
            if keep is not None:
                changes[keep] = func.coalesce(statement.excluded[keep], table.c[keep])
            statement = statement.on_conflict_do_update(index_elements=keys, set_=changes)
        text = self._text(statement, columns)
        if self._dialect.name == "sqlite":
            before, row, after = text.partition("(" + ", ".join("?" * len(columns)) + ")")
            self._wide[text] = [(size, before + ", ".join([row] * size) + after) for size in _GROUPS]
        return text

    def _delete(self, *by: ColumnElement[Any]) -> str:
        names = [f"key_{number}" for number, _ in enumerate(by)]
        where = [column == bindparam(name) for column, name in zip(by, names, strict=True)]
        return self._text(delete(cast("Table", by[0].table)).where(*where), names)

    def write(self, connection: Connection, batch: Batch, live: Mapping[int, int]) -> Counter[int]:
        """Write the batch inside the connection's transaction. `live` has the state codes of the live jobs in the
        store, as far as they are known.

        Returns by how much the number of jobs in each state changes. Raises LookupError if a job is saved that is
        neither new nor in the store.
        """
        run = connection.exec_driver_sql
        born = [(job, *values, *batch.jobs[job][:-1]) for job, values in batch.new_jobs.items()]
        changed = [values for job, values in batch.jobs.items() if job not in batch.new_jobs]
        found = Counter(live[values[-1]] for values in changed if values[-1] in live)
        found.update(_count_states(connection, [values[-1] for values in changed if values[-1] not in live]))
        if found.total() != len(changed):
            raise LookupError(
                f"{len(changed) - found.total()} of the {len(changed)} changed jobs are not in the store: "
                "a job must be saved with new=True first, and not after it was deleted"
            )
        counts = Counter(values[0] for values in batch.jobs.values())
        counts.subtract(found)
        if batch.deleted:
            counts.subtract(_count_states(connection, list(batch.deleted)))
            self._delete_jobs(connection, list(batch.deleted))
        for text, rows in (
            (self.new_job, born),
            (self.spec, list(batch.specs.items())),
            (self.label, [values for group in batch.labels.values() for values in group]),
            (self.job, changed),
            (self.run, list(batch.runs.values())),
            (self.delete_run, [tuple(key) for key in batch.deleted_runs]),
            (self.event, batch.events),
            (self.remember, list(batch.remembered.values())),
            (self.meta, list(batch.meta.items())),
            (self.door_record, [(*key, body) for key, body in batch.door_records.items() if body is not None]),
            (self.delete_door_record, [key for key, body in batch.door_records.items() if body is None]),
            (self.delete_change, [(change,) for change in batch.told_changes]),
            (self.message, batch.messages),
            (self.delete_message, [(seq,) for seq in batch.deleted_messages]),
            (self.message_total, [(job, *total) for job, total in batch.message_totals.items() if total]),
            (self.delete_message_total, [(job,) for job, total in batch.message_totals.items() if not total]),
        ):
            self._run(connection, text, rows)
        if batch.events_below is not None:
            connection.execute(delete(tables.events).where(tables.events.c.seq < batch.events_below))
            run(self.meta, [(HORIZON, str(batch.events_below))])
        if batch.remembered_before is not None:
            old = tables.idempotency.c.created_at < batch.remembered_before
            connection.execute(delete(tables.idempotency).where(old))
        return counts

    def _run(self, connection: Connection, text: str, rows: Sequence[Values]) -> None:
        """The statement for each of the rows."""
        for size, wide in self._wide.get(text, ()):
            while len(rows) >= size:
                connection.exec_driver_sql(wide, tuple(chain.from_iterable(rows[:size])))
                rows = rows[size:]
        if rows:
            connection.exec_driver_sql(text, rows)

    def _delete_jobs(self, connection: Connection, ids: list[int]) -> None:
        run = connection.exec_driver_sql
        # The newest id is remembered, so that ids stay unique even if the clock goes back.
        last = connection.scalar(select(tables.meta.c.value).where(tables.meta.c.key == LAST_JOB))
        run(self.meta, [(LAST_JOB, str(max(int(last or 0), *ids)))])
        specs = tables.specs.c
        labels: list[Values] = []
        for chunk in _chunks(ids):
            for job, spec in connection.execute(select(specs.job, specs.spec).where(specs.job.in_(chunk))):
                labels += [(key, value, job) for key, value in row.labels_of(spec).items()]
        if labels:
            run(self.delete_label, labels)
        keys: list[Values] = [(job,) for job in ids]
        for text in (self.delete_job, self.delete_spec, self.delete_runs):
            run(text, keys)


def _chunks(ids: list[int]) -> Iterator[list[int]]:
    return (ids[start : start + _CHUNK] for start in range(0, len(ids), _CHUNK))


def _count_states(connection: Connection, ids: list[int]) -> Counter[int]:
    jobs = tables.jobs.c
    found: Counter[int] = Counter()
    for chunk in _chunks(ids):
        found.update(connection.scalars(select(jobs.state).where(jobs.id.in_(chunk))))
    return found
