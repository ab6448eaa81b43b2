"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_Key = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _key(name: str, type: sa.types.TypeEngine[int] | None = None) -> sa.Column[int]:
    return sa.Column(name, type or sa.BigInteger(), primary_key=True, autoincrement=False)


def upgrade() -> None:
    op.create_table(
        "jobs",
        _key("id", _Key),
        sa.Column("name", sa.Text()),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("submitted_at", sa.Double(), nullable=False),
        sa.Column("command", sa.Text(), nullable=False),
        sa.Column("state", sa.SmallInteger(), nullable=False),
        sa.Column("reason", sa.Text()),
        sa.Column("priority", sa.BigInteger(), nullable=False),
        sa.Column("hold", sa.Boolean(), nullable=False),
        sa.Column("started_at", sa.Double()),
        sa.Column("ended_at", sa.Double()),
        sa.Column("exit_code", sa.BigInteger()),
        sa.Column("signal", sa.Integer()),
        sa.Column("restarts", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("live", sa.LargeBinary()),
    )
    for column in ("state", "kind", "origin", "owner"):
        op.create_index(f"jobs_{column}", "jobs", [column, "id"])
    named = sa.text("name IS NOT NULL")
    op.create_index("jobs_name", "jobs", ["name", "id"], sqlite_where=named, postgresql_where=named)
    op.create_table("specs", _key("job", _Key), sa.Column("spec", sa.LargeBinary(), nullable=False))
    op.create_table(
        "job_labels",
        sa.Column("key", sa.Text(), primary_key=True),
        sa.Column("value", sa.Text(), primary_key=True),
        _key("job"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "runs",
        _key("job"),
        _key("attempt"),
        _key("replica"),
        sa.Column("state", sa.SmallInteger(), nullable=False),
        sa.Column("reason", sa.Text()),
        sa.Column("shares", sa.LargeBinary()),
        sa.Column("pid", sa.BigInteger()),
        sa.Column("started_at", sa.Double()),
        sa.Column("ended_at", sa.Double()),
        sa.Column("exit_code", sa.BigInteger()),
        sa.Column("signal", sa.Integer()),
        sa.Column("cpu_seconds", sa.Double()),
        sa.Column("max_rss", sa.BigInteger()),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "events",
        _key("seq", _Key),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("job", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.SmallInteger()),
        sa.Column("replica", sa.BigInteger(), nullable=False),
        sa.Column("attempt", sa.BigInteger(), nullable=False),
        sa.Column("data", sa.LargeBinary()),
    )
    op.create_index("events_job", "events", ["job", "seq"])
    op.create_table(
        "idempotency",
        sa.Column("key", sa.Text(), primary_key=True),
        sa.Column("owner", sa.Text(), primary_key=True),
        sa.Column("request", sa.LargeBinary(), nullable=False),
        sa.Column("status", sa.SmallInteger(), nullable=False),
        sa.Column("response", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("idempotency_created_at", "idempotency", ["created_at"])
    op.create_table(
        "meta",
        sa.Column("key", sa.Text(), primary_key=True),
        sa.Column("value", sa.Text(), nullable=False),
        sqlite_with_rowid=False,
    )
