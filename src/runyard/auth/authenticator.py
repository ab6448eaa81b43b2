"""Checks who asks. One for each server; every front door goes through it (`runyard.api.access`)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

import msgspec

from runyard.auth.access_token import AccessToken, Signer, read_request
from runyard.auth.accounts import SESSION_LABEL, Accounts
from runyard.auth.audit import REFUSED, Audit, Call
from runyard.auth.caller import Caller, Proof, Scope
from runyard.auth.credentials import PREFIX, Basic, Bearer, read_header
from runyard.auth.directory import Directory
from runyard.auth.limiter import Limiter, address_key
from runyard.auth.password import Passwords
from runyard.model.account import User
from runyard.model.errors import Forbidden, NotFound, TooMany, Unauthenticated
from runyard.store.accounts import AccountStore, Change

_ALL = frozenset(Scope)
#: An address may fail this many times as often as an account: many people may call from it.
_ADDRESS_SHARE = 10
#: Seconds between two looks for changes that left no stamp on this host.
LOOK = 1.0


class Disabled(Forbidden):
    """The credentials are right, and the account is disabled."""


class InvalidToken(Unauthenticated):
    """A bearer token that is unknown, expired or revoked: the client should get itself a new one."""


class AuthRules(msgspec.Struct, frozen=True):
    """What the configuration says (`[auth]`), and the secret that is shared with clients of Flux RESTful."""

    enabled: bool = False
    run_as: bool = False
    max_failures: int = 10
    failure_window: float = 300.0
    shared_secret: str = ""


class Authenticator:
    """Turns credentials into callers. All methods are for the event loop's thread.

    The accounts are held in memory, and read anew when they have changed: a request costs no query.
    """

    def __init__(
        self,
        accounts: AccountStore,
        signer: Signer,
        rules: AuthRules,
        emit: Callable[[str, dict[str, Any]], None],
        clock: Callable[[], float],
    ) -> None:
        """`emit` records an event; `clock` gives Unix seconds."""
        self.rules = rules
        self._accounts = accounts
        self._signer = signer
        self._clock = clock
        self._audit = Audit(emit)
        self._passwords = Passwords()
        self._failures = Limiter(rules.max_failures, rules.failure_window)
        self._address_failures = Limiter(rules.max_failures * _ADDRESS_SHARE, rules.failure_window)
        self._directory = Directory()
        self._stamp = -1
        self._reading = asyncio.Lock()

    @property
    def enabled(self) -> bool:
        """Whether requests need credentials at all."""
        return self.rules.enabled

    # Knowing the accounts -----------------------------------------------------------------------------------------

    async def directory(self) -> Directory:
        """The accounts as they are now."""
        if self._accounts.stamp() != self._stamp:
            await self._read()
        return self._directory

    async def _read(self) -> None:
        async with self._reading:
            stamp = self._accounts.stamp()
            if stamp != self._stamp:
                self._directory = Directory(*await asyncio.to_thread(self._accounts.load))
                self._stamp = stamp

    async def watch(self, tell: Callable[[list[Change]], Any]) -> None:
        """Looks for changes for ever: those made elsewhere, and those of which no event has been made yet.

        `tell` is a coroutine function that makes the events, and strikes the changes off.
        """
        seen = -1
        while True:
            version = await asyncio.to_thread(self._accounts.version)
            if version != self._directory.version:
                self._stamp = -1
                await self._read()
            if version != seen:
                while changes := await asyncio.to_thread(self._accounts.changes):
                    await tell(changes)
                seen = version
            await asyncio.sleep(LOOK)

    # Coming in ----------------------------------------------------------------------------------------------------

    async def identify(self, authorization: bytes | None, call: Call) -> Caller:
        """Who the credentials in an `Authorization` header prove.

        Raises Unauthenticated (InvalidToken for a bearer token), Disabled, or TooMany after too many failures.
        """
        directory = await self.directory()
        try:
            credentials = read_header(authorization)
        except Unauthenticated as error:
            self._audit.tell(REFUSED, call, self._clock(), None, reason=error.detail)
            raise
        if isinstance(credentials, Basic) and not credentials.secret.startswith(PREFIX):
            user = await self._by_password(directory, credentials, call)
            return self._caller(user, _ALL, Proof(user.generation), call)
        user, scopes, proof = self._by_token(directory, credentials, call)
        if user.disabled:
            self._refuse_disabled(user, call)
        return self._caller(user, scopes, proof, call)

    def holds(self, caller: Caller) -> bool:
        """Whether what the caller came in with would still let it in, as the same, by what `directory` found last."""
        user, proof, now = self._directory.users.get(caller.name), caller.proof, self._clock()
        if user is None or proof is None or user.disabled or user.role is not caller.role:
            return False
        if proof.token is not None:
            return self._directory.by_hash(proof.token, now) is not None
        return user.generation == proof.generation and (proof.expires_at is None or now < proof.expires_at)

    async def login(self, name: str, password: str, call: Call) -> AccessToken:
        """An access token for name and password, as from OAuth 2's password form.

        Raises Unauthenticated, Disabled, TooMany.
        """
        user = await self._by_password(await self.directory(), Basic(name, password), call)
        return self._signer.issue(user, self._clock())

    async def exchange(self, signed: str, call: Call) -> AccessToken:
        """An access token for a request that a client of Flux RESTful has signed with the shared secret: a JWT with
        the claims `user`, `pass` and `scope`.

        Raises Unauthenticated, Disabled, TooMany.
        """
        secret = self.rules.shared_secret
        try:
            if not secret:
                raise Unauthenticated("this server shares no secret with clients: set FLUX_SECRET_KEY")
            name, password = read_request(signed, secret, self._clock())
        except Unauthenticated as error:
            self._fail(None, call, error)
        return await self.login(name, password, call)

    async def open_session(self, name: str, password: str, lifetime: float, call: Call) -> str:
        """The secret of a token for a browser, good for `lifetime` seconds or until `close_session`.

        Raises Unauthenticated, Disabled, TooMany.
        """
        user = await self._by_password(await self.directory(), Basic(name, password), call)
        now = self._clock()
        made = await asyncio.to_thread(
            Accounts(self._accounts, user.name).create_token, user.name, now, _ALL, lifetime, SESSION_LABEL
        )
        return made.secret

    async def close_session(self, secret: str) -> None:
        """What `open_session` gave is worth nothing from now on."""
        now = self._clock()
        token = (await self.directory()).token(secret, now)
        if token is not None and token.label == SESSION_LABEL:
            with contextlib.suppress(NotFound):
                await asyncio.to_thread(Accounts(self._accounts, token.user).revoke_token, token.id, now)

    def ticket(self, name: str) -> str | None:
        """An access token for an account in whose name the server itself starts a program; None if there is none."""
        user = self._directory.users.get(name)
        if user is None or user.disabled:
            return None
        return self._signer.issue(user, self._clock(), frozenset({Scope.READ, Scope.WRITE})).access_token

    async def _by_password(self, directory: Directory, given: Basic, call: Call) -> User:
        user = directory.users.get(given.name)
        if not self._passwords.remembered(given.name, given.secret, user, self._clock()):
            self._must_wait(given.name, call)
            right = await self._passwords.check(given.name, given.secret, user, self._clock())
            # Others may have failed while this one waited for its turn.
            self._must_wait(given.name, call)
            if user is None or not right:
                self._fail(given.name, call, Unauthenticated("name or password is wrong"))
            if not user.disabled:
                self._audit.tell("auth.login", call, self._clock(), user.name, proven=True)
        assert user is not None
        if user.disabled:
            self._refuse_disabled(user, call)
        return user

    def _by_token(
        self, directory: Directory, given: Basic | Bearer, call: Call
    ) -> tuple[User, frozenset[Scope], Proof]:
        name, text = given if isinstance(given, Basic) else (None, given.token)
        now = self._clock()
        user = None
        scopes: frozenset[Scope] = frozenset()
        proof = Proof()
        reason = "the token is not known here, or has expired"
        if text.startswith(PREFIX):
            token = directory.token(text, now)
            if token is not None and name in (None, token.user):
                user, scopes, proof = directory.users[token.user], token.scopes, Proof(token=token.hash)
        else:
            try:
                claims = self._signer.read(text, now)
                scopes, user = claims.scopes, directory.users.get(claims.name)
                proof = Proof(claims.generation, expires_at=claims.expires_at)
                if user is not None and user.generation != claims.generation:
                    # Disabled accounts are told so: everything else about them has changed as well.
                    user = user if user.disabled else None
            except Unauthenticated as error:
                reason = error.detail
        if user is None:
            # Not counted: nobody guesses a token, and programs go on for long with one that has expired.
            self._audit.tell(REFUSED, call, now, name, reason=reason)
            raise InvalidToken(reason)
        return user, scopes, proof

    def _caller(self, user: User, scopes: frozenset[Scope], proof: Proof, call: Call) -> Caller:
        os_user = (user.os_user or user.name) if self.rules.run_as else None
        return Caller(user.name, user.role, scopes, os_user, partial(self._witness, user.name, call), proof)

    def _witness(self, name: str, call: Call, type: str, detail: str) -> None:
        what = "reason" if type == REFUSED else "does"
        self._audit.tell(type, call, self._clock(), name, proven=True, **{what: detail})

    # Keeping out --------------------------------------------------------------------------------------------------

    def _must_wait(self, name: str, call: Call) -> None:
        now = self._clock()
        wait = max(self._failures.wait(name, now), self._address_failures.wait(address_key(call.address), now))
        if wait:
            raise _too_many(wait)

    def _fail(self, name: str | None, call: Call, error: Unauthenticated) -> NoReturn:
        now = self._clock()
        if name is not None:
            self._failures.failed(name, now)
        self._address_failures.failed(address_key(call.address), now)
        self._audit.tell(REFUSED, call, now, name, reason=error.detail)
        raise error

    def _refuse_disabled(self, user: User, call: Call) -> NoReturn:
        detail = f"the account {user.name!r} is disabled"
        self._audit.tell(REFUSED, call, self._clock(), user.name, proven=True, reason=detail)
        raise Disabled(detail)


def _too_many(wait: float) -> TooMany:
    seconds = int(wait) + 1
    return TooMany(f"too many logins have failed: try again in {seconds} s", retry_after=seconds)
