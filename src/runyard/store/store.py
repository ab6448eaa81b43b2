"""The store: one database, one writer, many readers.

`Store.open` takes a data folder (SQLite, the default) or the URL of a PostgreSQL database. Reads (`query.Queries`) may
come from any thread and never wait for the writer; all writing goes through one `writer.Writer`.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    DataError,
    IntegrityError,
    NotSupportedError,
    ProgrammingError,
    SQLAlchemyError,
)
from sqlalchemy.pool import ConnectionPoolEntry

from runyard.model.errors import ConfigError, Conflict, StorageFull
from runyard.model.state import BY_CODE, LIVE, State
from runyard.store import migrations
from runyard.store.batch import PROBE, Batch, Statements
from runyard.store.query import Queries, count_states

FILE = "runyard.db"
LOCK = "lock"
READERS = 4
_READERS_AT_PEAK = 16
_WRITER_CACHE, _READER_CACHE = 16 * 1024, 2 * 1024
"""KiB of page cache for each connection."""
_CHECKPOINT_PAGES = 4000
"""When the log is this long, the commit that made it so pays for a checkpoint. Idle moments come first: `Writer`."""
_LOG_SIZE = 64 * 1024 * 1024
_BUSY = 5.0
_ROOM = 1024 * 1024
"""Bytes that must be free before the store counts as able to write again."""
_ADVISORY_LOCK = 0x52_55_4E_59
"""PostgreSQL's counterpart of the lock file."""
_LOCK_PATIENCE = 2.0
"""Seconds for PostgreSQL to see that the server before us has died."""
# Rows hold what people gave us, secrets included: errors must not repeat them.
ENGINE: dict[str, Any] = {"hide_parameters": True}

# What these say is a defect of ours, or of the data: not that storage fails.
_OUR_FAULT = (IntegrityError, ProgrammingError, DataError, NotSupportedError)


