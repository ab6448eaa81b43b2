"""Accounts in the store, on every database it runs on, while a server has it open."""

from __future__ import annotations

import itertools
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from runyard.auth.accounts import SESSION_LABEL, Accounts
from runyard.auth.credentials import secret_hash
from runyard.model.account import Role, Scope
from runyard.model.errors import ConfigError, Conflict, InvalidInput, NotFound, Unavailable
from runyard.store.accounts import AccountStore
from runyard.store.batch import Batch
from runyard.store.store import FILE, Store
from tests.integration.store_rig import T0, new_database, postgres_cluster

READ = frozenset({Scope.READ})
_databases = itertools.count()


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    with postgres_cluster() as folder:
        yield folder


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """A place where no store is yet."""
    if request.param == "sqlite":
        return tmp_path / "data"
    return new_database(request.getfixturevalue("cluster"), f"accounts{next(_databases)}")


@pytest.fixture
def store(where: Path | str, tmp_path: Path) -> Iterator[AccountStore]:
    """As the command line opens it; there is no server, and never was one."""
    opened = AccountStore.open(where, tmp_path / "data")
    yield opened
    opened.close()


def types(store: AccountStore) -> list[str]:
    return [change.type for change in store.changes()]


def test_accounts_and_tokens_are_kept_without_their_secrets(store: AccountStore, tmp_path: Path) -> None:
    accounts = Accounts(store, "tester")
    accounts.add_user("bob", T0, Role.VIEWER)
    ann = accounts.add_user("ann", T0, Role.USER, "sesame-open", "nobody")
    made = accounts.create_token("ann", T0, READ, 60.0, "for ci")
    forever = accounts.create_token("ann", T0, frozenset(Scope), None)
    version, users, tokens = store.load()
    assert [user.name for user in users] == ["ann", "bob"] and users[0] == ann and users[1].role is Role.VIEWER
    assert tokens == [made.token, forever.token] or tokens == [forever.token, made.token]
    assert made.token.hash == secret_hash(made.secret) and made.token.expires_at == T0 + 60
    assert ann.password is not None and ann.password.startswith("$argon2")
    assert version == store.version() == 4
    assert accounts.tokens("bob") == []
    for change in store.changes():
        assert change.data["by"] == "tester" and change.at == T0
        assert made.secret not in str(change.data) and "sesame-open" not in str(change.data)
    assert types(store) == ["user.added", "user.added", "token.created", "token.created"]
    if (tmp_path / "data" / FILE).exists():
        assert stat.S_IMODE((tmp_path / "data" / FILE).stat().st_mode) == 0o600
        assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700


def test_changes_of_accounts(store: AccountStore) -> None:
    accounts = Accounts(store, "tester")
    first = accounts.add_user("ann", T0, password="sesame-open")
    token = accounts.create_token("ann", T0, READ, None)
    session = accounts.create_token("ann", T0, READ, 60.0, SESSION_LABEL)
    second = accounts.set_password("ann", "another-one", T0)
    assert second.password != first.password and second.generation == first.generation + 1
    assert [kept.id for kept in accounts.tokens("ann")] == [token.token.id]
    assert accounts.set_role("ann", Role.ADMIN, T0).generation == second.generation
    assert accounts.set_disabled("ann", True, T0).disabled
    assert not accounts.set_disabled("ann", False, T0).disabled
    accounts.revoke_token(token.token.id, T0)
    for id in (token.token.id, session.token.id):
        with pytest.raises(NotFound, match=id):
            accounts.revoke_token(id, T0)
    accounts.create_token("ann", T0, READ, None)
    accounts.remove_user("ann", T0)
    assert store.load()[1:] == ([], [])
    assert types(store)[3:] == ["user.changed"] * 4 + ["token.revoked", "token.created", "user.removed"]


def test_an_account_is_not_the_one_of_its_name_that_was_removed(store: AccountStore) -> None:
    accounts = Accounts(store, "tester")
    first = accounts.add_user("ann", T0)
    accounts.remove_user("ann", T0)
    assert accounts.add_user("ann", T0).generation != first.generation


def test_another_password_from_the_environment_ends_logins(store: AccountStore) -> None:
    accounts = Accounts(store, "tester")
    accounts.ensure_admin("fluxuser", "first-word", T0)
    token = accounts.create_token("fluxuser", T0, READ, None).token
    session = accounts.create_token("fluxuser", T0, READ, 60.0, SESSION_LABEL).token
    accounts.ensure_admin("fluxuser", "first-word", T0)
    assert {kept.id for kept in accounts.tokens("fluxuser")} == {token.id, session.id}
    accounts.ensure_admin("fluxuser", "second-word", T0)
    assert [kept.id for kept in accounts.tokens("fluxuser")] == [token.id]


