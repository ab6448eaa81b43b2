"""Alembic's entry: `runyard.store.migrations.upgrade` hands over its connection and owns the transaction."""

from __future__ import annotations

from alembic import context

from runyard.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite's DDL is transactional once the driver's own transaction handling is off, as it is in our engine.
    transactional_ddl=True,
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
