"""The check of credentials with real accounts in a real store; the clock is the test's."""

from __future__ import annotations

import asyncio
import base64
import warnings
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest

from runyard.auth import password as passwords
from runyard.auth.access_token import Signer
from runyard.auth.accounts import Accounts
from runyard.auth.audit import Call
from runyard.auth.authenticator import Authenticator, AuthRules, Disabled, InvalidToken
from runyard.auth.caller import Caller, Role, Scope
from runyard.model.errors import TooMany, Unauthenticated
from runyard.store.accounts import AccountStore
from tests.helpers import wait_until_async
from tests.integration.store_rig import T0

HERE, THERE = Call("10.0.0.1", "GET", "/api/v1/jobs"), Call("10.0.0.2", "GET", "/api/v1/jobs")
KEY, SECRET = b"k" * 32, "shared-with-clients"
WORD = "sesame-open"


class Rig:
    """One authenticator, with an account `ann` that has a password, and what it has recorded."""

    def __init__(self, store: AccountStore, **rules: Any) -> None:
        chosen: dict[str, Any] = {"enabled": True, "max_failures": 3, "shared_secret": SECRET} | rules
        self.now = T0
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.accounts = Accounts(store, "tester")
        self.auth = Authenticator(
            store,
            Signer(KEY, 600.0),
            AuthRules(**chosen),
            lambda type, data: self.events.append((type, data)),
            lambda: self.now,
        )

    async def basic(self, name: str, secret: str, call: Call = HERE) -> Caller:
        return await self.auth.identify(b"Basic " + base64.b64encode(f"{name}:{secret}".encode()), call)

    async def bearer(self, token: str, call: Call = HERE) -> Caller:
        return await self.auth.identify(b"Bearer " + token.encode(), call)

    def types(self) -> list[str]:
        return [type for type, _ in self.events]


@pytest.fixture(scope="module")
def hashed() -> str:
    return passwords.hash_password(WORD)


