"""Brings a database to the present schema. Alembic is slow to load: it is imported only when there is an older one.

An empty database gets the tables as they are now; tests hold that against what all migrations lead to.
"""

from __future__ import annotations

from sqlalchemy import Column, Connection, MetaData, String, Table, insert, inspect, select

from runyard.model.errors import ConfigError
from runyard.store import tables

#: The newest revision.
HEAD = "0004"
#: As Alembic makes it.
_version = Table("alembic_version", MetaData(), Column("version_num", String(32), primary_key=True))
#: Rows of `meta` that every store has.
_FIRST = {"accounts": "0"}


def upgrade(connection: Connection) -> None:
    """Create or migrate the tables within the transaction of `connection`.

    Raises ConfigError if the database was written by a newer Runyard.
    """
    existing = inspect(connection).get_table_names()
    found = connection.scalar(select(_version.c.version_num)) if _version.name in existing else None
    if found == HEAD:
        return
    if not existing:
        tables.metadata.create_all(connection)
        connection.execute(insert(tables.meta), [{"key": key, "value": value} for key, value in _FIRST.items()])
        _version.create(connection)
        connection.execute(insert(_version).values(version_num=HEAD))
    else:
        migrate(connection, found)


def migrate(connection: Connection, found: str | None) -> None:
    """Go from the revision `found` (None: no tables) to the present one, step by step. Raises ConfigError."""
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", "runyard.store:migrations")
    config.attributes["connection"] = connection
    if found is not None:
        try:
            ScriptDirectory.from_config(config).get_revision(found)
        except CommandError:
            raise ConfigError(
                f"the store has schema {found}, which this version of Runyard does not know (its newest is {HEAD}); "
                "start it with the newer Runyard that wrote it, or use another data folder"
            ) from None
    command.upgrade(config, HEAD)


def is_current(connection: Connection) -> bool:
    """Whether the database has the present schema."""
    if not inspect(connection).has_table("alembic_version"):
        return False
    return connection.scalar(select(_version.c.version_num)) == HEAD
