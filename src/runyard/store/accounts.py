"""Accounts and tokens in the store. The server reads them, the command line changes them, each when it likes.

A change is one transaction: the row, a new version of the whole, and a line in the log of changes, of which the server
makes an event. Then a byte is appended to a stamp file in the data folder: to see that nothing has changed, a server
has to look at the size of that file only.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import URL, Connection, Engine, create_engine, delete, insert, select, update
from sqlalchemy.exc import DatabaseError

from runyard.model.account import Role, Scope, Token, User
from runyard.model.errors import ConfigError, Conflict, Unavailable
from runyard.store import migrations, tables
from runyard.store.store import ENGINE, FILE, Store, cannot_write, read_url, set_up_sqlite

STAMP = "accounts.stamp"
#: Key of `meta`: goes up with each change.
_VERSION = "accounts"
_BUSY = 10.0
#: Seconds for which a token is listed after it has expired.
_EXPIRED_FOR = 7 * 86400.0

_users, _tokens, _log, _meta = tables.users, tables.tokens, tables.account_log, tables.meta


class Change(NamedTuple):
    """A line of the log of changes."""

    id: int
    at: float
    type: str
    data: dict[str, Any]


class AccountStore:
    """The accounts of a store that a server may have open. From any thread."""

    def __init__(self, engine: Engine, name: str, stamp: Path) -> None:
        """For `open`."""
        self._engine = engine
        self._name = name
        self._stamp = stamp

    @classmethod
    def open(cls, where: Path | str, data_dir: Path) -> AccountStore:
        """Open the accounts in the data folder, or in the database at a URL (`Store.open`); `data_dir` gets the stamp.

        A store that is not there yet, or is older, is brought up to date. Raises ConfigError if a server of another
        version has it open, and what `Store.open` raises.
        """
        accounts = cls._connect(where, data_dir)
        try:
            data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            accounts._bring_up_to_date(where)
        except BaseException:
            accounts.close()
            raise
        return accounts

    @classmethod
    def beside(cls, store: Store, where: Path | str, data_dir: Path) -> AccountStore:
        """The accounts of a store that this process has open."""
        accounts = cls._connect(where, data_dir)
        store.on_close(accounts.close)
        return accounts

    @classmethod
    def _connect(cls, where: Path | str, data_dir: Path) -> AccountStore:
        options: dict[str, Any] = {"pool_size": 1, "max_overflow": 3, **ENGINE}
        if isinstance(where, str) and "://" in where:
            url = read_url(where)
            name = url.render_as_string(hide_password=True)
            return cls(create_engine(url, pool_pre_ping=True, **options), name, data_dir / STAMP)
        file = URL.create("sqlite", database=str(Path(where) / FILE))
        engine = create_engine(file, connect_args={"check_same_thread": False, "timeout": _BUSY}, **options)
        set_up_sqlite(engine, "BEGIN", ["PRAGMA synchronous=FULL"])
        return cls(engine, str(where), data_dir / STAMP)

    def _bring_up_to_date(self, where: Path | str) -> None:
        is_file = not (isinstance(where, str) and "://" in where)
        is_new = is_file and not (Path(where) / FILE).exists()
        if not is_new and self._is_current():
            return
        try:
            Store.open(where).close()
        except Conflict:
            # A server has it open. It may just have started.
            if not self._is_current():
                raise ConfigError(
                    f"the server that has {self._name} open is of another version: restart it, then try again"
                ) from None

    def _is_current(self) -> bool:
        try:
            with self._engine.connect() as connection:
                return migrations.is_current(connection)
        except DatabaseError as error:
            raise cannot_write(self._name, error) from error

    def close(self) -> None:
        self._engine.dispose()

    # Reading ------------------------------------------------------------------------------------------------------

    def stamp(self) -> int:
        """Another number after each change made on this host. Cheap."""
        try:
            return os.stat(self._stamp).st_size
        except OSError:
            return 0

    def version(self) -> int:
        """Another number after each change, wherever it was made. Raises Unavailable, as all that reads here."""
        with self._reading() as connection:
            return _version(connection)

    def load(self) -> tuple[int, list[User], list[Token]]:
        """The version, all accounts and all tokens, as of one moment."""
        with self._reading() as connection:
            users = [_user(row) for row in connection.execute(select(_users).order_by(_users.c.name))]
            tokens = [_token(row) for row in connection.execute(select(_tokens).order_by(_tokens.c.created_at))]
            return _version(connection), users, tokens

    def changes(self, limit: int = 1000) -> list[Change]:
        """The oldest changes of which no event has been made."""
        with self._reading() as connection:
            rows = connection.execute(select(_log).order_by(_log.c.id).limit(limit))
            return [Change(row.id, row.at, row.type, msgspec.json.decode(row.data)) for row in rows]

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        try:
            with self._engine.connect() as connection:
                yield connection
        except DatabaseError as error:
            reason = " ".join(str(error.orig).split())
            raise Unavailable(f"the accounts in {self._name} can't be read now: {reason}") from error

    # Changing -----------------------------------------------------------------------------------------------------

    @contextmanager
    def change(self) -> Iterator[AccountChange]:
        """One transaction, which nobody else crosses. Raises StorageFull if it can't be written."""
        try:
            with self._engine.begin() as connection:
                # Written first: this is the lock that lets one change follow the other, on both databases.
                connection.execute(update(_meta).where(_meta.c.key == _VERSION).values(value=_meta.c.value))
                made = AccountChange(connection)
                yield made
                version = str(_version(connection) + 1)
                connection.execute(update(_meta).where(_meta.c.key == _VERSION).values(value=version))
        except DatabaseError as error:
            raise cannot_write(self._name, error) from error
        with open(self._stamp, "ab") as file:
            file.write(b".")