def test_sessions_leave_when_they_have_expired_or_are_too_many(
    store: AccountStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runyard.auth.accounts.MAX_SESSIONS", 2)
    accounts = Accounts(store, "tester")
    for name in ("ann", "bob"):
        accounts.add_user(name, T0)
    kept = [accounts.create_token("ann", T0, READ, 1.0).token.id]
    for user in ("ann", "bob"):
        accounts.create_token(user, T0, READ, 10.0, SESSION_LABEL)
    kept += [accounts.create_token("ann", T0 + 10 + number, READ, 60.0, SESSION_LABEL).token.id for number in range(3)]
    assert {token.id for token in accounts.tokens("ann")} == {kept[0], *kept[2:]}
    assert accounts.tokens("bob") == []


def test_what_can_not_be_done_changes_nothing(store: AccountStore) -> None:
    accounts = Accounts(store, "tester")
    accounts.add_user("ann", T0)
    before = store.version(), store.stamp()
    with pytest.raises(Conflict):
        accounts.add_user("ann", T0)
    for name, password in (("a:b", None), ("bob", "short"), ("bob", "x" * 2000)):
        with pytest.raises(InvalidInput):
            accounts.add_user(name, T0, password=password)
    for act in (
        lambda: accounts.set_role("bob", Role.ADMIN, T0),
        lambda: accounts.set_password("bob", "sesame-open", T0),
        lambda: accounts.remove_user("bob", T0),
        lambda: accounts.create_token("bob", T0, READ, None),
        lambda: accounts.tokens("bob"),
    ):
        with pytest.raises(NotFound, match="bob"):
            act()
    for scopes, lifetime, label in ((frozenset[Scope](), None, ""), (READ, 0.0, ""), (READ, None, "x" * 1000)):
        with pytest.raises(InvalidInput):
            accounts.create_token("ann", T0, scopes, lifetime, label)
    assert (store.version(), store.stamp()) == before


def test_expired_tokens_are_cleared_away_in_time(store: AccountStore) -> None:
    accounts = Accounts(store, "tester")
    accounts.add_user("ann", T0)
    old = accounts.create_token("ann", T0, READ, 60.0).token
    accounts.create_token("ann", T0 + 3600, READ, None)
    assert old in accounts.tokens()
    accounts.create_token("ann", T0 + 30 * 86400, READ, None)
    assert old not in accounts.tokens() and len(accounts.tokens()) == 2


def test_the_admin_of_the_environment_is_made_or_made_right(store: AccountStore) -> None:
    accounts = Accounts(store, "FLUX_TOKEN")
    accounts.ensure_admin("fluxuser", "12345", T0)
    version, (user,), _ = store.load()
    assert user.role is Role.ADMIN and user.password
    accounts.ensure_admin("fluxuser", "12345", T0)
    assert store.load() == (version, [user], [])
    accounts.set_disabled("fluxuser", True, T0)
    accounts.set_role("fluxuser", Role.VIEWER, T0)
    accounts.ensure_admin("fluxuser", "67890", T0)
    (changed,) = store.load()[1]
    assert changed.role is Role.ADMIN and not changed.disabled and changed.password != user.password
    with pytest.raises(InvalidInput):
        accounts.ensure_admin("a:b", "67890", T0)


def test_a_change_beside_a_server_is_seen_and_becomes_an_event_once(where: Path | str, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with Store.open(where) as server:
        inside = AccountStore.beside(server, where, folder)
        outside = AccountStore.open(where, folder)
        stamp, version = inside.stamp(), inside.version()
        Accounts(outside, "tester").add_user("ann", T0)
        assert inside.stamp() != stamp and inside.version() != version
        (change,) = inside.changes()
        batch = Batch()
        batch.forget_changes([change.id])
        server.commit(batch)
        assert outside.changes() == []
        outside.close()


def test_changes_from_two_sides_do_not_cross(where: Path | str, tmp_path: Path) -> None:
    stores = [AccountStore.open(where, tmp_path / "data") for _ in range(2)]

    def work(number: int) -> None:
        for index in range(10):
            Accounts(stores[number], "tester").add_user(f"user{number}-{index}", T0)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    version, users, _ = stores[0].load()
    assert (version, len(users), stores[1].stamp()) == (20, 20, 20)
    for store in stores:
        store.close()


def test_a_store_of_an_older_version_is_brought_up_to_date_unless_a_server_has_it(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    Store.open(folder).close()
    engine = create_engine(f"sqlite:///{folder / FILE}")
    with engine.begin() as connection:
        for table in ("users", "tokens", "account_log", "messages", "message_totals"):
            connection.execute(text(f"DROP TABLE {table}"))
        connection.execute(text("UPDATE alembic_version SET version_num = '0002'"))
    server = Store.open(folder)
    assert AccountStore.open(folder, folder).load()[1:] == ([], [])
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0002'"))
    with pytest.raises(ConfigError, match="another version"):
        AccountStore.open(folder, folder)
    engine.dispose()
    server.close()


@pytest.mark.parametrize("url", ["mysql://host/x", "://"])
def test_urls_that_are_none_of_a_store(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="store"):
        AccountStore.open(url, tmp_path)


def test_a_store_that_can_not_be_read_is_said_to_be_away(tmp_path: Path) -> None:
    store = AccountStore.open(tmp_path, tmp_path)
    store.close()
    (tmp_path / FILE).write_bytes(b"no database" * 1000)
    for read in (store.version, store.load, store.changes):
        with pytest.raises(Unavailable, match="accounts"):
            read()
    store.close()
