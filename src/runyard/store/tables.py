"""The tables. A change here needs a migration beside it: a test compares the two.

States are the numbers of `runyard.model.state.CODE`, times are Unix seconds. What only we read back (`spec`, `live`,
`shares`, `data`) is one value each; what people filter by is a column.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    text,
)

metadata = MetaData()

# SQLite makes a column the row's own address only if its type is spelled INTEGER.
_Key = BigInteger().with_variant(Integer(), "sqlite")

jobs = Table(
    "jobs",
    metadata,
    Column("id", _Key, primary_key=True, autoincrement=False),
    Column("name", Text),
    Column("kind", Text, nullable=False),
    Column("origin", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("submitted_at", Double, nullable=False),
    # The start of the command, for searching.
    Column("command", Text, nullable=False),
    Column("state", SmallInteger, nullable=False),
    Column("reason", Text),
    Column("priority", BigInteger, nullable=False),
    Column("hold", Boolean, nullable=False),
    Column("started_at", Double),
    Column("ended_at", Double),
    Column("exit_code", BigInteger),
    Column("signal", Integer),
    Column("restarts", BigInteger, nullable=False),
    Column("version", BigInteger, nullable=False),
    # `core.record.Live` in MessagePack; NULL once the job has ended.
    Column("live", LargeBinary),
)
# Every list is newest first: each filter's index ends with the id, so that a page is a short walk along the index.
Index("jobs_state", jobs.c.state, jobs.c.id)
Index("jobs_kind", jobs.c.kind, jobs.c.id)
Index("jobs_origin", jobs.c.origin, jobs.c.id)
Index("jobs_owner", jobs.c.owner, jobs.c.id)
_named = text("name IS NOT NULL")
Index("jobs_name", jobs.c.name, jobs.c.id, sqlite_where=_named, postgresql_where=_named)

# Apart from `jobs`: a database writes an updated row anew as a whole, and a spec never changes.
specs = Table(
    "specs",
    metadata,
    Column("job", _Key, primary_key=True, autoincrement=False),
    Column("spec", LargeBinary, nullable=False),
)

job_labels = Table(
    "job_labels",
    metadata,
    Column("key", Text, primary_key=True),
    Column("value", Text, primary_key=True),
    Column("job", BigInteger, primary_key=True, autoincrement=False),
    sqlite_with_rowid=False,
)

# Attempt before replica: a job's runs lie newest last.
runs = Table(
    "runs",
    metadata,
    Column("job", BigInteger, primary_key=True, autoincrement=False),
    Column("attempt", BigInteger, primary_key=True, autoincrement=False),
    Column("replica", BigInteger, primary_key=True, autoincrement=False),
    Column("state", SmallInteger, nullable=False),
    Column("reason", Text),
    # JSON of `list[model.node.Share]`.
    Column("shares", LargeBinary),
    Column("pid", BigInteger),
    Column("started_at", Double),
    Column("ended_at", Double),
    Column("exit_code", BigInteger),
    Column("signal", Integer),
    Column("cpu_seconds", Double),
    Column("max_rss", BigInteger),
    sqlite_with_rowid=False,
)

events = Table(
    "events",
    metadata,
    Column("seq", _Key, primary_key=True, autoincrement=False),
    Column("at", Double, nullable=False),
    Column("type", Text, nullable=False),
    Column("job", BigInteger, nullable=False),
    Column("state", SmallInteger),
    Column("replica", BigInteger, nullable=False),
    Column("attempt", BigInteger, nullable=False),
    Column("data", LargeBinary),
)
Index("events_job", events.c.job, events.c.seq)

# What the jobs' programs say. `source` is a number of `store.messages.SOURCES`.
messages = Table(
    "messages",
    metadata,
    Column("seq", _Key, primary_key=True, autoincrement=False),
    Column("job", BigInteger, nullable=False),
    Column("kind", Text, nullable=False),
    Column("at", Double, nullable=False),
    Column("source", SmallInteger, nullable=False),
    Column("rank", BigInteger),
    # JSON.
    Column("body", LargeBinary, nullable=False),
)
Index("messages_job", messages.c.job, messages.c.seq)
# Most are metrics; who looks for the few others of a job must not walk over those.
_not_metrics = text("kind <> 'metrics'")
Index(
    "messages_kind",
    messages.c.job,
    messages.c.kind,
    messages.c.seq,
    sqlite_where=_not_metrics,
    postgresql_where=_not_metrics,
)

# How much each job has said, of what is kept.
message_totals = Table(
    "message_totals",
    metadata,
    Column("job", _Key, primary_key=True, autoincrement=False),
    Column("count", BigInteger, nullable=False),
    # Of the bodies.
    Column("bytes", BigInteger, nullable=False),
)

# What was answered to a request that carried an `Idempotency-Key`.
idempotency = Table(
    "idempotency",
    metadata,
    Column("key", Text, primary_key=True),
    Column("owner", Text, primary_key=True),
    Column("request", LargeBinary, nullable=False),
    Column("status", SmallInteger, nullable=False),
    Column("response", LargeBinary, nullable=False),
    Column("created_at", Double, nullable=False),
    sqlite_with_rowid=False,
)
Index("idempotency_created_at", idempotency.c.created_at)

meta = Table(
    "meta",
    metadata,
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
    sqlite_with_rowid=False,
)

# What a front door keeps beside the jobs: the names it has given out, and what its clients want to read back.
door_records = Table(
    "door_records",
    metadata,
    Column("door", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("body", LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)

users = Table(
    "users",
    metadata,
    Column("name", Text, primary_key=True),
    Column("role", Text, nullable=False),
    Column("password", Text),
    Column("disabled", Boolean, nullable=False),
    Column("os_user", Text),
    Column("generation", BigInteger, nullable=False),
    Column("created_at", Double, nullable=False),
    sqlite_with_rowid=False,
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", Text, primary_key=True),
    Column("user", Text, nullable=False),
    Column("label", Text, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    # Separated by blanks.
    Column("scopes", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double),
    sqlite_with_rowid=False,
)
Index("tokens_hash", tokens.c.hash, unique=True)
Index("tokens_user", tokens.c.user)

# What the command line has changed and the server has not made an event of yet: only the server numbers events.
account_log = Table(
    "account_log",
    metadata,
    Column("id", _Key, primary_key=True),
    Column("at", Double, nullable=False),
    Column("type", Text, nullable=False),
    # JSON.
    Column("data", LargeBinary, nullable=False),
)
