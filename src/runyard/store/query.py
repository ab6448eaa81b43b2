"""What can be asked of the store. From any thread; each question sees one moment of the database."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, Engine, and_, func, select, tuple_

from runyard.core.record import JobRecord
from runyard.model.errors import Expired
from runyard.model.event import Event
from runyard.model.ids import RunKey
from runyard.model.job import RunDoc
from runyard.model.state import BY_CODE, ENDED, LIVE, State
from runyard.store import listing, row, tables
from runyard.store.batch import HORIZON, LAST_JOB
from runyard.store.listing import Filter

_CHUNK = 500
EVENT_SCAN = 50_000
"""Events that one call of `events` looks at for its filters."""

_jobs, _runs, _events, _meta = tables.jobs.c, tables.runs.c, tables.events.c, tables.meta.c
_live = _jobs.state.in_(row.state_codes(LIVE))


class JobPage(NamedTuple):
    jobs: list[JobRecord]
    next: int | None
    """`Filter.before` of the next page; None at the end. A page may be short, or empty, and yet not be the last."""


class RunPage(NamedTuple):
    runs: list[RunDoc]
    next: tuple[int, int] | None
    """`before` of the next page; None at the end."""


class EventPage(NamedTuple):
    events: list[Event]
    upto: int
    """Every event up to this `seq` has been looked at: `after` of the next call."""


class Remembered(NamedTuple):
    """The answer to an earlier request with the same `Idempotency-Key`."""

    request: bytes
    status: int
    response: bytes
    created_at: float


class Queries:
    """All reads. Failures of the database come as SQLAlchemy's errors."""

    def __init__(self, readers: Engine) -> None:
        self._readers = readers

    def reading(self) -> Connection:
        """A connection that sees one moment of the database, for questions that stand elsewhere. To be closed."""
        return self._readers.connect()

    def job(self, job: int) -> JobRecord | None:
        """Any job, its present or last runs included."""
        with self._readers.connect() as connection:
            found = _records(connection, [job])
        return found[0] if found else None

    def jobs(self, ids: Collection[int]) -> dict[int, JobRecord]:
        """Those of the jobs that exist."""
        with self._readers.connect() as connection:
            return {record.id: record for chunk in _chunks(ids) for record in _records(connection, chunk)}

    def load_live(self) -> Iterator[JobRecord]:
        """All jobs that have not ended, oldest first. For recovery, before anything is written."""
        with self._readers.connect() as connection:
            ids = connection.scalars(select(_jobs.id).where(_live)).all()
        for chunk in _chunks(sorted(ids)):
            with self._readers.connect() as connection:
                yield from sorted(_records(connection, chunk), key=lambda record: record.id)

    def find_by_name(self, name: str, owner: str | None = None) -> JobRecord | None:
        """The newest job of that name."""
        if "\0" in name:
            return None
        query = select(_jobs.id).where(_jobs.name == name).order_by(_jobs.id.desc()).limit(1)
        if owner is not None:
            query = query.where(_jobs.owner == owner)
        with self._readers.connect() as connection:
            found = connection.scalar(query)
            return None if found is None else _records(connection, [found])[0]

    def states(self, ids: Collection[int]) -> dict[int, State]:
        """The states of those of the jobs that exist."""
        found: dict[int, State] = {}
        with self._readers.connect() as connection:
            for chunk in _chunks(ids):
                for job, code in connection.execute(select(_jobs.id, _jobs.state).where(_jobs.id.in_(chunk))):
                    found[job] = BY_CODE[code]
        return found

    def owners(self, ids: Collection[int]) -> dict[int, str]:
        """Whose jobs these are, of those that exist."""
        found: dict[int, str] = {}
        with self._readers.connect() as connection:
            for chunk in _chunks(ids):
                for job, owner in connection.execute(select(_jobs.id, _jobs.owner).where(_jobs.id.in_(chunk))):
                    found[job] = owner
        return found

    def list_jobs(self, wanted: Filter, steps: tuple[int, ...] = listing.STEPS) -> JobPage:
        """Jobs that pass the filter, newest first.

        One call looks at a bounded number of jobs, the sum of `steps`: if few of many pass, pages are short and `next`
        leads on.
        """
        if wanted.is_impossible:
            return JobPage([], None)
        with self._readers.connect() as connection:
            ids, cursor = listing.page(connection, wanted, steps)
            records = {record.id: record for record in _records(connection, ids)}
        return JobPage([records[job] for job in ids], cursor)

    def runs(self, job: int, limit: int = 100, before: tuple[int, int] | None = None) -> RunPage:
        """The runs of a job, newest first. `before` continues an earlier page."""
        query = select(*tables.runs.c).where(_runs.job == job)
        if before is not None:
            query = query.where(tuple_(_runs.attempt, _runs.replica) < before)
        query = query.order_by(_runs.attempt.desc(), _runs.replica.desc()).limit(limit + 1)
        with self._readers.connect() as connection:
            rows = connection.execute(query).all()
        more = len(rows) > limit
        docs = [row.run_doc(values) for values in rows[:limit]]
        return RunPage(docs, (docs[-1].attempt, docs[-1].replica) if more else None)

    def run_keys(self, jobs: Collection[int]) -> list[RunKey]:
        """The runs that the store knows of those jobs."""
        with self._readers.connect() as connection:
            return [
                RunKey(*values)
                for chunk in _chunks(jobs)
                for values in connection.execute(
                    select(_runs.job, _runs.replica, _runs.attempt).where(_runs.job.in_(chunk))
                )
            ]

    def events(
        self,
        after: int | None = None,
        limit: int = 1000,
        job: int | None = None,
        types: Collection[str] | None = None,
        states: Collection[State] | None = None,
    ) -> EventPage:
        """Events with a larger `seq`, oldest first; None starts at the oldest that is kept.

        Raises Expired if retention has removed some of them. One call looks at a bounded number of events: the page
        may be empty although more follow; go on from its `upto` until that is `last_seq()`.
        """
        with self._readers.connect() as connection:
            horizon, last = _horizon(connection), _last_seq(connection)
            if after is None:
                after = horizon - 1
            elif after < horizon - 1:
                raise Expired(
                    f"events up to {horizon - 1} are no longer kept, and {after} was asked for; "
                    "read the present state and go on from there",
                    after=after,
                    oldest=horizon,
                )
            where: list[ColumnElement[bool]] = [_events.seq > after]
            end = last
            if job is not None:
                where.append(_events.job == job)
            elif types is not None or states is not None:
                end = min(last, after + EVENT_SCAN)
                where.append(_events.seq <= end)
            if types is not None:
                where.append(_events.type.in_(types))
            if states is not None:
                where.append(_events.state.in_(row.state_codes(states)))
            query = select(*tables.events.c).where(and_(*where)).order_by(_events.seq).limit(limit)
            found = [row.event_of(values) for values in connection.execute(query)]
        return EventPage(found, found[-1].seq if len(found) == limit else max(end, after))

    def last_seq(self) -> int:
        """The `seq` of the newest event there ever was; 0 before the first."""
        with self._readers.connect() as connection:
            return _last_seq(connection)

    def horizon(self) -> int:
        """The `seq` of the oldest event that is kept, or that will be the next one."""
        with self._readers.connect() as connection:
            return _horizon(connection)

    def last_job_id(self) -> int:
        """The largest id that any job ever had; 0 before the first."""
        with self._readers.connect() as connection:
            return max(connection.scalar(select(func.max(_jobs.id))) or 0, int(_meta_value(connection, LAST_JOB) or 0))

    def meta(self, key: str) -> str | None:
        with self._readers.connect() as connection:
            return _meta_value(connection, key)

    def door_records(self, door: str) -> dict[str, bytes]:
        """What that front door has kept, by key."""
        table = tables.door_records.c
        with self._readers.connect() as connection:
            rows = connection.execute(select(table.key, table.body).where(table.door == door).order_by(table.key))
            return {key: body for key, body in rows}

    def idempotent(self, key: str, owner: str) -> Remembered | None:
        """What was answered to the request with that `Idempotency-Key`."""
        table = tables.idempotency.c
        query = select(table.request, table.status, table.response, table.created_at)
        with self._readers.connect() as connection:
            found = connection.execute(query.where(table.key == key, table.owner == owner)).first()
        return None if found is None else Remembered(*found)

    # For retention --------------------------------------------------------------------------------------------------

    def ended_ids(self, limit: int, ended_before: float | None = None, after: int = 0) -> list[int]:
        """The oldest ended jobs: their ids, from above `after`. `ended_before` is in Unix seconds."""
        query = select(_jobs.id).where(_jobs.id > after, (_jobs.state + 0).in_(row.state_codes(ENDED)))
        if ended_before is not None:
            # A job ends after it was submitted, so ids bound the search.
            query = query.where(_jobs.ended_at < ended_before, _jobs.id < listing.first_id(ended_before))
        with self._readers.connect() as connection:
            return list(connection.scalars(query.order_by(_jobs.id).limit(limit)))

    def live_ids(self, runs_above: int) -> list[int]:
        """The live jobs that have more runs than that."""
        query = select(_jobs.id).join(tables.runs, _runs.job == _jobs.id).where(_live)
        with self._readers.connect() as connection:
            return list(connection.scalars(query.group_by(_jobs.id).having(func.count() > runs_above)))

    def old_events(self, before: float, limit: int) -> tuple[int, int]:
        """The horizon, and the first event from there, at most `limit` further, that happened at `before` or later."""
        with self._readers.connect() as connection:
            first = _horizon(connection)
            rows = connection.execute(
                select(_events.seq, _events.at).where(_events.seq >= first).order_by(_events.seq).limit(limit)
            )
            below = first
            for seq, at in rows:
                if at >= before:
                    break
                below = seq + 1
        return first, below


