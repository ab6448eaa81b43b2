"""Brings a database to the present schema. Alembic is slow to load: it is imported only when there is work for it."""

from __future__ import annotations

from sqlalchemy import Connection, inspect, select
from sqlalchemy import column as sql_column
from sqlalchemy import table as sql_table

from runyard.model.errors import ConfigError

#: The newest revision.
HEAD = "0003"
_version = sql_table("alembic_version", sql_column("version_num"))


def upgrade(connection: Connection) -> None:
    """Migrate within the transaction of `connection`.

    Raises ConfigError if the database was written by a newer Runyard.
    """
    found = None
    if inspect(connection).has_table("alembic_version"):
        found = connection.scalar(select(_version.c.version_num))
    if found == HEAD:
        return
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
