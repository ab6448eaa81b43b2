"""Messages in the store: their rows, and what can be asked about them. From any thread."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple, get_args

import msgspec
from sqlalchemy import ColumnElement, Connection, func, select

from runyard.message.surplus import Kept
from runyard.model.errors import Expired
from runyard.model.message import METRICS, Message, Source
from runyard.store import tables
from runyard.store.batch import Batch
from runyard.store.query import Queries
from runyard.store.row import Values

#: By number. Only ever append: rows hold the numbers.
SOURCES: tuple[Source, ...] = get_args(Source)
_NUMBER = {source: number for number, source in enumerate(SOURCES)}
#: Messages of all jobs that one call looks at for its kinds.
SCAN = 50_000
#: Bytes of bodies in one page, unless a single one is larger: every slow reader of a stream may hold one.
PAGE_BYTES = 1024 * 1024
#: Keys of `meta`.
HORIZON, LAST = "message_horizon", "last_message"
_STEP = 1000
_columns = tables.messages.c
_totals = tables.message_totals.c
_meta = tables.meta.c
_body = msgspec.json.Decoder(dict[str, Any])


class MessagePage(NamedTuple):
    messages: list[Message]
    upto: int
    """Everything up to this `seq` has been looked at: `after` of the next call."""


class Total(msgspec.Struct, frozen=True):
    """Of one job: its messages that are kept, and the bytes of their bodies."""

    count: int
    size: int


class Aged(NamedTuple):
    """A stored message, as retention needs to know it."""

    seq: int
    job: int
    size: int


def message_values(message: Message, body: bytes) -> Values:
    """The row of a message, whose body is given as JSON."""
    source = _NUMBER[message.source]
    return (message.seq, message.job, message.kind, message.at, source, message.rank, body)


def message_of(row: Sequence[Any]) -> Message:
    seq, job, kind, at, source, rank, body = row
    return Message(seq, job, kind, at, _body.decode(body), SOURCES[source], rank)


def set_horizon(batch: Batch, horizon: int) -> None:
    """Everything below that `seq` counts as removed."""
    batch.set_meta(HORIZON, str(horizon))


def set_last(batch: Batch, last: int) -> None:
    """Keeps the newest `seq` that was given out: for a batch that may remove it."""
    batch.set_meta(LAST, str(last))


class MessageQueries:
    """All reads of messages. Failures of the database come as SQLAlchemy's errors."""

    def __init__(self, store: Queries) -> None:
        self._store = store

    def last_seq(self) -> int:
        """The newest `seq` that was ever given out; 0 before the first."""
        with self._store.reading() as connection:
            newest: int | None = connection.scalar(select(func.max(_columns.seq)))
            return max(newest or 0, _number(connection, LAST, 0), _number(connection, HORIZON, 1) - 1)

    def horizon(self) -> int:
        """The smallest `seq` that age has not removed."""
        with self._store.reading() as connection:
            return _number(connection, HORIZON, 1)

    def page(
        self, after: int | None, limit: int, job: int | None = None, kinds: Collection[str] = (), last: int = 0
    ) -> MessagePage:
        """Messages with a larger `seq`, oldest first; None starts with the oldest. Raises Expired if age has removed
        some of them.

        `last` is a `seq` that was given out, and is on disk or removed already. Of all jobs, one call looks at a
        bounded number of messages: the page may be empty although more follow.
        """
        with self._store.reading() as connection:
            horizon = _number(connection, HORIZON, 1)
            newest: int = max(last, connection.scalar(select(func.max(_columns.seq))) or 0)
            if after is None:
                after = horizon - 1
            elif after < horizon - 1 and (job is None or after > 0):
                raise Expired(
                    f"messages up to {horizon - 1} are no longer kept, and {after} was asked for; begin anew without "
                    "`after`",
                    after=after,
                    oldest=horizon,
                )
            where: list[ColumnElement[bool]] = [_columns.seq > after]
            end = newest
            if job is not None:
                where.append(_columns.job == job)
            elif kinds:
                end = min(newest, after + SCAN)
                where.append(_columns.seq <= end)
            if kinds:
                where.append(_columns.kind.in_(kinds))
                if METRICS not in kinds:
                    # In the words of the partial index.
                    where.append(_columns.kind != METRICS)
            fits = _fitting(connection, where, limit)
            query = select(*_columns).where(*where, _columns.seq <= fits.last).order_by(_columns.seq)
            found = [message_of(row) for row in connection.execute(query)] if fits.number else []
        return MessagePage(found, fits.last if fits.more else max(end, after))

    def recent(self, job: int, limit: int, before: int | None = None, metrics: bool = False) -> list[Message]:
        """The last messages of the job with a smaller `seq`, newest first: its metrics, or everything else."""
        where: list[ColumnElement[bool]] = [_columns.job == job]
        # In the words of the partial index.
        where.append(_columns.kind == METRICS if metrics else _columns.kind != METRICS)
        if before is not None:
            where.append(_columns.seq < before)
        query = select(*_columns).where(*where).order_by(_columns.seq.desc()).limit(limit)
        with self._store.reading() as connection:
            return [message_of(row) for row in connection.execute(query)]

    def metrics(self, job: int, after: int, limit: int = _STEP) -> list[tuple[int, float, bytes]]:
        """The metrics of a job behind a cursor: `seq`, time, and the body as JSON; fewer than `limit` if they are
        large, none at the end."""
        where = [_columns.job == job, _columns.seq > after, _columns.kind == METRICS]
        with self._store.reading() as connection:
            fits = _fitting(connection, where, limit)
            if not fits.number:
                return []
            query = select(_columns.seq, _columns.at, _columns.body).where(*where, _columns.seq <= fits.last)
            return [(seq, at, body) for seq, at, body in connection.execute(query.order_by(_columns.seq))]

    # For retention ------------------------------------------------------------------------------------------------

    def totals(self) -> dict[int, Total]:
        with self._store.reading() as connection:
            rows = connection.execute(select(_totals.job, _totals.count, _totals.bytes))
            return {job: Total(count, size) for job, count, size in rows}

    def of_job(self, job: int) -> Iterator[Kept]:
        """Every message of the job, oldest first."""
        after = 0
        size = func.length(_columns.body)
        while True:
            query = select(_columns.seq, _columns.kind, size).where(_columns.job == job, _columns.seq > after)
            with self._store.reading() as connection:
                rows = connection.execute(query.order_by(_columns.seq).limit(_STEP)).all()
            if not rows:
                return
            yield from (Kept(*row) for row in rows)
            after = rows[-1][0]

    def aged(self, before: float, limit: int) -> list[Aged]:
        """The oldest messages, at most so many, up to the first one that is younger than `before` (Unix seconds)."""
        query = select(_columns.seq, _columns.job, func.length(_columns.body), _columns.at)
        found: list[Aged] = []
        with self._store.reading() as connection:
            for seq, job, size, at in connection.execute(query.order_by(_columns.seq).limit(limit)):
                if at >= before:
                    break
                found.append(Aged(seq, job, size))
        return found


class _Fitting(NamedTuple):
    """How many messages fit into a page, the `seq` of the last of them, and whether more may follow."""

    number: int
    last: int
    more: bool


def _fitting(connection: Connection, where: Sequence[ColumnElement[bool]], limit: int) -> _Fitting:
    """Of those messages: at most `limit`, and of large ones fewer, but at least one."""
    query = select(_columns.seq, func.length(_columns.body)).where(*where).order_by(_columns.seq).limit(limit)
    size = number = last = 0
    for seq, length in connection.execute(query):
        size += length
        if number and size > PAGE_BYTES:
            return _Fitting(number, last, True)
        number, last = number + 1, seq
    return _Fitting(number, last, number == limit)


def _number(connection: Connection, key: str, missing: int) -> int:
    value: str | None = connection.scalar(select(_meta.value).where(_meta.key == key))
    return missing if value is None else int(value)