def count_states(connection: Connection) -> Counter[int]:
    """How many jobs are in each state, by code: a walk over a whole index, for the opening of the store."""
    return Counter(
        {code: count for code, count in connection.execute(select(_jobs.state, func.count()).group_by(_jobs.state))}
    )


def _records(connection: Connection, ids: Collection[int]) -> list[JobRecord]:
    """Those of the jobs that exist, in no particular order."""
    if not ids:
        return []
    query = select(*row.RECORD_COLUMNS).join(tables.specs, tables.specs.c.job == _jobs.id).where(_jobs.id.in_(ids))
    records = [row.record_of(values) for values in connection.execute(query)]
    ended = {record.id: record for record in records if record.state not in LIVE}
    if ended:
        last = (
            select(_runs.job, _runs.replica, func.max(_runs.attempt).label("attempt"))
            .where(_runs.job.in_(ended))
            .group_by(_runs.job, _runs.replica)
            .subquery()
        )
        found = select(*tables.runs.c).join(
            last,
            and_(_runs.job == last.c.job, _runs.attempt == last.c.attempt, _runs.replica == last.c.replica),
        )
        for values in connection.execute(found):
            row.add_run(ended[values[0]], values)
    return records


def _meta_value(connection: Connection, key: str) -> str | None:
    return connection.scalar(select(_meta.value).where(_meta.key == key))


def _horizon(connection: Connection) -> int:
    return int(_meta_value(connection, HORIZON) or 1)


def _last_seq(connection: Connection) -> int:
    return max(connection.scalar(select(func.max(_events.seq))) or 0, _horizon(connection) - 1)


def _chunks(ids: Iterable[int]) -> Iterator[list[int]]:
    every = list(ids)
    return (every[start : start + _CHUNK] for start in range(0, len(every), _CHUNK))