@pytest.fixture
def rig(tmp_path: Path, hashed: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    store = AccountStore.open(tmp_path, tmp_path)
    with monkeypatch.context() as patch:
        # One hash serves all tests: it is slow on purpose.
        patch.setattr("runyard.auth.accounts.hash_password", lambda _: hashed)
        Accounts(store, "tester").add_user("ann", T0, Role.USER, WORD)
    yield Rig(store)
    store.close()


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The passwords that were really computed."""
    seen: list[str] = []
    real = passwords.is_password

    def spy(password: str, hash: str | None) -> bool:
        seen.append(password)
        return real(password, hash)

    monkeypatch.setattr(passwords, "is_password", spy)
    return seen


async def refused(attempt: Awaitable[object], kind: type[Exception] = Unauthenticated) -> Exception:
    with pytest.raises(kind) as caught:
        await attempt
    return caught.value


def run(body: Callable[[], Any]) -> None:
    asyncio.run(body())


def test_a_password_proves_an_account_and_is_computed_once(rig: Rig, computed: list[str]) -> None:
    async def body() -> None:
        callers = await asyncio.gather(*(rig.basic("ann", WORD) for _ in range(20)))
        assert {(caller.name, caller.role, caller.scopes) for caller in callers} == {
            ("ann", Role.USER, frozenset(Scope))
        }
        assert computed == [WORD]
        rig.now += passwords.REMEMBERED - 1
        await rig.basic("ann", WORD)
        assert computed == [WORD]
        rig.now += 2
        await rig.basic("ann", WORD)
        assert computed == [WORD, WORD]
        assert set(rig.types()) == {"auth.login"}
        assert WORD not in str(rig.events)

    run(body)


def test_wrong_names_and_passwords_look_alike_and_cost_alike(rig: Rig, computed: list[str]) -> None:
    async def body() -> None:
        await rig.auth.directory()
        texts = {
            str(await refused(rig.basic(name, word))) for name, word in (("ann", "wrong"), ("bob", WORD), ("", ""))
        }
        assert texts == {"name or password is wrong"}
        assert computed == ["wrong", WORD, ""]
        assert [(type, data["account"]) for type, data in rig.events] == [
            ("auth.refused", "ann"),
            ("auth.refused", "bob"),
            ("auth.refused", ""),
        ]

    run(body)


def test_a_new_password_is_in_force_at_once_and_ends_logins(rig: Rig) -> None:
    async def body() -> None:
        await rig.basic("ann", WORD)
        token = (await rig.auth.login("ann", WORD, HERE)).access_token
        session = await rig.auth.open_session("ann", WORD, 60.0, HERE)
        kept = rig.accounts.create_token("ann", T0, frozenset({Scope.READ}), None).secret
        for secret in (token, session, kept):
            assert (await rig.bearer(secret)).name == "ann"
        rig.accounts.set_password("ann", "another-word", T0)
        await refused(rig.basic("ann", WORD))
        assert (await rig.basic("ann", "another-word")).name == "ann"
        await refused(rig.bearer(token), InvalidToken)
        await refused(rig.bearer(session), InvalidToken)
        assert (await rig.bearer(kept)).scopes == {Scope.READ}

    run(body)


def test_a_disabled_account_is_kept_out_whatever_it_brings(rig: Rig) -> None:
    async def body() -> None:
        await rig.basic("ann", WORD)
        access = (await rig.auth.login("ann", WORD, HERE)).access_token
        token = rig.accounts.create_token("ann", T0, frozenset(Scope), None).secret
        rig.accounts.set_disabled("ann", True, T0)
        await refused(rig.basic("ann", WORD), Disabled)
        await refused(rig.bearer(access), Disabled)
        await refused(rig.bearer(token), Disabled)
        await refused(rig.auth.login("ann", WORD, HERE), Disabled)
        # A wrong password does not tell that there is such an account.
        await refused(rig.basic("ann", "wrong"), Unauthenticated)
        rig.accounts.set_disabled("ann", False, T0)
        assert (await rig.bearer(token)).name == "ann"
        await refused(rig.bearer(access), InvalidToken)
        rig.accounts.remove_user("ann", T0)
        await refused(rig.bearer(token), InvalidToken)
        await refused(rig.basic("ann", WORD))

    run(body)


def test_tokens_by_bearer_and_by_basic(rig: Rig) -> None:
    async def body() -> None:
        made = rig.accounts.create_token("ann", T0, frozenset({Scope.READ}), 60.0)
        rig.accounts.add_user("bob", T0, Role.ADMIN)
        assert (await rig.bearer(made.secret)).scopes == {Scope.READ}
        assert (await rig.basic("ann", made.secret)).name == "ann"
        await refused(rig.basic("bob", made.secret), InvalidToken)
        await refused(rig.bearer(made.secret + "x"), InvalidToken)
        rig.accounts.set_role("ann", Role.ADMIN, T0)
        caller = await rig.bearer(made.secret)
        assert caller.role is Role.ADMIN and not caller.is_admin
        rig.now += 60
        await refused(rig.bearer(made.secret), InvalidToken)
        rig.now -= 60
        rig.accounts.revoke_token(made.token.id, T0)
        await refused(rig.bearer(made.secret), InvalidToken)
        assert made.secret not in str(rig.events)

    run(body)


def test_failures_are_limited_for_the_account_and_for_the_address(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[str] = []

    def cheap(password: str, hash: str | None) -> bool:
        computed.append(password)
        return password == WORD and hash is not None

    # Dozens of real ones would take seconds.
    monkeypatch.setattr(passwords, "is_password", cheap)

    async def body() -> None:
        rig.accounts.add_user("bob", T0, Role.USER, WORD)
        token = rig.accounts.create_token("ann", T0, frozenset(Scope), None).secret
        for _ in range(3):
            await refused(rig.basic("ann", "wrong"))
        # From now on not even the right one is tried; from wherever it comes.
        count = len(computed)
        for call in (HERE, THERE):
            error = await refused(rig.basic("ann", WORD, call), TooMany)
            assert isinstance(error, TooMany) and 0 < error.fields["retry_after"] <= 301
        assert len(computed) == count
        # Tokens and other accounts are not held up, and their success clears nothing.
        assert (await rig.bearer(token)).name == "ann"
        assert (await rig.basic("bob", WORD)).name == "bob"
        await refused(rig.basic("ann", WORD), TooMany)
        rig.now += 301
        assert (await rig.basic("ann", WORD)).name == "ann"
        for number in range(30):
            await refused(rig.basic(f"nobody{number}", "wrong"))
        await refused(rig.basic("nobody", "wrong"), TooMany)
        # Who is in already stays in.
        assert (await rig.basic("ann", WORD)).name == "ann"
        assert (await rig.basic("bob", WORD, THERE)).name == "bob"

    run(body)


def test_the_signed_request_of_a_flux_client_opens_the_way_to_a_token(rig: Rig) -> None:
    def signed(key: str, **claims: str) -> str:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", jwt.InsecureKeyLengthWarning)
            return jwt.encode({"user": "ann", "pass": WORD, "scope": "token"} | claims, key, "HS256")

    async def body() -> None:
        issued = await rig.auth.exchange(signed(SECRET), HERE)
        assert issued.expires_in == 600 and (await rig.bearer(issued.access_token)).name == "ann"
        await refused(rig.auth.exchange(signed("another secret"), HERE))
        await refused(rig.auth.exchange(signed(SECRET, user="bob"), HERE))
        # The shared secret signs requests for tokens only: what it signs is no token.
        forged = jwt.encode(jwt.decode(issued.access_token, options={"verify_signature": False}), "x" * 32, "HS256")
        for token in (signed(SECRET), forged):
            await refused(rig.bearer(token), InvalidToken)
        rig.now += 601
        await refused(rig.bearer(issued.access_token), InvalidToken)

    run(body)


def test_without_a_shared_secret_nobody_can_sign(tmp_path: Path) -> None:
    async def body() -> None:
        store = AccountStore.open(tmp_path, tmp_path)
        rig = Rig(store, shared_secret="")
        await refused(rig.auth.exchange(jwt.encode({"user": "a"}, "k" * 32, "HS256"), HERE))
        store.close()

    run(body)


def test_jobs_run_as_their_owners_only_where_that_is_asked_for(rig: Rig, tmp_path: Path) -> None:
    async def body() -> None:
        assert (await rig.basic("ann", WORD)).os_user is None
        rig.accounts.add_user("bob", T0, os_user="nobody")
        token = rig.accounts.create_token("bob", T0, frozenset(Scope), None).secret
        store = AccountStore.open(tmp_path, tmp_path)
        other = Rig(store, run_as=True)
        assert (await other.basic("ann", WORD)).os_user == "ann"
        assert (await other.bearer(token)).os_user == "nobody"
        store.close()

    run(body)


def test_a_session_ends_when_it_is_closed(rig: Rig) -> None:
    async def body() -> None:
        secret = await rig.auth.open_session("ann", WORD, 60.0, HERE)
        made = rig.accounts.create_token("ann", T0, frozenset(Scope), None).secret
        assert (await rig.bearer(secret)).name == "ann"
        for _ in range(2):
            await rig.auth.close_session(secret)
        await refused(rig.bearer(secret), InvalidToken)
        await rig.auth.close_session(made)
        assert (await rig.bearer(made)).name == "ann"

    run(body)


def test_changes_without_a_stamp_are_found_and_told_once(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """As another host makes them, which shares the database."""
    monkeypatch.setattr("runyard.auth.authenticator.LOOK", 0.01)

    async def body() -> None:
        told: list[str] = []

        async def tell(changes: list[Any]) -> None:
            told.extend(change.data["account"] for change in changes)
            with rig.accounts._store._engine.begin() as connection:
                for change in changes:
                    connection.exec_driver_sql("DELETE FROM account_log WHERE id = ?", (change.id,))

        await rig.auth.directory()
        stamp = rig.accounts._store.stamp()
        monkeypatch.setattr(AccountStore, "stamp", lambda _: stamp)
        watching = asyncio.create_task(rig.auth.watch(tell))
        await asyncio.to_thread(rig.accounts.add_user, "cat", T0)
        await wait_until_async(lambda: "cat" in told and "cat" in rig.auth._directory.users, 60)
        watching.cancel()
        assert told == ["ann", "cat"]

    run(body)


def test_what_somebody_came_in_with_holds_until_it_would_not_let_them_in(rig: Rig) -> None:
    async def body() -> None:
        made = rig.accounts.create_token("ann", T0, frozenset({Scope.READ}), 60.0)
        token, password = await rig.bearer(made.secret), await rig.basic("ann", WORD)
        access = await rig.bearer((await rig.auth.login("ann", WORD, HERE)).access_token)

        async def held() -> list[bool]:
            await rig.auth.directory()
            return [rig.auth.holds(caller) for caller in (token, password, access)]

        assert await held() == [True, True, True]
        rig.now = T0 + 60
        assert await held() == [False, True, True]
        rig.now = T0 + 600
        assert await held() == [False, True, False]
        rig.now = T0
        rig.accounts.set_role("ann", Role.ADMIN, T0)
        assert await held() == [False, False, False]
        rig.accounts.set_role("ann", Role.USER, T0)
        rig.accounts.set_password("ann", "another-word", T0)
        assert await held() == [True, False, False]
        rig.accounts.set_disabled("ann", True, T0)
        assert await held() == [False, False, False]
        rig.accounts.set_disabled("ann", False, T0)
        assert await held() == [True, False, False]
        rig.accounts.revoke_token(made.token.id, T0)
        assert await held() == [False, False, False]

    run(body)