class Store(Queries):
    """An open store. Close it, or use it as a context manager."""

    def __init__(self, writer: Engine, readers: Engine, name: str, folder: Path | None, lock: _Lock) -> None:
        """For `open`."""
        super().__init__(readers)
        self.name = name
        """For messages: the folder, or the URL without its password."""
        self._writer = writer
        self._folder = folder
        self._lock_file = lock
        self.statements = Statements(writer.dialect)
        self._mutex = threading.Lock()
        self._probes = 0
        self._others: list[Callable[[], None]] = []
        # So that a commit need not ask for what its jobs were before.
        self._live: dict[int, int] = {}
        with readers.connect() as connection:
            self._counts = count_states(connection)

    @classmethod
    def open(cls, where: Path | str) -> Store:
        """Open the data folder, or the database at a `postgresql+psycopg://` URL, and bring its schema up to date.

        The folder is made if it is missing. Raises Conflict if another server has it open, ConfigError if it can't be
        used by this version, StorageFull if it can't be written.
        """
        if isinstance(where, str) and "://" in where:
            return cls._open_url(where)
        folder = Path(where)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock: _Lock = _FileLock(folder)
            # Made here for its mode: specifications may hold secrets. SQLite gives its side files the same one.
            os.close(os.open(folder / FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise StorageFull(f"the store in {folder} can't be opened for writing: {error.strerror}") from error
        url = URL.create("sqlite", database=str(folder / FILE))
        options = {**ENGINE, "connect_args": {"check_same_thread": False, "timeout": _BUSY}}
        writer = create_engine(url, pool_size=1, max_overflow=0, **options)
        readers = create_engine(url, pool_size=READERS, max_overflow=_READERS_AT_PEAK - READERS, **options)
        set_up_sqlite(writer, "BEGIN IMMEDIATE", _writer_pragmas())
        set_up_sqlite(readers, "BEGIN", ["PRAGMA query_only=1", f"PRAGMA cache_size=-{_READER_CACHE}"])
        return cls._start(writer, readers, str(folder), folder, lock)

    @classmethod
    def _open_url(cls, where: str) -> Store:
        url = read_url(where)
        name = url.render_as_string(hide_password=True)
        writer = create_engine(url, pool_size=1, max_overflow=0, pool_pre_ping=True, **ENGINE)
        readers = create_engine(
            url,
            pool_size=READERS,
            max_overflow=_READERS_AT_PEAK - READERS,
            pool_pre_ping=True,
            isolation_level="REPEATABLE READ",
            connect_args={"options": "-c default_transaction_read_only=on"},
            **ENGINE,
        )
        try:
            lock = _AdvisoryLock(create_engine(url, pool_size=1, max_overflow=0), name)
        except DatabaseError as error:
            raise cannot_write(name, error) from error
        return cls._start(writer, readers, name, None, lock)

    @classmethod
    def _start(cls, writer: Engine, readers: Engine, name: str, folder: Path | None, lock: _Lock) -> Store:
        try:
            with writer.begin() as connection:
                migrations.upgrade(connection)
            return cls(writer, readers, name, folder, lock)
        except BaseException as error:
            for engine in (readers, writer):
                engine.dispose()
            lock.release()
            if isinstance(error, DatabaseError):
                raise cannot_write(name, error) from error
            raise

    def commit(self, batch: Batch) -> None:
        """Write the batch in one transaction; when this returns, it is on disk. One caller at a time.

        Raises StorageFull if it can't be written; nothing of the batch is kept then. Raises LookupError or an
        SQLAlchemy error if the batch contradicts the store, which is a defect of the caller; nothing is kept either.
        """
        with self._mutex:
            try:
                with self._writer.begin() as connection:
                    changes = self.statements.write(connection, batch, self._live)
            except _OUR_FAULT:
                raise
            except DatabaseError as error:
                raise cannot_write(self.name, error) from error
            for job in batch.deleted:
                self._live.pop(job, None)
            for job, values in batch.jobs.items():
                if BY_CODE[values[0]] in LIVE:
                    self._live[job] = values[0]
                else:
                    self._live.pop(job, None)
            # A new one: `counts` looks at it without waiting for the disk.
            self._counts = self._counts + changes

    def probe(self) -> bool:
        """Whether the store can write, found out by writing a little."""
        if self._folder is not None and shutil.disk_usage(self._folder).free < _ROOM:
            return False
        self._probes += 1
        batch = Batch()
        # Another value each time: SQLite does not write a page that stays the same.
        batch.set_meta(PROBE, f"{os.getpid()}-{self._probes}")
        try:
            self.commit(batch)
        except StorageFull:
            return False
        return True

    def checkpoint(self) -> None:
        """Carry what is in SQLite's log over into the database, as far as readers let it. Commits wait meanwhile."""
        if self._folder is None:
            return
        with self._mutex:
            connection = self._writer.raw_connection()
            try:
                # If it fails, the log just stays: the next commit tells what is wrong.
                with suppress(sqlite3.OperationalError):
                    connection.cursor().execute("PRAGMA wal_checkpoint(PASSIVE)")
            finally:
                connection.close()

    def counts(self) -> dict[State, int]:
        """How many jobs are in each state, as of the last commit."""
        counts = self._counts
        return {state: counts[code] for code, state in BY_CODE.items()}

    def on_close(self, close: Callable[[], None]) -> None:
        """Has something closed together with the store."""
        self._others.append(close)

    def close(self) -> None:
        """Close all connections and let go of the folder. Reads that are under way elsewhere must have ended."""
        for close in self._others:
            close()
        self._readers.dispose()
        self._writer.dispose()
        self._lock_file.release()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_url(text: str) -> URL:
    """The URL of a PostgreSQL database. Raises ConfigError if it is none that can be used."""
    try:
        url = make_url(text)
    except ArgumentError as error:
        raise ConfigError(f"the URL of the store can't be read: {error}") from None
    if url.drivername != "postgresql+psycopg":
        raise ConfigError(
            f"the store can't use {url.drivername!r}: "
            "give a folder, or a URL such as postgresql+psycopg://user@host/database"
        )
    if find_spec("psycopg") is None:
        raise ConfigError("a PostgreSQL store needs psycopg: install runyard[postgres]")
    return url


def cannot_write(name: str, error: DatabaseError) -> StorageFull:
    reason = " ".join(str(error.orig).split())
    return StorageFull(
        f"the store in {name} can't write: {reason}. "
        "Nothing of this request was kept. Check free space, permissions and the disk, then try again"
    )


def _writer_pragmas() -> list[str]:
    return [
        "PRAGMA journal_mode=WAL",
        "PRAGMA synchronous=FULL",
        f"PRAGMA cache_size=-{_WRITER_CACHE}",
        f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}",
        f"PRAGMA journal_size_limit={_LOG_SIZE}",
        "PRAGMA temp_store=MEMORY",
    ]


def set_up_sqlite(engine: Engine, begin: str, pragmas: list[str]) -> None:
    @event.listens_for(engine, "connect")
    def connect(connection: Any, _entry: ConnectionPoolEntry) -> None:
        # Python's driver would begin transactions by its own rules, and not at all for DDL.
        connection.isolation_level = None
        for pragma in pragmas:
            connection.execute(pragma).close()

    @event.listens_for(engine, "begin")
    def start(connection: Connection) -> None:
        connection.exec_driver_sql(begin)


class _Lock(Protocol):
    """Keeps a second server out."""

    def release(self) -> None: ...


class _FileLock:
    def __init__(self, folder: Path) -> None:
        """Raises Conflict if another process holds it, OSError if the file can't be opened."""
        self._fd = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._fd, 20, 0).decode(errors="replace").strip()
            os.close(self._fd)
            raise Conflict(
                f"the data folder {folder} is in use by another Runyard server (process {holder or 'unknown'}); "
                "stop that one, or give this one a data folder of its own"
            ) from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        # The file stays: to remove it could let two servers lock two files of one name.
        os.close(self._fd)


class _AdvisoryLock:
    """Held by a connection of its own, for as long as that lives."""

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine = engine
        self._connection = engine.connect()
        until = time.monotonic() + _LOCK_PATIENCE
        while not self._ask("pg_try_advisory_lock"):
            if time.monotonic() < until:
                time.sleep(0.05)
                continue
            self.release()
            raise Conflict(
                f"the database {name} is in use by another Runyard server; "
                "stop that one, or give this one a database of its own"
            )

    def release(self) -> None:
        """Let go, also of a connection that is broken."""
        with suppress(SQLAlchemyError):
            self._ask("pg_advisory_unlock")
        self._connection.close()
        self._engine.dispose()

    def _ask(self, function: str) -> bool:
        answer = self._connection.scalar(text(f"SELECT {function}(:key)"), {"key": _ADVISORY_LOCK})
        self._connection.commit()
        return bool(answer)