class AccountChange:
    """What can be changed, within one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def user(self, name: str) -> User | None:
        row = self._connection.execute(select(_users).where(_users.c.name == name)).first()
        return None if row is None else _user(row)

    def token(self, id: str) -> Token | None:
        row = self._connection.execute(select(_tokens).where(_tokens.c.id == id)).first()
        return None if row is None else _token(row)

    def save_user(self, user: User) -> None:
        """Adds the account, or changes it."""
        values = msgspec.structs.asdict(user) | {"role": str(user.role)}
        if not self._connection.execute(update(_users).where(_users.c.name == user.name).values(values)).rowcount:
            self._connection.execute(insert(_users).values(values))

    def remove_user(self, name: str) -> None:
        """The account with its tokens."""
        self._connection.execute(delete(_tokens).where(_tokens.c.user == name))
        self._connection.execute(delete(_users).where(_users.c.name == name))

    def add_token(self, token: Token) -> None:
        """Also clears away what expired long before this one was made."""
        self._connection.execute(delete(_tokens).where(_tokens.c.expires_at < token.created_at - _EXPIRED_FOR))
        values = msgspec.structs.asdict(token) | {"scopes": " ".join(sorted(token.scopes))}
        self._connection.execute(insert(_tokens).values(values))

    def remove_token(self, id: str) -> None:
        self._connection.execute(delete(_tokens).where(_tokens.c.id == id))

    def remove_tokens(self, user: str, label: str) -> None:
        """The tokens of that account which have that label."""
        self._connection.execute(delete(_tokens).where(_tokens.c.user == user, _tokens.c.label == label))

    def trim_tokens(self, user: str, label: str, most: int, now: float) -> None:
        """Removes what has expired of the tokens with that label, and of the account's all but the newest `most`."""
        self._connection.execute(delete(_tokens).where(_tokens.c.label == label, _tokens.c.expires_at <= now))
        mine = select(_tokens.c.id).where(_tokens.c.user == user, _tokens.c.label == label)
        old = self._connection.scalars(mine.order_by(_tokens.c.created_at.desc()).offset(most)).all()
        if old:
            self._connection.execute(delete(_tokens).where(_tokens.c.id.in_(old)))

    def record(self, at: float, type: str, data: dict[str, Any]) -> None:
        """Becomes an event once a server sees it. `at`: Unix seconds."""
        self._connection.execute(insert(_log).values(at=at, type=type, data=msgspec.json.encode(data)))


def _version(connection: Connection) -> int:
    return int(connection.scalar(select(_meta.c.value).where(_meta.c.key == _VERSION)) or 0)


def _user(row: Any) -> User:
    return User(
        name=row.name,
        role=Role(row.role),
        password=row.password,
        disabled=row.disabled,
        os_user=row.os_user,
        generation=row.generation,
        created_at=row.created_at,
    )


def _token(row: Any) -> Token:
    return Token(
        id=row.id,
        user=row.user,
        label=row.label,
        hash=row.hash,
        scopes=frozenset(Scope(word) for word in row.scopes.split()),
        created_at=row.created_at,
        expires_at=row.expires_at,
    )
